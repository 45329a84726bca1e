"""What goes on from a monitor to another system, and what both ready ones count: one table, the same figures.

An exporter gets what the monitor takes in, in the monitor's own thread: a request pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple, Protocol

from session_middleware.events import SessionEvent
from session_middleware.monitoring.facts import SessionMetric, text
from session_middleware.monitoring.figures import ENDINGS, FAILURES, measured, problem_of

__all__ = ["COUNTERS", "DURATIONS", "GAUGES", "Counter", "Exporter", "Labels", "counted", "durations"]


class Exporter(Protocol):
    """Where figures go. What it raises is counted by the monitor, and harms nobody."""

    def take(self, event: SessionEvent) -> None:
        """One event."""

    def count(self, name: str, more: int) -> None:
        """So many events of which only the name is known."""

    def measure(self, metric: SessionMetric) -> None:
        """One measurement of the app's own."""

    def look(self, gauges: Mapping[str, float | None]) -> None:
        """How things are now; None: unknown."""


class Counter(NamedTuple):
    """A number that only grows. *label*: what it is told apart by; None: nothing."""

    name: str
    help: str
    label: str | None = None


class Gauge(NamedTuple):
    """A value as it is now, and how it is made one over several processes."""

    name: str
    help: str
    over_workers: Literal["mostrecent", "livesum", "livemax", "livemin"]


_COUNTERS = (
    Counter("events", "Events by name.", "event"),
    Counter("sessions_created", "Sessions stored for the first time."),
    Counter("sessions_ended", "Sessions that ended, by reason.", "reason"),
    Counter("logins", "Sessions that somebody signed in to."),
    Counter("lost_writes", "Changes that could not be stored, by reason.", "reason"),
    Counter("errors", "Operations that failed, by type.", "type"),
    Counter("suspicious_activities", "What an attacker does, by type.", "type"),
    Counter("requests_refused", "Requests refused for a limit."),
)
COUNTERS: Final = {counter.name: counter for counter in _COUNTERS}

# The number of sessions comes from the backend, which all workers share: the newest count holds.
_GAUGES = (
    Gauge("sessions", "Live sessions.", "mostrecent"),
    Gauge("utilization", "Part of max_sessions that is in use, 0 to 1.", "mostrecent"),
    Gauge("requests_in_flight", "Requests being served.", "livesum"),
    Gauge("backend_down", "1 while the backend does not answer.", "livemax"),
    Gauge("cleanup_age_seconds", "Seconds since the last cleanup.", "livemin"),
)
GAUGES: Final = {gauge.name: gauge for gauge in _GAUGES}

DURATIONS: Final = {
    "request_duration": "Seconds that a request took (seen where debug events are).",
    "cleanup_duration": "Seconds that a cleanup took.",
    "outage_duration": "Seconds for which the backend was away.",
}

_MOST = 64  # values of one label; further ones are `other`


class Labels:
    """The values of one label: bounded, whoever chooses them."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, value: object) -> str:
        """The value as a label."""
        shown = str(text(value))
        if shown in self._known or len(self._known) < _MOST:
            self._known.add(shown)
            return shown
        return "other"


def counted(event: SessionEvent) -> Iterator[tuple[str, object]]:
    """The counters that this event moves besides `events`, each with the value of its label."""
    name, fields = event.name, event.fields
    if name == "session_created":
        yield "sessions_created", None
    elif name in ENDINGS:
        yield "sessions_ended", fields.get("reason") or name.removeprefix("session_")
    elif name == "session_user_bound":
        yield "logins", None
    elif name == "session_suspicious_activity":
        yield "suspicious_activities", fields.get("activity_type", "unknown")
    elif name == "request_refused":
        yield "requests_refused", None
    if name == "session_data_save_failed":
        yield "lost_writes", fields.get("reason", "unknown")
    if name in FAILURES:
        yield "errors", problem_of(event)


def durations(event: SessionEvent) -> Iterator[tuple[str, float]]:
    """What this event says of how long something took, in seconds."""
    found = measured(event)
    if found is not None and found[0] in DURATIONS:
        yield found
