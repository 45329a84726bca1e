"""Shorter timeouts hold for sessions that exist, by their records: so in every process, and in every listing.

A record says when its visitor was last noted, and between two renewals nothing is noted. So a shorter idle
timeout counts from the last moment at which the visitor may have been there: nobody active is signed out, and
whoever surely was idle for longer is, at once.
"""

from __future__ import annotations

from session_middleware.operations.queries import QueryOperations
from session_middleware.policy import Policy
from session_middleware.record import CONFLICT, Delta, Record
from session_middleware.where import Where

__all__ = ["EnforcingOperations"]

_BATCH = 200  # sessions looked at in one step
_ENDED_AT_ONCE = 64  # of those that are too many: other writers wait for one step only
_PAUSE = 0.005  # seconds between steps, which is what keeps the others fast


class EnforcingOperations(QueryOperations):
    """What a reconfiguration asks for."""

    async def enforce_timeouts(self, before: Policy, after: Policy) -> None:
        """Shorten what outlives the timeouts of *after*. Raises `ConfigurationError`, `BackendError`."""
        if after.idle_timeout >= before.idle_timeout and after.absolute_timeout >= before.absolute_timeout:
            return
        walk = self._walk(Where(), _BATCH)
        while (records := await walk.on()) is not None:
            for record in records:
                await self._shorten(record, before, after)

    async def enforce_limits(self) -> int:
        """End what is more than the limits allow now, in small steps; how many."""
        ended = 0
        while some := await self._performer.limits.shrink(_ENDED_AT_ONCE, self._core.clock()):
            ended += some
            await self._port.wait(0 if self._port.immediate else _PAUSE)
        return ended

    async def _shorten(self, record: Record, before: Policy, after: Policy) -> None:
        """Again where a request changed the record meanwhile: each try sees a newer one."""
        found: object = record
        while isinstance(found, Record):
            now = self._core.clock()
            delta = _shortened(found, before, after, now)
            if delta is None or await self._port.commit(found.id, delta, now) is not CONFLICT:
                return
            found = await self._load(found.id, now)


def _shortened(record: Record, before: Policy, after: Policy, now: float) -> Delta | None:
    """What brings *record* under *after*; None where it lies under it."""
    limit, deadline = record.limit, record.deadline
    if after.absolute_timeout < before.absolute_timeout:
        began = max(record.created_at, record.authenticated_at or 0.0)
        limit = min(limit, began + after.absolute_timeout)
    if after.idle_timeout < before.idle_timeout and record.idle_timeout is None:
        unnoted = before.renew_after * before.idle_timeout
        deadline = min(deadline, min(now, record.last_seen_at + unnoted) + after.idle_timeout)
    deadline = min(deadline, limit)
    if (limit, deadline) == (record.limit, record.deadline):
        return None
    return Delta(limit=limit, expire_at=deadline, if_version=record.version)
