"""The methods of a monitor, its bounds, its thread, its store and its export."""

import json
import os
import threading
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from session_middleware import SessionManager
from session_middleware.errors import ConfigurationError
from session_middleware.events import EVENTS
from session_middleware.monitoring import Alert, SessionEvent, SessionMonitor, get_session_monitor
from session_middleware.monitoring import monitor as module
from session_middleware.monitoring.alerts import DEFAULTS
from session_middleware.testing import ManualClock

KEY = "0123456789abcdef0123456789abcdef"
T = 1_760_054_400.0
BAD_COOKIE = '{"event": "session_suspicious_activity", "activity_type": "bad_signature"'


def quiet(**options: Any) -> SessionMonitor:
    return SessionMonitor(interval=None, clock=options.pop("clock", ManualClock(T)), **options)


def event(
    name: str = "session_created",
    moment: float = T,
    sid: str | None = "s",
    uid: str | None = "u",
    **fields: object,
) -> SessionEvent:
    return SessionEvent(name, sid, uid, moment, MappingProxyType(fields))


def report_everything(monitor: SessionMonitor) -> None:
    monitor.log_system_startup()
    monitor.log_session_created("s", 7, platform_id=1)
    monitor.log_platform_switch("s", 7, None, 2, 0.25)
    monitor.log_suspicious_activity("s", 7, "odd", {"why": "x"})
    monitor.log_session_error("s", 7, "SyncError", "timed out")
    monitor.log_session_expired("s", 7, "idle_timeout")


@pytest.mark.parametrize("attached", [False, True])
def test_the_ready_methods_count_once_each_attached_or_not(attached: bool) -> None:
    monitor = quiet()
    heard = []
    if attached:
        manager = SessionManager("memory://", secret_key=KEY, log=False)
        monitor.attach(manager).attach(manager)
        manager.subscribe(None, lambda event: heard.append(event.name))
    report_everything(monitor)
    figures = monitor.get_session_statistics()
    assert set(figures["totals"].values()) == {1}
    assert len(figures["totals"]) == 6
    assert heard == (list(figures["totals"]) if attached else [])
    assert figures["ended"] == {"idle_timeout": 1}
    assert figures["switched"] == {"platform": 1}
    assert figures["errors"] == {"SyncError": 1}
    assert figures["suspicious"] == {"odd": 1}
    assert figures["durations"]["context_switch_duration"]["max"] == 0.25
    assert figures["by_user"] == {"7": 5}
    assert figures["active_sessions"] == 0


def test_all_statistics_and_reports_are_json() -> None:
    monitor = quiet()
    report_everything(monitor)
    assert json.loads(json.dumps(monitor.get_session_statistics()))
    assert json.loads(json.dumps(monitor.get_session_health_report()))["status"] == "healthy"


def test_a_detached_monitor_hears_nothing_more() -> None:
    manager = SessionManager("memory://", secret_key=KEY, log=False)
    monitor = quiet().attach(manager)
    manager.blocking.create_session()
    monitor.detach(manager)
    manager.blocking.create_session()
    assert monitor.get_session_statistics()["created"] == 1


def test_live_sessions_are_the_backends_count_and_what_came_after_it() -> None:
    monitor = quiet()
    facts = {"count": 40, "capacity": 100, "average_age": 60.0, "by_status": {"active": 40}}
    for one in (
        event(),
        event("session_usage", sid=None, **facts),
        event(),
        event(),
        event("session_evicted"),
    ):
        monitor.record_event(one)
    figures = monitor.get_session_statistics()
    assert (figures["active_sessions"], figures["average_age"]) == (41, 60.0)
    report = monitor.get_session_health_report()
    assert report["checks"]["utilization"]["value"] == 0.41


def test_a_full_queue_loses_details_and_no_total() -> None:
    monitor = quiet(queue_size=10)
    for _ in range(25):
        monitor.record_event(event())
    figures = monitor.get_session_statistics()
    assert figures["totals"] == {"session_created": 25}
    assert figures["monitor"]["dropped"] == 15
    assert monitor.get_session_health_report()["checks"]["events_dropped"]["status"] == "warning"


def test_odd_facts_are_counted_and_harm_nothing() -> None:
    monitor = quiet()
    monitor.record_event(event(moment=float("nan")))
    monitor.record_event(event("session_usage", count="many", capacity=None))
    monitor.record_event(event("session_expired", created_at="yesterday"))
    monitor.record_metric("x", None, None, float("inf"))
    figures = monitor.get_session_statistics()
    assert figures["totals"] == {"session_usage": 1, "session_expired": 1}
    assert figures["monitor"]["refused"] == 2
    with pytest.raises(ConfigurationError, match="pass a SessionEvent"):
        monitor.record_event("session_created")


ODD = [
    None,
    True,
    -1,
    1e308,
    10**12,
    10**12 + 1,
    10**400,
    "",
    "x" * 1000,
    [],
    [[1]],
    {},
    {"a": [1]},
    {"a": 1, "b": "c"},
]


@pytest.mark.parametrize("name", EVENTS)
def test_a_log_lines_fields_may_hold_anything_and_it_is_counted_whole(name: str, tmp_path: Path) -> None:
    rule = Alert("of a reason", event=name, above=0, reason="x")
    monitor = quiet(alerts=[*DEFAULTS, rule], store=f"sqlite:///{tmp_path}/figures.db")
    keys = ["session_id", "user_id", "suppressed", "summary", *EVENTS[name].fields]
    lines = [json.dumps({"event": name, "timestamp": T, key: odd}) for key in keys for odd in ODD]
    assert monitor.feed(lines) == {"read": len(lines), "other": 0, "broken": 0}
    figures = monitor.get_session_statistics()
    assert figures["monitor"] == {"dropped": 0, "errors": 0, "refused": 0, "store_errors": 0}
    left_out = [one + 1 for one in ODD if type(one) is int and 0 <= one <= 10**12]
    assert figures["totals"][name] == len(lines) - len(left_out) + sum(left_out)
    json.dumps([figures, monitor.get_session_health_report()], allow_nan=False)


def test_of_a_usage_line_only_numbers_are_kept_as_numbers_of_sessions() -> None:
    monitor = quiet()
    usage = {"event": "session_usage", "count": 3, "timestamp": T}
    monitor.feed([json.dumps({**usage, "by_status": {"done": 2, "odd": "many"}})])
    assert monitor.get_session_statistics()["by_status"] == {"done": 2}
    monitor.feed([json.dumps({**usage, "by_status": ["done"]})])
    assert monitor.get_session_statistics()["by_status"] == {}


def test_lines_are_read_ours_or_others_or_broken() -> None:
    monitor = quiet()
    lines = [
        '{"event": "session_created", "session_id": "s", "timestamp": "2025-10-10T00:00:00Z"}',
        b'{"event": "session_created", "session_id": "t", "timestamp": 1760054400.5}',
        '{"message": "session_deleted", "reason": "logout"}',
        BAD_COOKIE + ', "suppressed": 9}',
        BAD_COOKIE + ', "suppressed": 5, "summary": true}',
        '{"event": "app started"}',
        '{"event": ["session_created"]}',
        "INFO: 127.0.0.1",
        '{"event": ',
        "[1]",
        b"\xff\xfe",
        "",
    ]
    assert monitor.feed(lines) == {"read": 11, "other": 2, "broken": 4}
    figures = monitor.get_session_statistics()
    assert figures["created"] == 2
    assert figures["ended"] == {"logout": 1}
    assert figures["suspicious"] == {"bad_signature": 15}
    assert (figures["since"], figures["until"]) == (T, T + 0.5)


def test_measurements_come_back_in_their_time_range_as_dicts_lines_and_table() -> None:
    clock = ManualClock(T)
    monitor = quiet(clock=clock)
    for number in range(5):
        clock.now = T + number
        monitor.record_metric("sync_time", "s", 7, number, {"platform": "=cmd"})
    start, end = datetime.fromtimestamp(T + 1, UTC), T + 3
    rows = monitor.export_metrics(start, end)
    assert [row["value"] for row in rows] == [1.0, 2.0, 3.0]
    assert set(rows[0]) == {"metric_type", "session_id", "user_id", "value", "timestamp", "metadata"}
    assert [json.loads(line) for line in monitor.export_metrics(start, end, "jsonl").splitlines()] == rows
    assert monitor.export_metrics(start, end, "csv").splitlines()[0].startswith("timestamp,metric_type")
    with pytest.raises(ConfigurationError, match="'dicts', 'jsonl' or 'csv'"):
        monitor.export_metrics(format="xml")


def test_a_spreadsheet_runs_nothing_of_an_exported_table() -> None:
    monitor = quiet()
    monitor.record_metric("=HYPERLINK(1)", "+s", 7, 1.0)
    assert "'=HYPERLINK(1),'+s," in monitor.export_metrics(format="csv")


def test_the_ring_of_measurements_keeps_the_last_ones() -> None:
    monitor = quiet(metrics_kept=3)
    for number in range(5):
        monitor.record_metric("x", None, None, number)
    assert [row["value"] for row in monitor.export_metrics()] == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("store", [None, "sqlite:///figures.db"])
def test_old_data_goes_and_zero_days_drop_all(
    store: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clock = ManualClock(T)
    monitor = quiet(clock=clock, store=store)
    monitor.record_event(event())
    monitor.record_metric("x", None, None, 1.0)
    clock.now = T + 3 * 86_400
    monitor.record_event(event(moment=clock.now))
    assert monitor.get_session_statistics()["created"] == 2
    assert monitor.cleanup_old_data(2) > 0
    assert monitor.get_session_statistics()["created"] == 1
    assert monitor.export_metrics() == []
    assert monitor.cleanup_old_data(retention_days=0) > 0
    assert monitor.get_session_statistics()["totals"] == {}


def test_figures_outlive_their_process_and_add_up_over_workers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'figures.db'}"
    one, two = quiet(store=url), quiet(store=url)
    for number in range(3000):
        one.record_event(event(sid=f"s{number}"))
        two.record_event(event(sid=f"s{number + 1500}"))
    one.record_metric("x", None, None, 1.0)
    two.record_metric("x", None, None, 3.0)
    one.drain()
    two.close()
    one.close()
    figures = quiet(store=url).get_session_statistics()
    assert figures["totals"] == {"session_created": 6000}
    assert figures["distinct_sessions"] == pytest.approx(4500, rel=0.02)
    assert figures["durations"]["x"] == {**figures["durations"]["x"], "count": 2, "mean": 2.0}
    assert sorted(row["value"] for row in one.export_metrics()) == [1.0, 3.0]
    assert one.get_session_statistics()["totals"] == {"session_created": 6000}  # reading adds nothing


def test_what_the_store_does_not_take_is_kept_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "figures.db"
    monitor = quiet(store=f"sqlite:///{path}")
    path.write_bytes(b"not a database, and long enough to be sure" * 100)
    monitor.record_event(event())
    assert monitor.get_session_statistics()["created"] == 1
    assert monitor.get_session_statistics()["monitor"]["store_errors"] > 0
    path.unlink()
    assert monitor.get_session_statistics()["created"] == 1
    assert quiet(store=f"sqlite:///{path}").get_session_statistics()["created"] == 1


@pytest.mark.parametrize("url", ["figures.db", "sqlite:///", "sqlite:////nowhere/at/all.db", 7])
def test_a_store_that_cannot_be_is_refused_at_once(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="store: "):
        SessionMonitor(store=url)


def test_the_thread_takes_in_events_and_ends_with_its_monitor() -> None:
    seen, before = threading.Event(), threading.enumerate()
    monitor = SessionMonitor(interval=0.001)
    monitor.on_alert(lambda _message: seen.set())
    monitor.record_event(event("backend_unavailable"))
    assert seen.wait(10)
    (thread,) = set(threading.enumerate()) - set(before)
    assert thread.name == "session-monitor"
    monitor.close()
    assert not thread.is_alive()


def test_a_callback_that_raises_is_counted_and_the_next_one_is_called() -> None:
    heard = []
    monitor = quiet()
    monitor.on_alert(lambda _message: 1 / 0)
    monitor.on_alert(heard.append)
    monitor.record_event(event("backend_unavailable"))
    assert monitor.get_session_statistics()["monitor"]["errors"] == 1
    assert len(heard) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks only where there are forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_counts_its_own_events_and_not_its_parents() -> None:
    monitor = quiet()
    monitor.record_event(event())
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        monitor.record_event(event("session_deleted"))
        os.write(writing, json.dumps(monitor.get_session_statistics()["totals"]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        assert json.load(answer) == {"session_deleted": 1}
    assert os.waitpid(child, 0)[1] == 0
    assert monitor.get_session_statistics()["totals"] == {"session_created": 1}


def test_there_is_one_monitor_per_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_GLOBAL", [])
    assert get_session_monitor() is get_session_monitor()
    with pytest.raises(ConfigurationError, match="exists already"):
        get_session_monitor(store=f"sqlite:///{tmp_path}/figures.db")


def test_memory_is_bounded_whatever_the_traffic() -> None:
    """A slice of the campaign: the last third of the events costs next to nothing more."""
    tracemalloc.start()
    try:
        monitor = quiet()
        sizes = []
        for part in range(3):
            for number in range(20_000):
                sid = f"session-{part}-{number}"
                monitor.record_event(
                    event(sid=sid, uid=f"user-{part}-{number}", moment=T + part * 6 + number / 4000)
                )
                monitor.record_event(event("request_finished", sid=sid, uid=None, duration=number / 7))
                if number % 5000 == 0:
                    monitor.drain()
            monitor.drain()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[2] < 10_000_000
    assert sizes[2] - sizes[1] < 300_000
