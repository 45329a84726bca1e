"""Times on the command line: `30m` ago, or a moment such as `2026-11-26T08:00Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import click

__all__ = ["MOMENT", "SPAN"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


class _Span(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _SPAN.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            self.fail(f"{value!r} is no duration; write one as 90s, 30m, 12h, 7d or 2w", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class _Moment(click.ParamType[float]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds since the epoch. A duration means that long ago; a time without a zone is UTC."""
        if _SPAN.fullmatch(value):
            return datetime.now(UTC).timestamp() - SPAN.convert(value, param, ctx)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time; write one as 2026-11-26T08:00Z, or as 30m for that long ago",
                param,
                ctx,
            )
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


SPAN: Final = _Span()
MOMENT: Final = _Moment()
