"""When the facts of a client are kept: at creation and at a login, in requests; never on a plain read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.life.harness import Browser, Site

MakeSite = Callable[..., Site]
pytestmark = pytest.mark.parametrize("driver", ["async", "wsgi"])  # the plain one has no requests


def facts(site: Site, browser: Browser) -> Any:
    return site.record(browser.id).metadata.get("client")


def noting(seen: list[Any]) -> Callable[[Any], dict[str, Any]]:
    """Facts that tell which call made them, so that a test sees when they were asked for."""

    def note(scope: Any) -> dict[str, Any]:
        seen.append(scope["path"])
        return {"user_agent": f"call {len(seen)}"}

    return note


def test_they_are_kept_when_a_session_is_created_and_at_each_login(make_site: MakeSite) -> None:
    seen: list[Any] = []
    site = make_site(client_facts=noting(seen))
    browser = site.browser()
    browser.visit()
    assert seen == []
    browser.visit(lambda session: session.update(a=1))
    assert facts(site, browser) == {"user_agent": "call 1"}
    browser.visit(lambda session: session.update(a=2))
    browser.visit(lambda session: session.cycle())
    assert len(seen) == 1
    browser.login("ann")
    assert facts(site, browser) == {"user_agent": "call 2"}
    browser.login("bob")
    assert facts(site, browser) == {"user_agent": "call 3"}


def test_what_the_app_says_of_the_client_stands(make_site: MakeSite) -> None:
    site = make_site(client_facts=noting([]))
    browser = site.browser()
    browser.visit(lambda session: (session.update(a=1), session.metadata.update(client="kiosk", n=1)))
    browser.login("ann")
    assert site.record(browser.id).metadata == {"client": "kiosk", "n": 1}


def test_other_metadata_is_kept_and_changed_beside_them(make_site: MakeSite) -> None:
    site = make_site(client_facts=noting([]))
    browser = site.browser()
    browser.visit(lambda session: (session.update(a=1), session.metadata.update(n=1)))
    assert site.record(browser.id).metadata == {"client": {"user_agent": "call 1"}, "n": 1}
    browser.visit(lambda session: (session.login("ann"), session.metadata.update(n=2)))
    assert site.record(browser.id).metadata == {"client": {"user_agent": "call 2"}, "n": 2}


def test_they_can_be_turned_off(make_site: MakeSite) -> None:
    site = make_site(client_facts=False)
    browser = site.browser()
    browser.login("ann")
    assert site.record(browser.id).metadata == {}


def test_facts_that_cannot_be_kept_are_an_error_that_names_them(make_site: MakeSite) -> None:
    site = make_site(client_facts=lambda _: {"raw": object()})
    with pytest.raises(Exception, match="client"):
        site.browser().visit(lambda session: session.update(a=1))


def test_a_priority_is_kept_and_shown(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()

    def raise_it(session: Any) -> None:
        session["a"] = 1
        session.priority = 3
        assert session.priority == 3

    browser.visit(raise_it)
    assert site.record(browser.id).priority == 3
    browser.visit(lambda session: setattr(session, "priority", -2))
    assert site.record(browser.id).priority == -2
    held = browser.begin()
    assert held.session.priority == -2
    with pytest.raises(Exception, match="priority"):
        held.session.priority = "high"
