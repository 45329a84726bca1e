"""An attached monitor sees every event, whatever the app does with structlog."""

import logging
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NoReturn

import pytest
import structlog
from structlog.testing import capture_logs

from session_middleware import SessionManager
from session_middleware.monitoring import SessionMonitor

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def untouched_structlog() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def drop_all(_logger: object, _method: str, _line: MutableMapping[str, Any]) -> NoReturn:
    raise structlog.DropEvent


def raising(_logger: object, _method: str, _line: MutableMapping[str, Any]) -> NoReturn:
    raise RuntimeError("a broken processor")


def at_level_warning() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def with_a_sampler() -> None:
    structlog.configure(processors=[drop_all])


def with_a_broken_processor() -> None:
    structlog.configure(processors=[raising])


def with_cached_loggers() -> None:
    structlog.configure(
        processors=[drop_all],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=True,
    )
    structlog.get_logger("session_middleware").info("cached now")


def not_at_all() -> None:
    assert not structlog.is_configured()


def created_by(manager: SessionManager) -> None:
    session = manager.blocking.create_session(user_id="u")
    manager.blocking.delete_session(session.id)


@pytest.mark.parametrize(
    "configure",
    [at_level_warning, with_a_sampler, with_a_broken_processor, with_cached_loggers, not_at_all],
)
def test_a_monitor_sees_every_event_whatever_structlog_is_set_to(configure: Callable[[], None]) -> None:
    configure()
    manager = SessionManager("memory://", secret_key=KEY)
    monitor = SessionMonitor(interval=None).attach(manager)
    created_by(manager)
    totals = monitor.get_session_statistics()["totals"]
    assert (totals["session_created"], totals["session_deleted"]) == (1, 1)


def test_a_monitor_sees_every_event_under_capture_logs_and_so_does_the_test() -> None:
    structlog.configure(processors=[drop_all])
    manager = SessionManager("memory://", secret_key=KEY)
    monitor = SessionMonitor(interval=None).attach(manager)
    with capture_logs() as lines:
        created_by(manager)
    assert monitor.get_session_statistics()["totals"]["session_created"] == 1
    assert "session_created" in [line["event"] for line in lines]


def test_without_events_of_level_debug_their_totals_come_from_the_managers_counts() -> None:
    manager = SessionManager("memory://", secret_key=KEY)
    session = manager.blocking.create_session(user_id="u")
    manager.blocking.renew_session(session.id)
    monitor = SessionMonitor(interval=None).attach(manager)  # what was before is not its own
    for _ in range(3):
        manager.blocking.renew_session(session.id)
    assert monitor.get_session_statistics()["renewed"] == 3
    assert monitor.get_session_statistics()["renewed"] == 3


def test_a_processor_in_a_filtered_chain_is_starved_so_the_test_above_can_fail() -> None:
    monitor = SessionMonitor(interval=None)
    structlog.configure(processors=[drop_all, monitor.processor])
    created_by(SessionManager("memory://", secret_key=KEY))
    assert monitor.get_session_statistics()["totals"] == {}


def test_a_processor_hands_on_every_line_as_it_is_and_never_raises() -> None:
    monitor = SessionMonitor(interval=None)
    for line in ({"event": "session_created", "timestamp": object()}, {"event": ["x"]}, {}):
        assert monitor.processor(None, "info", line) is line
    assert monitor.get_session_statistics()["totals"] == {"session_created": 1}
