"""Sessions written a little later, so that a burst of changes is one write; and what that promises.

What `immediate` acknowledged survives everything that the backend survives. What waits is written at most
`debounce_delay` seconds after the first change, and before that when the manager stops, the event loop ends,
the interpreter exits (also by an exception) or SIGTERM comes. `kill -9` loses what waits: that delay at most.

Reading order: `_Engine` (written once, for both colours), `PersistenceEngine` (awaited),
`BlockingPersistenceEngine` (for threads).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, TypeAlias

from anyio import to_thread

from session_middleware.backends.base import Colour
from session_middleware.blocking import run_blocking
from session_middleware.errors import ConfigurationError, SessionCapacityError, SessionDataError
from session_middleware.manager import SessionManager, get_session_manager
from session_middleware.policy import Duration, flag, seconds
from session_middleware.record import SessionId
from session_middleware.session import Session
from session_middleware.state.exits import on_exit
from session_middleware.state.exits import on_sigterm as end_in_order
from session_middleware.state.flushing import Calls, Flushing, Plainly, ThreadLock
from session_middleware.state.pending import Pending
from session_middleware.state.timers import LoopTimers, ThreadTimers, Timers
from session_middleware.state.user_session import UserSession

__all__ = ["BlockingPersistenceEngine", "PersistenceEngine", "SessionPersistenceEngine"]

_DELAY: Final = 2.0
_Flush: TypeAlias = Callable[[], Awaitable[object]]


class _Engine:
    """The logic, over the calls, the locks and the timers of one colour."""

    def __init__(
        self,
        manager: SessionManager,
        calls: Calls,
        lock: type[AbstractAsyncContextManager[Any, Any]],
        timers: Timers,
        *,
        debounce_delay: Duration,
        session_timeout: Duration | None,
    ) -> None:
        delay = seconds("debounce_delay", debounce_delay)
        self._timeout = None if session_timeout is None else seconds("session_timeout", session_timeout)
        self.pending = Pending()
        self.flushing = Flushing(self.pending, calls, lock, manager, delay)
        self._manager = manager
        self._calls = calls
        self._timers = timers
        self._stop_timer: Callable[[], None] = _nothing
        self._timed = False
        on_exit(self)

    async def persist(self, session: Session | UserSession, *, immediate: bool) -> bool:
        stored = await self._stored(session)
        if self._timeout is not None and not _has_timeout(stored, self._timeout):
            stored.set_expiry(self._timeout)
        if self.pending.add(stored, self._manager.monotonic() + self.flushing.delay):
            if immediate:
                return await self._flush(stored.id)
            self._set_timer()
            return True
        earlier = await self._flush(stored.id)
        return await self._calls.save(stored) and earlier

    async def flush_all(self) -> None:
        try:
            await self.flushing.flush_all()
        finally:
            self._time_anew()

    async def flush(self, session_id: str) -> bool:
        return await self._flush(SessionId(session_id))

    async def flush_for_request(self, id_: SessionId) -> None:
        """So that the request sees what waits, and a login in it does not refuse that as too late."""
        if self.pending.has(id_):
            with suppress(SessionDataError, SessionCapacityError):  # reported, and not the request's
                await self._flush(id_)

    async def recover_session(self, session_id: str) -> UserSession | None:
        await self._flush(SessionId(session_id))
        found = await self._calls.recover_session(session_id)
        return None if found is None else self._view(found)

    async def recover_user_sessions(self, user_id: str | int) -> list[UserSession]:
        await self.flush_all()
        return [self._view(one) for one in await self._calls.get_user_sessions(user_id)]

    async def cleanup_expired(self) -> int:
        await self.flush_all()
        return await self._calls.cleanup_expired()

    async def cleanup_inactive(self, days: float) -> int:
        await self.flush_all()
        return await self._calls.cleanup_inactive(days)

    async def flush_from_a_thread(self) -> None:
        """What waits, over the blocking port, although the engine is of the other colour."""
        manager = self._manager
        over = Flushing(self.pending, Plainly(manager), ThreadLock, manager, self.flushing.delay)
        await over.flush_all()

    def leave(self) -> None:
        """See `Leaver`."""
        if isinstance(self._calls, Plainly):
            run_blocking(self.flushing.flush_all())  # waits for the thread that writes just now
        else:
            self._loop_ended()

    def forked(self) -> None:
        """See `Leaver`."""
        self._timed = False
        self.flushing.forget_locks()
        self.pending.give_up()

    # --- inside ---

    async def _stored(self, session: Session | UserSession) -> Session:
        if isinstance(session, Session):
            return session
        if not isinstance(session, UserSession):
            raise ConfigurationError(
                f"session: found {type(session).__name__}, pass a Session or a UserSession"
            )
        values = session.values
        if isinstance(values, Session) and values.manager is not None:
            return values
        made = await self._calls.create_session(session.user_id, dict(values))
        session.attach(made)
        return made

    def _view(self, session: Session) -> UserSession:
        return UserSession(session, clock=self._manager.clock)

    async def _flush(self, id_: SessionId | None) -> bool:
        try:
            return id_ is None or await self.flushing.flush_one(id_)
        finally:
            self._set_timer()

    def _set_timer(self) -> None:
        due = self.pending.next_due
        if self._timed or due is None:
            return
        self._timed = True
        pause = max(0.0, due - self._manager.monotonic())
        self._stop_timer = self._timers.after(pause, self._fire, self._loop_ended)

    def _time_anew(self) -> None:
        self._stop_timer()
        self._stop_timer, self._timed = _nothing, False
        self._set_timer()

    async def _fire(self) -> None:
        self._timed = False
        try:
            await self.flushing.flush_due()
        finally:
            self._set_timer()

    def _loop_ended(self) -> None:
        self._timed = False
        self.pending.reclaim(self._manager.monotonic())
        if len(self.pending):
            run_blocking(self.flush_from_a_thread())


class PersistenceEngine:
    """Writes sessions a little later, in an event loop.

    Args:
        manager: whose sessions; its `stop()` writes what waits. None: the process-wide one.
        debounce_delay: seconds that a change waits at most. Default 2; cost: what `kill -9` may lose.
        session_timeout: the idle timeout of each session it persists, in seconds. None: the policy's.
        on_sigterm: end in order on SIGTERM where nothing else handles it (see `state.exits`). Default True.
        timers: for tests.

    Use it in one event loop. Raises `ConfigurationError` naming the argument.
    """

    def __init__(
        self,
        manager: SessionManager | None = None,
        *,
        debounce_delay: Duration = _DELAY,
        session_timeout: Duration | None = None,
        on_sigterm: bool = True,
        timers: Timers | None = None,
    ) -> None:
        chosen = get_session_manager() if manager is None else manager
        self._engine = _Engine(
            chosen,
            chosen,
            asyncio.Lock,
            LoopTimers() if timers is None else timers,
            debounce_delay=debounce_delay,
            session_timeout=session_timeout,
        )
        stops: dict[Colour, _Flush] = {"async": self._engine.flush_all}
        if "blocking" in chosen.backend.colours:
            stops["blocking"] = self._engine.flush_from_a_thread
        chosen.before_open(self._engine.flush_for_request)
        _register(chosen, stops, on_sigterm=on_sigterm)

    @property
    def debounce_delay(self) -> float:
        """Seconds that a change waits at most. Set it, and it holds for what changes from then on."""
        return self._engine.flushing.delay

    @debounce_delay.setter
    def debounce_delay(self, delay: Duration) -> None:
        self._engine.flushing.delay = seconds("debounce_delay", delay)

    @property
    def pending(self) -> int:
        """How many sessions have something that waits."""
        return len(self._engine.pending)

    async def persist(self, session: Session | UserSession, *, immediate: bool = False) -> bool:
        """Write what changed in *session*, soon; with *immediate* before this returns.

        At once, too: what is no mere value (a login, a logout, a role), a session whose response is still to
        come, and a `UserSession` of its own, which is stored and has an id from then on. False: the session
        was ended meanwhile and something is lost, which an event names. Raises `SessionDataError` for a value
        that cannot be held, and `BackendError` for what could not be written, which waits on.
        """
        return await self._engine.persist(session, immediate=immediate)

    async def flush(self, session_id: str) -> bool:
        """Write what waits for this session. False: it was ended meanwhile, which an event tells.

        Raises `BackendError` for what could not be written, which waits on.
        """
        return await self._engine.flush(session_id)

    async def flush_all(self) -> None:
        """Write all that waits. Raises the last error, after having tried all; what failed waits on."""
        await self._engine.flush_all()

    async def recover_session(self, session_id: str) -> UserSession | None:
        """The live session of this id, with what waited for it, made whole if it was damaged. Or None.

        An id is no credential: ask only for one that came out of a verified cookie, or for an admin's page.
        """
        return await self._engine.recover_session(session_id)

    async def recover_user_sessions(self, user_id: str | int) -> list[UserSession]:
        """The live sessions of this user, newest first."""
        return await self._engine.recover_user_sessions(user_id)

    async def cleanup_expired_sessions(self) -> int:
        """Write all that waits, then delete what has expired; how many sessions that were."""
        return await self._engine.cleanup_expired()

    async def cleanup_inactive_sessions(self, inactive_days: float) -> int:
        """Write all that waits, then end the sessions unused for so many days; how many."""
        return await self._engine.cleanup_inactive(inactive_days)


SessionPersistenceEngine = PersistenceEngine


class BlockingPersistenceEngine:
    """The same for threads, as plain calls; any thread may use it.

    Arguments and errors as those of `PersistenceEngine`. What waits is written by a thread of its own.
    """

    def __init__(
        self,
        manager: SessionManager | None = None,
        *,
        debounce_delay: Duration = _DELAY,
        session_timeout: Duration | None = None,
        on_sigterm: bool = True,
        timers: Timers | None = None,
    ) -> None:
        chosen = get_session_manager() if manager is None else manager
        self._engine = _Engine(
            chosen,
            Plainly(chosen),
            ThreadLock,
            ThreadTimers() if timers is None else timers,
            debounce_delay=debounce_delay,
            session_timeout=session_timeout,
        )
        engine, flush = self._engine, self._engine.flush_all
        chosen.before_open(engine.flush_for_request, colour="blocking")
        at_once = chosen.performer.port.immediate
        chosen.before_open(engine.flush_for_request if at_once else self._flush_beside)
        _register(chosen, {"async": flush, "blocking": flush}, on_sigterm=on_sigterm)

    @property
    def debounce_delay(self) -> float:
        """Seconds that a change waits at most. Set it, and it holds for what changes from then on."""
        return self._engine.flushing.delay

    @debounce_delay.setter
    def debounce_delay(self, delay: Duration) -> None:
        self._engine.flushing.delay = seconds("debounce_delay", delay)

    @property
    def pending(self) -> int:
        """How many sessions have something that waits."""
        return len(self._engine.pending)

    def persist(self, session: Session | UserSession, *, immediate: bool = False) -> bool:
        """See `PersistenceEngine.persist`."""
        return run_blocking(self._engine.persist(session, immediate=immediate))

    def flush(self, session_id: str) -> bool:
        """See `PersistenceEngine.flush`."""
        return run_blocking(self._engine.flush(session_id))

    def flush_all(self) -> None:
        """See `PersistenceEngine.flush_all`."""
        run_blocking(self._engine.flush_all())

    def recover_session(self, session_id: str) -> UserSession | None:
        """See `PersistenceEngine.recover_session`."""
        return run_blocking(self._engine.recover_session(session_id))

    def recover_user_sessions(self, user_id: str | int) -> list[UserSession]:
        """See `PersistenceEngine.recover_user_sessions`."""
        return run_blocking(self._engine.recover_user_sessions(user_id))

    def cleanup_expired_sessions(self) -> int:
        """See `PersistenceEngine.cleanup_expired_sessions`."""
        return run_blocking(self._engine.cleanup_expired())

    def cleanup_inactive_sessions(self, inactive_days: float) -> int:
        """See `PersistenceEngine.cleanup_inactive_sessions`."""
        return run_blocking(self._engine.cleanup_inactive(inactive_days))

    async def _flush_beside(self, id_: SessionId) -> None:
        """In a thread: a request in an event loop must not hold up the others."""
        if self._engine.pending.has(id_):
            await to_thread.run_sync(lambda: run_blocking(self._engine.flush_for_request(id_)))


def _register(manager: SessionManager, stops: Mapping[Colour, _Flush], *, on_sigterm: bool) -> None:
    for colour, flush in stops.items():
        manager.before_close(flush, colour=colour)
    if flag("on_sigterm", on_sigterm):
        end_in_order()


def _has_timeout(session: Session, timeout: float) -> bool:
    record = session.life.record
    return record is not None and record.idle_timeout == timeout


def _nothing() -> None:
    """There is no timer to stop."""
