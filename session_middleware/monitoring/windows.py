"""How often something happened lately, by the time of the events, in constant memory.

A window is cut into slots; it forgets a whole slot at a time, so its length is exact to one slot.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Final

__all__ = ["KeyedCounts", "Rates", "SlidingCount"]

_SLOTS: Final = 30


class SlidingCount:
    """How many events lie in the last *span* seconds."""

    __slots__ = ("_slots", "_width", "span")

    def __init__(self, span: float, slots: int = _SLOTS) -> None:
        self.span = span
        self._width = span / slots
        self._slots: deque[list[int]] = deque(maxlen=slots + 1)

    def add(self, moment: float, weight: int = 1) -> None:
        """Count an event. One that comes late is counted in its own slot, where there still is one."""
        slot = int(moment // self._width)
        if not self._slots or slot > self._slots[-1][0]:
            self._slots.append([slot, weight])
            return
        for known in reversed(self._slots):
            if known[0] <= slot:
                known[1] += weight
                return

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


_RATE_SLOT: Final = 10.0  # seconds
_LONGEST: Final = 3600.0
_KEPT: Final = int(_LONGEST / _RATE_SLOT)


class Rates:
    """How often each name occurred in the last hour, to ten seconds."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: OrderedDict[int, Counter[str]] = OrderedDict()

    def add(self, name: str, moment: float, weight: int = 1) -> None:
        """Count an event of this name."""
        slot = int(moment // _RATE_SLOT)
        counts = self._slots.get(slot)
        if counts is None:
            counts = self._slots[slot] = Counter()
            while len(self._slots) > _KEPT + 1:
                del self._slots[min(self._slots)]
        counts[name] += weight

    def within(self, span: float, now: float) -> Counter[str]:
        """The number of events by name in the last *span* seconds (an hour at most)."""
        newest = int(now // _RATE_SLOT)
        oldest = newest - int(min(span, _LONGEST) / _RATE_SLOT)
        found: Counter[str] = Counter()
        for slot, counts in self._slots.items():
            if oldest < slot <= newest:
                found.update(counts)
        return found
