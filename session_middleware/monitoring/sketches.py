"""Quantiles and distinct counts in constant memory, of any number of values; both can be merged and stored.

Quantiles are DDSketch's (Masson, Rim, Lee: VLDB 2019): relative error 1 %, by the `ddsketch` package.
Distinct counts are HyperLogLog's (Flajolet et al. 2007) with 2^15 registers, so a standard error of 0.57 %;
below 2,048 values they are exact.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from session_middleware.errors import ConfigurationError

try:
    from ddsketch.ddsketch import BaseDDSketch
    from ddsketch.mapping import LogarithmicMapping
    from ddsketch.store import CollapsingLowestDenseStore
except ImportError as missing:
    raise ConfigurationError(
        "session_middleware.monitoring needs ddsketch: pip install 'session_middleware[monitor]'"
    ) from missing

__all__ = ["Distinct", "Quantiles"]

_ACCURACY: Final = 0.01
_AT_ONCE: Final = 1024
_BINS: Final = 1024  # of 2 % each: values a billion times apart, then the smallest share one
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Quantiles:
    """Count, sum and extremes of values, exactly; quantiles within 1 %."""

    __slots__ = ("_above", "_below", "_count", "_high", "_low", "_sketch", "_total", "_waiting", "_zeros")

    def __init__(self) -> None:
        self._count = self._zeros = 0
        self._total = 0.0
        self._low, self._high = math.inf, -math.inf
        self._waiting: list[float] = []  # values that are taken in many at a time, which is far cheaper
        self._above = CollapsingLowestDenseStore(_BINS)
        self._below = CollapsingLowestDenseStore(_BINS)
        self._sketch = BaseDDSketch(_MAPPING, self._above, self._below, 0.0)

    def add(self, value: float) -> None:
        """Take in one finite value."""
        waiting = self._waiting
        waiting.append(value)
        if len(waiting) >= _AT_ONCE:
            self._settle()

    def summary(self) -> dict[str, float | int | None]:
        """`count, mean, min, max, p50, p95, p99`; None where there is nothing yet."""
        self._settle()
        empty = not self._count
        figures: dict[str, float | int | None] = {
            "count": self._count,
            "mean": None if empty else self._total / self._count,
            "min": None if empty else self._low,
            "max": None if empty else self._high,
        }
        return figures | {name: self.at(part) for name, part in _QUANTILES.items()}

    def at(self, part: float) -> float | None:
        """The value below which this part (0 to 1) of all values lies."""
        self._settle()
        found = self._sketch.get_quantile_value(part)
        return None if found is None else min(max(float(found), self._low), self._high)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Take in what another's `state()` was."""
        self._settle()
        self._count += state["count"]
        self._total += state["total"]
        if state["count"]:
            self._low = min(self._low, state["low"])
            self._high = max(self._high, state["high"])
        for value, weight in state["bins"]:
            self._put(value, weight)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        self._settle()
        bins = [*_bins(self._above, 1.0), *_bins(self._below, -1.0)]
        bins += [(0.0, self._zeros)] if self._zeros else []
        low, high = (self._low, self._high) if self._count else (0.0, 0.0)
        return {"count": self._count, "total": self._total, "low": low, "high": high, "bins": bins}

    def _settle(self) -> None:
        """Take in what waits, a bin at a time."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._count += len(waiting)
        self._total = sum(waiting, self._total)
        self._low = min(self._low, *waiting)
        self._high = max(self._high, *waiting)
        least = _MAPPING.min_possible
        for key, weight in Counter(map(_MAPPING.key, [one for one in waiting if one > least])).items():
            self._put(_MAPPING.value(key), weight)
        for value in waiting:
            if value <= least:
                self._put(value, 1)

    def _put(self, value: float, weight: float) -> None:
        if abs(value) <= _MAPPING.min_possible:
            self._zeros += int(weight)
        if abs(value) < _MAPPING.max_possible:
            self._sketch.add(value, weight)


_MAPPING = LogarithmicMapping(_ACCURACY)


def _bins(store: CollapsingLowestDenseStore, sign: float) -> list[tuple[float, int]]:
    """Each occupied bin as a value that falls into it, and how many did."""
    keys = ((index + store.offset, weight) for index, weight in enumerate(store.bins) if weight)
    return [(sign * _MAPPING.value(key), int(weight)) for key, weight in keys]


_BITS: Final = 15
_REGISTERS: Final = 1 << _BITS
_REST: Final = 64 - _BITS
_FEW: Final = 2048
_SEEN: Final = 1024


class Distinct:
    """How many different texts there were."""

    __slots__ = ("_few", "_registers", "_seen")

    def __init__(self) -> None:
        self._few: set[int] | None = set()
        self._registers = bytearray()
        self._seen: set[str] = set()  # lately: most come again and again

    def add(self, value: str) -> None:
        """Take in one text."""
        if value in self._seen:
            return
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen.add(value)
        self._put(int.from_bytes(blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()))

    def count(self) -> int:
        """How many there were, exactly below 2,048."""
        if self._few is not None:
            return len(self._few)
        registers = self._registers
        ranks = [registers.count(rank) for rank in range(_REST + 2)]
        raw = 0.7213 / (1 + 1.079 / _REGISTERS) * _REGISTERS**2
        raw /= sum(number * 2.0**-rank for rank, number in enumerate(ranks))
        if raw <= 2.5 * _REGISTERS and ranks[0]:  # few values: counting empty registers is more exact
            return round(_REGISTERS * math.log(_REGISTERS / ranks[0]))
        return round(raw)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Take in what another's `state()` was."""
        for number in state.get("few", ()):
            self._put(number)
        if "registers" in state:
            self._spread()
            other = base64.b64decode(state["registers"])
            self._registers = bytearray(map(max, self._registers, other))

    def state(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        if self._few is not None:
            return {"few": sorted(self._few)}
        return {"registers": base64.b64encode(self._registers).decode("ascii")}

    def _put(self, number: int) -> None:
        if self._few is None:
            self._rank(number)
            return
        self._few.add(number)
        if len(self._few) >= _FEW:
            self._spread()

    def _spread(self) -> None:
        if self._few is not None:
            few, self._few, self._registers = self._few, None, bytearray(_REGISTERS)
            for number in few:
                self._rank(number)

    def _rank(self, number: int) -> None:
        index, rest = number >> _REST, number & ((1 << _REST) - 1)
        rank = _REST - rest.bit_length() + 1
        self._registers[index] = max(rank, self._registers[index])
