"""Statistics over the sessions in SQLite, part by part."""

from __future__ import annotations

from collections import Counter
from math import inf

from session_middleware.backends.capabilities import Aggregates
from session_middleware.backends.sql import Execute, UsagePart, usage_part

__all__ = ["Summed"]

_YOUNGER = ", sum(created_at>?)"


class Summed:
    """What the parts that were read so far come to. Ask for `part`, `add` its answer, and so on."""

    def __init__(self, now: float, bounds: tuple[float, ...]) -> None:
        self._now = now
        self._cuts = tuple(now - bound for bound in bounds)
        self._also = ", min(created_at), max(created_at)" + _YOUNGER * len(bounds)
        self._after: int | None = None
        self.is_under_way = True
        self._statuses: Counter[str | None] = Counter()
        self._created_sum, self._first, self._last = 0.0, inf, -inf
        self._younger = [0] * len(bounds)

    def part(self, execute: Execute) -> UsagePart:
        """The next figures, in one statement."""
        return usage_part(execute, self._after, self._now, self._also, self._cuts)

    def add(self, part: UsagePart) -> None:
        """Take in what `part` answered."""
        rows, self._after = part
        self.is_under_way = self._after is not None
        for status, number, created_sum, first, last, *younger in rows:
            self._statuses[status] += number
            self._created_sum += created_sum
            self._first, self._last = min(self._first, first), max(self._last, last)
            self._younger = [sum(pair) for pair in zip(self._younger, younger, strict=True)]

    def result(self) -> Aggregates:
        """Once nothing is under way any more."""
        number = self._statuses.total()
        steps = [0, *self._younger, number]
        return Aggregates(
            number,
            {status: count for status, count in self._statuses.items() if status is not None},
            tuple(upper - lower for lower, upper in zip(steps, steps[1:], strict=False)),
            self._now - self._created_sum / number if number else None,
            self._now - self._first if number else None,
            self._now - self._last if number else None,
        )
