"""What all operations of a manager stand on: its parts, how a session is found by its id, and saved.

Ids come from outside: one that cannot be an id is treated as one that nobody has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from session_middleware.core import Core
from session_middleware.errors import ConfigurationError, SessionDataError, SessionNotFoundError
from session_middleware.perform import Performer
from session_middleware.record import Committed, Delta, Ended, Record, SessionId, replace
from session_middleware.session import Life, Live, Session

__all__ = ["OperationsBase", "not_found", "shown"]

_ID = re.compile(r"[A-Za-z0-9_-]{22}")


class OperationsBase:
    """The parts of one manager, over one port."""

    def __init__(self, core: Core, performer: Performer) -> None:
        self._core = core
        self._performer = performer
        self._port = performer.port
        self._emit = core.reporter.emit

    async def get_session(self, session_id: str, *, touch: bool = False) -> Session | None:
        """The live session of this id, or None, also for one that cannot be decoded. Renewed only if *touch*.

        Changes to it are saved by `save()` only.
        """
        now = self._core.clock()
        record = await self._load(session_id, now)
        if not isinstance(record, Record):
            self._emit(
                "session_data_retrieval_failed", shown(session_id), None, now, reason="not_found_or_expired"
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

    # --- inside ---

    async def _load(self, session_id: str, now: float) -> Record | Ended | None:
        try:
            return await self._port.load(self._id(session_id), now)
        except SessionDataError:
            self._emit("session_data_retrieval_failed", shown(session_id), None, now, reason="undecodable")
            return None

    async def _existing(self, session_id: str) -> Session:
        session = await self.get_session(session_id)
        if session is None:
            raise not_found()
        return session

    async def _renewed(self, record: Record, now: float) -> Record | None:
        deadline = min(now + self._core.policy.idle(record.idle_timeout), record.latest)
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
        return SessionId(shown(session_id) or "")

    def _lacks(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"backend: {self._core.backend.url} cannot {what}; use one that can")


def not_found() -> SessionNotFoundError:
    """The error for an id that no live session has."""
    return SessionNotFoundError("no live session has this id: it ended, expired, or never existed")


def shown(session_id: object) -> str | None:
    """An id from outside, fit for a log line."""
    return session_id if isinstance(session_id, str) and _ID.fullmatch(session_id) else None
