"""Figures over the sessions in memory: the part of `MemoryBackend` that sums them up.

Every change keeps the totals up to date. Asking costs as much as there are minutes in the span of time asked
for, and sessions that have ended and were not cleaned up yet: these are left out exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from math import inf, nextafter
from threading import Lock

from session_middleware.backends.base import Epoch
from session_middleware.backends.births import Births, Tally
from session_middleware.backends.capabilities import Aggregates, Usage
from session_middleware.record import Record, SessionId

__all__ = ["MemoryFigures"]


class MemoryFigures:
    """Counts what `MemoryBackend` keeps."""

    _records: dict[SessionId, Record]
    _statuses: dict[str, dict[SessionId, None]]
    _births: Births
    _created_sum: float
    _epoch: Epoch
    _lock: Lock

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _lives(self, record: Record, now: float) -> bool: ...

    @abstractmethod
    def _filed_until(self, now: float) -> Iterable[SessionId]: ...

    async def count(self, now: float) -> int:
        """See `Counting.count`."""
        with self._lock:
            self._check_open()
            return len(self._records) - self._gone(self._expired(now)).number

    async def usage(self, now: float) -> Usage:
        """See `Counting.usage`."""
        with self._lock:
            self._check_open()
            number, average_age, by_status = self._totals(now, self._expired(now))
            return Usage(number, average_age, by_status)

    async def aggregate(self, now: float, bounds: tuple[float, ...]) -> Aggregates:
        """See `Aggregating.aggregate`."""
        with self._lock:
            self._check_open()
            expired = self._expired(now)
            number, average_age, by_status = self._totals(now, expired)
            steps = [0, *(self._younger(now - bound, expired) for bound in bounds), number]
            ends = self._births.ends(lambda record: self._lives(record, now))
        by_age = tuple(upper - lower for lower, upper in zip(steps, steps[1:], strict=False))
        oldest, newest = (None, None) if ends is None else (now - ends[0], now - ends[1])
        return Aggregates(number, by_status, by_age, average_age, oldest, newest)

    # --- under the lock ---

    def _expired(self, now: float) -> Sequence[Record]:
        """Those past their deadline and still here, but for those that the epoch ended."""
        found = (self._records.get(id_) for id_ in set(self._filed_until(now)))
        records = [record for record in found if record is not None and record.deadline <= now]
        return [record for record in records if record.created_at >= self._epoch.before]

    def _gone(self, expired: Sequence[Record]) -> Tally:
        """All that is still here and not live."""
        gone = self._births.tally_before(self._epoch.before)
        for record in expired:
            gone.count(record)
        return gone

    def _totals(self, now: float, expired: Sequence[Record]) -> tuple[int, float | None, Mapping[str, int]]:
        gone = self._gone(expired)
        number = len(self._records) - gone.number
        left = {status: len(ids) - gone.by_status[status] for status, ids in self._statuses.items()}
        average_age = now - (self._created_sum - gone.created_sum) / number if number else None
        return number, average_age, {status: count for status, count in left.items() if count}

    def _younger(self, cut: float, expired: Sequence[Record]) -> int:
        """How many live sessions were created after *cut*."""
        since = max(nextafter(cut, inf), self._epoch.before)
        return self._births.number_since(since) - sum(record.created_at >= since for record in expired)
