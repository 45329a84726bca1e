"""One session, by its id: made, read, written, renewed, cycled, ended, held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from session_middleware.activity import ActiveRequest
from session_middleware.operations.base import OperationsBase, not_found, shown
from session_middleware.policy import checked_priority, seconds_or_zero
from session_middleware.record import Committed, Delta, Record
from session_middleware.session import Life, Session, user_text
from session_middleware.values import JsonValue

__all__ = ["SessionOperations"]


class SessionOperations(OperationsBase):
    """What is done to one session."""

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
        session = Session(data or {})
        session.life = Life(self._core.policy, self._core.manager)
        session.life.metadata = dict(metadata or {})
        if conversation_id is not None:
            session.life.metadata["conversation_id"] = conversation_id
        session.life.login = None if user_id is None else user_text(user_id)
        await self._performer.create(session, now, priority=checked_priority(priority))
        return session

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
            raise not_found()
        return session

    async def renew_session(self, session_id: str) -> float:
        """Push the idle deadline out, due or not; when it ends now, in seconds since the epoch.

        Raises `SessionNotFoundError`.
        """
        now = self._core.clock()
        record = await self._load(session_id, now)
        renewed = await self._renewed(record, now) if isinstance(record, Record) else None
        if renewed is None:
            self._emit("session_renewal_failed", shown(session_id), None, now, reason="not_found")
            raise not_found()
        return renewed.deadline

    async def cycle_session(self, session_id: str, *, grace: float | None = None) -> None:
        """Order a new cookie: the session's next request that looks makes it. Id and data stay.

        *grace* as in `Session.cycle`. Raises `SessionNotFoundError`.
        """
        now = self._core.clock()
        wanted = self._core.policy.grace if grace is None else seconds_or_zero("grace", grace)
        answer = await self._port.commit(self._id(session_id), Delta(cycle_due=wanted), now)
        if not isinstance(answer, Committed):
            raise not_found()

    async def delete_session(
        self, session_id: str, reason: str = "deleted", *, user_id: str | int | None = None
    ) -> bool:
        """End a session; was it alive? With *user_id* only if it is that user's, for self-service pages."""
        now = self._core.clock()
        if user_id is not None:
            record = await self._load(session_id, now)
            if not isinstance(record, Record) or record.user_id != user_text(user_id):
                self._emit("session_deletion_failed", shown(session_id), None, now, reason="not_found")
                return False
        owner = None if user_id is None else user_text(user_id)
        alive = await self._port.delete(self._id(session_id), now, reason)
        if alive:
            self._emit("session_deleted", session_id, owner, now, reason=reason)
        else:
            self._emit("session_deletion_failed", shown(session_id), None, now, reason="not_found")
        return alive

    @asynccontextmanager
    async def track_request(self, session: str | Session, path: str = "") -> AsyncIterator[Session]:
        """Hold a session for one piece of work: it does not idle out, and changes are saved at the end.

        After an exception nothing is saved. Raises `SessionNotFoundError`.
        """
        held = await self._existing(session) if isinstance(session, str) else session
        now = self._core.clock()
        request = ActiveRequest()
        request.path = path
        self._core.activity.enter(request)
        try:
            if held.id is not None:
                self._core.activity.hold(request, held, now)
            yield held
            await self.save(held)
        finally:
            self._core.activity.leave(request)
