"""Each default alert and each finding: a scenario that must raise it, and one close to it that must not."""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import pytest

from session_middleware.errors import ConfigurationError
from session_middleware.monitoring import DEFAULTS, Alert, SessionEvent, SessionMonitor
from session_middleware.testing import ManualClock

T = 1_760_054_400.0


def event(name: str, moment: float, sid: str | None = None, **fields: object) -> SessionEvent:
    return SessionEvent(name, sid, None, T + moment, MappingProxyType(fields))


def events(
    name: str, number: int, every: float = 1.0, start: float = 0.0, **fields: object
) -> list[SessionEvent]:
    return [event(name, start + n * every, **fields) for n in range(number)]


def suspicious(
    kind: str, number: int, every: float = 1.0, sid: str | None = None, **details: object
) -> list[SessionEvent]:
    facts = {"activity_type": kind, "details": details}
    return [event("session_suspicious_activity", n * every, sid, **facts) for n in range(number)]


def heard_by(
    told: list[SessionEvent], *, alerts: Iterable[Alert] = DEFAULTS, until: float = 0.0
) -> list[Any]:
    """What was raised and cleared, in order, by a monitor that looks after every event."""
    heard = []
    clock = ManualClock(T)
    monitor = SessionMonitor(interval=None, clock=clock, alerts=alerts)
    monitor.on_alert(heard.append)
    for one in told:
        clock.now = max(clock.now, one.timestamp)
        monitor.record_event(one)
        monitor.drain()
    for moment in range(0, int(until), 10):
        clock.now = max(clock.now, T + moment)
        monitor.drain()
    return [(one.name, one.rule) if hasattr(one, "rule") else one.activity_type for one in heard]


def usage(count: float, moment: float = 0.0) -> SessionEvent:
    return event("session_usage", moment, count=count, capacity=100, average_age=1.0, by_status={})


ERRORS = {"exception": "OSError: x"}
RAISING = {
    "backend_unavailable": ([event("backend_unavailable", 0)], []),
    "sessions_near_capacity": ([usage(91)], [usage(90)]),
    "lost_writes": (
        events("session_data_save_failed", 11, reason="gone"),
        events("session_data_save_failed", 40, every=31, reason="gone"),
    ),
    "session_errors": (
        events("session_creation_failed", 160, every=1, **ERRORS),
        events("session_data_retrieval_failed", 500, every=0.5, reason="not_found_or_expired"),
    ),
    "suspicious_activity": (
        suspicious("cookie_conflict", 320, every=0.5),
        suspicious("cookie_conflict", 320, every=2),
    ),
    "cleanup_failing": (
        events("sessions_cleanup_failed", 3, every=300, **ERRORS),
        events("sessions_cleanup_failed", 3, every=1900, **ERRORS),
    ),
    "requests_refused": (
        events("request_refused", 101, every=0.5, limit=1),
        events("request_refused", 101, every=1, limit=1),
    ),
    "cleanup_overdue": (
        [event("sessions_cleaned_up", 0), event("session_created", 3700)],
        [event("sessions_cleaned_up", 0), event("session_created", 3500)],
    ),
}


def test_there_is_a_scenario_for_each_default_alert() -> None:
    assert set(RAISING) == {rule.name for rule in DEFAULTS}


@pytest.mark.parametrize("rule", RAISING)
def test_a_default_alert_is_raised_when_it_should_and_not_otherwise(rule: str) -> None:
    raising, close = RAISING[rule]
    assert ("alert_raised", rule) in heard_by(raising)
    assert ("alert_raised", rule) not in heard_by(close)


def test_a_value_that_trembles_at_the_threshold_raises_once() -> None:
    rule = Alert("full", metric="utilization", above=0.9, clear_at=0.8, cool_down=0)
    trembling = [usage(count, n * 10) for n, count in enumerate([91, 89, 92, 85, 91, 95])]
    assert heard_by(trembling, alerts=[rule]) == [("alert_raised", "full")]
    falls = [*trembling, usage(80, 100)]
    assert heard_by(falls, alerts=[rule]) == [("alert_raised", "full"), ("alert_cleared", "full")]


def test_a_cleared_alert_stays_quiet_for_its_cool_down_and_is_raised_after_it() -> None:
    rule = Alert("full", metric="utilization", above=0.9, cool_down=100)
    told = [usage(95, 0), usage(10, 10), usage(95, 60)]
    assert heard_by(told, alerts=[rule]) == [("alert_raised", "full"), ("alert_cleared", "full")]
    assert heard_by(told, alerts=[rule], until=120)[2:] == [("alert_raised", "full")]


def test_an_event_alert_is_cleared_by_the_passing_of_time() -> None:
    rule = Alert("logins", event="session_user_bound", above=2, within=60)
    heard = heard_by(events("session_user_bound", 3), alerts=[rule], until=90)
    assert heard == [("alert_raised", "logins"), ("alert_cleared", "logins")]


def test_a_rule_of_the_apps_own_looks_at_its_own_metric() -> None:
    monitor = SessionMonitor(interval=None, alerts=[])
    monitor.add_alert(Alert("slow", metric="sync_time", above=2.0, advice="Look at the platform."))
    monitor.record_metric("sync_time", "s", 7, 2.0)
    assert monitor.get_session_health_report()["alerts"] == []
    monitor.record_metric("sync_time", "s", 7, 2.5)
    report = monitor.get_session_health_report()
    assert [alert["what_to_do"] for alert in report["alerts"]] == ["Look at the platform."]
    assert report["status"] == "warning"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "either event= or metric="),
        ({"event": "a", "metric": "b"}, "either event= or metric="),
        ({"metric": "a", "above": float("nan")}, "above must be"),
        ({"event": "a", "within": 0}, "within must be"),
        ({"metric": "a", "above": 1, "clear_at": 2}, "would flap"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Alert("mine", **wrong)


CLIENTS = {"old": {"network": "a", "user_agent": "x"}}
BURST = [*events("session_created", 120, every=30), *events("session_created", 120, every=0.4, start=3600)]
STEADY = events("session_created", 2400, every=0.5)
FINDINGS = {
    "bad_cookies_burst": (
        suspicious("bad_signature", 21, client="a"),
        [*suspicious("bad_signature", 20, client="a"), *suspicious("unknown_id", 20, client="b")],
    ),
    "cookie_replay": (
        suspicious("superseded_cookie", 4, every=30, sid="s"),
        [*suspicious("superseded_cookie", 3, sid="s"), *suspicious("superseded_cookie", 3, sid="t")],
    ),
    "distant_clients": (
        suspicious("fingerprint_changed", 1, sid="s", new={"network": "b", "user_agent": "y"}, **CLIENTS),
        suspicious("fingerprint_changed", 2, sid="s", new={"network": "b", "user_agent": "x"}, **CLIENTS),
    ),
    "creation_burst": (BURST, STEADY),
}


@pytest.mark.parametrize("kind", FINDINGS)
def test_suspicious_activity_is_found_when_it_is_there_and_not_otherwise(kind: str) -> None:
    there, close = FINDINGS[kind]
    assert heard_by(there, alerts=[]).count(kind) == 1
    assert kind not in heard_by(close, alerts=[])


def test_a_finding_is_not_repeated_before_its_window_has_passed() -> None:
    assert heard_by(suspicious("bad_signature", 41, client="a"), alerts=[]) == ["bad_cookies_burst"]
    assert heard_by(suspicious("bad_signature", 42, client="a"), alerts=[]) == ["bad_cookies_burst"] * 2
