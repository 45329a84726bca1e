"""How many sessions there are, how old, in which state; and what an operator should look at."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from session_middleware.backends.capabilities import Summarizing, Summary
from session_middleware.jobs import PROCESSING, is_stuck
from session_middleware.operations.queries import QueryOperations
from session_middleware.record import Record
from session_middleware.session import Session
from session_middleware.where import Where

__all__ = ["FiguresOperations"]

_HOUR = 3600.0  # seconds
_AGES: Final = (1 * _HOUR, 6 * _HOUR, 24 * _HOUR)
_SPANS: Final = ("under_1h", "1h_to_6h", "6h_to_24h", "over_24h")
_HEALTHY, _WARNING = 70.0, 90.0  # percent of the capacity


class FiguresOperations(QueryOperations):
    """Figures, summed up by the backend."""

    async def get_statistics(self) -> dict[str, Any]:
        """What the live sessions come to.

        `total_sessions, max_capacity` (`max_sessions`; None: no limit), `utilization_percent` (0 without a
        limit), `status_breakdown` (sessions by status, those without one left out), `age_distribution`
        (sessions by age: `under_1h, 1h_to_6h, 6h_to_24h, over_24h`), `average_age_hours`,
        `oldest_session_hours`, `newest_session_hours` (0 where there are none).
        """
        summary = await self._summary()
        total = summary.usage.sessions
        edges = (0, *summary.younger, total)
        return {
            "total_sessions": total,
            "max_capacity": self._core.max_sessions,
            "utilization_percent": self._utilization(total),
            "status_breakdown": dict(summary.usage.by_status),
            "age_distribution": {
                span: more - fewer for span, (fewer, more) in zip(_SPANS, pairwise(edges), strict=True)
            },
            "average_age_hours": _hours(summary.usage.average_age),
            "oldest_session_hours": _hours(summary.oldest),
            "newest_session_hours": _hours(summary.newest),
        }

    async def get_health(self) -> dict[str, Any]:
        """Whether an operator should look.

        `overall_health` (`healthy` under 70 % of `max_sessions`, `warning` under 90 %, else `critical`),
        `session_count, utilization_percent, stuck_sessions` (how many; `get_stuck_sessions` lists them),
        `cleanup_active` (whether this process cleans up periodically).
        """
        number = (await self._summary()).usage.sessions
        percent = self._utilization(number)
        return {
            "overall_health": _health(percent),
            "session_count": number,
            "utilization_percent": percent,
            "stuck_sessions": sum([1 async for _ in self._stuck()]),
            "cleanup_active": self._core.is_cleaning(),
        }

    async def get_stuck_sessions(self) -> list[Session]:
        """The sessions with the status `processing` whose job was silent for `stuck_after`, newest first."""
        now = self._core.clock()
        return list(self._sessions([record async for record in self._stuck()], now))

    # --- inside ---

    async def _summary(self) -> Summary:
        if not isinstance(self._port, Summarizing):
            raise self._lacks("sum up its sessions")
        return await self._port.summary(self._core.clock(), _AGES)

    def _utilization(self, number: int) -> float:
        most = self._core.max_sessions
        return 0.0 if most is None else round(100 * number / most, 1)

    async def _stuck(self) -> Any:
        walk = self._walk(Where(status=PROCESSING), limit=1000)
        while (records := await walk.on()) is not None:
            for record in self._those_stuck(records, walk.now):
                yield record

    def _those_stuck(self, records: Any, now: float) -> Iterator[Record]:
        return (record for record in records if is_stuck(record, now, self._core.stuck_after))


def _hours(seconds: float | None) -> float:
    return 0.0 if seconds is None else max(0.0, seconds) / _HOUR


def _health(percent: float) -> str:
    if percent < _HEALTHY:
        return "healthy"
    return "warning" if percent < _WARNING else "critical"
