"""Figures in Prometheus and OpenTelemetry: the monitor's, labels bounded, right over several workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from session_middleware import ConfigurationError, SessionManager
from session_middleware.monitoring import Alert, SessionMonitor
from session_middleware.monitoring.opentelemetry import OpenTelemetryMetrics, mark_spans
from session_middleware.monitoring.prometheus import PrometheusMetrics
from session_middleware.testing import ManualClock

ROOT = Path(__file__).parents[2]


class Watched:
    """A manager and its monitor, whose figures are exported."""

    def __init__(self, *, debug: bool = False, **options: Any) -> None:
        self.clock = ManualClock()
        self.manager = SessionManager(clock=self.clock, monotonic=self.clock, log=False, **options)
        rules = [Alert("crowd", event="session_created", above=4, within=60, clear_at=0, cool_down=0)]
        self.monitor = SessionMonitor(interval=None, clock=self.clock, alerts=rules)
        self.monitor.attach(self.manager, debug=debug)

    def live(self) -> None:
        """Three sessions, one signed in to; one is deleted, one expires."""
        sessions = self.manager.blocking
        ids = [sessions.create_session(user).id for user in ("ada", None, None)]
        sessions.delete_session(ids[0], "logout")
        sessions.renew_session(ids[1])
        self.clock.advance(self.manager.policy.idle_timeout - 1)
        sessions.create_session()
        sessions.renew_session(ids[1])
        self.clock.advance(61)  # a cleanup looks at minutes that are over
        sessions.cleanup_expired()


Read = Callable[[str], dict[str | None, float]]


def samples_in(page: str, name: str) -> dict[str | None, float]:
    """Values by their one label."""
    return {
        next(iter(sample.labels.values()), None): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def in_prometheus(watched: Watched) -> Read:
    metrics = PrometheusMetrics(watched.monitor, registry=CollectorRegistry())

    def read(name: str) -> dict[str | None, float]:
        total = "" if name in {"sessions", "requests_in_flight", "backend_down"} else "_total"
        return samples_in(metrics.text(), f"session_middleware_{name}{total}")

    return read


def in_opentelemetry(watched: Watched) -> Read:
    reader = InMemoryMetricReader()
    OpenTelemetryMetrics(watched.monitor, meter_provider=MeterProvider([reader]))

    def read(name: str) -> dict[str | None, float]:
        watched.monitor.drain()
        data: Any = reader.get_metrics_data()
        return {
            next(iter(point.attributes.values()), None): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"session_middleware.{name}"
            for point in metric.data.data_points
        }

    return read


in_each = pytest.mark.parametrize("exported", [in_prometheus, in_opentelemetry])


@in_each
def test_the_figures_are_those_of_the_monitor(exported: Callable[[Watched], Read]) -> None:
    watched = Watched()
    read = exported(watched)
    watched.live()
    figures = watched.monitor.get_session_statistics()
    assert read("sessions_created") == {None: 4} == {None: figures["created"]}
    assert read("sessions_ended") == {"logout": 1, "idle_timeout": 1} == figures["ended"]
    assert read("logins") == {None: 1}
    assert read("sessions") == {None: 2} == {None: figures["active_sessions"]}
    assert read("events") == {name: count for name, count in figures["totals"].items() if count}
    assert read("events")["session_renewed"] == 2  # no event object was made of it
    assert read("backend_down") == {None: 0}
    assert read("requests_in_flight") == {None: 0}


@in_each
def test_losses_errors_and_attacks_are_told_apart(exported: Callable[[Watched], Read]) -> None:
    watched = Watched()
    read = exported(watched)
    emit, now = watched.manager.reporter.emit, watched.clock()
    emit("session_data_save_failed", "s", None, now, reason="gone", keys=["a"])
    emit("session_suspicious_activity", None, None, now, activity_type="bad_signature", details={})
    emit("sessions_cleanup_failed", None, None, now, exception=OSError("disk"))
    emit("request_refused", None, None, now, status=429)
    assert read("lost_writes") == {"gone": 1}
    assert read("suspicious_activities") == {"bad_signature": 1}
    assert read("errors") == {"gone": 1, "OSError": 1}
    assert read("requests_refused") == {None: 1}


@in_each
def test_labels_are_bounded_whoever_chooses_them(exported: Callable[[Watched], Read]) -> None:
    watched = Watched()
    read = exported(watched)
    for number in range(200):
        watched.monitor.log_suspicious_activity(None, None, f"kind {number}", {})
    found = read("suspicious_activities")
    assert len(found) == 65
    assert found["other"] == 200 - 64


@in_each
def test_an_exporter_that_raises_harms_neither_the_monitor_nor_another(
    exported: Callable[[Watched], Read],
) -> None:
    class Broken:
        def take(self, *_: object) -> None:
            raise OSError

        count = measure = look = take

    watched = Watched()
    watched.monitor.export_to(Broken())
    read = exported(watched)
    watched.live()
    assert read("sessions_created") == {None: 4}
    assert watched.monitor.errors > 4


def test_durations_are_in_seconds_in_histograms() -> None:
    watched = Watched(debug=True)
    metrics = PrometheusMetrics(watched.monitor, registry=CollectorRegistry())
    emit = watched.manager.reporter.emit
    emit("request_finished", "s", None, watched.clock(), duration=0.004, status=200)
    page = metrics.text()
    assert samples_in(page, "session_middleware_request_duration_seconds_sum") == {None: 0.004}
    buckets = samples_in(page, "session_middleware_request_duration_seconds_bucket")
    assert (buckets["0.0025"], buckets["0.005"]) == (0, 1)


def test_an_alert_is_a_gauge_that_goes_back() -> None:
    watched = Watched()
    metrics = PrometheusMetrics(watched.monitor, registry=CollectorRegistry())
    for _ in range(5):
        watched.manager.blocking.create_session()
    assert samples_in(metrics.text(), "session_middleware_alert") == {"crowd": 1}
    watched.clock.advance(120)
    assert samples_in(metrics.text(), "session_middleware_alert") == {"crowd": 0}


def test_two_monitors_over_one_registry_add_up() -> None:
    registry = CollectorRegistry()
    pair = [Watched(), Watched()]
    metrics = [PrometheusMetrics(watched.monitor, registry=registry) for watched in pair]
    for watched in pair:
        watched.manager.blocking.create_session()
        watched.monitor.drain()
    assert samples_in(metrics[0].text(), "session_middleware_sessions_created_total") == {None: 2}


def test_the_page_is_an_asgi_app_and_a_wsgi_app() -> None:
    watched = Watched()
    metrics = PrometheusMetrics(watched.monitor, registry=CollectorRegistry())
    watched.manager.blocking.create_session()
    by_asgi = TestClient(metrics.asgi_app).get("/").text
    answers: list[str] = []

    def start(status: str, _: Any) -> None:
        answers.append(status)

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": ""}
    by_wsgi = b"".join(metrics.wsgi_app(environ, start)).decode()
    assert answers == ["200 OK"]
    for page in (by_asgi, by_wsgi):
        assert samples_in(page, "session_middleware_sessions_created_total") == {None: 1}


WORKER = """
import sys
from session_middleware import SessionManager
from session_middleware.monitoring import SessionMonitor
from session_middleware.monitoring.prometheus import PrometheusMetrics

manager = SessionManager(f"sqlite:///{sys.argv[1]}", log=False)
monitor = SessionMonitor(interval=None).attach(manager)
metrics = PrometheusMetrics(monitor)
for number in range(int(sys.argv[2])):
    manager.blocking.create_session()
manager.blocking.cleanup_expired()
page = metrics.text()
if len(sys.argv) > 3:
    print(page)
"""


def test_a_scrape_answers_for_all_workers(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared), "PYTHONPATH": str(ROOT)}

    def work(*arguments: str) -> str:
        command = [sys.executable, "-c", WORKER, str(tmp_path / "s.db"), *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    work("3")
    page = work("2", "show")
    assert samples_in(page, "session_middleware_sessions_created_total") == {None: 5}
    assert samples_in(page, "session_middleware_sessions") == {None: 5}  # not 3 + 5: the backend counted
    assert samples_in(page, "session_middleware_events_total")["session_created"] == 5


def marked(manager: SessionManager, act: Callable[[], Iterable[object]]) -> dict[str, Any]:
    """The attributes of a span during which *act* was done."""
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        for _ in act():
            pass
    return dict(span.attributes)  # type: ignore[attr-defined]  # a span of the SDK


def test_a_span_tells_the_session_and_the_one_before_it() -> None:
    manager = SessionManager(log=False)
    end = mark_spans(manager)
    emit, now = manager.reporter.emit, 0.0
    first = marked(manager, lambda: [emit("session_data_retrieved", "one", None, now, data_keys=[])])
    assert first == {"session.id": "one"}

    def change() -> Iterable[object]:
        emit("session_data_retrieved", "one", None, now, data_keys=[])
        emit("session_deleted", "one", None, now, reason="logout")
        yield emit("session_created", "two", None, now)

    assert marked(manager, change) == {"session.id": "two", "session.previous_id": "one"}
    emit("session_data_retrieved", "three", None, now, data_keys=[])  # outside of any span
    end()
    assert marked(manager, lambda: [emit("session_created", "four", None, now)]) == {}


@pytest.mark.parametrize("made", [PrometheusMetrics, OpenTelemetryMetrics])
def test_what_is_no_monitor_is_named(made: Any) -> None:
    with pytest.raises(ConfigurationError, match="monitor: found SessionManager, pass a SessionMonitor"):
        made(SessionManager())


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("prometheus", "prometheus_client", "prometheus"), ("opentelemetry", "opentelemetry", "opentelemetry")],
)
def test_without_its_package_the_module_names_the_extra(module: str, missing: str, extra: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nimport session_middleware.monitoring.{module}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"pip install 'session_middleware[{extra}]'" in done.stderr
