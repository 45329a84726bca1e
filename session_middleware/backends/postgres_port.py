"""What both ports of PostgreSQL have in common: the operations. A colour brings how a statement is run.

A commit first tries the record as this process has seen it last, which takes one round trip; where another
was faster, it locks the row and looks again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from session_middleware.backends import postgres_caps, postgres_sql
from session_middleware.backends.base import EndedRecord, LoadAnswer
from session_middleware.backends.capabilities import Admitted, Caps, Page, Position, Salvaged, Summary, Usage
from session_middleware.backends.postgres_sql import Ask, Loaded, Stored
from session_middleware.backends.seen import Seen
from session_middleware.record import (
    Committed,
    CreateResult,
    Delta,
    Record,
    Refused,
    SessionId,
)
from session_middleware.where import Where

__all__ = ["PostgresPort"]

T = TypeVar("T")

_EXPIRED_AT_ONCE: Final = 64  # rows of one cleanup transaction
_FORGOTTEN_AT_ONCE: Final = 256


class PostgresPort:
    """The contract over two ways to run something, which a colour brings."""

    immediate = False

    def __init__(self) -> None:
        self._seen: Seen[Stored] = Seen()

    @abstractmethod
    async def _alone(self, operation: Callable[[Ask], Awaitable[T]], *, again: bool = False) -> T:
        """What *operation* answers, whose one statement is a transaction. *again*: it may be repeated."""

    @abstractmethod
    async def _together(self, operation: Callable[[Ask], Awaitable[T]]) -> T:
        """What it answers, all its statements in one transaction."""

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        """See `Port.load`."""
        [loaded] = await self._loaded([(id, now)])
        return self._noted(id, loaded)

    async def _loaded(self, wanted: Sequence[tuple[SessionId, float]]) -> Sequence[Loaded]:
        return await self._alone(lambda ask: postgres_sql.load(ask, wanted), again=True)

    def _noted(self, id_: SessionId, loaded: Loaded) -> LoadAnswer:
        if loaded.problem is not None:
            raise loaded.problem
        self._seen.note(id_, loaded.stored)
        return loaded.answer

    async def create(self, record: Record, now: float) -> CreateResult:
        """See `Port.create`."""
        self._seen.drop(record.id)
        return await self._alone(lambda ask: postgres_sql.create(ask, record, now))

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        """See `Port.commit`."""
        known = self._seen.applied(id, delta, now)
        if known is not None:
            before, (after, committed) = known
            swap = partial(postgres_sql.swap, before=before, after=after, now=now)
            stored = await self._alone(swap)
            if stored is not None:
                self._seen.note(id, stored)
                return committed
        answer, stored = await self._together(lambda ask: postgres_sql.commit(ask, id, delta, now))
        self._seen.note(id, stored)
        return answer

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        """See `Port.delete`."""
        self._seen.drop(id)
        return await self._alone(lambda ask: postgres_sql.delete(ask, id, now, reason, by))

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        """See `Port.delete_expired`. In transactions of 64 rows; rows that others hold are passed over."""
        ended: list[EndedRecord] = []
        while len(ended) < limit:
            most = min(_EXPIRED_AT_ONCE, limit - len(ended))
            some, seen = await self._together(partial(postgres_sql.delete_expired, now=now, most=most))
            ended += some
            if seen < most:
                break
        await self._alone(lambda ask: postgres_sql.forget_endings(ask, now, _FORGOTTEN_AT_ONCE))
        return ended

    async def list_user(self, user_id: str, now: float) -> Sequence[Record]:
        """See `ByUser.list_user`."""
        return await self._alone(lambda ask: postgres_sql.list_user(ask, user_id, now), again=True)

    async def delete_user(
        self, user_id: str, now: float, reason: str, *, keep: Sequence[SessionId] = (), by: str | None = None
    ) -> Sequence[SessionId]:
        """See `ByUser.delete_user`."""
        return await self._alone(lambda ask: postgres_sql.delete_user(ask, user_id, now, reason, keep, by))

    async def count(self, now: float) -> int:
        """See `Counting.count`."""
        return await self._alone(lambda ask: postgres_sql.count(ask, now), again=True)

    async def usage(self, now: float) -> Usage:
        """See `Counting.usage`."""
        return (await self.summary(now, ())).usage

    async def summary(self, now: float, ages: Sequence[float]) -> Summary:
        """See `Summarizing.summary`."""
        return await self._alone(lambda ask: postgres_sql.summary(ask, now, ages), again=True)

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        """See `Epochal.end_all_before`."""
        return await self._alone(lambda ask: postgres_sql.end_all_before(ask, t, now, reason, by))

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        """See `Iterating.find`."""
        return await self._alone(lambda ask: postgres_sql.find(ask, where, now, limit, after), again=True)

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        """See `Iterating.end_found`."""
        return await self._together(lambda ask: postgres_sql.end_found(ask, ids, where, now, reason, by))

    async def acquire_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.acquire_lease`."""
        return await self._alone(lambda ask: postgres_sql.acquire_lease(ask, name, holder, seconds, now))

    async def renew_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.renew_lease`."""
        return await self._alone(lambda ask: postgres_sql.renew_lease(ask, name, holder, seconds, now))

    async def release_lease(self, name: str, holder: str) -> bool:
        """See `Leases.release_lease`."""
        return await self._alone(lambda ask: postgres_sql.release_lease(ask, name, holder))

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        """See `Capped.create_within`."""
        self._seen.drop(record.id)
        return await self._together(lambda ask: postgres_caps.create_within(ask, record, now, caps))

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        """See `Capped.commit_within`."""
        self._seen.drop(id)
        answer, stored = await self._together(
            lambda ask: postgres_caps.commit_within(ask, id, delta, now, caps)
        )
        self._seen.note(id, stored)
        return answer

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        """See `Capped.shrink`."""
        return await self._together(lambda ask: postgres_caps.shrink(ask, now, caps, limit))

    async def salvage(self, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
        """See `Salvaging.salvage`."""
        return await self._alone(lambda ask: postgres_sql.salvage(ask, id, now), again=True)

    async def mend(self, record: Record, salvaged: Salvaged) -> bool:
        """See `Salvaging.mend`."""
        self._seen.drop(record.id)
        return await self._alone(lambda ask: postgres_sql.mend(ask, record, salvaged))
