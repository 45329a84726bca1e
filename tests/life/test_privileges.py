"""Apps that know nothing of us: `session["user_id"] = …` is a login, and a changed role is a new cookie."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from session_middleware.record import Ended
from tests.life.harness import ABSOLUTE, Browser, Site


@pytest.fixture
def ann(site: Site, browser: Browser) -> Browser:
    """Signed in by an app that assigns `user_id`, ten seconds ago."""
    browser.visit(lambda session: session.update(user_id="ann", a=1))
    site.clock.advance(10)
    site.forget()
    return browser


@pytest.mark.parametrize("user", ["ann", 7])
def test_assigning_the_user_is_a_login(site: Site, browser: Browser, user: str | int) -> None:
    browser.visit(lambda session: session.update(a=1))
    old, id_ = browser.twin(), browser.id
    site.clock.advance(10)
    site.forget()
    browser.visit(lambda session: session.update(user_id=user))
    record = site.record(id_)
    assert (browser.id, record.user_id, record.limit) == (id_, str(user), site.clock.now + ABSOLUTE)
    assert (record.authenticated_at, record.floor) == (site.clock.now, browser.generation)
    assert site.told == ["session_data_saved", "session_cycled", "session_user_bound"]
    assert (old.sees, browser.sees) == ({}, {"a": 1, "user_id": user})


def test_assigning_the_user_in_a_new_session_creates_it_with_that_user(site: Site, ann: Browser) -> None:
    assert site.record(ann.id).user_id == "ann"


def test_the_first_user_key_that_holds_a_user_counts(site: Site, browser: Browser) -> None:
    browser.visit(lambda session: session.update(user_id=None, _user_id="flask"))
    assert site.record(browser.id).user_id == "flask"


@pytest.mark.parametrize("value", ["", None, True, ["ann"], 1.5])
def test_what_is_no_user_id_is_no_login(site: Site, browser: Browser, value: object) -> None:
    browser.visit(lambda session: session.update(user_id=value))
    assert site.record(browser.id).user_id is None


def test_removing_the_user_unbinds_and_cycles_and_the_session_goes_on(site: Site, ann: Browser) -> None:
    old, id_ = ann.twin(), ann.id
    limit = site.record(id_).limit
    response = ann.visit(lambda session: session.pop("user_id"))
    record = site.record(id_)
    assert response.cookie == ann.cookie
    assert ann.id == id_
    assert (record.user_id, record.authenticated_at, record.limit) == (None, None, limit)
    assert record.floor == record.generation == ann.generation
    assert (ann.sees, old.sees) == ({"a": 1}, {})
    assert site.told == ["session_data_saved", "session_cycled", "session_user_unbound"]
    assert site.only("session_user_unbound").user_id == "ann"


def test_assigning_another_user_makes_a_new_session_of_what_this_request_set(
    site: Site, ann: Browser
) -> None:
    old = ann.id
    ann.visit(lambda session: session.update(user_id="bob", b=2))
    assert ann.id != old
    assert site.record(ann.id).user_id == "bob"
    assert ann.sees == {"user_id": "bob", "b": 2}
    assert site.answer(old) == Ended("superseded", site.clock.now, "bob")


def test_assigning_the_same_user_again_is_nothing(site: Site, ann: Browser) -> None:
    assert ann.visit(lambda session: session.update(user_id="ann")).set_cookie is None
    assert site.calls == ["load"]


def test_an_app_that_clears_first_gets_a_new_session(site: Site, ann: Browser) -> None:
    old = ann.id
    ann.visit(lambda session: (session.clear(), session.update(user_id="ann")))
    assert ann.id != old
    assert (site.record(ann.id).user_id, ann.sees) == ("ann", {"user_id": "ann"})


@pytest.mark.parametrize("key", ["user", "username", "role", "roles", "is_admin"])
def test_a_changed_privilege_is_a_new_cookie_without_grace(site: Site, ann: Browser, key: str) -> None:
    old, limit = ann.twin(), site.record(ann.id).limit
    assert ann.visit(lambda session: session.update({key: 1})).cookie == ann.cookie
    assert (site.record(ann.id).user_id, site.record(ann.id).limit) == ("ann", limit)
    assert old.sees == {}
    old = ann.twin()
    site.clock.advance(1)
    ann.visit(lambda session: session.pop(key))
    assert old.sees == {}


def test_a_nested_change_of_a_privilege_counts_too(site: Site, ann: Browser) -> None:
    ann.visit(lambda session: session.update(roles=["reader"]))
    old = ann.twin()
    site.clock.advance(1)
    ann.visit(lambda session: session["roles"].append("admin"))
    assert old.sees == {}


def test_two_parallel_changes_of_privilege_both_make_a_generation(site: Site, ann: Browser) -> None:
    one, two = ann.begin(), ann.begin()
    one.session["role"] = "admin"
    two.session["extra"] = 1
    one.respond()
    site.forget()
    assert two.respond().set_cookie is None
    assert site.lost() == ("superseded", ["extra"])


def test_a_privilege_change_is_never_lost_to_a_parallel_cycle_with_grace(site: Site, ann: Browser) -> None:
    one, two = ann.begin(), ann.begin()
    one.session.cycle()
    two.session["role"] = "admin"
    one.respond()
    first = ann.twin()
    two.respond()
    assert site.record(ann.id).floor == ann.generation > first.generation
    assert first.sees == {}


def test_an_app_that_calls_login_itself_may_keep_anything_under_its_user_keys(
    site: Site, browser: Browser
) -> None:
    browser.login("ann")
    id_ = browser.id
    site.clock.advance(1)
    site.forget()
    browser.visit(lambda session: session.update(user_id="somebody else"))
    assert (browser.id, site.record(id_).user_id) == (id_, "ann")
    assert site.told == ["session_data_saved", "session_cycled"]  # a privilege all the same
    site.clock.advance(1)
    browser.visit(lambda session: session.pop("user_id"))
    assert site.record(id_).user_id == "ann"


def test_login_wins_over_the_key_in_the_same_request(site: Site, browser: Browser) -> None:
    browser.visit(lambda session: (session.update(user_id="key"), session.login("verb")))
    assert site.record(browser.id).user_id == "verb"


def test_login_in_the_second_request_of_a_key_app_over_the_same_user(site: Site, ann: Browser) -> None:
    id_ = ann.id
    ann.login("ann")
    assert ann.id == id_


def test_no_privilege_keys_no_cycle(make_site: Callable[..., Site]) -> None:
    site = make_site(privilege_keys=(), user_keys=())
    browser = site.browser()
    browser.visit(lambda session: session.update(a=1))
    site.clock.advance(1)
    assert browser.visit(lambda session: session.update(user_id="ann", role="x")).set_cookie is None
    assert site.record(browser.id).user_id is None


def test_the_session_tells_its_user_by_either_way(site: Site, browser: Browser, ann: Browser) -> None:
    assert ann.begin().session.user_id == "ann"
    other = site.browser()
    other.login(7)
    assert other.begin().session.user_id == "7"
    assert site.browser().begin().session.user_id is None


def test_a_logout_then_a_login_of_another_user_is_one_new_session(site: Site, ann: Browser) -> None:
    old = ann.id
    ann.visit(lambda session: (session.logout(), session.login("bob")))
    assert site.calls == ["load", "create", "delete"]
    assert (site.answer(old), site.record(ann.id).user_id) == (Ended("logout", site.clock.now, "bob"), "bob")


def test_a_login_then_a_logout_is_a_logout(site: Site, ann: Browser) -> None:
    assert ann.visit(lambda session: (session.login("bob"), session.logout())).removes
    assert site.calls == ["load", "delete"]
