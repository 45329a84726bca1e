"""To do something a little later: in an event loop, in a thread, and, for tests, when they say so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from session_middleware.loops import sleep, spawn

__all__ = ["LoopTimers", "ThreadTimers", "Timers"]


class Timers(Protocol):
    """Calls *work* once, when *seconds* have passed, and *ended* instead if its event loop ends before that.

    The answer takes it back; a no-op afterwards.
    """

    def after(
        self, seconds: float, work: Callable[[], Awaitable[None]], ended: Callable[[], None]
    ) -> Callable[[], None]: ...


class LoopTimers:
    """Beside everything else in the event loop that runs now."""

    def after(
        self, seconds: float, work: Callable[[], Awaitable[None]], ended: Callable[[], None]
    ) -> Callable[[], None]:
        """See `Timers`."""
        wanted = [True]

        async def later() -> None:
            try:
                await sleep(seconds)
                if wanted:
                    await work()
            except asyncio.CancelledError:
                if wanted:
                    ended()
                raise

        stop = spawn(later)
        return partial(_take_back, wanted, stop)


class ThreadTimers:
    """In a daemon thread: it keeps no interpreter from ending."""

    def after(
        self, seconds: float, work: Callable[[], Awaitable[None]], ended: Callable[[], None]
    ) -> Callable[[], None]:
        """See `Timers`. *work* must not suspend. A thread ends with its interpreter only, so no *ended*."""
        del ended
        timer = threading.Timer(seconds, partial(_run, work))
        timer.daemon = True
        timer.start()
        return timer.cancel


def _run(work: Callable[[], Awaitable[None]]) -> None:
    awaiting = work().__await__()
    for _ in awaiting:
        raise RuntimeError("what runs in a thread may not suspend")


def _take_back(wanted: list[bool], stop: Callable[[], None]) -> None:
    wanted.clear()
    stop()
