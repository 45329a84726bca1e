"""Figures for OpenTelemetry, and the session's id on the app's own spans. The app brings the SDK.

    OpenTelemetryMetrics(get_session_monitor())
    mark_spans(manager)

Frameworks measure requests already, so no span is begun here. Needs the extra `opentelemetry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

from session_middleware.errors import ConfigurationError
from session_middleware.events import SessionEvent
from session_middleware.manager import SessionManager
from session_middleware.monitoring.exporters import (
    COUNTERS,
    DURATIONS,
    GAUGES,
    Labels,
    counted,
    durations,
)
from session_middleware.monitoring.facts import SessionMetric, weight_of
from session_middleware.monitoring.monitor import SessionMonitor

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
except ImportError as missing:
    raise ConfigurationError(
        "session_middleware.monitoring.opentelemetry needs opentelemetry-api: "
        "pip install 'session_middleware[opentelemetry]'"
    ) from missing

__all__ = ["OpenTelemetryMetrics", "mark_spans"]

_METER: Final = "session_middleware"
_UNITS: Final = {"sessions": "{session}", "requests_in_flight": "{request}", "cleanup_age_seconds": "s"}


class OpenTelemetryMetrics:
    """What a monitor takes in, as instruments `session_middleware.*` of a meter.

    Args:
        monitor: whose figures these are. Its events are handed on in its own thread.
        meter_provider: None: the one that the app has set.
    """

    def __init__(self, monitor: SessionMonitor, *, meter_provider: MeterProvider | None = None) -> None:
        if not isinstance(monitor, SessionMonitor):
            raise ConfigurationError(f"monitor: found {type(monitor).__name__}, pass a SessionMonitor")
        meter = metrics.get_meter(_METER, meter_provider=meter_provider)
        self._monitor = monitor
        self._labels = {name: Labels() for name in COUNTERS}
        self._gauges: dict[str, float] = {}
        self._counters = {
            name: meter.create_counter(_named(name), description=one.help) for name, one in COUNTERS.items()
        }
        self._durations = {
            name: meter.create_histogram(_named(name), unit="s", description=help_)
            for name, help_ in DURATIONS.items()
        }
        for name, gauge in GAUGES.items():
            meter.create_observable_gauge(
                _named(name.removesuffix("_seconds")),
                callbacks=[partial(self._observed, name)],
                unit=_UNITS.get(name, "1"),
                description=gauge.help,
            )
        monitor.export_to(self)

    def take(self, event: SessionEvent) -> None:
        """See `Exporter.take`."""
        weight = weight_of(event)
        self._add("events", event.name, weight)
        for name, label in counted(event):
            self._add(name, label, weight)
        for name, seconds in durations(event):
            self._durations[name].record(seconds)

    def count(self, name: str, more: int) -> None:
        """See `Exporter.count`."""
        self._add("events", name, more)

    def measure(self, metric: SessionMetric) -> None:
        """See `Exporter.measure`. The app's own measurements are the app's own instruments."""

    def look(self, gauges: Mapping[str, float | None]) -> None:
        """See `Exporter.look`."""
        for name in GAUGES:
            value = gauges.get(name.removesuffix("_seconds"))
            if value is not None:
                self._gauges[name] = value

    def _add(self, name: str, label: object, more: int) -> None:
        kind = COUNTERS[name].label
        attributes = {} if kind is None else {kind: self._labels[name].of(label)}
        self._counters[name].add(more, attributes)

    def _observed(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        value = self._gauges.get(name)
        return [] if value is None else [Observation(value)]


def _named(name: str) -> str:
    return f"{_METER}.{name}"


def mark_spans(manager: SessionManager) -> Callable[[], None]:
    """Give the current span `session.id`, and `session.previous_id` where a request began another session.

    You get the function that ends it. It listens to an event of level debug, a few microseconds a request.
    """
    ended: WeakKeyDictionary[trace.Span, str] = WeakKeyDictionary()

    def mark(event: SessionEvent) -> None:
        span = trace.get_current_span()
        if event.session_id is None or not span.is_recording():
            return
        if event.name == "session_deleted":
            ended[span] = event.session_id
            return
        span.set_attribute("session.id", event.session_id)
        previous = ended.pop(span, None)
        if previous is not None:
            span.set_attribute("session.previous_id", previous)

    names = ("session_data_retrieved", "session_created", "session_deleted")
    unsubscribes = [manager.subscribe(name, mark) for name in names]

    def end() -> None:
        for unsubscribe in unsubscribes:
            unsubscribe()

    return end
