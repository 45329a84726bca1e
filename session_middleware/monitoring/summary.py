"""Statistics and health as text for people: what is wrong first, then figures, then the busiest hours.

`every_hour`, `shown` and others are what the page (`page`) is made of, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = [
    "Hour",
    "Moment",
    "alerts_in",
    "busiest",
    "every_hour",
    "hours_of",
    "most_first",
    "shown",
    "summary",
    "troubles",
    "what_was_read",
]

_BUSIEST: Final = 24
_HOUR: Final = timedelta(hours=1)
_LONGEST: Final = 24 * 366 * 20  # hours: a line with an odd time must not make it endless
_BAR: Final = 40  # characters
_MOST: Final = 10  # rows of a table
_COUNTED: Final = (
    ("Ended, by reason", "ended"),
    ("Failed", "failed"),
    ("Errors, by type", "errors"),
    ("Lost writes, by reason", "lost_writes"),
    ("Suspicious activity, by type", "suspicious"),
)
_BUSY: Final = ("requests", "created", "logins", "ended")


Moment: TypeAlias = Callable[[float | None], str | None]
"""Seconds since the epoch as text."""


class Hour(NamedTuple):
    """One hour's events, by kind."""

    start: str
    counts: Mapping[str, int]

    @property
    def activity(self) -> int:
        """How busy it was: requests where they are known, else what began, signed in and ended."""
        return self.counts.get("requests", 0) or sum(self.counts.get(kind, 0) for kind in _BUSY)


def hours_of(figures: Mapping[str, Any]) -> list[Hour]:
    """The hours with events, in the order of time."""
    return [Hour(start, counts) for start, counts in sorted(figures["by_hour"].items())]


def every_hour(figures: Mapping[str, Any]) -> list[Hour]:
    """From the first hour with events to the last, those without any too."""
    known = {datetime.fromisoformat(hour.start): hour for hour in hours_of(figures)}
    if not known:
        return []
    first, last = min(known), max(known)
    number = min(int((last - first) / _HOUR), _LONGEST)
    times = (first + _HOUR * index for index in range(number + 1))
    return [known.get(time) or Hour(time.strftime("%Y-%m-%dT%H:00Z"), {}) for time in times]


def busiest(figures: Mapping[str, Any]) -> list[Hour]:
    """The 24 busiest hours, in the order of time."""
    hours = sorted(hours_of(figures), key=lambda hour: hour.activity, reverse=True)[:_BUSIEST]
    return sorted(hour for hour in hours if hour.activity)


def most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """By number, without those that never were."""
    return sorted(((name, number) for name, number in counts.items() if number), key=lambda pair: -pair[1])


def troubles(health: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The checks that are not well, the worst first."""
    unwell = [(name, check) for name, check in health["checks"].items() if check["what_to_do"]]
    return sorted(unwell, key=lambda pair: pair[1]["status"] != "critical")


def shown(value: object) -> str:
    """A figure for people."""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"  # noqa: PLR2004  (three digits as they are)
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)


def what_was_read(figures: Mapping[str, Any], moment: Moment) -> str:
    """Which time, how many lines, and of what kind."""
    since, until = (moment(figures[name]) or "?" for name in ("since", "until"))
    read, other, broken = (shown(figures["lines"][name]) for name in ("read", "other", "broken"))
    return f"{since} to {until}; {read} lines, {other} of other loggers, {broken} broken"


def alerts_in(figures: Mapping[str, Any], moment: Moment) -> list[tuple[str, str]]:
    """Each alert that was raised or cleared, and when."""
    return [
        (f"{moment(one['timestamp'])} {one['rule']}", one["name"].removeprefix("alert_"))
        for one in figures["alert_history"]
    ]


def summary(figures: Mapping[str, Any], moment: Moment) -> Iterator[str]:
    """The lines of the report; *figures* are the statistics, with `health`, `lines` and `alert_history`."""
    health = figures["health"]
    yield f"{health['status']}: " + (_worst(health) or "every check that is known is well")
    yield what_was_read(figures, moment)
    yield from _table("Alerts", alerts_in(figures, moment))
    yield from _table("Sessions", _sessions(figures))
    for title, name in _COUNTED:
        yield from _table(title, most_first(figures[name]))
    yield from _table("Seconds (mean, p50, p95, p99)", _durations(figures))
    yield from _table("Busiest users", figures["by_user"].items())
    yield from _table("What to do", ((name, check["what_to_do"]) for name, check in troubles(health)))
    yield from _plot(busiest(figures))


def _worst(health: Mapping[str, Any]) -> str:
    unwell = troubles(health)
    return ", ".join(f"{name} {shown(check['value'])} {check['unit']}" for name, check in unwell)


def _sessions(figures: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    yield "created", figures["created"]
    yield "ended", sum(figures["ended"].values())
    yield "live at the end", figures["active_sessions"]
    yield "sign-ins", figures["totals"].get("session_user_bound", 0)
    yield "different sessions", figures["distinct_sessions"]
    yield "different users", figures["distinct_users"]
    yield "requests", figures["totals"].get("request_finished", 0)


def _durations(figures: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, one in figures["durations"].items():
        yield name, "  ".join(shown(one[part]) for part in ("mean", "p50", "p95", "p99"))


def _table(title: str, rows: Iterable[tuple[str, object]]) -> Iterator[str]:
    listed = [(_printable(name), shown(value)) for name, value in rows]
    if not listed:
        return
    yield ""
    yield title
    width = max(len(name) for name, _ in listed[:_MOST])
    for name, value in listed[:_MOST]:
        yield f"  {name:<{width}}  {value}"
    if len(listed) > _MOST:
        yield f"  and {len(listed) - _MOST} more"


def _plot(hours: list[Hour]) -> Iterator[str]:
    if not hours:
        return
    yield ""
    yield "Busiest hours (UTC)"
    most = max(hour.activity for hour in hours)
    for hour in hours:
        bar = "█" * max(1, round(_BAR * hour.activity / most))
        yield f"  {hour.start[:13].replace('T', ' ')}h  {bar} {shown(hour.activity)}"


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)
