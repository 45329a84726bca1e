"""How often something happened lately, by the time of the events, in constant memory.

A window is cut into slots; it forgets a whole slot at a time, so its length is exact to one slot.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from session_middleware.reporting import Tally

__all__ = ["KeyedCounts", "Rates", "SlidingCount"]

_SLOTS: Final = 30


class SlidingCount:
    """How many events lie in the last *span* seconds."""

    __slots__ = ("_most", "_slots", "_width", "span")

    def __init__(self, span: float, slots: int = _SLOTS) -> None:
        self.span = span
        self._width = span / slots
        self._most = slots + 1
        self._slots: deque[list[int]] = deque(maxlen=self._most)

    def add(self, moment: float, weight: int = 1) -> None:
        """Count an event, also one that comes late."""
        slot, place = int(moment // self._width), len(self._slots)
        while place and self._slots[place - 1][0] > slot:
            place -= 1
        if place and self._slots[place - 1][0] == slot:
            self._slots[place - 1][1] += weight
        elif place == len(self._slots):
            self._slots.append([slot, weight])
        elif len(self._slots) < self._most:
            self._slots.insert(place, [slot, weight])

    def value(self, now: float) -> int:
        """The number of events in the window that ends now."""
        oldest = int((now - self.span) // self._width)
        while self._slots and self._slots[0][0] <= oldest:
            self._slots.popleft()
        return sum(count for _slot, count in self._slots)


class KeyedCounts:
    """A `SlidingCount` per key, for the *limit* keys seen last."""

    __slots__ = ("_counts", "limit", "span")

    def __init__(self, span: float, limit: int = 1000) -> None:
        self.span = span
        self.limit = limit
        self._counts: OrderedDict[str, SlidingCount] = OrderedDict()

    def add(self, key: str, moment: float, weight: int = 1) -> int:
        """Count an event of this key; you get how many it has in the window."""
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = SlidingCount(self.span)
            if len(self._counts) > self.limit:
                self._counts.popitem(last=False)
        self._counts.move_to_end(key)
        count.add(moment, weight)
        return count.value(moment)

    def forget(self, key: str) -> None:
        """Begin anew with this key."""
        self._counts.pop(key, None)


_RATE_SLOT: Final = 10  # seconds
_NAMES: Final = 128  # in one slot; apps may record events of names of their own
_LONGEST: Final = 3600.0
_KEPT: Final = int(_LONGEST / _RATE_SLOT)


class Rates:
    """How often each name occurred in the last hour, to ten seconds."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[int, Tally] = {}

    def add(self, name: str, moment: float, weight: int = 1) -> None:
        """Count an event of this name."""
        slot = int(moment) // _RATE_SLOT
        counts = self._slots.get(slot)
        if counts is None:
            counts = self._slots[slot] = Tally()
            while len(self._slots) > _KEPT + 1:
                del self._slots[min(self._slots)]
        if name in counts:
            counts[name] += weight
        else:
            counts[name if len(counts) < _NAMES else "other"] += weight

    def within(self, span: float, now: float) -> Tally:
        """The number of events by name in the last *span* seconds (an hour at most)."""
        found = Tally()
        for counts in self._lately(span, now):
            for name, number in counts.items():
                found[name] += number
        return found

    def number(self, name: str, span: float, now: float) -> int:
        """The same of one name."""
        return sum([counts[name] for counts in self._lately(span, now) if name in counts])

    def _lately(self, span: float, now: float) -> list[Tally]:
        newest = int(now // _RATE_SLOT)
        oldest = newest - int(min(span, _LONGEST) / _RATE_SLOT)
        return [self._slots[slot] for slot in range(oldest + 1, newest + 1) if slot in self._slots]
