"""How many sessions memory holds at most, and which go first: the part of `MemoryBackend` that makes room."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from threading import Lock
from typing import TypeAlias

from session_middleware.backends.base import EVICTED, EndedRecord
from session_middleware.backends.capabilities import Admitted, Caps, Full
from session_middleware.record import (
    EXISTS,
    GONE,
    Committed,
    CreateResult,
    Delta,
    Record,
    Refused,
    SessionId,
    apply,
)

__all__ = ["MemoryCaps", "Ranks"]

_HIGHEST = 2**64  # no priority is
_Rank: TypeAlias = tuple[int, bool, float, SessionId]


class MemoryCaps:
    """Makes room in what `MemoryBackend` keeps."""

    _records: dict[SessionId, Record]
    _users: dict[str, dict[SessionId, None]]
    _lock: Lock
    _ranks: Ranks | None

    @abstractmethod
    def _check_open(self) -> None: ...
    @abstractmethod
    def _is_taken(self, record: Record, now: float) -> bool: ...
    @abstractmethod
    def _insert(self, record: Record) -> CreateResult: ...
    @abstractmethod
    def _replace(self, before: Record, after: Record) -> None: ...
    @abstractmethod
    def _lives(self, record: Record, now: float) -> bool: ...
    @abstractmethod
    def _end(self, id_: SessionId, now: float, reason: str, by: str | None) -> bool: ...
    @abstractmethod
    def _remove_expired(self, now: float, limit: int) -> list[EndedRecord]: ...
    @abstractmethod
    def _expired(self, now: float) -> list[Record]: ...
    @abstractmethod
    def _expire(self, record: Record, now: float) -> EndedRecord: ...

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        """See `Capped.create_within`."""
        with self._lock:
            self._check_open()
            if self._is_taken(record, now):
                return Admitted(EXISTS)
            too_many = self._too_many_of(record.user_id, record.id, now, caps)
            if too_many and caps.reject:
                return Admitted(Full.OF_USER)
            short = 0 if caps.total is None else len(self._records) + 1 - len(too_many) - caps.total
            expired = self._expired_first(short, now)
            others = self._lowest(short - len(expired), record.priority, caps.held, too_many)
            if others is None:
                return Admitted(Full.SESSIONS, others=expired)
            ended = self._evict(too_many, now), [*expired, *self._evict(others, now)]
            return Admitted(self._insert(record), *ended)

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        """See `Capped.commit_within`."""
        with self._lock:
            self._check_open()
            record = self._records.get(id)
            if record is None or not self._lives(record, now):
                return Admitted(GONE)
            applied = apply(record, delta, now)
            if isinstance(applied, Refused):
                return Admitted(applied)
            after, committed = applied
            newly = after.user_id if after.user_id != record.user_id else None
            too_many = self._too_many_of(newly, id, now, caps)
            if too_many and caps.reject:
                return Admitted(Full.OF_USER)
            self._replace(record, after)
            return Admitted(committed, self._evict(too_many, now))

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        """See `Capped.shrink`."""
        with self._lock:
            self._check_open()
            of_user: list[EndedRecord] = []
            if caps.per_user is not None and not caps.reject:
                of_user = self._evict(list(islice(self._beyond(caps.per_user, now), limit)), now)
            short = 0 if caps.total is None else min(limit, len(self._records) - caps.total)
            others = self._expired_first(short, now)
            lowest = self._lowest(short - len(others), _HIGHEST, caps.held, (), whole=False) or ()
            return Admitted(None, of_user, [*others, *self._evict(lowest, now)])

    # --- under the lock ---

    def _too_many_of(self, user: str | None, own: SessionId, now: float, caps: Caps) -> Sequence[Record]:
        """The oldest sessions of the user that must go for one more."""
        if user is None or caps.per_user is None:
            return ()
        live = [record for record in self._live_of(user, now) if record.id != own]
        return live[: max(0, len(live) + 1 - caps.per_user)]

    def _live_of(self, user: str, now: float) -> list[Record]:
        """Oldest first."""
        records = [self._records[id_] for id_ in self._users.get(user, ())]
        live = [record for record in records if self._lives(record, now)]
        return sorted(live, key=lambda record: (record.created_at, record.id))

    def _beyond(self, most: int, now: float) -> Iterator[Record]:
        crowds = (user for user, ids in self._users.items() if len(ids) > most)
        return (record for user in crowds for record in self._live_of(user, now)[:-most])

    def _expired_first(self, number: int, now: float) -> list[EndedRecord]:
        ended = self._remove_expired(now, number)
        if len(ended) < number:  # a minute is filed as a whole; some of this one may have passed
            ended += [self._expire(record, now) for record in self._expired(now)[: number - len(ended)]]
        return ended

    def _lowest(
        self,
        number: int,
        priority: int,
        held: Collection[str],
        besides: Sequence[Record],
        *,
        whole: bool = True,
    ) -> list[Record] | None:
        """So many of the lowest rank, but none above this priority. None: there are not as many."""
        if number <= 0:
            return []
        if self._ranks is None:
            self._ranks = Ranks(self._records)
        spared = {*held, *(record.id for record in besides)}
        chosen = self._ranks.lowest(number, priority, spared)
        return None if whole and len(chosen) < number else chosen

    def _evict(self, records: Sequence[Record], now: float) -> list[EndedRecord]:
        return [
            EndedRecord(record.id, record.user_id, EVICTED, record.created_at)
            for record in records
            if self._end(record.id, now, EVICTED, None)
        ]


class Ranks:
    """Which sessions go first. *records* is the backend's own dictionary.

    A heap in which what changed since is left standing, and passed over when it comes up.
    """

    def __init__(self, records: Mapping[SessionId, Record]) -> None:
        self._records = records
        self._heap = self._afresh()

    def note(self, record: Record) -> None:
        """It is new, or its rank changed."""
        heappush(self._heap, _rank_of(record))
        if len(self._heap) > 2 * len(self._records) + 10_000:
            self._heap = self._afresh()

    def lowest(self, number: int, priority: int, spared: Collection[str]) -> list[Record]:
        """Up to so many of the lowest rank, but none above this priority; they stay where they are."""
        seen: dict[_Rank, None] = {}
        chosen: list[Record] = []
        while self._heap and len(chosen) < number:
            rank = heappop(self._heap)
            record = self._records.get(rank[-1])
            if record is None or _rank_of(record) != rank or rank in seen:
                continue
            seen[rank] = None
            if record.priority > priority:
                break
            if record.id not in spared:
                chosen.append(record)
        for rank in seen:
            heappush(self._heap, rank)
        return chosen

    def _afresh(self) -> list[_Rank]:
        heap = [_rank_of(record) for record in self._records.values()]
        heapify(heap)
        return heap


def _rank_of(record: Record) -> _Rank:
    return record.priority, record.user_id is not None, record.last_seen_at, record.id
