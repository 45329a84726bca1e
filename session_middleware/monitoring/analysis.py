"""What a monitor does with each event off the request path: figures, rates, alerts, suspicion, gauges.

Nothing here knows where an event came from, and all time is the events' own: the same events give the same
figures, live or out of a file. Not safe for several threads: the monitor holds a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from session_middleware.monitoring.alerts import Alert, AlertBook, Change
from session_middleware.monitoring.facts import (
    Measurement,
    SessionEvent,
    SessionMetric,
    number,
    text,
    weight_of,
)
from session_middleware.monitoring.figures import ENDINGS, FAILURES, MEASURED, Figures, measured
from session_middleware.monitoring.suspicion import LOOKED_AT, Finding, Suspicion
from session_middleware.monitoring.windows import Rates

__all__ = ["DAY", "Analysis"]

DAY: Final = 86_400
_TICK: Final = 10.0  # seconds of event time between two looks at all alert rules
_SPANS: Final = {"last_minute": 60.0, "last_5_minutes": 300.0, "last_hour": 3600.0}
_RECENT: Final = 300.0
_LOST: Final = "session_data_save_failed"
_USUAL: Final = frozenset({"not_found", "not_found_or_expired"})  # a visitor came too late: nobody's error
_FOLLOWED: Final = frozenset(
    {
        *FAILURES,
        *ENDINGS,
        "session_created",
        "session_usage",
        "backend_unavailable",
        "backend_recovered",
        "sessions_cleaned_up",
        "session_manager_initialized",
        "session_manager_stopped",
    }
)
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_FINDINGS: Final = 100
_TYPES: Final = 256


class Analysis:
    """The state of a monitor. *days*: so many days have figures; *kept*: so many measurements stay."""

    def __init__(self, rules: Iterable[Alert], days: int, kept: int) -> None:
        self.alerts = AlertBook(rules)
        self.days: dict[int, Figures] = {}
        self.metrics: deque[Measurement] = deque(maxlen=kept)
        self.fresh: deque[Measurement] = deque(maxlen=kept)  # those that no store has yet
        self.findings: deque[Finding] = deque(maxlen=_FINDINGS)
        self.outbox: list[Change | Finding] = []
        self.newest: float | None = None
        self.dropped = 0
        self._limit = days + 1
        self._suspicion = Suspicion()
        self._rates = Rates()
        self._latest: dict[str, float] = {}
        self._ticked = float("-inf")
        self._down = 0.0
        self._live: int | None = None
        self._capacity: float | None = None
        self._cleaned: float | None = None

    def take(self, event: SessionEvent) -> None:
        """Take in one event."""
        now, name, weight = event.timestamp, event.name, weight_of(event)
        newest = self.newest
        if newest is None or now - self._ticked >= _TICK:
            self._advance(now)
        elif now > newest:
            self.newest = now
        figures = self.day(now)
        figures.take(event, weight)
        self._rates.add(name, now, weight)
        if name in _FOLLOWED:
            self._follow(event)
        if name in MEASURED and (found := measured(event)) is not None:
            kind, value = found
            self._measure(figures, (kind, event.session_id, event.user_id, value, now, _NOTHING))
        if changes := self.alerts.observe(event):
            self.outbox += changes
        if name in LOOKED_AT and (finding := self._suspicion.observe(event)):
            self.findings.append(finding)
            self.outbox.append(finding)

    def measure(self, metric: SessionMetric) -> None:
        """Take in one measurement."""
        kind, now = metric.metric_type, metric.timestamp
        self._advance(now)
        who = (metric.session_id, metric.user_id)
        figures = self.day(now)
        figures.span(now)
        self._measure(figures, (kind, *who, metric.value, now, metric.metadata))

    def _measure(self, figures: Figures, measurement: Measurement) -> None:
        kind, _session, _user, value, now, _metadata = measurement
        figures.measure(kind, value)
        self.metrics.append(measurement)
        self.fresh.append(measurement)
        if kind in self._latest or len(self._latest) < _TYPES:
            self._latest[kind] = value
        if changes := self.alerts.measure(kind, value, now):
            self.outbox += changes

    def count(self, name: str, moment: float, weight: int) -> None:
        """Take in events of which only the number is known."""
        self.day(moment).count(name, moment, weight)
        self._rates.add(name, moment, weight)

    def tick(self, now: float) -> None:
        """Look at all alert rules: time may have cleared some."""
        self._ticked = max(self._ticked, now)
        self.outbox += self.alerts.tick(self.gauges(now), now)

    def begin_anew(self, now: float) -> None:
        """The clock was set back: what lies ahead of it now is no recent past. Totals and days stay."""
        self._rates = Rates()
        self._suspicion = Suspicion()
        self._suspicion.begin(now)
        self.alerts.begin_anew()
        self._ticked = now

    def day(self, moment: float) -> Figures:
        """The figures of that day; a day too many pushes out the oldest."""
        key = int(moment) // DAY  # no moment lies before the epoch
        figures = self.days.get(key)
        if figures is None:
            figures = self.days[key] = Figures()
            if len(self.days) > self._limit:
                del self.days[min(self.days)]
        return figures

    def gauges(self, now: float) -> dict[str, float | None]:
        """What alert rules and health checks look at; None: unknown."""
        return {
            **self._latest,
            "backend_down": self._down,
            "backend_latency": self._latest.get("backend_latency"),
            "stuck_sessions": self._latest.get("stuck_sessions"),
            "utilization": self._utilization(),
            "cleanup_age": None if self._cleaned is None else max(0.0, now - self._cleaned),
            "error_rate": self._recent_rate("errors", now),
            "suspicious_rate": self._recent_rate("session_suspicious_activity", now),
            "lost_writes": self._recent_rate(_LOST, now),
            "events_dropped": float(self.dropped),
        }

    def _recent_rate(self, name: str, now: float) -> float:
        return self._rates.number(name, _RECENT, now) * 60 / _RECENT

    def rates(self, now: float) -> dict[str, dict[str, float]]:
        """Events per minute by name, over the last minute, five minutes and hour."""
        found: dict[str, dict[str, float]] = {}
        for label, span in _SPANS.items():
            for name, count in self._rates.within(span, now).items():
                found.setdefault(name, dict.fromkeys(_SPANS, 0.0))[label] = count * 60 / span
        return found

    @property
    def live_sessions(self) -> int | None:
        """How many there are: the last count, and what began and ended since. None: nobody has counted."""
        return None if self._live is None else max(0, self._live)

    def _advance(self, now: float) -> None:
        if self.newest is None:
            self._suspicion.begin(now)
            self.newest = now
        elif now > self.newest:
            self.newest = now
        if now - self._ticked >= _TICK:
            self.tick(now)

    def _utilization(self) -> float | None:
        if self._live is None or not self._capacity:
            return None
        return max(0, self._live) / self._capacity

    def _follow(self, event: SessionEvent) -> None:
        """Keep what the gauges are made of."""
        name, fields = event.name, event.fields
        if name in FAILURES and (name == _LOST or text(fields.get("reason")) not in _USUAL):
            self._rates.add("errors", event.timestamp, weight_of(event))
        if self._live is not None:
            self._live += (name == "session_created") - (name in ENDINGS)
        if name == "session_usage" and (counted := number(fields.get("count"))) is not None:
            self._live, self._capacity = int(counted), number(fields.get("capacity"))
        self._follow_backend(event)

    def _follow_backend(self, event: SessionEvent) -> None:
        name, fields = event.name, event.fields
        if name == "backend_unavailable":
            self._down = 1.0
        elif name in {"backend_recovered", "sessions_cleaned_up"}:
            self._down = 0.0
        if name == "sessions_cleaned_up":
            self._cleaned = event.timestamp
        elif name == "session_manager_initialized" and fields.get("cleanup_interval") is not None:
            self._cleaned = event.timestamp  # it has its interval's time
        elif name == "session_manager_stopped":
            self._cleaned = None

    def merged(self, states: Iterable[dict[str, Any]] = ()) -> Figures:
        """The figures of all days, and of these states before them."""
        figures = Figures()
        for state in states:
            figures.merge(state)
        for day in sorted(self.days):
            figures.merge(self.days[day].state())
        return figures
