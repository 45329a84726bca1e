"""The port of Redis, of both colours: each method hands on to the coroutine that does it."""

from __future__ import annotations

from collections.abc import Sequence

from session_middleware.backends import redis_caps, redis_queries, redis_records
from session_middleware.backends.base import EndedRecord, LoadAnswer
from session_middleware.backends.capabilities import Admitted, Caps, Page, Position, Salvaged, Summary, Usage
from session_middleware.backends.redis_store import EPOCH, LEASE, RELEASE, RENEW, Script, Store, Stored
from session_middleware.backends.seen import Seen
from session_middleware.record import Committed, CreateResult, Delta, Record, Refused, SessionId
from session_middleware.where import Where

__all__ = ["RedisPort"]

_LEASE_SLACK = 60.0  # seconds for which a lease that is over stays, so that clocks may differ


class RedisPort:
    """The contract, over a `Store`."""

    immediate = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: Seen[Stored] = Seen()
        self._shrinking = redis_caps.Shrinking()

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        """See `Port.load`."""
        return await redis_records.load(self._store, self._seen, id, now)

    async def create(self, record: Record, now: float) -> CreateResult:
        """See `Port.create`."""
        self._seen.drop(record.id)
        return await redis_records.create(self._store, record, now)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        """See `Port.commit`."""
        return await redis_records.commit(self._store, self._seen, id, delta, now)

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        """See `Port.delete`."""
        self._seen.drop(id)
        return await redis_records.delete(self._store, id, now, reason, by)

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        """See `Port.delete_expired`. In batches of 64; endings go by themselves."""
        return await redis_queries.delete_expired(self._store, now, limit)

    async def wait(self, seconds: float) -> None:
        """See `Port.wait`."""
        await self._store.pause(seconds)

    async def list_user(self, user_id: str, now: float) -> Sequence[Record]:
        """See `ByUser.list_user`."""
        return await redis_queries.list_user(self._store, user_id, now)

    async def delete_user(
        self, user_id: str, now: float, reason: str, *, keep: Sequence[SessionId] = (), by: str | None = None
    ) -> Sequence[SessionId]:
        """See `ByUser.delete_user`."""
        return await redis_queries.delete_user(self._store, user_id, now, reason, keep, by)

    async def count(self, now: float) -> int:
        """See `Counting.count`."""
        return await redis_queries.count(self._store, now)

    async def usage(self, now: float) -> Usage:
        """See `Counting.usage`."""
        return (await self.summary(now, ())).usage

    async def summary(self, now: float, ages: Sequence[float]) -> Summary:
        """See `Summarizing.summary`."""
        return await redis_queries.summary(self._store, now, ages)

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        """See `Epochal.end_all_before`."""
        told = EPOCH(self._store.keys.epoch, repr(t), repr(now), reason, "" if by is None else by)
        [moved] = await self._store.ask([told])
        await redis_records.announce_all(self._store)
        return bool(moved)

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        """See `Iterating.find`."""
        return await redis_queries.find(self._store, where, now, limit, after)

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        """See `Iterating.end_found`."""
        return await redis_queries.end_found(self._store, ids, where, now, reason, by)

    async def acquire_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.acquire_lease`."""
        return await self._told(LEASE, name, holder, repr(now), repr(now + seconds), _lasting(seconds))

    async def renew_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.renew_lease`."""
        return await self._told(RENEW, name, holder, repr(now + seconds), _lasting(seconds))

    async def release_lease(self, name: str, holder: str) -> bool:
        """See `Leases.release_lease`."""
        return await self._told(RELEASE, name, holder)

    async def _told(self, script: Script, name: str, *arguments: str | int) -> bool:
        [answer] = await self._store.ask([script(self._store.keys.lease(name), *arguments)])
        return bool(answer)

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        """See `Capped.create_within`."""
        self._seen.drop(record.id)
        return await redis_caps.create_within(self._store, record, now, caps)

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        """See `Capped.commit_within`."""
        return await redis_caps.commit_within(self._store, self._seen, id, delta, now, caps)

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        """See `Capped.shrink`."""
        return await self._shrinking.shrink(self._store, now, caps, limit)

    async def salvage(self, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
        """See `Salvaging.salvage`."""
        return await redis_records.salvage(self._store, id, now)

    async def mend(self, record: Record, salvaged: Salvaged) -> bool:
        """See `Salvaging.mend`."""
        self._seen.drop(record.id)
        return await redis_records.mend(self._store, record, salvaged)


def _lasting(seconds: float) -> int:
    return max(1, int((seconds + _LEASE_SLACK) * 1000))
