"""What an event loop does beside the requests, in a daemon thread: cleanup, and renewing what is held.

One thread per manager and process. It begins with the first request, so after any fork; it ends with the
process, or with its manager. `Housekeeper.ensure` is all an entrance calls.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref

from session_middleware.blocking import run_blocking
from session_middleware.manager import SessionManager

__all__ = ["Housekeeper"]

_LAST_WORDS = 2.0  # seconds that the end of the process waits for what is being done


class Housekeeper:
    """Of one manager. It does not keep the manager alive."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = weakref.ref(manager, lambda _: self.stop())
        self._lock = threading.Lock()
        self._process = 0  # the id of the process in which the thread runs; 0: none runs
        self._thread: threading.Thread | None = None
        self._news = threading.Event()
        self._stopped = False
        self._cleanup_at = 0.0  # monotonic seconds
        self._interval = 0.0  # seconds, with which that was found

    @classmethod
    def of(cls, manager: SessionManager) -> Housekeeper:
        """The one housekeeper of *manager*."""
        with _guard:
            keeper = _keepers.get(manager)
            if keeper is None:
                keeper = _keepers[manager] = cls(manager)
            return keeper

    def ensure(self) -> None:
        """Let the thread run, in this process."""
        if self._process != os.getpid():
            self._start()

    def hurry(self) -> None:
        """A session with an idle timeout of its own is held from now on."""
        self._news.set()

    def stop(self, patience: float = 0.0) -> None:
        """End the thread, waiting *patience* seconds for it. A no-op where none runs."""
        self._stopped = True
        self._news.set()
        thread = self._thread
        if thread is not None and patience and self._process == os.getpid():
            thread.join(patience)

    @property
    def is_running(self) -> bool:
        """Whether the thread runs, in this process."""
        here = self._process == os.getpid()
        return here and self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        with self._lock:
            manager = self._manager()
            if self._process == os.getpid() or self._stopped or manager is None:
                return
            self._plan_cleanup(manager)
            manager.blocking_cleaner.is_driven = lambda: self.is_running
            self._news = threading.Event()  # one that was inherited over a fork may be in any state
            self._thread = threading.Thread(target=self._run, name="session-housekeeping", daemon=True)
            self._thread.start()
            self._process = os.getpid()

    def _run(self) -> None:
        while not self._stopped and (pause := self._look_after()) is not None:
            self._news.wait(pause)
            self._news.clear()

    def _look_after(self) -> float | None:
        """Do what is due; seconds until the next round, or None without a manager."""
        manager = self._manager()
        if manager is None:
            return None
        with contextlib.suppress(Exception):  # a defect in a backend must not end the rounds for good
            run_blocking(manager.blocking_heartbeat.round())
        if manager.blocking_cleaner.interval != self._interval:  # it was reconfigured
            self._plan_cleanup(manager)
        if manager.monotonic() >= self._cleanup_at:
            if not manager.is_started:  # else a lifespan has its own
                run_blocking(manager.blocking_cleaner.run_once())
            self._plan_cleanup(manager)
        return min(manager.blocking_heartbeat.pause(), max(0.0, self._cleanup_at - manager.monotonic()))

    def _plan_cleanup(self, manager: SessionManager) -> None:
        self._interval = manager.blocking_cleaner.interval
        self._cleanup_at = manager.monotonic() + manager.blocking_cleaner.pause()


_guard = threading.Lock()
_keepers: weakref.WeakKeyDictionary[SessionManager, Housekeeper] = weakref.WeakKeyDictionary()


def _renew_locks() -> None:
    """In a forked child: no thread is there that could give back a lock that was held."""
    global _guard  # noqa: PLW0603  (there is one per process)
    _guard = threading.Lock()
    for keeper in list(_keepers.values()):
        keeper._lock = threading.Lock()  # noqa: SLF001  (of this file)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


@atexit.register
def _stop_all() -> None:
    for keeper in list(_keepers.values()):
        keeper.stop(_LAST_WORDS)
