"""Takes over the session of an old cookie at its first sight, once.

An old cookie is a session by itself: whoever has a copy could be signed in with it again after any logout.
So a small record remembers each cookie that was taken over until that cookie runs out, and names the session
it became: from then on the old cookie is that session's first generation, superseded with grace. It opens
what any other superseded cookie opens: the session, while its client may lack the new one; then nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from session_middleware.errors import SessionCapacityError, SessionDataError
from session_middleware.old_cookies import OldCookie, OldSession, first_old_session
from session_middleware.perform import Performer
from session_middleware.record import EXISTS, Delta, Record, SessionId
from session_middleware.session import Life, Session

__all__ = ["Importer", "Sighting"]

_STATUS = "imported"
_EVICTED_LAST = 2**31  # priority: a cookie that was forgotten could be taken over again


class Sighting(NamedTuple):
    """An old cookie that a request brought, and the name it came under."""

    name: str
    session: OldSession


class Importer:
    """Takes over old cookies through one performer."""

    def __init__(self, performer: Performer, readers: Sequence[OldCookie]) -> None:
        self._performer = performer
        self._readers = readers

    def sighted(self, headers: Sequence[tuple[bytes, bytes]], now: float) -> Sighting | None:
        """The first valid old cookie among these headers. No call of the backend."""
        found = first_old_session(self._readers, headers, now)
        return None if found is None else Sighting(found[0].session_cookie, found[1])

    async def open(self, old: OldSession, now: float) -> Life:
        """What the cookie opens: its session, taken over now or before. Raises `BackendError`."""
        answer = await self._performer.port.load(old.id, now)
        if answer is None:
            answer = await self._take_over(old, now)
        if not isinstance(answer, Record):
            return self._performer.nobody()
        became = answer.metadata
        return await self._performer.open_as(SessionId(became["session"]), became["generation"], now)

    async def _take_over(self, old: OldSession, now: float) -> Record | None:
        """The record that remembers it; None where it cannot be kept, or nothing more: events tell."""
        session = Session(old.values)
        session.life = self._performer.nobody()
        session.life.metadata = {"imported_from": old.source}
        try:
            await self._performer.create(session, now)
        except (SessionDataError, SessionCapacityError):
            return None
        made = session.life.record
        assert made is not None  # noqa: S101  (it was created)
        # Before the old cookie is known to have become it: a crash in between leaves a session of nobody.
        await self._performer.port.commit(made.id, Delta(cycle=self._performer.grace), now)
        remembered = _remembered(old, made, now)
        try:
            answer = await self._performer.limits.create_in_free_room(remembered, now)
        except SessionCapacityError:
            await self._performer.end_others([made.id], now)
            return None
        return remembered if answer is not EXISTS else await self._taken_over_by_another(old, made, now)

    async def _taken_over_by_another(self, old: OldSession, made: Record, now: float) -> Record | None:
        """Another request was faster: what it made is the session, what we made is nobody's."""
        await self._performer.end_others([made.id], now)
        answer = await self._performer.port.load(old.id, now)
        return answer if isinstance(answer, Record) else None


def _remembered(old: OldSession, made: Record, now: float) -> Record:
    """What remembers the cookie until it runs out by itself. No cookie of ours opens it: it has no secret."""
    return Record(
        id=old.id,
        secret="",
        generation=made.generation,
        created_at=now,
        last_seen_at=now,
        deadline=old.expires_at,
        limit=old.expires_at,
        status=_STATUS,
        priority=_EVICTED_LAST,
        metadata={"session": made.id, "generation": made.generation},
    )
