"""How long sessions live: both timeouts, exact to the clock reading, whether or not a cleanup runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from session_middleware.errors import ConfigurationError
from session_middleware.record import Ended
from tests.life.harness import ABSOLUTE, IDLE, Browser, Site


@pytest.fixture
def known(site: Site, browser: Browser) -> Browser:
    """A visitor whose session begins now."""
    browser.visit(lambda session: session.update(a=1))
    site.forget()
    return browser


def keep_alive(site: Site, browser: Browser, until: float) -> None:
    """Visits every 500 s up to the time *until*."""
    while site.clock.now + 500 < until:
        site.clock.advance(500)
        browser.visit()
    site.clock.advance(until - site.clock.now)


def test_the_idle_timeout_is_exact(site: Site, known: Browser) -> None:
    born = site.clock.now
    site.clock.now = born + IDLE - 0.001
    assert known.twin().begin(looks=True).session.get("a") == 1
    site.clock.now = born + IDLE
    held = known.begin()
    assert (dict(held.session), held.session.ended_because) == ({}, "idle_timeout")


def test_the_absolute_timeout_is_exact_however_active_the_session_is(site: Site, known: Browser) -> None:
    limit = site.clock.now + ABSOLUTE
    keep_alive(site, known, limit - 0.001)
    assert known.sees == {"a": 1}
    site.clock.now = limit
    held = known.begin()
    assert (dict(held.session), held.session.ended_because) == ({}, "absolute_timeout")


def test_no_renewal_passes_the_absolute_deadline(site: Site, known: Browser) -> None:
    limit = site.clock.now + ABSOLUTE
    keep_alive(site, known, limit - 100)
    response = known.visit(lambda session: session.renew())
    assert (site.record(known.id).deadline, response.max_age) == (limit, 100)


def test_at_the_limit_reads_stop_renewing(site: Site, known: Browser) -> None:
    keep_alive(site, known, site.clock.now + ABSOLUTE - 100)
    known.visit()
    site.forget()
    assert known.visit().set_cookie is None
    assert site.calls == ["load"]


def test_only_a_login_moves_the_absolute_deadline(site: Site, known: Browser) -> None:
    limit = site.record(known.id).limit
    site.clock.advance(500)
    known.visit(lambda session: (session.renew(), session.cycle(), session.set_expiry(10_000.0)))
    assert (site.record(known.id).limit, site.record(known.id).deadline) == (limit, limit)
    known.login("ann")
    assert site.record(known.id).limit == site.clock.now + ABSOLUTE


def test_a_session_that_expired_meanwhile_is_not_saved(site: Site, known: Browser) -> None:
    slow = known.begin()
    site.clock.advance(IDLE)
    slow.session["b"] = 1
    assert slow.respond().set_cookie is None
    assert site.lost() == ("gone", ["b"])


def test_an_active_session_costs_few_writes(site: Site, known: Browser) -> None:
    for _ in range(100):
        site.clock.advance(IDLE / 100)
        known.visit()
    assert site.calls.count("load") == 100
    assert site.calls.count("commit") <= 5


def test_a_request_that_does_not_look_renews_nothing(site: Site, known: Browser) -> None:
    site.clock.advance(500)
    known.visit(looks=False)
    assert "commit" not in site.calls


def test_a_passive_route_renews_nothing_and_still_saves(make_site: Callable[..., Site]) -> None:
    site = make_site(passive=["/poll"])
    browser = site.browser()
    browser.visit(lambda session: session.update(a=1))
    seen, deadline = site.record(browser.id).last_seen_at, site.record(browser.id).deadline
    site.clock.advance(500)
    site.forget()
    assert browser.visit(path="/poll").set_cookie is None
    assert site.calls == ["load"]
    browser.visit(lambda session: session.update(b=1), path="/poll")
    record = site.record(browser.id)
    assert (record.deadline, record.last_seen_at, dict(record.data)) == (
        deadline,
        seen,
        {"a": b"1", "b": b"1"},
    )
    browser.visit(path="/page")
    assert site.record(browser.id).deadline == site.clock.now + IDLE


def test_renew_on_a_passive_route_renews(make_site: Callable[..., Site]) -> None:
    site = make_site(passive=lambda scope: True)
    browser = site.browser()
    browser.visit(lambda session: session.update(a=1))
    site.clock.advance(50)
    browser.visit(lambda session: session.renew())
    assert site.record(browser.id).deadline == site.clock.now + IDLE


def test_an_expiry_of_its_own_governs_later_renewals(site: Site, known: Browser) -> None:
    known.visit(lambda session: session.set_expiry(100))
    site.clock.advance(20)
    known.visit()
    assert site.record(known.id).deadline == site.clock.now + 80  # 80 % is left exactly
    site.clock.advance(0.5)
    known.visit()
    assert site.record(known.id).deadline == site.clock.now + 100


def test_no_expiry_goes_back_to_the_policy(site: Site, known: Browser) -> None:
    known.visit(lambda session: session.set_expiry(100))
    known.visit(lambda session: session.set_expiry(None))
    assert (site.record(known.id).idle_timeout, site.record(known.id).deadline) == (
        None,
        site.clock.now + IDLE,
    )


def test_an_expiry_asked_for_at_creation_holds_from_the_first(site: Site, browser: Browser) -> None:
    response = browser.visit(lambda session: (session.update(a=1), session.set_expiry(60)))
    assert (site.record(browser.id).deadline, response.max_age) == (site.clock.now + 60, 60)


def test_an_expiry_and_a_login_in_one_request(site: Site, known: Browser) -> None:
    known.visit(lambda session: (session.set_expiry(3000), session.login("ann")))
    record = site.record(known.id)
    assert (record.deadline, record.limit) == (site.clock.now + 3000, site.clock.now + ABSOLUTE)


@pytest.mark.parametrize("duration", [0, -1, float("nan"), float("inf"), True, "60"])
def test_an_expiry_that_is_no_duration_is_refused(browser: Browser, duration: float) -> None:
    with pytest.raises(ConfigurationError, match="set_expiry"):
        browser.begin().session.set_expiry(duration)


def test_an_absolute_timeout_shorter_than_the_idle_one_wins(make_site: Callable[..., Site]) -> None:
    site = make_site(idle_timeout=1000, absolute_timeout=300)
    browser = site.browser()
    assert browser.visit(lambda session: session.update(a=1)).max_age == 300
    site.clock.advance(299)
    assert browser.visit().set_cookie is None
    site.clock.advance(1)
    assert site.answer(browser.id) == Ended("absolute_timeout", site.clock.now)


def test_renew_after_decides_when_a_read_writes(make_site: Callable[..., Site]) -> None:
    site = make_site(renew_after=1)
    browser = site.browser()
    browser.visit(lambda session: session.update(a=1))
    site.clock.advance(IDLE - 1)
    assert browser.visit().set_cookie is None or site.record(browser.id).deadline > site.clock.now + 1
