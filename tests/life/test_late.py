"""What comes after the response has left, and what a failed response keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from session_middleware.errors import BackendUnavailable, ResponseStartedError
from session_middleware.record import Ended
from session_middleware.session import Session
from tests.life.harness import Browser, Held, Site


@pytest.fixture
def known(site: Site, browser: Browser) -> Browser:
    """A visitor with an anonymous session, ten seconds old."""
    browser.visit(lambda session: session.update(a=1, list=[1]))
    site.clock.advance(10)
    site.forget()
    return browser


@pytest.fixture
def answered(known: Browser) -> Held:
    """A request whose response has left, and whose body is still being streamed."""
    held = known.begin()
    held.respond()
    return held


def test_a_late_change_is_saved_at_the_end(site: Site, known: Browser, answered: Held) -> None:
    answered.session["b"] = 1
    answered.session["list"].append(2)
    answered.session.increment("n")
    del answered.session["a"]
    assert site.calls == ["load"]
    answered.end()
    assert site.calls == ["load", "commit"]
    assert known.sees == {"b": 1, "list": [1, 2], "n": 1}
    assert site.fields("session_data_saved") == {"saved_keys": ["b", "list", "n"], "deleted_keys": ["a"]}


def test_a_change_before_and_one_after_are_each_saved_once(site: Site, known: Browser) -> None:
    held = known.begin()
    held.session["b"] = 1
    held.session.increment("n")
    held.respond()
    held.session["c"] = 1
    held.end()
    assert site.calls == ["load", "commit", "commit"]
    assert known.sees == {"a": 1, "list": [1], "b": 1, "n": 1, "c": 1}


def test_a_late_first_look_may_write(site: Site, known: Browser) -> None:
    held = known.begin(looks=False)
    held.respond()
    held.session["b"] = 1
    held.end()
    assert known.sees["b"] == 1


def test_a_late_change_of_a_session_that_was_created_in_time_is_saved(site: Site, browser: Browser) -> None:
    held = browser.begin()
    held.session["a"] = 1
    held.respond()
    held.session["b"] = 1
    held.end()
    assert site.calls == ["create", "commit"]
    assert browser.sees == {"a": 1, "b": 1}


def test_a_late_first_write_of_a_visitor_without_a_session_is_told(site: Site, browser: Browser) -> None:
    held = browser.begin()
    held.respond()
    held.session["a"] = 1
    held.end()
    assert site.calls == []
    assert site.told == ["session_data_save_failed"]
    assert site.lost() == ("response_started", ["a"])


def test_a_late_change_of_what_was_ended_meanwhile_is_told(
    site: Site, known: Browser, answered: Held
) -> None:
    known.visit(lambda session: session.logout())
    site.forget()
    answered.session["b"] = 1
    answered.end()
    assert site.lost() == ("gone", ["b"])


def test_a_late_change_below_the_floor_is_told(site: Site, known: Browser, answered: Held) -> None:
    known.login("ann")
    site.forget()
    answered.session["b"] = 1
    answered.end()
    assert site.lost() == ("superseded", ["b"])
    assert "b" not in known.sees


def test_a_late_logout_deletes_and_leaves_the_cookie(site: Site, known: Browser, answered: Held) -> None:
    answered.session.logout()
    answered.end()
    assert site.answer(known.id) == Ended("logout", site.clock.now)
    assert site.told == ["session_deleted"]


def test_a_write_after_a_late_logout_is_told(site: Site, known: Browser, answered: Held) -> None:
    answered.session.clear()
    answered.session["b"] = 1
    answered.end()
    assert site.calls == ["load", "delete"]
    assert site.told == ["session_deleted", "session_data_save_failed"]
    assert site.lost() == ("response_started", ["b"])


def test_a_late_login_is_refused(site: Site, known: Browser, answered: Held) -> None:
    with pytest.raises(ResponseStartedError):
        answered.session.login("ann")
    answered.end()
    assert site.record(known.id).user_id is None


@pytest.mark.parametrize("key", ["user_id", "_user_id", "role", "is_admin"])
def test_a_late_privilege_of_nobody_raises(site: Site, known: Browser, answered: Held, key: str) -> None:
    for change in (
        lambda: answered.session.update({key: 1}),
        lambda: answered.session.setdefault(key, 1),
        lambda: answered.session.__setitem__(key, 1),
        lambda: answered.session.__ior__({key: 1}),
    ):
        with pytest.raises(ResponseStartedError, match=key):
            change()
    answered.end()
    assert key not in known.sees


def test_a_late_privilege_that_cannot_raise_is_told_and_the_rest_is_saved(
    site: Site, known: Browser, answered: Held
) -> None:
    answered.session.increment("user_id")
    answered.session["b"] = 1
    answered.end()
    assert site.lost() == ("response_started", ["user_id"])
    assert "user_id" not in known.sees
    assert known.sees["b"] == 1


def test_a_late_privilege_that_cannot_raise_is_told_though_nothing_else_changed(
    site: Site, known: Browser, answered: Held
) -> None:
    answered.session.increment("user_id")
    answered.end()
    assert site.told == ["session_data_save_failed"]
    assert site.lost() == ("response_started", ["user_id"])


def test_a_late_user_of_an_overtaken_request_signs_nobody_in(site: Site, known: Browser) -> None:
    old = known.twin()
    known.login("ann")
    held = old.begin()
    held.respond()
    site.forget()
    held.session.increment("user_id")
    held.end()
    assert site.lost() == ("superseded", ["user_id"])
    assert site.calls == []


def test_a_late_change_of_the_user_of_a_signed_in_session_raises(site: Site, known: Browser) -> None:
    known.visit(lambda session: session.update(user_id="ann"))
    held = known.begin()
    held.respond()
    with pytest.raises(ResponseStartedError):
        held.session["user_id"] = "bob"
    with pytest.raises(ResponseStartedError):
        del held.session["user_id"]
    held.session["user_id"] = "ann"  # what it is already
    held.end()
    assert site.record(known.id).user_id == "ann"


def test_a_backend_that_fails_late_is_an_event(site: Site, known: Browser, answered: Held) -> None:
    answered.session["b"] = 1
    site.port.faults["commit"] = [BackendUnavailable("down")]
    answered.end()
    assert site.lost() == ("backend_error", ["b"])


# --- responses that failed ---


@pytest.mark.parametrize("status", [500, 503, 599])
def test_a_failed_response_saves_nothing_early_or_late(site: Site, known: Browser, status: int) -> None:
    held = known.begin()
    held.session["b"] = 1
    response = held.respond(status)
    held.session["c"] = 1
    held.end()
    assert (response.status, response.set_cookie) == (status, None)
    assert (site.calls, site.told) == (["load"], [])


def test_a_failed_response_with_a_bad_value_reports_nothing_more(site: Site, known: Browser) -> None:
    held = known.begin()
    held.session["bad"] = object()
    assert held.respond(500).status == 500
    held.end()
    assert site.told == []


@pytest.mark.parametrize("status", [200, 302, 404, 499])
def test_any_other_response_saves(site: Site, known: Browser, status: int) -> None:
    known.visit(lambda session: session.update(b=1), status=status)
    assert known.sees["b"] == 1


@pytest.mark.parametrize("act", [lambda s: s.update(a=1), lambda s: s.login("ann")])
def test_a_failed_response_creates_no_session(
    site: Site, browser: Browser, act: Callable[[Session], object]
) -> None:
    assert browser.visit(act, status=500).set_cookie is None
    assert site.calls == []


def test_a_failed_response_still_ends_the_session(site: Site, known: Browser) -> None:
    id_ = known.id
    response = known.visit(lambda session: (session.logout(), session.update(b=1)), status=500)
    assert response.removes
    assert site.answer(id_) == Ended("logout", site.clock.now)
    assert site.calls == ["load", "delete"]


def test_a_failed_response_still_ends_an_overtaken_session(site: Site, known: Browser) -> None:
    old = known.twin()
    known.login("ann")
    assert old.visit(lambda session: session.logout(), status=500).removes
    assert isinstance(site.answer(known.id), Ended)


def test_save_on_error_saves(make_site: Callable[..., Site]) -> None:
    site = make_site(save_on_error=True)
    browser = site.browser()
    response = browser.visit(lambda session: session.update(a=1), status=500)
    assert response.cookie is not None
    assert browser.sees == {"a": 1}


def test_a_handler_that_raises_saves_nothing_but_an_ending(site: Site, known: Browser) -> None:
    id_ = known.id
    held = known.begin()
    held.session["b"] = 1
    held.fail(ValueError("the handler's"))
    assert known.sees == {"a": 1, "list": [1]}
    held = known.begin()
    held.session.logout()
    held.fail(ValueError("the handler's"))
    assert site.answer(id_) == Ended("logout", site.clock.now)


def test_a_handler_that_raises_in_its_stream_keeps_what_was_saved_before(site: Site, known: Browser) -> None:
    held = known.begin()
    held.session["b"] = 1
    held.respond()
    held.session["c"] = 1
    held.fail(ValueError("the stream's"))
    assert known.sees == {"a": 1, "list": [1], "b": 1}


def test_a_commit_that_fails_is_503_instead_of_the_handlers_response(site: Site, known: Browser) -> None:
    site.port.faults["commit"] = [BackendUnavailable("down")]
    held = known.begin()
    held.session["b"] = 1
    response = held.respond(200)
    assert (response.status, response.set_cookie) == (503, None)
    assert site.lost() == ("backend_error", ["b"])
    assert "b" not in known.sees


def test_an_outcome_that_is_unknown_is_not_tried_again(site: Site, known: Browser) -> None:
    site.port.faults["commit"] = [BackendUnavailable("sent, no answer", unknown=True)]
    held = known.begin()
    held.session.increment("n")
    assert held.respond().status == 503
    held.end()
    assert site.calls == ["load", "commit"]
