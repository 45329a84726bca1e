"""One simulated day through each of the three ways in gives the true figures, and the same ones."""

import math
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
import structlog

from session_middleware import SessionManager
from session_middleware.events import SessionEvent
from session_middleware.monitoring import SessionMonitor
from session_middleware.testing import ManualClock
from tests.monitoring.day import START, Truth, day, line_of

END = START + 86_400
KEY = "0123456789abcdef0123456789abcdef"


def attached(events: list[SessionEvent]) -> SessionMonitor:
    clock = ManualClock(START)
    manager = SessionManager("memory://", secret_key=KEY, log=False, clock=clock)
    monitor = SessionMonitor(interval=None, clock=clock).attach(manager, debug=True)
    for event in events:
        clock.now = max(clock.now, event.timestamp)
        manager.reporter.emit(event.name, event.session_id, event.user_id, event.timestamp, **event.fields)
        monitor.drain()
    clock.now = END
    return monitor


def processed(events: list[SessionEvent]) -> SessionMonitor:
    clock = ManualClock(START)
    monitor = SessionMonitor(interval=None, clock=clock)
    logger = structlog.wrap_logger(structlog.ReturnLogger(), processors=[monitor.processor, as_text])
    for event in events:
        clock.now = max(clock.now, event.timestamp)
        ids = {"session_id": event.session_id, "user_id": event.user_id, "timestamp": event.timestamp}
        logger.info(event.name, **ids, **event.fields)
        monitor.drain()
    clock.now = END
    return monitor


def as_text(_logger: object, _method: str, line: MutableMapping[str, Any]) -> str:
    return repr(line)


def read(events: list[SessionEvent]) -> SessionMonitor:
    clock = ManualClock(START)
    monitor = SessionMonitor(interval=None, clock=clock)
    lines = [line_of(event) for event in events]
    assert monitor.feed(lines) == {"read": len(lines), "other": 0, "broken": 0}
    clock.now = END
    return monitor


WHOLE = pytest.param(1000, 1000, marks=pytest.mark.campaign, id="a million requests")


@pytest.mark.parametrize(("users", "requests"), [(120, 20), WHOLE])
@pytest.mark.parametrize("way", [attached, processed, read])
def test_the_figures_of_the_day_are_the_true_ones(
    way: Callable[[list[SessionEvent]], SessionMonitor], users: int, requests: int
) -> None:
    truth = Truth()
    events = list(day(users, requests, truth))
    figures = way(events).get_session_statistics()
    own = {"alert_raised", "alert_cleared", "session_suspicious_activity"}
    assert {n: c for n, c in figures["totals"].items() if n not in own} == {
        n: c for n, c in truth.totals.items() if n not in own
    }
    assert figures["suspicious"]["bad_signature"] == truth.suspicious["bad_signature"] == 400
    assert figures["ended"] == truth.ended
    assert figures["active_sessions"] == truth.live
    assert figures["distinct_users"] == len(truth.users)
    assert figures["distinct_sessions"] == len(truth.sessions)
    assert figures["lost_writes"] == {"backend_error": 24}
    took, ranked = figures["durations"]["request_duration"], sorted(truth.durations)
    assert took["count"] == len(ranked)
    assert math.isclose(took["mean"], sum(ranked) / len(ranked))
    for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert took[name] == pytest.approx(ranked[int(part * (len(ranked) - 1))], rel=0.02)


@pytest.mark.parametrize("way", [attached, processed, read])
def test_in_the_day_the_attack_is_found_and_nothing_else(
    way: Callable[[list[SessionEvent]], SessionMonitor],
) -> None:
    monitor = way(list(day(120, 20, Truth())))
    heard = [finding["activity_type"] for finding in monitor.get_session_statistics()["findings"]]
    assert set(heard) == {"bad_cookies_burst"}


def test_attaching_says_what_was_raised_as_events_in_their_order() -> None:
    heard = []
    clock = ManualClock(START)
    manager = SessionManager("memory://", secret_key=KEY, log=False, clock=clock)
    manager.subscribe("alert_raised", lambda event: heard.append(("raised", event.fields["rule"])))
    manager.subscribe("alert_cleared", lambda event: heard.append(("cleared", event.fields["rule"])))
    monitor = SessionMonitor(interval=None, clock=clock).attach(manager)
    for event in day(120, 5, Truth()):
        clock.now = max(clock.now, event.timestamp)
        manager.reporter.emit(event.name, event.session_id, event.user_id, event.timestamp, **event.fields)
        monitor.drain()
    assert heard == [
        ("raised", "suspicious_activity"),
        ("cleared", "suspicious_activity"),
        ("raised", "backend_unavailable"),
        ("raised", "lost_writes"),
        ("cleared", "backend_unavailable"),
        ("cleared", "lost_writes"),
    ]
