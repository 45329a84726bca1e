"""Each event of the vocabulary really happens, with the fields that the table lists and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from session_middleware import BackendUnavailable, SessionCapacityError, SessionConflictError
from session_middleware.blocking import run_blocking
from session_middleware.events import EVENTS
from session_middleware.monitoring import Alert, SessionMonitor
from session_middleware.record import Delta
from session_middleware.state import UserSession
from tests.life.harness import ABSOLUTE, IDLE, Browser, Site

MakeSite = Callable[..., Site]
driver = pytest.mark.parametrize("driver", ["async", "wsgi"])  # the plain driver has no requests


class Scenario:
    """A site, a visitor, and what happens to them."""

    def __init__(self, make_site: MakeSite) -> None:
        self.make_site = make_site
        self.site = make_site()
        self.browser = self.site.browser()

    def known(self) -> Browser:
        self.browser.visit(lambda session: session.update(a=1))
        return self.browser

    def away(self, operation: str, times: int = 1) -> None:
        self.site.port.faults[operation] = [BackendUnavailable("no route to it") for _ in range(times)]

    # --- one per event ---

    def session_manager_initialized(self) -> None:
        if self.site.colour == "async":
            self.site.run(self.site.manager.start())
        else:
            self.site.manager.blocking.start()

    def session_manager_stopped(self) -> None:
        if self.site.colour == "async":
            self.site.run(self.site.manager.stop(0))
        else:
            self.site.manager.blocking.stop(0)

    def session_created(self) -> None:
        self.known()

    def session_creation_failed(self) -> None:
        self.away("create")
        assert self.browser.visit(lambda session: session.update(a=1)).status == 503

    def session_renewed(self) -> None:
        self.known()
        self.site.clock.advance(IDLE - 1)
        self.browser.visit()

    def session_renewal_failed(self) -> None:
        with pytest.raises(ValueError, match="no live session"):
            self.site.do("renew_session", "A" * 22)

    def session_deleted(self) -> None:
        self.known().visit(lambda session: session.clear())

    def sessions_ended(self) -> None:
        self.site.do("end_all_before", self.site.clock())

    def session_deletion_failed(self) -> None:
        assert self.site.do("delete_session", "A" * 22) is False

    def session_expired(self) -> None:
        self.known()
        self.site.clock.advance(ABSOLUTE + 60)
        self.site.do("cleanup_expired")

    def session_data_retrieved(self) -> None:
        self.known().visit(lambda session: session.get("a"))

    def session_data_retrieval_failed(self) -> None:
        self.site.do("get_session", "A" * 22)

    def session_data_saved(self) -> None:
        self.known()

    def session_data_save_failed(self) -> None:
        held = self.known().begin()
        held.session["b"] = 2
        self.site.do("delete_session", self.browser.id)
        held.respond()

    def session_cycled(self) -> None:
        self.known().visit(lambda session: session.cycle())

    def session_user_bound(self) -> None:
        self.browser.login("ann")

    def session_user_unbound(self) -> None:
        self.browser.visit(lambda session: session.update(user_id="ann"))  # an app that knows no login()
        self.browser.visit(lambda session: session.pop("user_id"))

    def session_status_changed(self) -> None:
        self.site.do("set_status", self.known().id, "processing")

    def session_progress(self) -> None:
        self.site.do("set_progress", self.known().id, 1, 2, "half")

    def session_context_switched(self) -> None:
        def switch(session: Any) -> None:
            UserSession(session, clock=self.site.clock).contexts.switch("platform", "web")

        self.known().visit(switch)

    def session_suspicious_activity(self) -> None:
        self.site.browser("no cookie of ours").visit()

    def session_evicted(self) -> None:
        self.site = self.make_site(max_sessions_per_user=1)
        for _ in range(2):
            self.site.browser().login("ann")

    def session_conflict(self) -> None:
        session_id = self.known().id

        def another_is_faster() -> None:
            other = Delta(set={"a": b"5"})
            beside = self.site.spy.inner.port("blocking")
            run_blocking(beside.commit(session_id, other, self.site.clock()))

        self.site.port.meanwhile["commit"] = another_is_faster
        with pytest.raises(SessionConflictError):
            self.site.do("transact", session_id, lambda session: session.update(a=2), attempts=1)

    def request_started(self) -> None:
        self.known().visit()

    def request_finished(self) -> None:
        self.known().visit()

    def request_refused(self) -> None:
        self.site = self.make_site(max_concurrent_requests=1)
        self.site.browser().begin()
        assert self.site.browser().visit().status == 503

    def sessions_cleaned_up(self) -> None:
        self.site.do("cleanup_expired")

    def sessions_cleanup_failed(self) -> None:
        self.away("delete_expired")
        with pytest.raises(BackendUnavailable):
            self.site.do("cleanup_expired")

    def session_usage(self) -> None:
        self.site.do("cleanup_expired")

    def backend_unavailable(self) -> None:
        self.known()
        self.away("load")
        assert self.browser.visit().status == 503

    def backend_recovered(self) -> None:
        self.backend_unavailable()
        self.browser.visit()

    def session_error(self) -> None:
        self.monitor().log_session_error("s", "ann", "SyncError", "timed out")

    def monitor_started(self) -> None:
        self.monitor().log_system_startup()

    def alert_raised(self) -> None:
        monitor = self.monitor()
        self.known()
        monitor.drain()

    def alert_cleared(self) -> None:
        monitor = self.monitor()
        self.known()
        monitor.drain()
        self.site.clock.advance(1000)
        monitor.drain()

    def monitor(self) -> SessionMonitor:
        rule = Alert("any", event="session_created", above=0, within=60)
        made = SessionMonitor(interval=None, clock=self.site.clock, alerts=[rule])
        return made.attach(self.site.manager)


@driver
@pytest.mark.parametrize("name", EVENTS)
def test_it_happens_with_the_fields_of_the_table(make_site: MakeSite, name: str) -> None:
    scenario = Scenario(make_site)
    getattr(scenario, name)()
    heard = [event for event in scenario.site.events if event.name == name]
    assert heard
    for event in heard:
        assert set(event.fields) <= set(EVENTS[name].fields)
        assert event.timestamp == pytest.approx(scenario.site.clock(), abs=ABSOLUTE + 1000)
        assert event.manager is scenario.site.manager


def test_a_limit_that_refuses_is_no_eviction(make_site: MakeSite) -> None:
    """Control: a scenario in which the event must not happen is told apart."""
    site = make_site(max_sessions_per_user=1, on_too_many="reject")
    site.do("create_session", "ann")
    with pytest.raises(SessionCapacityError):
        site.do("create_session", "ann")
    assert "session_evicted" not in site.told
