"""When the sessions in memory were created: newest first without sorting them all, ages without a scan.

The caller holds the lock of the backend throughout.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from session_middleware.backends.capabilities import Position
from session_middleware.record import Record, SessionId

__all__ = ["Births"]

_MINUTE = 60.0  # seconds


class Births:
    """Session ids by the minute of their creation. *records* is the backend's own dictionary."""

    def __init__(self, records: Mapping[SessionId, Record]) -> None:
        self._records = records
        # Dictionaries as sets: with nothing in them but text, the garbage collector passes them over.
        self._minutes: dict[int, dict[SessionId, None]] = {}
        self._order: list[int] = []  # the keys of _minutes, oldest first
        self._sorted: tuple[int, Sequence[Position]] | None = None  # of the minute that was walked last

    def add(self, record: Record) -> None:
        """File a record that is in the dictionary."""
        minute = _minute_of(record.created_at)
        if minute not in self._minutes:
            insort(self._order, minute)
            self._minutes[minute] = {}
        self._minutes[minute][record.id] = None
        if self._sorted is not None and self._sorted[0] == minute:
            self._sorted = None

    def remove(self, record: Record) -> None:
        """Take it out again."""
        minute = _minute_of(record.created_at)
        ids = self._minutes[minute]
        ids.pop(record.id, None)
        if not ids:
            del self._minutes[minute]
            del self._order[bisect_left(self._order, minute)]

    def newest_below(self, below: Position) -> Iterator[Position]:
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

    def created_before(self, time: float) -> Iterator[Record]:
        """The sessions created earlier than this. Nothing may be filed or taken out meanwhile."""
        for minute in self._order:
            if minute * _MINUTE >= time:
                return
            records = (self._records[id_] for id_ in self._minutes[minute])
            yield from (record for record in records if record.created_at < time)

    def number_after(self, time: float) -> int:
        """How many were created later than this."""
        minute = _minute_of(time)
        later = self._order[bisect_right(self._order, minute) :]
        number = sum(len(self._minutes[one]) for one in later)
        return number + sum(self._records[id_].created_at > time for id_ in self._minutes.get(minute, {}))

    def oldest(self, gone: Collection[SessionId]) -> float | None:
        """When the oldest was created that is not among *gone*; None: there is none."""
        return self._first(self._order, min, gone)

    def newest(self, gone: Collection[SessionId]) -> float | None:
        """The same of the newest."""
        return self._first(reversed(self._order), max, gone)

    def _first(
        self,
        minutes: Iterable[int],
        extreme: Callable[[Iterable[float]], float],
        gone: Collection[SessionId],
    ) -> float | None:
        for minute in minutes:
            times = [self._records[id_].created_at for id_ in self._minutes[minute] if id_ not in gone]
            if times:
                return extreme(times)
        return None

    def _places(self, minute: int) -> Sequence[Position]:
        if self._sorted is None or self._sorted[0] != minute:
            records = self._records
            places = sorted(Position(records[id_].created_at, id_) for id_ in self._minutes[minute])
            self._sorted = minute, places
        return self._sorted[1]


def _minute_of(time: float) -> int:
    return int(time // _MINUTE)
