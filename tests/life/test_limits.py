"""Limits as visitors meet them: a login too many, a place where nothing may go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.life.harness import Browser, Site

MakeSite = Callable[..., Site]


def test_a_login_elsewhere_ends_the_oldest_session_of_the_user(make_site: MakeSite) -> None:
    site = make_site(max_sessions_per_user=1)
    phone, laptop = site.browser(), site.browser()
    phone.login("ann", n=1)
    laptop.login("ann", n=2)
    held = phone.begin()
    assert (dict(held.session), held.session.ended_because) == ({}, "evicted")
    held.respond()
    assert laptop.sees == {"n": 2}


def test_signing_in_to_a_session_that_was_anonymous_counts(make_site: MakeSite) -> None:
    site = make_site(max_sessions_per_user=1)
    phone, laptop = site.browser(), site.browser()
    laptop.visit(lambda session: session.update(cart=1))
    site.clock.advance(1)
    phone.login("ann")
    laptop.login("ann")
    assert phone.sees == {}
    assert laptop.sees == {"cart": 1}
    assert site.fields("session_evicted") == {"reason": "max_sessions_per_user"}


def test_signing_in_again_counts_once(make_site: MakeSite) -> None:
    site = make_site(max_sessions_per_user=1, on_too_many="reject")
    phone = site.browser()
    phone.login("ann", n=1)
    for _ in range(3):
        assert phone.login("ann").status == 200
    assert phone.sees == {"n": 1}


def test_a_login_of_an_app_that_only_sets_a_key_counts(make_site: MakeSite) -> None:
    site = make_site(max_sessions_per_user=1)
    phone, laptop = site.browser(), site.browser()
    for browser in (phone, laptop):
        browser.visit(lambda session: session.update(user_id=7))
    assert phone.sees == {}
    assert laptop.sees == {"user_id": 7}


def refused(site: Site, browser: Browser, act: Callable[[Any], object]) -> None:
    """The visitor gets 503, and nothing is stored or set."""
    before, site.clock.now = browser.cookie, site.clock.now + 1
    response = browser.visit(act)
    assert (response.status, response.set_cookie) == (503, None)
    assert dict(response.headers)[b"retry-after"] == b"2"
    assert browser.cookie == before


def test_a_login_too_many_can_be_refused(make_site: MakeSite) -> None:
    site = make_site(max_sessions_per_user=1, on_too_many="reject")
    phone, laptop, fresh = site.browser(), site.browser(), site.browser()
    phone.login("ann", n=1)
    laptop.visit(lambda session: session.update(cart=1))
    refused(site, laptop, lambda session: (session.login("ann"), session.update(more=2)))
    refused(site, fresh, lambda session: session.login("ann"))
    assert (phone.sees, laptop.sees) == ({"n": 1}, {"cart": 1})
    assert "session_evicted" not in site.told
    phone.visit(lambda session: session.logout())
    assert laptop.login("ann").status == 200


def test_where_there_is_no_room_a_new_visitor_gets_503_and_others_go_on(make_site: MakeSite) -> None:
    site = make_site(max_sessions=1)
    site.do("create_session", "ann", priority=9)
    refused(site, site.browser(), lambda session: session.update(a=1))
    assert site.browser().visit().status == 200
    assert "session_creation_failed" in site.told


def test_a_new_visitor_takes_the_place_of_the_one_seen_longest_ago(make_site: MakeSite) -> None:
    site = make_site(max_sessions=2)
    browsers = [site.browser() for _ in range(3)]
    for browser in browsers:
        browser.visit(lambda session: session.update(a=1))
        site.clock.advance(1)
    assert [browser.sees for browser in browsers] == [{}, {"a": 1}, {"a": 1}]
    assert site.fields("session_evicted") == {"reason": "max_sessions"}


@pytest.mark.parametrize("driver", ["async", "wsgi"])  # the plain one has no requests that could hold it
def test_a_visitor_in_the_middle_of_a_request_is_spared(make_site: MakeSite) -> None:
    site = make_site(max_sessions=2)
    slow, other, new = (site.browser() for _ in range(3))
    for browser in (slow, other):
        browser.visit(lambda session: session.update(a=1))
        site.clock.advance(1)
    held = slow.begin()
    new.visit(lambda session: session.update(a=1))
    held.session["b"] = 2
    held.respond()
    held.end()
    assert slow.sees == {"a": 1, "b": 2}
    assert other.sees == {}


def test_without_limits_no_request_pays_for_them(make_site: MakeSite, backend: Any) -> None:
    site = make_site()
    browser = site.browser()
    browser.login("ann")
    browser.login("bob")
    assert site.calls == ["create", "load", "create", "delete"]
