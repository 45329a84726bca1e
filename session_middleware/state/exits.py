"""The end of a process, seen by those who have something left to write.

An exit, also by an exception, runs `atexit`. SIGTERM does not, by default: where nobody else handles it, it
is handled here, so that the interpreter ends in order; the process then dies of the signal all the same, and
whoever started it sees no difference. A server (uvicorn, gunicorn, Streamlit) handles SIGTERM itself, and
that is left alone. `kill -9` can be seen by nobody.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import weakref
from types import FrameType
from typing import NoReturn, Protocol

__all__ = ["Leaver", "on_exit", "on_sigterm"]


class Leaver(Protocol):
    """Who has something left to write."""

    def leave(self) -> None:
        """The interpreter ends: write it now, without an event loop."""
        ...

    def forked(self) -> None:
        """This process is the child of a fork: what is left is the parent's to write."""
        ...


_leavers: weakref.WeakSet[Leaver] = weakref.WeakSet()
_signals: list[int] = []


def on_exit(leaver: Leaver) -> None:
    """Have *leaver* leave before the interpreter ends, and told of forks."""
    _leavers.add(leaver)


def on_sigterm() -> None:
    """Have SIGTERM end the interpreter in order. A no-op outside the main thread, and where it is handled."""
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    _signals.append(number)
    raise SystemExit(128 + number)


@atexit.register
def _leave() -> None:
    try:
        for leaver in list(_leavers):
            leaver.leave()
    finally:
        if _signals:  # die of it, as without us
            signal.signal(_signals[0], signal.SIG_DFL)
            signal.raise_signal(_signals[0])


def _forked() -> None:
    for leaver in list(_leavers):
        leaver.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
