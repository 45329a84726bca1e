"""The figures: what events add up to. Exact totals; everything that could grow has a limit.

Reading order: `Figures.take` (one event in), `merge` and `state` (how figures of other days, of other workers
and of before a restart are added), `statistics` (what a reader gets).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from session_middleware.events import SessionEvent
from session_middleware.monitoring.facts import LONGEST, number, text, whole
from session_middleware.monitoring.sketches import Distinct, Quantiles
from session_middleware.reporting import Tally

__all__ = ["ENDINGS", "FAILURES", "MEASURED", "Figures", "measured", "problem_of"]

ENDINGS: Final = ("session_deleted", "session_expired", "session_evicted")
FAILURES: Final = (
    "session_creation_failed",
    "session_renewal_failed",
    "session_deletion_failed",
    "session_data_retrieval_failed",
    "session_data_save_failed",
    "sessions_cleanup_failed",
    "session_error",
)
_KINDS: Final = 256  # different reasons, types or names that one table keeps; further ones are `other`
_USERS: Final = 1000  # users with a figure of their own; of more the busiest stay
_SERIES: Final = 32  # metric types with quantiles of their own
_SHOWN: Final = 20
_TABLES: Final = ("totals", "ended", "errors", "suspicious", "lost", "switched", "hours", "users", "refused")
_BEGIN: Final = "created_at"  # what is measured is the time since then
_MEASUREMENTS: Final = {
    "request_finished": ("request_duration", "duration"),
    "sessions_cleaned_up": ("cleanup_duration", "duration"),
    "session_context_switched": ("context_switch_duration", "duration"),
    "backend_recovered": ("outage_duration", "down_for"),
    "session_usage": ("live_sessions", "count"),
    "session_expired": ("session_age_at_end", _BEGIN),
}
MEASURED: Final = frozenset(_MEASUREMENTS)
"""The events that carry a measurement."""


class Figures:
    """What a number of events add up to."""

    def __init__(self) -> None:
        self.tables: dict[str, Tally] = {name: Tally() for name in _TABLES}
        self.series: dict[str, Quantiles] = {}
        self.distinct = {"sessions": Distinct(), "users": Distinct()}
        self.usage: dict[str, Any] | None = None
        self.balance = 0  # created less ended, since `usage`
        self.first: float | None = None
        self.last: float | None = None

    def take(self, event: SessionEvent, weight: int) -> None:
        """Add one event, which stands for *weight* of them."""
        name, moment = event.name, event.timestamp
        self.count(name, moment, weight)
        if self.first is None or self.last is None or not self.first <= moment <= self.last:
            self.span(moment)
        self._identify(event)
        if name in _SPECIAL:
            for add in _SPECIAL[name]:
                add(self, event, weight)

    def count(self, name: str, moment: float, weight: int) -> None:
        """Add to a total, without an event to look at."""
        totals = self.tables["totals"]
        if name in totals:
            totals[name] += weight
        else:
            self._tally("totals", name, weight)
        if kind := _HOURLY.get(name):
            self.tables["hours"][_hour_key(int(moment) // 3600, kind)] += weight

    def measure(self, kind: str, value: float) -> None:
        """Add one measurement of this kind."""
        series = self.series.get(kind)
        if series is None:
            series = self.series.setdefault(kind if len(self.series) < _SERIES else "other", Quantiles())
        series.add(value)

    def _tally(self, table: str, key: str, weight: int = 1) -> None:
        counts = self.tables[table]
        counts[key if key in counts or len(counts) < _KINDS else "other"] += weight

    def span(self, moment: float) -> None:
        """They are of this moment, too."""
        if self.first is None or moment < self.first:
            self.first = moment
        if self.last is None or moment > self.last:
            self.last = moment

    def _identify(self, event: SessionEvent) -> None:
        session, user = event.session_id, event.user_id
        if session is not None:
            self.distinct["sessions"].add(session)
        if user is not None:
            self.distinct["users"].add(user)
            users, user = self.tables["users"], user[:LONGEST]
            if user in users:
                users[user] += 1
            else:
                users[user] = 1
                self._spare_users(2 * _USERS)

    def _spare_users(self, limit: int) -> None:
        if len(self.tables["users"]) > limit:
            self.tables["users"] = Tally(_most(self.tables["users"], _USERS))

    # --- events with more to them than their name ---

    def _ended(self, event: SessionEvent, weight: int) -> None:
        self.balance -= weight
        reason = event.fields.get("reason") or event.name.removeprefix("session_")
        self._tally("ended", str(text(reason)), weight)

    def _created(self, _event: SessionEvent, weight: int) -> None:
        self.balance += weight

    def _failed(self, event: SessionEvent, weight: int) -> None:
        self._tally("errors", problem_of(event), weight)

    def _suspicious(self, event: SessionEvent, weight: int) -> None:
        self._tally("suspicious", str(text(event.fields.get("activity_type", "unknown"))), weight)

    def _lost(self, event: SessionEvent, weight: int) -> None:
        self._tally("lost", str(text(event.fields.get("reason", "unknown"))), weight)

    def _switched(self, event: SessionEvent, weight: int) -> None:
        self._tally("switched", str(text(event.fields.get("name", "unknown"))), weight)

    def _used(self, event: SessionEvent, _weight: int) -> None:
        counted, fields = whole(event.fields.get("count")), event.fields
        if counted is None or (self.usage is not None and event.timestamp < self.usage["timestamp"]):
            return
        self.balance = 0
        self.usage = {
            "timestamp": event.timestamp,
            "count": counted,
            "average_age": number(fields.get("average_age")),
            "by_status": _counts_in(fields.get("by_status")),
        }

    # --- figures together ---

    def merge(self, state: Mapping[str, Any]) -> None:
        """Take in what the `state()` of other figures was."""
        for name, counts in state["tables"].items():
            table = self.tables[name]
            for key, number_ in counts.items():
                table[key] += number_
        self._spare_users(2 * _USERS)
        for name, quantiles in state["series"].items():
            self.series.setdefault(name, Quantiles()).merge(quantiles)
        for name, distinct in state["distinct"].items():
            self.distinct[name].merge(distinct)
        self._merge_usage(state["usage"], state["balance"])
        for moment in (state["first"], state["last"]):
            if moment is not None:
                self.span(moment)

    def _merge_usage(self, usage: dict[str, Any] | None, balance: int) -> None:
        if usage is None or (self.usage is not None and usage["timestamp"] <= self.usage["timestamp"]):
            self.balance += balance if usage is None else 0
        else:
            self.usage, self.balance = usage, balance

    def state(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {
            "tables": {name: dict(counts) for name, counts in self.tables.items()},
            "series": {name: quantiles.state() for name, quantiles in self.series.items()},
            "distinct": {name: distinct.state() for name, distinct in self.distinct.items()},
            "usage": self.usage,
            "balance": self.balance,
            "first": self.first,
            "last": self.last,
        }

    def active_sessions(self) -> int:
        """How many sessions live: the backend's last count, and what was created and ended since."""
        known = 0 if self.usage is None else int(self.usage["count"])
        return max(0, known + self.balance)

    def statistics(self) -> dict[str, Any]:
        """The figures as a reader gets them."""
        totals = self.tables["totals"]
        return {
            "since": self.first,
            "until": self.last,
            "totals": dict(totals),
            "created": totals["session_created"],
            "ended": dict(self.tables["ended"]),
            "renewed": totals["session_renewed"],
            "cycled": totals["session_cycled"],
            "saved": totals["session_data_saved"],
            "failed": {name: totals[name] for name in FAILURES if totals[name]},
            "active_sessions": self.active_sessions(),
            **self._breakdowns(),
        }

    def _breakdowns(self) -> dict[str, Any]:
        return {
            "distinct_sessions": self.distinct["sessions"].count(),
            "distinct_users": self.distinct["users"].count(),
            "durations": {name: one.summary() for name, one in sorted(self.series.items())},
            "average_age": None if self.usage is None else self.usage["average_age"],
            "by_status": {} if self.usage is None else dict(self.usage["by_status"]),
            "errors": dict(self.tables["errors"]),
            "lost_writes": dict(self.tables["lost"]),
            "suspicious": dict(self.tables["suspicious"]),
            "switched": dict(self.tables["switched"]),
            "by_user": _most(self.tables["users"], _SHOWN),
            "by_hour": _by_hour(self.tables["hours"]),
        }


_SPECIAL: Final[Mapping[str, tuple[Callable[[Figures, SessionEvent, int], None], ...]]] = {
    **dict.fromkeys(ENDINGS, (Figures._ended,)),  # noqa: SLF001  (its own table)
    **dict.fromkeys(FAILURES, (Figures._failed,)),  # noqa: SLF001
    "session_created": (Figures._created,),  # noqa: SLF001
    "session_suspicious_activity": (Figures._suspicious,),  # noqa: SLF001
    "session_data_save_failed": (Figures._lost, Figures._failed),  # noqa: SLF001
    "session_context_switched": (Figures._switched,),  # noqa: SLF001
    "session_usage": (Figures._used,),  # noqa: SLF001
}
_HOURLY: Final = {
    "session_created": "created",
    "session_user_bound": "logins",
    "request_finished": "requests",
    "session_suspicious_activity": "suspicious",
    **dict.fromkeys(ENDINGS, "ended"),
    **dict.fromkeys(FAILURES, "failed"),
}


def _counts_in(value: object) -> dict[str, int]:
    """The numbers by name that a field should hold; a log line may hold anything."""
    counts = value.items() if isinstance(value, Mapping) else ()
    return {str(text(name)): found for name, one in counts if (found := whole(one)) is not None}


def problem_of(event: SessionEvent) -> str:
    """A type of error: the exception's type, or the reason."""
    exception = event.fields.get("exception")
    if isinstance(exception, BaseException):
        return type(exception).__name__
    if exception:  # as a log line shows it: "TypeError: ..."
        return str(text(str(exception).partition(":")[0]))
    return str(text(event.fields.get("error_type") or event.fields.get("reason") or "unknown"))


def measured(event: SessionEvent) -> tuple[str, float] | None:
    """The measurement that an event carries: its metric type and its value."""
    found = _MEASUREMENTS.get(event.name)
    if found is None:
        return None
    kind, key = found
    value = event.fields.get(key)
    if type(value) is not float or not math.isfinite(value):  # as nearly all are
        value = number(value)
        if value is None:
            return None
    return kind, value if key != _BEGIN else max(0.0, event.timestamp - value)


@lru_cache(maxsize=256)
def _hour_key(hour: int, kind: str) -> str:
    """Hours are counted in one table, which a store keeps as it is."""
    return f"{hour * 3600} {kind}"


def _most(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """The greatest of them, greatest first."""
    return dict(Counter(counts).most_common(limit))


def _by_hour(hours: Mapping[str, int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for key in sorted(hours):
        start, _space, kind = key.partition(" ")
        hour = datetime.fromtimestamp(int(start), UTC).strftime("%Y-%m-%dT%H:00Z")
        found.setdefault(hour, {})[kind] = hours[key]
    return found
