"""Which monitor takes in whose events: the process's own by default, another one where the app says so."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from session_middleware import ConfigurationError, SessionManager, SessionMiddleware, WSGISessionMiddleware
from session_middleware.flask import init_app, manager_of
from session_middleware.monitoring import Alert, SessionMonitor, get_session_monitor
from session_middleware.monitoring import monitor as module
from session_middleware.testing import ManualClock

KEY = "0123456789abcdef0123456789abcdef"


async def asgi(*_: Any) -> None: ...


def wsgi(*_: Any) -> list[bytes]:
    return []


def flask_manager(**options: Any) -> SessionManager:
    app = Flask("app")
    app.secret_key = KEY
    init_app(app, **options)
    return manager_of(app)


ENTRANCES = {
    "asgi": lambda **options: SessionMiddleware(asgi, KEY, **options).manager,
    "wsgi": lambda **options: WSGISessionMiddleware(wsgi, KEY, **options).manager,
    "flask": flask_manager,
}
at_each_entrance = pytest.mark.parametrize("made", ENTRANCES.values(), ids=ENTRANCES)


@pytest.fixture(autouse=True)
def _own_process_monitor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known: list[SessionMonitor] = []
    monkeypatch.setattr(module, "_GLOBAL", known)
    yield
    for monitor in known:
        monitor.close()


def created(monitor: SessionMonitor) -> int:
    return int(monitor.get_session_statistics()["created"])


@at_each_entrance
def test_an_entrance_attaches_the_monitor_of_the_process(made: Any) -> None:
    manager = made()
    manager.blocking.create_session()
    assert created(get_session_monitor()) == 1


@at_each_entrance
def test_an_entrance_attaches_the_monitor_it_is_given_and_no_other(made: Any) -> None:
    mine = SessionMonitor(interval=None)
    manager = made(monitor=mine)
    manager.blocking.create_session()
    assert created(mine) == 1
    assert list(manager.reporter.attached) == [mine]


@at_each_entrance
def test_an_entrance_attaches_none_where_none_is_wanted(made: Any) -> None:
    assert not made(monitor=False).reporter.attached


@at_each_entrance
def test_what_is_no_monitor_is_named(made: Any) -> None:
    with pytest.raises(ConfigurationError, match="monitor: found str, pass a SessionMonitor"):
        made(monitor="sqlite:///monitor.db")


def test_without_the_extra_an_entrance_attaches_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_middleware.arguments.find_spec", lambda _: None)
    assert not SessionMiddleware(asgi, KEY).manager.reporter.attached


def test_a_monitor_that_was_attached_before_stays_the_only_one() -> None:
    manager = SessionManager("memory://", secret_key=KEY)
    mine = SessionMonitor(interval=None).attach(manager)
    SessionMiddleware(asgi, manager=manager)
    assert list(manager.reporter.attached) == [mine]


def test_a_monitor_that_is_attached_later_takes_the_place_of_the_default_one() -> None:
    manager = SessionMiddleware(asgi, KEY).manager
    mine = SessionMonitor(interval=None).attach(manager)
    manager.blocking.create_session()
    assert (created(mine), created(get_session_monitor())) == (1, 0)


def test_of_an_alert_of_the_default_rules_there_is_one_event() -> None:
    """Control of the two tests above: two monitors that were both asked for raise it twice."""
    clock = ManualClock()
    raised: dict[str, int] = {}
    for name in ("one", "two"):
        manager = SessionManager("memory://", secret_key=KEY, clock=clock, monotonic=clock)
        manager.subscribe("alert_raised", lambda _, name=name: raised.update({name: raised.get(name, 0) + 1}))
        rules = [Alert("any", event="session_created", above=0)]
        monitors = [SessionMonitor(interval=None, alerts=rules, clock=clock) for _ in range(2)]
        if name == "one":
            monitors[0].attach_by_default(manager)
            monitors[1].attach_by_default(manager)
        else:
            monitors[0].attach(manager)
            monitors[1].attach(manager)
        manager.blocking.create_session()
        for monitor in monitors:
            monitor.drain()
    assert raised == {"one": 1, "two": 2}


def test_the_default_one_can_be_asked_for_debug_events_too() -> None:
    manager = SessionMiddleware(asgi, KEY).manager
    monitor = get_session_monitor().attach(manager, debug=True)
    session = manager.blocking.create_session()
    manager.blocking.renew_session(session.id)
    assert monitor.get_session_statistics()["renewed"] == 1
    assert monitor.get_session_statistics()["created"] == 1


def test_a_monitor_keeps_no_manager_alive_and_loses_none_of_its_counts(tmp_path: Path) -> None:
    monitor = SessionMonitor(interval=None)
    manager = SessionManager("memory://", secret_key=KEY)
    monitor.attach(manager)
    session = manager.blocking.create_session()
    monitor.drain()  # what waits in the queue knows its sender
    manager.blocking.renew_session(session.id)
    gone = weakref.ref(manager)
    del manager, session
    gc.collect()
    assert gone() is None
    figures = monitor.get_session_statistics()
    assert (figures["created"], figures["renewed"], figures["active_requests"]) == (1, 1, None)
    assert monitor._ledgers == []
