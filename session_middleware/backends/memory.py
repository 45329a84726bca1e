"""Sessions in this process: thread-safe, bounded, exact, and gone with the process.

Reading order: `MemoryBackend` (the seven methods, then the optional ones; more of those in `memory_queries`),
`_Expiry` (which sessions may be due), `_Endings` (why sessions ended).

One lock guards every change; `load` is a single dictionary look-up and needs none. Records are immutable, so
what `load` hands out never changes under the reader.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from threading import Lock

import msgspec

from session_middleware.backends.base import (
    ENDINGS_KEPT,
    ENDINGS_KEPT_AT_LEAST,
    NO_EPOCH,
    Colour,
    EndedRecord,
    Epoch,
    LoadAnswer,
    ending_of,
)
from session_middleware.backends.births import Births
from session_middleware.backends.capabilities import Salvaged, Usage
from session_middleware.backends.memory_caps import MemoryCaps, Ranks
from session_middleware.backends.memory_queries import MemoryQueries
from session_middleware.errors import BackendClosed, BackendFull, ConfigurationError
from session_middleware.loops import sleep
from session_middleware.record import (
    CREATED,
    EXISTS,
    GONE,
    Committed,
    CreateResult,
    Delta,
    Ended,
    Record,
    Refused,
    SessionId,
    apply,
)

__all__ = ["MemoryBackend"]


class MemoryBackend(MemoryQueries, MemoryCaps):
    """Records in a dictionary of this process; both colours share it.

    `max_records`: how many records it holds at most, expired ones that were not cleaned up yet included.
    Default 1,000,000 (about 1.3 kB each at 500 bytes of data). One more is
    a `BackendFull`: the visitor gets 503.
    """

    url = "memory://"
    colours: frozenset[Colour] = frozenset({"async", "blocking"})
    immediate = True

    def __init__(self, *, max_records: int = 1_000_000) -> None:
        if type(max_records) is not int or max_records < 1:
            raise ConfigurationError(f"max_records: found {max_records!r}, pass an integer of at least 1")
        self.max_records = max_records
        self._records: dict[SessionId, Record] = {}
        self._users: dict[str, dict[SessionId, None]] = {}
        self._statuses: dict[str, dict[SessionId, None]] = {}
        self._births = Births(self._records)
        self._created_sum = 0  # ms: adding up floats would drift
        self._expiry = _Expiry()
        self._endings = _Endings()
        self._epoch = NO_EPOCH
        self._ranks: Ranks | None = None  # made when somebody asks which sessions go first
        self._leases: dict[str, tuple[str, float]] = {}
        self._lock = Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryBackend {len(self._records)} records>"

    def port(self, colour: Colour) -> MemoryBackend:
        """The backend itself; for "blocking" a twin over the same records, which differs in how it waits."""
        if colour == "async":
            return self
        twin = object.__new__(_BlockingMemory)
        twin.__dict__ = self.__dict__
        return twin

    async def open(self) -> None:
        """Accept calls again after `close`; the records are still there."""
        self._closed = False

    async def close(self) -> None:
        """Refuse calls from now on."""
        self._closed = True

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        """See `Port.load`."""
        record = self._records.get(id)
        if record is None or self._closed:
            self._check_open()
            return self._endings.get(id)
        if record.deadline <= now or record.created_at < self._epoch.before:
            return ending_of(record, self._epoch, now)
        return record

    async def create(self, record: Record, now: float) -> CreateResult:
        """See `Port.create`."""
        with self._lock:
            self._check_open()
            return EXISTS if self._is_taken(record, now) else self._insert(record)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        """See `Port.commit`."""
        with self._lock:
            self._check_open()
            record = self._records.get(id)
            if record is None or not self._lives(record, now):
                return GONE
            applied = apply(record, delta, now)
            if isinstance(applied, Refused):
                return applied
            after, committed = applied
            self._replace(record, after)
        return committed

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        """See `Port.delete`."""
        with self._lock:
            self._check_open()
            return self._end(id, now, reason, by)

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        """See `Port.delete_expired`. Looks only at sessions whose time slot has passed."""
        with self._lock:
            self._check_open()
            return self._remove_expired(now, limit)

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        """See `Epochal.end_all_before`."""
        with self._lock:
            self._check_open()
            if t <= self._epoch.before:
                return False
            self._epoch = Epoch(t, now, reason, by)
        return True

    async def wait(self, seconds: float) -> None:
        """Suspends; the blocking twin sleeps."""
        await sleep(seconds)

    async def list_user(self, user_id: str, now: float) -> Sequence[Record]:
        """See `ByUser.list_user`."""
        with self._lock:
            self._check_open()
            records = [self._records[id_] for id_ in self._users.get(user_id, ())]
        live = [record for record in records if self._lives(record, now)]
        return sorted(live, key=lambda record: (record.created_at, record.id), reverse=True)

    async def delete_user(
        self, user_id: str, now: float, reason: str, *, keep: Sequence[SessionId] = (), by: str | None = None
    ) -> Sequence[SessionId]:
        """See `ByUser.delete_user`. All of them at one moment."""
        with self._lock:
            self._check_open()
            ids = [id_ for id_ in self._users.get(user_id, ()) if id_ not in keep]
            return [id_ for id_ in ids if self._end(id_, now, reason, by)]

    async def count(self, now: float) -> int:
        """See `Counting.count`."""
        with self._lock:
            self._check_open()
            return len(self._records) - len(self._expired(now))

    async def usage(self, now: float) -> Usage:
        """See `Counting.usage`. Kept up to date by every change; only what an epoch ended is looked at."""
        with self._lock:
            self._check_open()
            return self._usage_without(self._swept(), now)

    async def acquire_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.acquire_lease`."""
        with self._lock:
            self._check_open()
            has, until = self._leases.get(name, (holder, now))
            if has != holder and until > now:
                return False
            if name not in self._leases:
                self._drop_leases_that_are_over(now)
            self._leases[name] = (holder, now + seconds)
            return True

    async def renew_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.renew_lease`."""
        with self._lock:
            self._check_open()
            if name not in self._leases or self._leases[name][0] != holder:
                return False
            self._leases[name] = (holder, now + seconds)
            return True

    async def release_lease(self, name: str, holder: str) -> bool:
        """See `Leases.release_lease`."""
        with self._lock:
            self._check_open()
            if name not in self._leases or self._leases[name][0] != holder:
                return False
            del self._leases[name]
            return True

    async def salvage(self, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
        """See `Salvaging.salvage`. Only values can be damaged here."""
        record = self._records.get(id)
        if record is None or not self._lives(record, now):
            return None
        fields = {name: getattr(record, name) for name in record.__struct_fields__ if name != "data"}
        return Salvaged(fields, record.data.packed, record)

    async def mend(self, record: Record, salvaged: Salvaged) -> bool:
        """See `Salvaging.mend`."""
        with self._lock:
            self._check_open()
            present = self._records.get(record.id)
            if present is None or present is not salvaged.mark:
                return False
            self._replace(present, record)
        return True

    # --- under the lock ---

    def _drop_leases_that_are_over(self, now: float) -> None:
        """Those at the front: leases are made in the order of time, so nothing is scanned."""
        while self._leases:
            name = next(iter(self._leases))
            if self._leases[name][1] > now:
                break
            del self._leases[name]

    def _is_taken(self, record: Record, now: float) -> bool:
        present = self._records.get(record.id)
        is_live = present is not None and self._lives(present, now)
        return is_live or self._endings.get(record.id) is not None

    def _insert(self, record: Record) -> CreateResult:
        present = self._records.get(record.id)
        if present is not None:  # it has expired
            self._remove(present)
        if len(self._records) >= self.max_records:
            raise BackendFull(f"the memory backend holds max_records={self.max_records} sessions already")
        self._put(record)
        return CREATED

    def _remove_expired(self, now: float, limit: int) -> list[EndedRecord]:
        ended: list[EndedRecord] = []
        if limit <= 0:
            return ended
        for id_ in self._expiry.due(now):
            record = self._records.get(id_)
            if record is None:
                continue
            if record.deadline > now:
                self._expiry.add(id_, record.deadline)
                continue
            ended.append(self._expire(record, now))
            if len(ended) >= limit:
                break
        swept = islice(self._births.created_before(self._epoch.before), limit - len(ended))
        return ended + [self._expire(record, now) for record in list(swept)]

    def _expire(self, record: Record, now: float) -> EndedRecord:
        """Takes out what has ended by itself; what it is reported as."""
        ended = ending_of(record, self._epoch, now)
        if ended is None:
            raise RuntimeError("a live session was about to be removed")
        self._remove(record)
        self._endings.add(record.id, ended, now)
        return EndedRecord(record.id, record.user_id, ended.reason, record.created_at)

    def _expired(self, now: float) -> list[Record]:
        """What has ended by itself and was not cleaned up yet."""
        records = (self._records.get(id_) for id_ in self._expiry.may_be_due(now))
        expired = [record for record in records if record is not None and record.deadline <= now]
        return [record for record in expired if record.created_at >= self._epoch.before] + self._swept()

    def _swept(self) -> list[Record]:
        return list(self._births.created_before(self._epoch.before))

    def _lives(self, record: Record, now: float) -> bool:
        return record.deadline > now and record.created_at >= self._epoch.before

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosed("the memory backend was closed: call open(), or start() the manager, first")

    def _put(self, record: Record) -> None:
        if self._expiry.filed > 2 * len(self._records) + 10_000:  # of sessions that have long ended
            self._expiry = _Expiry()
            for one in self._records.values():
                self._expiry.add(one.id, one.deadline)
        self._records[record.id] = record
        self._created_sum += round(record.created_at * 1000)
        self._births.add(record)
        self._file_status(record)
        self._expiry.add(record.id, record.deadline)
        if self._ranks is not None:
            self._ranks.note(record)
        if record.user_id is not None:
            self._users.setdefault(record.user_id, {})[record.id] = None

    def _replace(self, before: Record, after: Record) -> None:
        self._records[after.id] = after
        if self._ranks is not None:
            self._ranks.note(after)
        if before.status != after.status:
            self._forget_status(before)
            self._file_status(after)
        if after.deadline < before.deadline:
            self._expiry.add(after.id, after.deadline)  # a later slot is refiled when its time comes
        if before.user_id != after.user_id:
            self._forget_user(before)
            if after.user_id is not None:
                self._users.setdefault(after.user_id, {})[after.id] = None

    def _remove(self, record: Record) -> None:
        del self._records[record.id]
        self._created_sum -= round(record.created_at * 1000)
        self._births.remove(record)
        self._forget_status(record)
        self._forget_user(record)

    def _file_status(self, record: Record) -> None:
        if record.status is not None:
            self._statuses.setdefault(record.status, {})[record.id] = None

    def _forget_status(self, record: Record) -> None:
        if record.status is not None and (ids := self._statuses.get(record.status)) is not None:
            ids.pop(record.id, None)
            if not ids:
                del self._statuses[record.status]

    def _forget_user(self, record: Record) -> None:
        if record.user_id is not None and (ids := self._users.get(record.user_id)) is not None:
            ids.pop(record.id, None)
            if not ids:
                del self._users[record.user_id]

    def _end(self, id_: SessionId, now: float, reason: str, by: str | None) -> bool:
        record = self._records.get(id_)
        if record is None or not self._lives(record, now):
            return False
        self._remove(record)
        self._endings.add(id_, Ended(reason, now, by), now)
        return True


class _BlockingMemory(MemoryBackend):
    """The same records for code without an event loop."""

    async def wait(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  (no event loop runs here)


class _Expiry:
    """Session ids by the minute in which they may be due, so that nothing scans all sessions.

    An id is filed under the deadline it had; whoever takes it out looks at the real one and files it again
    if that has moved. So a renewal costs nothing here.
    """

    _SLOT = 60.0  # seconds

    def __init__(self) -> None:
        # Dictionaries as sets: with nothing in them but text, the garbage collector passes them over.
        self._slots: dict[int, dict[SessionId, None]] = {}
        self._order: list[int] = []  # a heap of the keys of _slots
        self.filed = 0

    def add(self, id_: SessionId, deadline: float) -> None:
        if deadline == inf:
            return
        slot = int(deadline // self._SLOT) + 1  # when this slot begins, the deadline has passed
        ids = self._slots.get(slot)
        if ids is None:
            ids = self._slots[slot] = {}
            heapq.heappush(self._order, slot)
        if id_ not in ids:
            ids[id_] = None
            self.filed += 1

    def may_be_due(self, now: float) -> set[SessionId]:
        """The ids of all that may have expired, and stay where they are."""
        last = int(now // self._SLOT) + 1
        slots = [slot for slot in self._order if slot <= last]
        return {id_ for slot in slots for id_ in self._slots[slot]}

    def due(self, now: float) -> Iterator[SessionId]:
        """Take out, one by one, the ids of slots that have begun."""
        while self._order and self._order[0] * self._SLOT <= now:
            slot = self._order[0]
            ids = self._slots[slot]
            while ids:
                self.filed -= 1
                yield ids.popitem()[0]
            if self._slots.get(slot) == {}:
                del self._slots[slot]
                heapq.heappop(self._order)


class _Noted(msgspec.Struct, frozen=True, gc=False):
    """An ending, and when it was noted."""

    at: float
    ended: Ended


class _Endings:
    """Why sessions ended: for ten minutes, the oldest dropped first when there are very many.

    In many small tables, since one large one stands still for long when it has to grow.
    """

    _TABLES = 64
    _MOST = 100_000 // _TABLES  # of one

    def __init__(self) -> None:
        self._tables = [OrderedDict[SessionId, _Noted]() for _ in range(self._TABLES)]
        self._next = 0  # to be tidied up

    def get(self, id_: SessionId) -> Ended | None:
        kept = self._tables[hash(id_) % self._TABLES].get(id_)
        return None if kept is None else kept.ended

    def add(self, id_: SessionId, ended: Ended, now: float) -> None:
        table = self._tables[hash(id_) % self._TABLES]
        table[id_] = _Noted(now, ended)
        table.move_to_end(id_)
        self._tidy(table, now)
        self._next = (self._next + 1) % self._TABLES
        self._tidy(self._tables[self._next], now)

    def _tidy(self, table: OrderedDict[SessionId, _Noted], now: float) -> None:
        while table:
            age = now - next(iter(table.values())).at
            too_many = len(table) > self._MOST and age >= ENDINGS_KEPT_AT_LEAST
            if not (age > ENDINGS_KEPT or too_many):
                break
            table.popitem(last=False)
