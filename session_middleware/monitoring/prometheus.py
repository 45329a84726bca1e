"""Figures for Prometheus, right with several worker processes too.

    metrics = PrometheusMetrics(get_session_monitor())
    app.mount("/metrics", metrics.asgi_app)      # Starlette, FastAPI
    flask_app.wsgi_app = DispatcherMiddleware(flask_app.wsgi_app, {"/metrics": metrics.wsgi_app})

With several workers set `PROMETHEUS_MULTIPROC_DIR` to an empty directory before they start, as
prometheus_client wants it: each scrape then answers for all of them. Needs the extra `prometheus`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from session_middleware.errors import ConfigurationError
from session_middleware.events import SessionEvent
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
    import prometheus_client
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError as missing:
    raise ConfigurationError(
        "session_middleware.monitoring.prometheus needs prometheus-client: "
        "pip install 'session_middleware[prometheus]'"
    ) from missing

__all__ = ["PrometheusMetrics"]

_PREFIX: Final = "session_middleware_"
_SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)  # seconds


class PrometheusMetrics:
    """What a monitor takes in, as metrics of prometheus_client.

    Args:
        monitor: whose figures these are. Its events are handed on in its own thread.
        registry: where the metrics are registered. None: prometheus_client's own. Metrics that are in it
            already, of another monitor, are shared.
    """

    def __init__(self, monitor: SessionMonitor, *, registry: CollectorRegistry | None = None) -> None:
        if not isinstance(monitor, SessionMonitor):
            raise ConfigurationError(f"monitor: found {type(monitor).__name__}, pass a SessionMonitor")
        self._monitor = monitor
        self._registry = prometheus_client.REGISTRY if registry is None else registry
        self._metrics = _metrics_in(self._registry)
        monitor.export_to(self)

    # --- what is scraped ---

    async def asgi_app(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """The page as an ASGI app."""
        self._monitor.drain()
        app = prometheus_client.make_asgi_app(self._scraped())
        await app(scope, receive, send)

    def wsgi_app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The page as a WSGI app."""
        self._monitor.drain()
        app = prometheus_client.make_wsgi_app(self._scraped())
        page: Iterable[bytes] = app(environ, start_response)
        return page

    def text(self) -> str:
        """The page itself."""
        self._monitor.drain()
        return prometheus_client.generate_latest(self._scraped()).decode()

    def _scraped(self) -> CollectorRegistry:
        """With several workers what all of them wrote, else the registry itself."""
        if _SHARED not in os.environ:
            return self._registry
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]  # its own types lack it
        return together

    # --- what the monitor calls ---

    def take(self, event: SessionEvent) -> None:
        """See `Exporter.take`."""
        metrics, weight = self._metrics, weight_of(event)
        metrics.add("events", event.name, weight)
        for name, label in counted(event):
            metrics.add(name, label, weight)
        for name, seconds in durations(event):
            metrics.durations[name].observe(seconds)
        if event.name in {"alert_raised", "alert_cleared"}:
            rule = metrics.labels["alerts"].of(event.fields.get("rule"))
            metrics.alerts.labels(rule).set(event.name == "alert_raised")

    def count(self, name: str, more: int) -> None:
        """See `Exporter.count`."""
        self._metrics.add("events", name, more)

    def measure(self, metric: SessionMetric) -> None:
        """See `Exporter.measure`. The app's own measurements are the app's own metrics."""

    def look(self, gauges: Mapping[str, float | None]) -> None:
        """See `Exporter.look`."""
        for name, gauge in self._metrics.gauges.items():
            value = gauges.get(name.removesuffix("_seconds"))
            if value is not None:
                gauge.set(value)


class _Metrics:
    """Those of one registry: prometheus_client refuses a second one of the same name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.labels = {name: Labels() for name in (*COUNTERS, "alerts")}
        self._counters = {
            name: Counter(_PREFIX + name, one.help, [one.label] if one.label else [], registry=registry)
            for name, one in COUNTERS.items()
        }
        self.gauges = {
            name: Gauge(_PREFIX + name, one.help, registry=registry, multiprocess_mode=one.over_workers)
            for name, one in GAUGES.items()
        }
        self.durations = {
            name: Histogram(f"{_PREFIX}{name}_seconds", text, registry=registry, buckets=_BUCKETS)
            for name, text in DURATIONS.items()
        }
        self.alerts = Gauge(
            f"{_PREFIX}alert",
            "1 while the alert of this rule is raised.",
            ["rule"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def add(self, name: str, label: object, more: int) -> None:
        """Move this counter."""
        counter = self._counters[name]
        if COUNTERS[name].label is not None:
            counter = counter.labels(self.labels[name].of(label))
        counter.inc(more)


_known: WeakKeyDictionary[CollectorRegistry, _Metrics] = WeakKeyDictionary()
_making = Lock()


def _metrics_in(registry: CollectorRegistry) -> _Metrics:
    with _making:
        metrics = _known.get(registry)
        if metrics is None:
            metrics = _known[registry] = _Metrics(registry)
        return metrics
