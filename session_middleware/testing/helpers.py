"""A manager that is ready for a test, a session in it, a cleanup that is over when the call returns.

All of them are plain calls, in async tests too: they go over the backend's blocking port, whose store is the
same. A backend without such a port is refused; await the manager's own operations there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from session_middleware.backends.base import wrong_colour
from session_middleware.blocking import run_blocking
from session_middleware.manager import Blocking, SessionManager
from session_middleware.session import Session
from session_middleware.testing.clock import ManualClock

__all__ = ["make_manager", "make_session", "plainly", "wait_for_cleanup"]

_KEY = "for tests only: 32 bytes and more that protect nothing"
_opened_here: WeakSet[SessionManager] = WeakSet()


def make_manager(**options: Any) -> SessionManager:
    """A manager in memory with a `ManualClock` (`manager.clock`), a key that is always the same, and no log.

    *options* are those of `SessionManager`, and go before all that. Raises `ConfigurationError`.
    """
    clock = options.get("clock") or ManualClock()
    given = {"secret_key": _KEY, "log": False, "monotonic": clock, **options, "clock": clock}
    return SessionManager(**given)


def make_session(manager: SessionManager, user_id: str | int | None = None, **data: Any) -> Session:
    """A stored session with this data, signed in if there is a user. Call it plainly, in async tests too."""
    with plainly(manager) as sessions:
        made: Session = sessions.create_session(user_id=user_id, data=data)
    return made


def wait_for_cleanup(manager: SessionManager) -> int:
    """Remove what has expired by the manager's clock, now; how many sessions. It is over on return.

    Backends may file what expires coarsely: a session is removed within the hour after its deadline, although
    it opens nothing from that moment on.
    """
    with plainly(manager) as sessions:
        removed: int = sessions.cleanup_expired()
    return removed


@contextmanager
def plainly(manager: SessionManager) -> Iterator[Blocking]:
    """`manager.blocking`, whose port is closed again where nobody but these helpers uses it."""
    if "blocking" not in manager.backend.colours:
        raise wrong_colour(manager.backend, "blocking")
    if not manager.uses_blocking_port:
        _opened_here.add(manager)
    port = manager.blocking_performer.port
    run_blocking(port.open())
    try:
        yield manager.blocking
    finally:
        if manager in _opened_here and not port.immediate:
            run_blocking(port.close())
