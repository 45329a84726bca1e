"""Options that change while requests are in flight: each request ends as it should, under the new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from session_middleware.record import Ended
from tests.life.harness import Site

MakeSite = Callable[..., Site]
in_requests = pytest.mark.parametrize("driver", ["async", "wsgi"])  # the plain driver has none


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site()


def reconfigure(site: Site, **options: Any) -> None:
    if site.colour == "async":
        site.run(site.manager.reconfigure(**options))
    else:
        site.manager.blocking.reconfigure(**options)


def test_a_shorter_timeout_ends_nobody_who_is_in_a_request(site: Site) -> None:
    browser = site.browser()
    browser.login("ann")
    site.clock.advance(50)
    held = browser.begin()
    reconfigure(site, idle_timeout=60.0)
    site.clock.advance(30)
    held.session["b"] = 2
    assert held.respond().status == 200
    held.end()
    assert site.record(browser.id).deadline == site.clock() + 30  # sixty since the change
    assert browser.visit(lambda session: session.update(c=3)).status == 200
    assert site.record(browser.id).deadline == site.clock() + 60
    assert browser.sees["b"] == 2
    site.clock.advance(60)
    assert browser.visit().status == 200
    assert browser.sees == {}


@in_requests
def test_a_limit_of_sessions_spares_the_one_that_a_request_holds(make_site: MakeSite) -> None:
    site = make_site()
    others = [site.browser() for _ in range(3)]
    held_by, *idle = others
    for browser in others:
        browser.visit(lambda session: session.update(a=1))
        site.clock.advance(10)
    held = held_by.begin()
    reconfigure(site, max_sessions=1)
    held.session["b"] = 2
    held.respond()
    held.end()
    assert held_by.sees == {"a": 1, "b": 2}
    assert [browser.sees for browser in idle] == [{}, {}]


def test_a_limit_per_user_that_ends_the_session_of_a_request_brings_nothing_of_it_back(site: Site) -> None:
    old, new = site.browser(), site.browser()
    old.login("ann")
    ended_id = old.id
    held = old.begin()
    held.session["b"] = 2
    site.clock.advance(10)
    new.login("ann")
    reconfigure(site, max_sessions_per_user=1)
    held.respond()
    held.end()
    ended = site.answer(ended_id)
    assert isinstance(ended, Ended)
    assert ended.reason == "evicted"
    assert site.lost()[1] == ["b"]
    assert new.sees.get("b") is None
    assert new.visit().status == 200


@in_requests
def test_a_limit_of_requests_counts_those_that_began_before_it(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()
    browser.visit(lambda session: session.update(a=1))
    held = browser.begin()
    reconfigure(site, max_concurrent_requests=1)
    assert site.browser().visit().status == 503
    held.respond()
    held.end()
    assert browser.visit().status == 200
