"""The commit table, row by row: what a request leaves behind in the backend and in the browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from session_middleware.backends.base import Backend
from session_middleware.errors import BackendFull, BackendUnavailable
from session_middleware.record import EXISTS, Delta, Ended, Record
from session_middleware.session import Session
from tests.life.harness import ABSOLUTE, IDLE, MAX_AGE, Browser, Site, mint_of

# --- nothing was loaded ---


def test_a_visitor_whose_handler_does_not_look_costs_nothing(site: Site, browser: Browser) -> None:
    assert browser.visit(looks=False).set_cookie is None
    assert (site.calls, site.told) == ([], [])


@pytest.mark.parametrize(
    "act",
    [
        lambda session: None,
        lambda session: session.get("a"),
        lambda session: (session.update(a=1), session.pop("a")),
        lambda session: session.cycle(),
        lambda session: session.cycle(grace=0),
        lambda session: session.renew(),
        lambda session: session.set_expiry(60),
        lambda session: session.invalidate(),
        lambda session: session.clear(),
        lambda session: (session.update(a=1), session.logout()),
    ],
    ids=[
        "nothing",
        "read",
        "wrote-and-removed",
        "cycle",
        "cycle-0",
        "renew",
        "expiry",
        "invalidate",
        "clear",
        "end",
    ],
)
def test_without_a_session_nothing_but_a_write_or_login_makes_one(
    site: Site, browser: Browser, act: Callable[[Session], object]
) -> None:
    assert browser.visit(act).set_cookie is None
    assert (site.calls, site.told) == ([], [])


def test_the_first_write_creates_the_session_and_sets_the_cookie(site: Site, browser: Browser) -> None:
    response = browser.visit(lambda session: session.update(a=1))
    record = site.record(browser.id)
    assert response.cookie == browser.cookie is not None
    assert site.calls == ["create"]
    assert (dict(record.data), record.user_id, record.generation) == ({"a": b"1"}, None, browser.generation)
    assert (record.created_at, record.deadline, record.limit) == (
        site.clock.now,
        site.clock.now + IDLE,
        site.clock.now + ABSOLUTE,
    )
    assert site.told == ["session_created", "session_data_saved"]
    assert site.fields("session_data_saved") == {"saved_keys": ["a"], "deleted_keys": []}
    assert site.only("session_created").session_id == browser.id


def test_an_id_that_is_taken_is_never_overwritten(site: Site, browser: Browser) -> None:
    browser.visit(lambda session: session.update(owner="first"))
    other = site.browser()
    free = ("B" * 21 + "A", "C" * 21 + "A")
    site.performer._mint = mint_of([(browser.id, "D" * 21 + "A"), free])
    other.visit(lambda session: session.update(owner="second"))
    assert other.id == free[0]
    assert (browser.sees, other.sees) == ({"owner": "first"}, {"owner": "second"})


def test_a_source_of_randomness_that_repeats_itself_gives_503_and_no_session(
    site: Site, browser: Browser
) -> None:
    browser.visit(lambda session: session.update(a=1))
    site.performer._mint = lambda: (browser.id, "D" * 21 + "A")
    site.forget()
    response = site.browser().visit(lambda session: session.update(b=1))
    assert (response.status, response.set_cookie) == (503, None)
    assert "session_creation_failed" in site.told
    assert site.stored(browser.id) == {"a": b"1"}


def test_a_login_creates_a_session_with_a_user(site: Site, browser: Browser) -> None:
    browser.login("ann", cart=[1])
    record = site.record(browser.id)
    assert (record.user_id, record.authenticated_at, dict(record.data)) == (
        "ann",
        site.clock.now,
        {"cart": b"[1]"},
    )
    assert site.calls == ["create"]
    assert site.told == ["session_created", "session_user_bound", "session_data_saved"]
    assert site.only("session_user_bound").user_id == "ann"


def test_a_refused_capacity_gives_503_and_no_cookie(site: Site, browser: Browser) -> None:
    site.port.faults["create"] = [BackendFull("no room left")]
    response = browser.visit(lambda session: session.update(a=1))
    assert (response.status, response.set_cookie) == (503, None)
    assert (b"retry-after", b"2") in response.headers
    assert isinstance(site.fields("session_creation_failed")["exception"], BackendFull)


# --- a live session ---


@pytest.fixture
def known(site: Site, browser: Browser) -> Browser:
    """A visitor with an anonymous session, ten seconds old."""
    browser.visit(lambda session: session.update(a=1, b=[1]))
    site.clock.advance(10)
    site.forget()
    return browser


@pytest.fixture
def ann(site: Site, browser: Browser) -> Browser:
    """A signed-in visitor, ten seconds after the login."""
    browser.login("ann", a=1)
    site.clock.advance(10)
    site.forget()
    return browser


@pytest.mark.parametrize(
    "act", [lambda session: None, lambda session: session["a"], dict, lambda s: s.pop("no", 0)]
)
def test_a_reader_never_writes(site: Site, known: Browser, act: Callable[[Session], object]) -> None:
    assert known.visit(act).set_cookie is None
    assert (site.calls, site.told) == (["load"], [])


def test_writing_what_is_there_already_is_no_write(site: Site, known: Browser) -> None:
    known.visit(lambda session: session.update(a=1, b=[1]))
    assert (site.calls, site.told) == (["load"], [])


def test_a_read_renews_once_renewal_is_due_and_sets_the_cookie_again(site: Site, known: Browser) -> None:
    site.clock.advance(190)  # 200 since creation: 80 % is left exactly
    assert known.visit().set_cookie is None
    assert site.calls == ["load"]
    site.clock.advance(0.001)
    site.forget()
    response = known.visit()
    assert site.calls == ["load", "commit"]
    assert site.record(known.id).deadline == site.clock.now + IDLE
    assert (response.cookie, response.max_age) == (known.cookie, int(IDLE))
    assert site.told == ["session_renewed"]
    assert site.fields("session_renewed") == {"expires_at": site.clock.now + IDLE}


def test_a_renewal_keeps_the_generation(site: Site, known: Browser) -> None:
    before = known.cookie
    site.clock.advance(500)
    assert known.visit().cookie == before


def test_renew_writes_at_once_though_it_is_not_due(site: Site, known: Browser) -> None:
    response = known.visit(lambda session: session.renew())
    assert site.calls == ["load", "commit"]
    assert site.record(known.id).deadline == site.clock.now + IDLE
    assert response.cookie == known.cookie
    assert site.told == ["session_renewed"]


@pytest.mark.parametrize("seconds", [60.0, 3000.0])
def test_set_expiry_is_exact_backwards_too_and_kept(site: Site, known: Browser, seconds: float) -> None:
    response = known.visit(lambda session: session.set_expiry(seconds))
    record = site.record(known.id)
    assert (record.deadline, record.idle_timeout) == (site.clock.now + seconds, seconds)
    assert response.max_age == min(MAX_AGE, seconds)
    assert site.fields("session_renewed") == {"expires_at": site.clock.now + seconds}


def test_a_browser_session_cookie_is_not_set_again_by_a_renewal(make_site: Callable[..., Site]) -> None:
    site = make_site(max_age=None)
    browser = site.browser()
    first = browser.visit(lambda session: session.update(a=1))
    assert first.max_age is None
    assert "Max-Age" not in str(first.set_cookie)
    site.clock.advance(500)
    assert browser.visit().set_cookie is None
    assert site.record(browser.id).deadline == site.clock.now + IDLE


def test_a_change_writes_only_what_changed_and_no_cookie(site: Site, known: Browser) -> None:
    response = known.visit(lambda session: session.update(a=2))
    assert response.set_cookie is None
    [_, commit] = site.port.log
    assert isinstance(commit.what, Delta)
    assert (dict(commit.what.set), commit.what.unset, commit.what.renew_to) == ({"a": b"2"}, (), None)
    assert site.fields("session_data_saved") == {"saved_keys": ["a"], "deleted_keys": []}
    assert site.told == ["session_data_saved"]


def test_a_change_that_comes_with_a_due_renewal_is_one_commit_with_the_cookie(
    site: Site, known: Browser
) -> None:
    site.clock.advance(300)
    response = known.visit(lambda session: session.update(a=2))
    assert site.calls == ["load", "commit"]
    assert site.record(known.id).deadline == site.clock.now + IDLE
    assert response.cookie == known.cookie
    assert site.told == ["session_data_saved", "session_renewed"]


def test_the_last_key_removed_leaves_an_empty_record_to_expire(site: Site, known: Browser) -> None:
    response = known.visit(lambda session: (session.pop("a"), session.pop("b")))
    assert response.set_cookie is None
    assert site.calls == ["load", "commit"]
    assert site.stored(known.id) == {}
    assert site.fields("session_data_saved") == {"saved_keys": [], "deleted_keys": ["a", "b"]}
    site.clock.advance(IDLE)
    assert site.answer(known.id) == Ended("idle_timeout", site.clock.now - 10)


def test_a_cycle_is_in_the_commit_of_the_data(site: Site, known: Browser) -> None:
    before, id_ = known.generation, known.id
    response = known.visit(lambda session: (session.update(a=2), session.cycle()))
    assert site.calls == ["load", "commit"]
    assert (known.id, known.generation, response.cookie) == (id_, int(site.clock.now * 1000), known.cookie)
    record = site.record(id_)
    assert (record.generation, list(record.accepted), record.floor) == (known.generation, [before], before)
    assert known.sees == {"a": 2, "b": [1]}
    assert site.told == [
        "session_data_saved",
        "session_cycled",
    ]


@pytest.mark.parametrize(
    "act",
    [lambda session: session.update(role="admin"), lambda session: session.cycle(grace=0)],
    ids=["role", "cycle"],
)
def test_a_changed_privilege_makes_every_older_cookie_worthless(
    site: Site, known: Browser, act: Callable[[Session], object]
) -> None:
    old = known.twin()
    response = known.visit(act)
    record = site.record(known.id)
    assert (response.cookie, record.floor, dict(record.accepted)) == (known.cookie, known.generation, {})
    assert "session_cycled" in site.told
    site.clock.advance(30)
    assert old.sees == {}


@pytest.mark.parametrize("name", ["known", "ann"], ids=["nobody bound", "same user"])
def test_a_login_keeps_the_session_and_moves_user_limit_and_floor(
    site: Site, name: str, request: pytest.FixtureRequest
) -> None:
    visitor: Browser = request.getfixturevalue(name)
    id_, before = visitor.id, visitor.generation
    response = visitor.login("ann")
    record = site.record(id_)
    now = site.clock.now
    assert (visitor.id, response.cookie) == (id_, visitor.cookie)
    assert (record.user_id, record.authenticated_at, record.limit) == ("ann", now, now + ABSOLUTE)
    assert record.deadline == now + IDLE
    assert record.floor == record.generation == visitor.generation > before
    assert site.calls == ["load", "commit"]
    assert site.told == ["session_cycled", "session_user_bound"]
    assert site.fields("session_cycled") == {"reason": "login"}


def test_a_login_over_another_user_makes_a_session_of_its_own(site: Site, ann: Browser) -> None:
    old = ann.id
    response = ann.login("bob", theme="dark")
    assert site.calls == ["load", "create", "delete"]
    assert (site.record(ann.id).user_id, site.stored(ann.id)) == ("bob", {"theme": b'"dark"'})
    assert ann.id != old
    assert response.cookie == ann.cookie
    assert site.answer(old) == Ended("superseded", site.clock.now, "bob")
    assert site.told == ["session_deleted", "session_created", "session_user_bound", "session_data_saved"]
    assert site.fields("session_deleted") == {"reason": "superseded"}
    assert (site.only("session_deleted").session_id, site.only("session_deleted").user_id) == (old, "ann")


def test_what_the_former_user_left_is_not_saved_after_the_response_either(site: Site, ann: Browser) -> None:
    held = ann.begin()
    held.session.login("bob")
    held.respond()
    held.session["theme"] = "dark"
    held.end()
    assert site.stored(ann.id) == {"theme": b'"dark"'}
    assert ann.sees == {"theme": "dark"}


def test_a_login_over_another_user_whose_delete_fails_is_503_and_undone(site: Site, ann: Browser) -> None:
    site.port.faults["delete"] = [BackendUnavailable("down")]
    held = ann.begin()
    held.session.login("bob")
    response = held.respond()
    assert (response.status, response.set_cookie) == (503, None)
    assert site.calls == ["load", "create", "delete", "delete"]
    made = site.port.log[1].id
    assert isinstance(site.answer(made), Ended)
    assert site.record(ann.id).user_id == "ann"
    assert site.lost() == ("backend_error", [])


@pytest.mark.parametrize("verb", ["logout", "invalidate", "clear"])
def test_an_ending_deletes_and_removes_the_cookie(site: Site, ann: Browser, verb: str) -> None:
    id_ = ann.id
    response = ann.visit(lambda session: getattr(session, verb)())
    assert response.removes
    assert ann.cookie is None
    assert site.calls == ["load", "delete"]
    assert site.answer(id_) == Ended("logout", site.clock.now, "ann")
    assert site.told == ["session_deleted"]
    assert site.fields("session_deleted") == {"reason": "logout"}
    assert site.only("session_deleted").user_id == "ann"


def test_an_ending_wins_although_the_session_was_cycled_meanwhile(site: Site, ann: Browser) -> None:
    slow = ann.begin()
    ann.login("ann")
    slow.session.logout()
    assert slow.respond().removes
    assert isinstance(site.answer(slow.site.port.log[-1].id), Ended)


def test_an_ending_of_what_is_gone_sends_no_removal(site: Site, ann: Browser) -> None:
    slow = ann.begin()
    ann.visit(lambda session: session.logout())
    site.forget()
    slow.session.logout()
    assert slow.respond().set_cookie is None
    assert site.fields("session_deletion_failed") == {"reason": "not_found"}


def test_a_write_after_an_ending_begins_a_new_session(site: Site, ann: Browser) -> None:
    old = ann.id
    response = ann.visit(lambda session: (session.clear(), session.update(b=1)))
    assert site.calls == ["load", "create", "delete"]
    assert ann.id != old
    assert response.cookie == ann.cookie
    assert (site.record(ann.id).user_id, site.stored(ann.id)) == (None, {"b": b"1"})
    assert site.answer(old) == Ended("logout", site.clock.now)
    assert site.told == ["session_deleted", "session_created", "session_data_saved"]
    assert site.only("session_deleted").user_id == "ann"


def test_a_write_after_an_ending_of_what_is_gone_leaves_nothing(site: Site, ann: Browser) -> None:
    slow = ann.begin()
    ann.visit(lambda session: session.logout())
    site.forget()
    slow.session.clear()
    slow.session["b"] = 1
    assert slow.respond().set_cookie is None
    assert site.calls == ["create", "delete", "delete"]
    assert isinstance(site.answer(site.port.log[0].id), Ended)
    assert site.told == ["session_data_save_failed"]
    assert site.lost() == ("gone", ["b"])


def test_clear_then_login_is_a_new_session_of_that_user(site: Site, ann: Browser) -> None:
    old = ann.id
    ann.visit(lambda session: (session.clear(), session.update(b=1), session.login("ann")))
    assert ann.id != old
    assert (site.record(ann.id).user_id, site.stored(ann.id)) == ("ann", {"b": b"1"})
    assert site.answer(old) == Ended("logout", site.clock.now, "ann")


def test_clear_then_login_of_what_is_gone_still_signs_in(site: Site, ann: Browser) -> None:
    slow = ann.begin()
    ann.visit(lambda session: session.logout())
    slow.session.clear()
    slow.session.login("ann")
    response = slow.respond()
    assert response.cookie == ann.cookie is not None
    assert site.record(ann.id).user_id == "ann"


def test_a_failed_logout_is_503_and_keeps_the_cookie(site: Site, ann: Browser) -> None:
    site.port.faults["delete"] = [BackendUnavailable("down")]
    held = ann.begin()
    held.session.logout()
    response = held.respond()
    assert (response.status, response.set_cookie) == (503, None)
    assert site.fields("session_deletion_failed") == {"reason": "backend_error"}
    assert site.record(ann.id).user_id == "ann"


# --- refused by the backend ---


def test_a_change_below_the_floor_is_not_saved_and_told(site: Site, known: Browser) -> None:
    slow = known.begin()
    known.login("ann")
    site.forget()
    slow.session["a"] = 7
    slow.session["c"] = 8
    response = slow.respond(201)
    assert (response.status, response.set_cookie) == (201, None)
    assert site.stored(known.id) == {"a": b"1", "b": b"[1]"}
    assert site.told == ["session_data_save_failed"]
    assert site.lost() == ("superseded", ["a", "c"])


def test_a_change_of_what_is_gone_never_creates_it_again(site: Site, known: Browser) -> None:
    id_ = known.id
    slow = known.begin()
    known.visit(lambda session: session.logout())
    site.forget()
    slow.session["a"] = 7
    response = slow.respond(201)
    slow.session["late"] = 1
    slow.end()
    assert (response.status, response.set_cookie) == (201, None)
    assert site.calls == ["commit"]
    assert isinstance(site.answer(id_), Ended)
    assert [
        (event.fields["reason"], event.fields["keys"]) for event in site.events if "failed" in event.name
    ] == [
        ("gone", ["a"]),
        ("ended", ["late"]),
    ]


def test_a_double_click_on_login_signs_in_once(site: Site, known: Browser) -> None:
    second = known.begin()
    known.login("ann", cart=1)
    winner = known.cookie
    site.forget()
    second.session.login("ann")
    response = second.respond()
    assert site.calls == ["commit", "load"]
    assert response.cookie == winner
    assert site.told == []
    assert known.sees["cart"] == 1


def test_a_double_click_in_an_app_that_assigns_the_user_loses_nothing(site: Site, known: Browser) -> None:
    second = known.begin()
    known.visit(lambda session: session.update(user_id="ann"))
    winner = known.cookie
    site.forget()
    second.session["user_id"] = "ann"
    second.session["extra"] = 1
    assert second.respond().cookie == winner
    assert site.lost() == ("superseded", ["extra"])


def test_a_login_after_the_session_changed_its_privileges_takes_a_new_one(site: Site, known: Browser) -> None:
    old = known.id
    slow = known.begin()
    known.visit(lambda session: session.cycle(grace=0))
    site.forget()
    slow.session.update(c=1)
    slow.session.login("ann")
    slow.respond()
    assert site.calls == ["commit", "load", "create", "delete"]
    assert known.id != old
    assert (site.record(known.id).user_id, site.stored(known.id)) == ("ann", {"c": b"1"})
    assert site.answer(old) == Ended("superseded", site.clock.now, "ann")


def test_a_login_after_another_user_signed_in_takes_a_new_session(site: Site, known: Browser) -> None:
    old = known.id
    slow, bob = known.begin(), known.twin()
    bob.login("bob")
    slow.session.login("ann")
    slow.respond()
    assert (site.record(old).user_id, site.record(known.id).user_id) == ("bob", "ann")


def test_a_login_to_what_is_gone_creates(site: Site, known: Browser) -> None:
    old = known.id
    slow = known.begin()
    known.visit(lambda session: session.logout())
    site.forget()
    slow.session.update(c=1)
    slow.session.login("ann")
    response = slow.respond()
    slow.end()
    assert site.calls == ["commit", "create"]
    assert known.id != old
    assert response.cookie == known.cookie
    assert (site.record(known.id).user_id, site.stored(known.id)) == ("ann", {"c": b"1"})


# --- several sessions, metadata, Max-Age ---


def test_a_login_ends_every_other_session_the_cookies_opened(site: Site) -> None:
    one, two = site.browser(), site.browser()
    one.login("ann")
    two.visit(lambda session: session.update(b=1))
    anonymous = two.id
    one.others = (str(two.cookie),)
    site.forget()
    one.login("ann")
    assert site.answer(anonymous) == Ended("superseded", site.clock.now)
    assert site.fields("session_deleted") == {"reason": "superseded"}
    assert site.only("session_deleted").session_id == anonymous


def test_metadata_is_saved_like_values_nested_changes_too(site: Site, known: Browser) -> None:
    known.visit(lambda session: session.metadata.update(device={"os": "x"}))
    before = site.record(known.id)
    site.forget()
    known.visit(lambda session: session.metadata["device"].update(os="y"))
    assert site.calls == ["load", "commit"]
    assert site.record(known.id).metadata == {"device": {"os": "y"}}
    assert before.metadata == {"device": {"os": "x"}}
    site.forget()
    known.visit(lambda session: session.metadata)
    assert site.calls == ["load"]


def test_metadata_of_a_new_session_is_saved_with_it(site: Site, browser: Browser) -> None:
    browser.visit(lambda session: (session.update(a=1), session.metadata.update(device="x")))
    assert site.record(browser.id).metadata == {"device": "x"}


@pytest.mark.parametrize(("idle", "expected"), [(500.0, 500), (2000.0, 2000), (4000.0, 2000)])
def test_max_age_is_the_smaller_of_itself_and_the_time_to_the_deadline(
    make_site: Callable[..., Site], idle: float, expected: int
) -> None:
    site = make_site(idle_timeout=idle)
    assert site.browser().visit(lambda session: session.update(a=1)).max_age == expected


# --- nested changes and parallel requests ---


def test_a_nested_change_is_saved(site: Site, known: Browser) -> None:
    known.visit(lambda session: session["b"].append({"deep": [2]}))
    site.forget()
    known.visit(lambda session: session["b"][1]["deep"].append(3))
    assert site.calls == ["load", "commit"]
    assert known.sees["b"] == [1, {"deep": [2, 3]}]


def test_parallel_changes_of_different_keys_all_survive(site: Site, known: Browser) -> None:
    held = [known.begin() for _ in range(4)]
    for number, request in enumerate(held):
        request.session[f"k{number}"] = number
    del held[0].session["a"]
    for request in reversed(held):
        request.respond()
    assert known.sees == {"b": [1], "k0": 0, "k1": 1, "k2": 2, "k3": 3}


# --- the spy is no blind one: this is what a resurrecting save would look like ---


def test_control_the_log_shows_a_write_that_should_not_be(site: Site, known: Browser) -> None:
    known.visit(lambda session: session.update(a=2))
    with pytest.raises(AssertionError):
        assert site.calls == ["load"]


def test_the_spy_passes_answers_on(site: Site, known: Browser, backend: Backend) -> None:
    record = site.record(known.id)
    assert site.run(site.port.create(record, site.clock())) is EXISTS
    assert isinstance(site.run(site.port.load(known.id, site.clock())), Record)
    assert site.spy.url == backend.url
