"""Alerts: rules on events and metrics that are raised once, and cleared once, however the value trembles.

A rule is raised when its value is above `above`. It is cleared when the value has fallen to `clear_at`
(hysteresis), and is not raised again within `cool_down` seconds of its clearing. `DEFAULTS` are on in every
monitor; one of your own is a line:

    monitor.add_alert(Alert("logins", event="session_user_bound", above=1000, within=60))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from session_middleware.errors import ConfigurationError
from session_middleware.events import SessionEvent
from session_middleware.monitoring.facts import number, weight_of
from session_middleware.monitoring.windows import SlidingCount

__all__ = ["DEFAULTS", "Alert", "AlertBook", "Change"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule on one event's number in a window, or on one metric's value.

    Args:
        name: how it is told apart; it is the field `rule` of `alert_raised` and `alert_cleared`.
        event: the event that is counted. Either this or `metric`.
        metric: a type given to `record_metric`, or a gauge: `backend_down` (0 or 1), `utilization`,
            `error_rate` and `suspicious_rate` (per minute), `cleanup_age` (seconds).
        above: raised when the value is greater.
        within: length of an event's window in seconds. Default 300. A metric's value is its last one.
        clear_at: cleared when the value is at most this. None: half of `above` for an event, 0.9 of it for a
            metric.
        cool_down: seconds after a clearing in which it is not raised. Default 300.
        reason: count only events whose reason, activity type or error type is this. None: all.
        advice: what to do, shown in the health report.
    """

    name: str
    event: str | None = None
    metric: str | None = None
    above: float = 0.0
    within: float = 300.0
    clear_at: float | None = None
    cool_down: float = 300.0
    reason: str | None = None
    advice: str = ""

    def __post_init__(self) -> None:
        if (self.event is None) == (self.metric is None):
            raise ConfigurationError(f"alert {self.name!r}: pass either event= or metric=")
        for name in ("above", "within", "cool_down"):
            value = number(getattr(self, name))
            if value is None or value < 0 or (name == "within" and not value):
                raise ConfigurationError(f"alert {self.name!r}: {name} must be a finite number, and positive")
        if self.clears_at > self.above:
            raise ConfigurationError(
                f"alert {self.name!r}: clear_at={self.clear_at} is above {self.above}, so it would flap: "
                "pass a value below `above`"
            )

    @property
    def clears_at(self) -> float:
        """The value at which it is cleared."""
        if self.clear_at is not None:
            return self.clear_at
        return self.above * (0.5 if self.event is not None else 0.9)


class Change(NamedTuple):
    """An alert that was raised or cleared."""

    name: str
    rule: str
    value: float
    threshold: float
    timestamp: float


DEFAULTS: Final = (
    Alert(
        "backend_unavailable",
        metric="backend_down",
        above=0.5,
        cool_down=60,
        advice="See that the backend runs and can be reached; sessions come back with it.",
    ),
    Alert(
        "sessions_near_capacity",
        metric="utilization",
        above=0.9,
        clear_at=0.8,
        advice="Raise max_sessions, shorten idle_timeout, or end abandoned sessions.",
    ),
    Alert(
        "lost_writes",
        event="session_data_save_failed",
        above=10,
        advice="Look at lost_writes in the statistics: each reason has a remedy of its own.",
    ),
    Alert(
        "session_errors",
        metric="error_rate",
        above=30,
        advice="Look at errors in the statistics, then at the log lines of the failed events.",
    ),
    Alert(
        "suspicious_activity",
        metric="suspicious_rate",
        above=60,
        advice="Look at suspicious in the statistics; block the clients that do it.",
    ),
    Alert(
        "cleanup_failing",
        event="sessions_cleanup_failed",
        above=2,
        within=3600,
        advice="Expired sessions pile up: see the exception of sessions_cleanup_failed.",
    ),
    Alert(
        "requests_refused",
        event="request_refused",
        above=100,
        within=60,
        advice="Raise max_concurrent_requests or rate_limit, or find who sends so much.",
    ),
    Alert(
        "cleanup_overdue",
        metric="cleanup_age",
        above=3600,
        clear_at=1800,
        advice="No cleanup ran for an hour: see that the manager is started, or run cleanup_expired().",
    ),
)


class _State:
    """One rule at work."""

    __slots__ = ("cleared_at", "count", "is_raised", "rule", "value")

    def __init__(self, rule: Alert) -> None:
        self.rule = rule
        self.count = SlidingCount(rule.within)
        self.value = 0.0
        self.is_raised = False
        self.cleared_at = float("-inf")

    def judge(self, value: float, now: float) -> Change | None:
        self.value = value
        rule = self.rule
        if not self.is_raised and value > rule.above and now - self.cleared_at >= rule.cool_down:
            self.is_raised = True
            return Change("alert_raised", rule.name, value, rule.above, now)
        if self.is_raised and value <= rule.clears_at:
            self.is_raised, self.cleared_at = False, now
            return Change("alert_cleared", rule.name, value, rule.above, now)
        return None


class AlertBook:
    """All rules of a monitor, by name; a rule of a known name replaces it."""

    def __init__(self, rules: Iterable[Alert]) -> None:
        self._states: dict[str, _State] = {}
        self._of_event: dict[str, list[_State]] = {}
        self._of_metric: dict[str, list[_State]] = {}
        for rule in rules:
            self.add(rule)

    def add(self, rule: Alert) -> None:
        """Follow this rule from now on."""
        if not isinstance(rule, Alert):
            raise ConfigurationError(f"alerts: found {type(rule).__name__}, pass Alert objects")
        self._states[rule.name] = _State(rule)
        self._file()

    def remove(self, name: str) -> None:
        """Follow this rule no more; unknown names are a no-op."""
        self._states.pop(name, None)
        self._file()

    def _file(self) -> None:
        """By what they look at: most events and metrics are nobody's."""
        self._of_event, self._of_metric = {}, {}
        for state in self._states.values():
            if state.rule.event is not None:
                self._of_event.setdefault(state.rule.event, []).append(state)
            else:
                self._of_metric.setdefault(str(state.rule.metric), []).append(state)

    def observe(self, event: SessionEvent) -> Sequence[Change]:
        """What this event raises."""
        states, changes = self._of_event.get(event.name), []
        if states is None:
            return ()
        for state in states:
            if _is_meant(state.rule, event):
                state.count.add(event.timestamp, weight_of(event))
                changes.append(state.judge(state.count.value(event.timestamp), event.timestamp))
        return [change for change in changes if change is not None]

    def measure(self, metric: str, value: float, now: float) -> Sequence[Change]:
        """What this value of a metric raises or clears."""
        states = self._of_metric.get(metric)
        if states is None:
            return ()
        judged = [state.judge(value, now) for state in states]
        return [change for change in judged if change is not None]

    def begin_anew(self) -> None:
        """Forget what was counted and when alerts were cleared; those that are raised stay raised."""
        for state in self._states.values():
            state.count = SlidingCount(state.rule.within)
            state.cleared_at = float("-inf")

    def tick(self, gauges: Mapping[str, float | None], now: float) -> list[Change]:
        """What the passing of time, and the gauges as they are now, raise or clear."""
        changes = []
        for state in self._states.values():
            if state.rule.event is not None:
                changes.append(state.judge(state.count.value(now), now))
            elif (value := gauges.get(str(state.rule.metric))) is not None:
                changes.append(state.judge(value, now))
        return [change for change in changes if change is not None]

    def raised(self) -> list[dict[str, object]]:
        """The alerts that hold: rule, value, threshold and what to do."""
        return [
            {
                "rule": state.rule.name,
                "value": state.value,
                "threshold": state.rule.above,
                "what_to_do": state.rule.advice,
            }
            for state in self._states.values()
            if state.is_raised
        ]


def _is_meant(rule: Alert, event: SessionEvent) -> bool:
    if rule.reason is None:
        return True
    return rule.reason in [event.fields.get(key) for key in ("reason", "activity_type", "error_type")]
