"""When the sessions in memory were created: newest first without sorting them all, ages without a scan.

The caller holds the lock of the backend throughout.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf

from session_middleware.backends.capabilities import Position
from session_middleware.record import Record, SessionId

__all__ = ["Births", "Tally"]

_MINUTE = 60.0  # seconds


class Tally:
    """Some sessions summed up."""

    __slots__ = ("by_status", "created_sum", "number")

    def __init__(self) -> None:
        self.number = 0
        self.created_sum = 0.0  # of their `created_at`
        self.by_status: Counter[str] = Counter()  # of those that have one

    def count(self, record: Record, by: int = 1) -> None:
        """Take a session in; with -1, out again."""
        self.number += by
        self.created_sum += by * record.created_at
        self.count_status(record.status, by)

    def count_status(self, status: str | None, by: int) -> None:
        """The same for its status alone."""
        if status is not None:
            self.by_status[status] += by

    def include(self, other: Tally) -> None:
        """Take in all that another one has."""
        self.number += other.number
        self.created_sum += other.created_sum
        self.by_status.update(other.by_status)


class Births:
    """Session ids by the minute of their creation. *records* is the backend's own dictionary."""

    def __init__(self, records: Mapping[SessionId, Record]) -> None:
        self._records = records
        self._minutes: dict[int, set[SessionId]] = {}
        self._tallies: dict[int, Tally] = {}  # of the same minutes
        self._order: list[int] = []  # the keys of _minutes, oldest first
        self._sorted: tuple[int, Sequence[Position]] | None = None  # of the minute that was walked last

    def add(self, record: Record) -> None:
        """File a record that is in the dictionary."""
        minute = _minute_of(record.created_at)
        if minute not in self._minutes:
            insort(self._order, minute)
            self._minutes[minute] = set()
            self._tallies[minute] = Tally()
        self._minutes[minute].add(record.id)
        self._tallies[minute].count(record)
        if self._sorted is not None and self._sorted[0] == minute:
            self._sorted = None

    def remove(self, record: Record) -> None:
        """Take it out again."""
        minute = _minute_of(record.created_at)
        ids = self._minutes[minute]
        ids.discard(record.id)
        self._tallies[minute].count(record, -1)
        if not ids:
            del self._minutes[minute], self._tallies[minute]
            del self._order[bisect_left(self._order, minute)]

    def change_status(self, before: Record, after: Record) -> None:
        """The status of a filed session is another one."""
        tally = self._tallies[_minute_of(before.created_at)]
        tally.count_status(before.status, -1)
        tally.count_status(after.status, 1)

    def tally_before(self, time: float) -> Tally:
        """Those created before *time*. Costs as much as there are minutes before, and sessions in its own."""
        summed = Tally()
        for minute in self._order[: self._place_of(time)]:
            summed.include(self._tallies[minute])
        for record in self._of_minute_of(time):
            if record.created_at < time:
                summed.count(record)
        return summed

    def number_since(self, time: float) -> int:
        """How many were created at *time* or after. As cheap as there are few minutes since."""
        whole = sum(len(self._minutes[minute]) for minute in reversed(self._order[self._place_of(time) :]))
        return whole - sum(record.created_at < time for record in self._of_minute_of(time))

    def created_before(self, time: float) -> Iterator[Record]:
        """Those sessions. Nothing may be filed or taken out meanwhile."""
        for minute in self._order[: self._place_of(time)]:
            yield from (self._records[id_] for id_ in self._minutes[minute])
        yield from (record for record in self._of_minute_of(time) if record.created_at < time)

    def ends(self, counts: Callable[[Record], bool]) -> tuple[float, float] | None:
        """When the first and the last were created of those that count. None: none does."""
        first = self._end(self._order, counts, min)
        last = self._end(self._order[::-1], counts, max)
        return None if first is None or last is None else (first, last)

    def newest(self, below: Position) -> Iterator[Position]:
        """Where sessions stand, from just below this place to the oldest."""
        top = len(self._order)
        if below.created_at < float("inf"):
            top = bisect_right(self._order, _minute_of(below.created_at))
        for at in range(top - 1, -1, -1):
            places = self._places(self._order[at])
            ids = self._minutes[self._order[at]]
            for index in range(bisect_left(places, below) - 1, -1, -1):
                if places[index].id in ids:  # else it ended since they were sorted
                    yield places[index]

    def _end(
        self, minutes: Sequence[int], counts: Callable[[Record], bool], chosen: Callable[[list[float]], float]
    ) -> float | None:
        """Of the first of these minutes in which one counts."""
        for minute in minutes:
            records = (self._records[id_] for id_ in self._minutes[minute])
            if times := [record.created_at for record in records if counts(record)]:
                return chosen(times)
        return None

    def _place_of(self, time: float) -> int:
        """Where in the order the minute of *time* is, or would be."""
        return 0 if time == -inf else bisect_left(self._order, _minute_of(time))

    def _of_minute_of(self, time: float) -> Iterator[Record]:
        ids = () if time == -inf else self._minutes.get(_minute_of(time), ())
        return (self._records[id_] for id_ in ids)

    def _places(self, minute: int) -> Sequence[Position]:
        if self._sorted is None or self._sorted[0] != minute:
            records = self._records
            places = sorted(Position(records[id_].created_at, id_) for id_ in self._minutes[minute])
            self._sorted = minute, places
        return self._sorted[1]


def _minute_of(time: float) -> int:
    return int(time // _MINUTE)
