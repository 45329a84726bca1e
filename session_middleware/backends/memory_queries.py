"""How sessions in memory are found and counted: the part of `MemoryBackend` that looks at many of them.

No call looks at more than a bounded number of records under the lock, but for figures: they look at what has
ended and was not cleaned up yet.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from math import inf
from threading import Lock

from session_middleware.backends.base import EndedRecord
from session_middleware.backends.births import Births
from session_middleware.backends.capabilities import Page, Position, Summary, Usage
from session_middleware.record import Record, SessionId
from session_middleware.where import Where

__all__ = ["MemoryQueries"]

_SEEN_AT_ONCE = 1000  # records of one page, about a millisecond
_SORTED_AT_MOST = 4000  # records that one page sorts; where more come into question, all are walked instead
_TOP = Position(inf, SessionId(""))


class MemoryQueries:
    """Finds sessions in what `MemoryBackend` keeps."""

    _records: dict[SessionId, Record]
    _users: dict[str, dict[SessionId, None]]
    _statuses: dict[str, dict[SessionId, None]]
    _births: Births
    _created_sum: int
    _lock: Lock

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _expired(self, now: float) -> list[Record]: ...

    @abstractmethod
    def _lives(self, record: Record, now: float) -> bool: ...

    @abstractmethod
    def _end(self, id_: SessionId, now: float, reason: str, by: str | None) -> bool: ...

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        """See `Iterating.find`."""
        below = _TOP if after is None else after
        if where.created_before is not None:
            below = min(below, Position(where.created_before, SessionId("")))
        with self._lock:
            self._check_open()
            return self._page(where, now, limit, below)

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        """See `Iterating.end_found`."""
        with self._lock:
            self._check_open()
            records = [record for id_ in ids if (record := self._records.get(id_)) is not None]
            return [
                EndedRecord(record.id, record.user_id, reason, record.created_at)
                for record in records
                if where.matches(record) and self._end(record.id, now, reason, by)
            ]

    async def summary(self, now: float, ages: Sequence[float]) -> Summary:
        """See `Summarizing.summary`. Looks at minutes, and at the sessions of those where an age lies.

        And at what has ended and was not cleaned up, which after an epoch may be all: under 1 µs each.
        """
        with self._lock:
            self._check_open()
            ended = self._expired(now)
            births, bounds = self._births, [now - age for age in ages]
            gone = {record.id for record in ended}
            younger = [
                births.number_after(bound) - sum(record.created_at > bound for record in ended)
                for bound in bounds
            ]
            oldest, newest = births.oldest(gone), births.newest(gone)
            usage = self._usage_without(ended, now)
        return Summary(
            usage,
            None if oldest is None else now - oldest,
            None if newest is None else now - newest,
            tuple(younger),
        )

    # --- under the lock ---

    def _usage_without(self, ended: Sequence[Record], now: float) -> Usage:
        number = len(self._records) - len(ended)
        created = self._created_sum / 1000 - sum(record.created_at for record in ended)
        statuses = Counter({status: len(ids) for status, ids in self._statuses.items()})
        statuses.subtract(record.status for record in ended if record.status is not None)
        return Usage(number, now - created / number if number else None, dict(+statuses))

    def _page(self, where: Where, now: float, limit: int, below: Position) -> Page:
        found: list[Record] = []
        for seen, place in enumerate(self._places(where, below), 1):
            if where.created_after is not None and place.created_at < where.created_after:
                break
            record = self._records[place.id]
            if self._lives(record, now) and where.matches(record):
                found.append(record)
            if len(found) >= limit or seen >= _SEEN_AT_ONCE:
                return Page(found, place)
        return Page(found, None)

    def _places(self, where: Where, below: Position) -> Iterable[Position]:
        ids = self._candidates(where)
        if ids is None or len(ids) > _SORTED_AT_MOST:
            return self._births.newest_below(below)
        records = [record for id_ in ids if (record := self._records.get(SessionId(id_))) is not None]
        places = [Position(record.created_at, record.id) for record in records]
        return sorted((place for place in places if place < below), reverse=True)

    def _candidates(self, where: Where) -> Collection[str] | None:
        """The fewest ids that an index brings, or None where it must be all."""
        known: list[Collection[str]] = [] if where.ids is None else [where.ids]
        if where.user_id is not None:
            known.append(self._users.get(str(where.user_id), {}))
        if where.status is not None:
            known.append(self._statuses.get(where.status, {}))
        return min(known, key=len, default=None)
