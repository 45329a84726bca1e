"""Writing what waits: one session after the other, each session's changes in their order, in either colour.

Reading order: `Calls` (what is asked of the manager), `Plainly` (the same in a thread), `ThreadLock`,
`Flushing`.
"""

from __future__ import annotations

import threading
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakValueDictionary

from session_middleware.errors import BackendError, SessionDataError, SessionError
from session_middleware.manager import SessionManager
from session_middleware.record import SessionId
from session_middleware.session import Session
from session_middleware.state.pending import Pending
from session_middleware.values import JsonValue

__all__ = ["Calls", "Flushing", "Plainly", "ThreadLock"]


class Calls(Protocol):
    """What the engine asks of a manager."""

    async def save(self, session: Session) -> bool: ...
    async def create_session(
        self, user_id: str | None = None, data: dict[str, JsonValue] | None = None
    ) -> Session: ...
    async def recover_session(self, session_id: str) -> Session | None: ...
    async def get_user_sessions(self, user_id: str | int) -> list[Session]: ...
    async def cleanup_expired(self) -> int: ...
    async def cleanup_inactive(self, inactive_days: float) -> int: ...


class Plainly:
    """The same by `manager.blocking`: each of these coroutines runs to its end without suspending."""

    def __init__(self, manager: SessionManager) -> None:
        self._blocking = manager.blocking

    async def save(self, session: Session) -> bool:
        """As the manager does, like all of these."""
        saved: bool = self._blocking.save(session)
        return saved

    async def create_session(
        self, user_id: str | None = None, data: dict[str, JsonValue] | None = None
    ) -> Session:
        made: Session = self._blocking.create_session(user_id, data)
        return made

    async def recover_session(self, session_id: str) -> Session | None:
        found: Session | None = self._blocking.recover_session(session_id)
        return found

    async def get_user_sessions(self, user_id: str | int) -> list[Session]:
        found: list[Session] = self._blocking.get_user_sessions(user_id)
        return found

    async def cleanup_expired(self) -> int:
        number: int = self._blocking.cleanup_expired()
        return number

    async def cleanup_inactive(self, inactive_days: float) -> int:
        number: int = self._blocking.cleanup_inactive(inactive_days)
        return number


class ThreadLock:
    """A lock between threads, under the name of one between tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class Flushing:
    """Writes what waits in *pending*; *lock* keeps two from writing one session at the same time."""

    def __init__(
        self,
        pending: Pending,
        calls: Calls,
        lock: type[AbstractAsyncContextManager[Any, Any]],
        manager: SessionManager,
        delay: float,
    ) -> None:
        self._pending = pending
        self._calls = calls
        self._new_lock = lock
        self._manager = manager
        self.delay = delay  # seconds; also until what failed is tried again
        self._locks: WeakValueDictionary[SessionId, Any] = WeakValueDictionary()

    async def flush_all(self) -> None:
        """All there is. Raises the last error, after having tried all; what failed waits on."""
        problem: SessionError | None = None
        for id_ in self._pending.ids:
            try:
                await self.flush_one(id_)
            except SessionError as failed:
                problem = failed
        if problem is not None:
            raise problem

    async def flush_due(self) -> None:
        """What must be written by now. An error is told by an event; what failed waits on."""
        for id_ in self._pending.due(self._manager.monotonic()):
            try:
                await self.flush_one(id_)
            except SessionError:  # whoever tried to write it has reported it
                continue

    async def flush_one(self, id_: SessionId) -> bool:
        """All of one session; False: some of it came too late."""
        saved = True
        async with self._lock_of(id_):
            while (entry := self._pending.next_of(id_)) is not None:
                saved = await self._write(id_, entry.twin) and saved
        return saved

    def forget_locks(self) -> None:
        """Whoever held them does not exist in this process."""
        self._locks = WeakValueDictionary()

    async def _write(self, id_: SessionId, twin: Session) -> bool:
        try:
            saved = await self._calls.save(twin)
        except SessionDataError:  # it never can be written; an event names the key
            self._pending.written(id_)
            raise
        except BaseException as problem:
            known = isinstance(problem, BackendError) and not problem.unknown
            self._pending.put_back(id_, self._manager.monotonic() + self.delay, unknown=not known)
            raise
        self._pending.written(id_)
        return saved

    def _lock_of(self, id_: SessionId) -> AbstractAsyncContextManager[Any, Any]:
        lock: AbstractAsyncContextManager[Any, Any] = self._locks.setdefault(id_, self._new_lock())
        return lock
