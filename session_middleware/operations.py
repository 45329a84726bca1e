"""The manager's operations, written once for both colours.

Like everything that touches a backend they are coroutines which await the methods of a port and nothing else.
`SessionManager` runs them over its async port; `manager.blocking` over the blocking one.

Ids come from outside: one that cannot be an id is treated as one that nobody has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

from session_middleware.activity import ActiveRequest
from session_middleware.backends.base import ByUser, Counting
from session_middleware.core import Core
from session_middleware.errors import BackendError, ConfigurationError, SessionDataError, SessionNotFoundError
from session_middleware.perform import Performer
from session_middleware.policy import seconds_or_zero
from session_middleware.record import Committed, Delta, Ended, Record, SessionId, replace
from session_middleware.session import Fresh, Life, Live, Session, user_text
from session_middleware.values import JsonValue

__all__ = ["Operations"]

_ID = re.compile(r"[A-Za-z0-9_-]{22}")
_BATCH = 64  # expired sessions per step: other writers wait for one step only
_PAUSE = 0.005  # seconds between steps, which is what keeps the others fast


class Operations:
    """Sessions by id and by user, over one port."""

    def __init__(self, core: Core, performer: Performer) -> None:
        self._core = core
        self._performer = performer
        self._port = performer.port
        self._emit = core.reporter.emit

    # --- one session ---

    async def create_session(
        self,
        user_id: str | int | None = None,
        data: Mapping[str, JsonValue] | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
        *,
        conversation_id: str | None = None,
        priority: int = 0,
    ) -> Session:
        """A new stored session, without a visitor's cookie; with a user it counts as a login.

        *conversation_id* goes into the metadata. Raises `SessionDataError`, `BackendError`.
        """
        now = self._core.clock()
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise ConfigurationError(f"priority: found {type(priority).__name__}, pass an integer")
        session = Session(data or {})
        session.life = Life(self._core.policy, self._core.manager)
        session.life.metadata = dict(metadata or {})
        if conversation_id is not None:
            session.life.metadata["conversation_id"] = conversation_id
        session.life.login = None if user_id is None else user_text(user_id)
        await self._performer.create(session, now, priority=priority)
        return session

    async def get_session(self, session_id: str, *, touch: bool = False) -> Session | None:
        """The live session of this id, or None, also for one that cannot be decoded. Renewed only if *touch*.

        Changes to it are saved by `save()` only.
        """
        now = self._core.clock()
        record = await self._load(session_id, now)
        if not isinstance(record, Record):
            self._emit(
                "session_data_retrieval_failed", _shown(session_id), None, now, reason="not_found_or_expired"
            )
            return None
        if touch:
            record = await self._renewed(record, now)
        return None if record is None else self._session(record, now)

    async def save(self, session: Session) -> bool:
        """Write what changed in *session* now. True unless it was ended meanwhile (reported by event).

        In a request this may come before its end; what it does to the cookie goes out with the response.
        Raises `SessionDataError`, `BackendError`.
        """
        if session.manager is not self._core.manager:
            raise ConfigurationError(
                "session: it is none of this manager's; make it by create_session(data=...)"
            )
        session.life.lost = False
        if session.life.late:
            await self._performer.commit_late(session, self._core.clock())
        else:
            await self._performer.commit(session, self._core.clock())
        return not session.life.lost

    async def update_session(
        self,
        session_id: str,
        data: Mapping[str, JsonValue] | None = None,
        *,
        unset: Iterable[str] = (),
        metadata: Mapping[str, JsonValue] | None = None,
        **values: JsonValue,
    ) -> Session:
        """Set several values in one commit. Raises `SessionNotFoundError`, `SessionDataError`."""
        session = await self._existing(session_id)
        session.update({**(data or {}), **values})
        for name in unset:
            session.pop(name, None)
        session.metadata.update(metadata or {})
        if not await self.save(session):
            raise _not_found()
        return session

    async def renew_session(self, session_id: str) -> float:
        """Push the idle deadline out, due or not; when it ends now, in seconds since the epoch.

        Raises `SessionNotFoundError`.
        """
        now = self._core.clock()
        record = await self._load(session_id, now)
        renewed = await self._renewed(record, now) if isinstance(record, Record) else None
        if renewed is None:
            self._emit("session_renewal_failed", _shown(session_id), None, now, reason="not_found")
            raise _not_found()
        return renewed.deadline

    async def cycle_session(self, session_id: str, *, grace: float | None = None) -> None:
        """Order a new cookie: the session's next request that looks makes it. Id and data stay.

        *grace* as in `Session.cycle`. Raises `SessionNotFoundError`.
        """
        now = self._core.clock()
        wanted = self._core.policy.grace if grace is None else seconds_or_zero("grace", grace)
        answer = await self._port.commit(self._id(session_id), Delta(cycle_due=wanted), now)
        if not isinstance(answer, Committed):
            raise _not_found()

    async def delete_session(
        self, session_id: str, reason: str = "deleted", *, user_id: str | int | None = None
    ) -> bool:
        """End a session; was it alive? With *user_id* only if it is that user's, for self-service pages."""
        now = self._core.clock()
        if user_id is not None:
            record = await self._load(session_id, now)
            if not isinstance(record, Record) or record.user_id != user_text(user_id):
                self._emit("session_deletion_failed", _shown(session_id), None, now, reason="not_found")
                return False
        owner = None if user_id is None else user_text(user_id)
        alive = await self._port.delete(self._id(session_id), now, reason)
        if alive:
            self._emit("session_deleted", session_id, owner, now, reason=reason)
        else:
            self._emit("session_deletion_failed", _shown(session_id), None, now, reason="not_found")
        return alive

    @asynccontextmanager
    async def track_request(self, session: str | Session, path: str = "") -> AsyncIterator[Session]:
        """Hold a session for one piece of work: it does not idle out, and changes are saved at the end.

        After an exception nothing is saved. Raises `SessionNotFoundError`.
        """
        held = await self._existing(session) if isinstance(session, str) else session
        now = self._core.clock()
        request = ActiveRequest(path)
        self._core.activity.enter(request)
        try:
            if held.id is not None:
                self._core.activity.hold(request, held, now)
            yield held
            await self.save(held)
        finally:
            self._core.activity.leave(request)

    # --- sessions of a user ---

    async def get_session_by_user(self, user_id: str | int) -> Session | None:
        """The newest live session of this user, or None."""
        now = self._core.clock()
        records = await self._by_user().list_user(user_text(user_id), now)
        return next(self._sessions(records, now), None)

    async def get_user_sessions(self, user_id: str | int) -> list[Session]:
        """The live sessions of this user, newest first."""
        now = self._core.clock()
        return list(self._sessions(await self._by_user().list_user(user_text(user_id), now), now))

    async def delete_user_sessions(
        self, user_id: str | int, keep: Iterable[str | Session] = (), *, reason: str = "revoked"
    ) -> int:
        """End the user's sessions but those to *keep* (ids or sessions); how many were ended."""
        now, user = self._core.clock(), user_text(user_id)
        kept = [
            SessionId(one) if isinstance(one, str) else one.id
            for one in ([keep] if isinstance(keep, str) else keep)
        ]
        ended = await self._by_user().delete_user(
            user, now, reason, keep=[id_ for id_ in kept if id_ is not None]
        )
        for id_ in ended:
            self._emit("session_deleted", id_, user, now, reason=reason)
        return len(ended)

    # --- all sessions ---

    async def count(self) -> int:
        """How many sessions are live."""
        if not isinstance(self._port, Counting):
            raise self._lacks("count sessions")
        return await self._port.count(self._core.clock())

    async def cleanup_expired(self) -> int:
        """Delete what has expired, in small steps with pauses; how many sessions that were."""
        started, by_reason = self._core.monotonic(), Counter[str]()
        try:
            while await self._cleanup_step(by_reason) >= _BATCH:
                await self._port.wait(_PAUSE)
            self._report_cleanup(by_reason, started)
            await self._report_usage()
        except BackendError as problem:
            self._emit("sessions_cleanup_failed", None, None, self._core.clock(), exception=problem)
            raise
        return by_reason.total()

    async def cleanup_step(self) -> int:
        """One small step of `cleanup_expired`, for apps without a lifespan."""
        started, by_reason = self._core.monotonic(), Counter[str]()
        if await self._cleanup_step(by_reason):
            self._report_cleanup(by_reason, started)
        return by_reason.total()

    async def hold_on(self, session: Session, now: float) -> bool:
        """Renew a session that a request holds, if that is due; False once it is no longer the request's."""
        opening = session.life.opening
        if not isinstance(opening, Live):
            return True
        record = opening.record
        idle = self._core.policy.idle(record.idle_timeout)
        if not self._core.policy.open_requests_renew or record.deadline - now > idle * 2 / 3:
            return True
        renewed = min(now + idle, record.limit)
        answer = await self._port.commit(
            record.id, Delta(renew_to=renewed, seen_at=now, admitted=opening.admitted), now
        )
        if not isinstance(answer, Committed):
            self._emit("session_renewal_failed", record.id, record.user_id, now, reason=answer.name.lower())
            return False
        if session.life.opening is not opening:  # a commit of the request itself was faster, and knows better
            return True
        session.life.opening = opening._replace(
            record=replace(record, deadline=max(record.deadline, renewed))
        )
        self._emit("session_renewed", record.id, record.user_id, now, expires_at=renewed)
        return True

    async def is_still_open(self, session: Session, now: float) -> bool:
        """Whether the session a request was admitted to exists for it: not ended, not below the floor."""
        opening = session.life.opening
        if not isinstance(opening, Live):
            return isinstance(opening, Fresh)  # else a login or a logout overtook it
        answer = await self._port.load(opening.record.id, now)
        return isinstance(answer, Record) and opening.admitted >= answer.floor

    # --- inside ---

    async def _cleanup_step(self, by_reason: Counter[str]) -> int:
        now = self._core.clock()
        ended = await self._port.delete_expired(now, _BATCH)
        for one in ended:
            by_reason[one.reason] += 1
            self._emit(
                "session_expired", one.id, one.user_id, now, reason=one.reason, created_at=one.created_at
            )
        return len(ended)

    def _report_cleanup(self, by_reason: Counter[str], started: float) -> None:
        self._core.cleaned += by_reason.total()
        self._emit(
            "sessions_cleaned_up",
            None,
            None,
            self._core.clock(),
            count=by_reason.total(),
            by_reason=dict(by_reason),
            duration=self._core.monotonic() - started,
        )

    async def _report_usage(self) -> None:
        if not isinstance(self._port, Counting):
            return
        now = self._core.clock()
        usage = await self._port.usage(now)
        self._core.live_sessions = usage.sessions
        self._emit(
            "session_usage",
            None,
            None,
            now,
            count=usage.sessions,
            capacity=None,
            average_age=usage.average_age,
            by_status=dict(usage.by_status),
        )

    async def _load(self, session_id: str, now: float) -> Record | Ended | None:
        try:
            return await self._port.load(self._id(session_id), now)
        except SessionDataError:
            shown = _shown(session_id)
            self._emit("session_data_retrieval_failed", shown, None, now, reason="undecodable")
            return None

    async def _existing(self, session_id: str) -> Session:
        session = await self.get_session(session_id)
        if session is None:
            raise _not_found()
        return session

    async def _renewed(self, record: Record, now: float) -> Record | None:
        deadline = min(now + self._core.policy.idle(record.idle_timeout), record.limit)
        answer = await self._port.commit(record.id, Delta(renew_to=deadline, seen_at=now), now)
        if not isinstance(answer, Committed):
            return None
        self._emit(
            "session_renewed", record.id, record.user_id, now, expires_at=max(deadline, record.deadline)
        )
        return replace(
            record, deadline=max(deadline, record.deadline), version=answer.version, last_seen_at=now
        )

    def _session(self, record: Record, now: float) -> Session | None:
        """None for a record whose values cannot be decoded; it stays where it is."""
        session = Session()
        life = Life(self._core.policy, self._core.manager, Live(record, record.generation))
        self._performer.fill(session, life, now)
        session.life.late = True  # no response of its own can carry a cookie
        return None if session.life.record is None else session

    def _sessions(self, records: Iterable[Record], now: float) -> Iterator[Session]:
        made = (self._session(record, now) for record in records)
        return (session for session in made if session is not None)

    def _id(self, session_id: str) -> SessionId:
        # An id of another shape is asked for all the same, as one that nobody has: same events.
        return SessionId(_shown(session_id) or "")

    def _by_user(self) -> ByUser:
        if not isinstance(self._port, ByUser):
            raise self._lacks("find sessions by user")
        return self._port

    def _lacks(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"backend: {self._core.backend.url} cannot {what}; use one that can")


def _not_found() -> SessionNotFoundError:
    return SessionNotFoundError("no live session has this id: it ended, expired, or never existed")


def _shown(session_id: object) -> str | None:
    """An id from outside, fit for a log line."""
    return session_id if isinstance(session_id, str) and _ID.fullmatch(session_id) else None
