"""Promises (`eager=True`): a cookie that was handed out before anything was stored."""

from __future__ import annotations

import pytest

from session_middleware.cookies import Credential
from session_middleware.record import Ended, SessionId
from tests.life.harness import Browser, Site

ID, SECRET = SessionId("P" * 21 + "A"), "S" * 21 + "A"


@pytest.fixture
def promised(site: Site) -> Browser:
    """A visitor who was promised a session ten seconds ago."""
    credential = Credential(ID, SECRET, int(site.clock.now * 1000))
    site.clock.advance(10)
    return site.browser(site.manager.codec.sign_promise(credential))


def test_a_promise_stores_nothing_until_something_is_written(site: Site, promised: Browser) -> None:
    held = promised.begin()
    assert (held.session.id, dict(held.session)) == (ID, {})
    assert held.respond().set_cookie is None
    assert site.calls == ["load"]


def test_the_first_write_creates_the_promised_session(site: Site, promised: Browser) -> None:
    response = promised.visit(lambda session: session.update(a=1))
    assert promised.id == ID
    assert response.cookie == promised.cookie
    assert promised.sees == {"a": 1}


def test_a_late_first_write_creates_it_too(site: Site, promised: Browser) -> None:
    held = promised.begin()
    held.respond()
    held.session["a"] = 1
    held.end()
    assert site.stored(ID) == {"a": b"1"}
    assert promised.visit().cookie is not None  # an ordinary one replaces the promise
    assert promised.sees == {"a": 1}


def test_two_parallel_first_writes_share_the_promised_session(site: Site, promised: Browser) -> None:
    one, two = promised.begin(), promised.begin()
    one.session.update(a=1)
    two.session.update(b=2)
    first, second = one.respond(), two.respond()
    assert first.cookie == second.cookie is not None
    assert promised.sees == {"a": 1, "b": 2}
    assert site.told.count("session_created") == 1


def test_a_first_write_that_a_login_overtook_is_not_saved_and_leaves_its_cookie(
    site: Site, promised: Browser
) -> None:
    slow = promised.begin()
    other = promised.twin()
    other.visit(lambda session: session.update(a=1))
    other.login("ann")
    current = other.cookie
    site.forget()
    slow.session["b"] = 2
    assert slow.respond().set_cookie is None
    assert site.lost() == ("superseded", ["b"])
    assert other.cookie == current
    assert other.sees == {"a": 1}


def test_a_promise_that_comes_just_after_the_login_changes_nothing(site: Site, promised: Browser) -> None:
    old = promised.twin()
    promised.visit(lambda session: session.update(a=1))
    promised.login("ann")
    assert old.visit(lambda session: session.update(b=2)).set_cookie is None
    assert site.stored(ID) == {"a": b"1"}


def test_a_promise_of_a_session_that_was_ended_creates_it_not_again(site: Site, promised: Browser) -> None:
    old = promised.twin()
    promised.visit(lambda session: session.update(a=1))
    promised.visit(lambda session: session.logout())
    assert old.visit(lambda session: session.update(b=2)).set_cookie is None
    assert isinstance(site.answer(ID), Ended)


def test_ending_a_promise_then_writing_takes_another_id(site: Site, promised: Browser) -> None:
    promised.visit(lambda session: (session.clear(), session.update(a=1)))
    assert promised.id != ID
