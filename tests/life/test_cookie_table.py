"""Which cookie opens what, row by row; and what a request with several cookies is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from session_middleware.cookies import CookieCodec, CookieSettings, Credential
from session_middleware.errors import BackendUnavailable, SessionDataError
from session_middleware.record import Delta, Ended, replace
from session_middleware.session import Session
from tests.life.harness import IDLE, KEY, Browser, Site


@pytest.fixture
def known(site: Site, browser: Browser) -> Browser:
    """A visitor with an anonymous session, ten seconds old."""
    browser.visit(lambda session: session.update(a=1))
    site.clock.advance(10)
    site.forget()
    return browser


def cycled(browser: Browser, grace: float | None = None) -> Browser:
    """*browser* with a new cookie; the answer still has the one from before."""
    old = browser.twin()
    browser.visit(lambda session: session.cycle(grace=grace))
    browser.site.forget()
    return old


def overtaken(browser: Browser) -> Browser:
    """*browser* has signed in; the answer still has the cookie from before."""
    old = browser.twin()
    browser.login("ann")
    browser.site.forget()
    return old


def forged(browser: Browser, **changes: object) -> Browser:
    """A cookie that is signed with the right key and says something else."""
    assert browser.cookie is not None
    id_, secret, generation, _ = browser.cookie.split(".")
    said = {"id": id_, "secret": secret, "generation": int(generation), **changes}
    codec = CookieCodec(CookieSettings(), KEY)
    return browser.site.browser(codec.sign(Credential(**said)))


# --- no cookie that verifies ---


@pytest.mark.parametrize(
    "damage",
    [lambda c: "", lambda c: "x" * 100, lambda c: c[:-1], lambda c: ("B" if c[0] == "A" else "A") + c[1:]],
)
def test_a_cookie_that_does_not_verify_costs_no_backend_call(
    site: Site, known: Browser, damage: Callable[[str], str]
) -> None:
    assert site.browser(damage(str(known.cookie))).sees == {}
    assert site.calls == []


def test_one_load_answers_a_request_with_a_valid_cookie(site: Site, known: Browser) -> None:
    assert known.sees == {"a": 1}
    assert [(call.name, call.id) for call in site.port.log] == [("load", known.id)]


# --- the current generation ---


def test_the_current_cookie_opens_the_session(site: Site, known: Browser) -> None:
    held = known.begin()
    session = held.session
    assert (session.id, session.is_new, session.ended_because) == (known.id, False, None)
    assert (session.created_at, session.expires_at) == (site.clock.now - 10, site.clock.now - 10 + IDLE)


def test_the_new_cookie_coming_back_begins_the_grace_of_the_old_one(site: Site, known: Browser) -> None:
    old = cycled(known)
    waiting = site.record(known.id).accepted[old.generation]
    site.clock.advance(100)
    site.forget()
    assert known.visit().set_cookie is None
    assert site.calls == ["load", "commit"]
    begun = site.record(known.id).accepted[old.generation]
    assert (waiting.until, begun.until) == (None, site.clock.now + 30)
    site.forget()
    known.visit()
    assert site.calls == ["load"]
    assert site.told == []


def test_the_old_cookie_itself_begins_no_grace(site: Site, known: Browser) -> None:
    old = cycled(known)
    site.clock.advance(100)
    old.twin().visit()
    assert site.record(known.id).accepted[old.generation].until is None


def test_the_request_that_cycles_begins_no_grace_however_often_it_commits(site: Site, known: Browser) -> None:
    before = known.generation
    held = known.begin()
    held.session.cycle()
    site.save(held)
    held.session["b"] = 1
    held.respond(lost=True)
    held.session["c"] = 1
    held.end()
    assert site.record(known.id).accepted[before].until is None
    assert known.sees == {"a": 1, "b": 1, "c": 1}


# --- older, but accepted ---


def test_a_lost_response_of_a_cycle_loses_nothing_however_late(site: Site, known: Browser) -> None:
    known.visit(lambda session: (session.update(b=2), session.cycle()), lost=True)
    site.clock.advance(900)
    site.forget()
    response = known.visit()
    assert response.cookie == known.cookie is not None
    assert known.generation == site.record(known.id).generation
    assert known.sees == {"a": 1, "b": 2}


def test_an_accepted_cookie_gets_the_current_one_after_an_empty_commit(site: Site, known: Browser) -> None:
    old = cycled(known)
    response = old.visit()
    assert response.cookie == known.cookie
    assert site.calls == ["load", "commit"]
    [_, commit] = site.port.log
    assert isinstance(commit.what, Delta)
    assert (commit.what.admitted, dict(commit.what.set), commit.what.cycle) == (
        int((site.clock.now - 10) * 1000),
        {},
        None,
    )
    assert site.told == []


def test_an_accepted_cookie_may_write(site: Site, known: Browser) -> None:
    old = cycled(known)
    assert old.visit(lambda session: session.update(b=2)).cookie == known.cookie
    assert known.sees == {"a": 1, "b": 2}


@pytest.mark.parametrize(("seconds", "opens"), [(0.0, True), (29.999, True), (30.0, False), (31.0, False)])
def test_the_grace_is_over_exactly_30_seconds_after_the_new_cookie_came_back(
    site: Site, known: Browser, seconds: float, opens: bool
) -> None:
    old = cycled(known)
    site.clock.advance(100)
    known.visit()
    site.clock.advance(seconds)
    site.forget()
    assert old.sees == ({"a": 1} if opens else {})
    if not opens:
        assert site.suspicion() == "superseded_cookie"


def test_a_grace_of_ones_own_is_kept(site: Site, known: Browser) -> None:
    old = cycled(known, grace=5)
    known.visit()
    site.clock.advance(4.9)
    assert old.twin().sees == {"a": 1}
    site.clock.advance(0.1)
    assert old.twin().sees == {}


def test_at_most_four_generations_are_accepted(site: Site, known: Browser) -> None:
    older = []
    for _ in range(5):
        older.append(cycled(known))
        site.clock.advance(1)
    assert len(site.record(known.id).accepted) == 4
    assert [bool(browser.twin().sees) for browser in older] == [False, True, True, True, True]


def test_no_cookie_follows_an_accepted_one_that_conflicts(site: Site, known: Browser) -> None:
    slow = cycled(known).begin()
    known.login("ann")
    site.forget()
    assert slow.respond().set_cookie is None
    assert site.calls == ["commit"]


def test_no_cookie_follows_an_accepted_one_whose_session_is_gone(site: Site, known: Browser) -> None:
    slow = cycled(known).begin()
    known.visit(lambda session: session.logout())
    assert slow.respond().set_cookie is None


# --- older, below the floor, just overtaken ---


@pytest.mark.parametrize("seconds", [0.0, 29.999])
def test_a_cookie_from_before_the_login_sees_nobody_and_saves_nothing(
    site: Site, known: Browser, seconds: float
) -> None:
    old = overtaken(known)
    site.clock.advance(seconds)
    held = old.begin()
    session = held.session
    assert (dict(session), session.id, session.user_id, session.is_new) == ({}, None, None, True)
    session["b"] = 1
    response = held.respond(201)
    session["c"] = 1
    held.end()
    assert (response.status, response.set_cookie) == (201, None)
    assert site.calls == ["load"]
    assert [event.fields["keys"] for event in site.events if event.name == "session_data_save_failed"] == [
        ["b"],
        ["c"],
    ]
    assert {event.fields["reason"] for event in site.events if "failed" in event.name} == {"superseded"}
    assert site.stored(known.id) == {"a": b"1"}


def test_a_cookie_from_before_the_login_that_only_reads_is_no_event(site: Site, known: Browser) -> None:
    old = overtaken(known)
    assert old.sees == {}
    assert (site.calls, site.told) == (["load"], [])


def test_a_slow_request_with_a_planted_cookie_cannot_write_into_the_victims_session(
    site: Site, known: Browser
) -> None:
    planted = known.twin().begin()  # the attacker's own session, whose cookie the victim was made to use
    known.login("ann")
    site.forget()
    planted.session["address"] = "the attacker's"
    assert planted.respond().set_cookie is None
    assert "address" not in known.sees
    assert site.lost() == ("superseded", ["address"])


def test_a_logout_with_a_cookie_from_before_the_login_ends_the_session(site: Site, known: Browser) -> None:
    old = overtaken(known)
    held = old.begin()
    held.session.logout()
    held.session["b"] = 1
    response = held.respond()
    held.end()
    assert response.removes
    assert site.answer(known.id) == Ended("logout", site.clock.now)
    assert site.calls == ["load", "delete"]
    assert site.told == ["session_deleted", "session_data_save_failed"]
    assert site.lost() == ("superseded", ["b"])


def test_a_logout_that_was_overtaken_and_came_second_removes_nothing(site: Site, known: Browser) -> None:
    held = overtaken(known).begin()
    known.visit(lambda session: session.logout())
    held.session.logout()
    assert held.respond().set_cookie is None


def test_a_failed_logout_of_an_overtaken_request_is_503(site: Site, known: Browser) -> None:
    held = overtaken(known).begin()
    site.port.faults["delete"] = [BackendUnavailable("down")]
    held.session.logout()
    assert held.respond().status == 503


def test_a_login_with_a_cookie_from_before_the_same_login_gets_the_current_cookie(
    site: Site, known: Browser
) -> None:
    old = overtaken(known)
    assert old.login("ann").cookie == known.cookie
    assert site.calls == ["load", "load"]


def test_a_login_with_a_cookie_from_before_anothers_login_creates(site: Site, known: Browser) -> None:
    old = overtaken(known)
    old.login("bob", b=1)
    assert old.id != known.id
    assert (site.record(known.id).user_id, site.record(old.id).user_id) == ("ann", "bob")
    assert site.stored(old.id) == {"b": b"1"}


def test_a_login_with_a_cookie_from_before_a_change_of_privilege_supersedes(
    site: Site, known: Browser
) -> None:
    old, id_ = cycled(known, grace=0), known.id
    old.login("bob")
    assert site.answer(id_) == Ended("superseded", site.clock.now, "bob")
    assert site.record(old.id).user_id == "bob"


def test_a_logout_and_login_with_a_cookie_from_before_ends_the_session_for_good(
    site: Site, known: Browser
) -> None:
    old, id_ = overtaken(known), known.id
    old.visit(lambda session: (session.logout(), session.login("ann")))
    assert site.answer(id_) == Ended("logout", site.clock.now, "ann")
    assert old.id != id_
    assert site.record(old.id).user_id == "ann"


def test_a_login_a_moment_ahead_of_this_clock_overtakes_as_well(site: Site, known: Browser) -> None:
    old = overtaken(known)
    site.clock.advance(-0.005)  # this request read its clock, then waited for its load
    assert old.visit(lambda session: session.update(b=1)).set_cookie is None


def test_of_several_floors_the_first_above_the_cookie_counts(site: Site, known: Browser) -> None:
    old = overtaken(known)
    site.clock.advance(29)
    known.login("ann")
    site.clock.advance(1)  # 30 after the first login, one after the second
    site.forget()
    assert old.visit(lambda session: session.update(b=1)).cookie is not None
    assert site.suspicion() == "superseded_cookie"


# --- older, any other ---


def test_an_old_superseded_cookie_is_a_visitor_like_any_other(site: Site, known: Browser) -> None:
    old = overtaken(known)
    site.clock.advance(30)
    held = old.begin()
    assert (dict(held.session), held.session.ended_because) == ({}, None)
    held.session["b"] = 1
    response = held.respond()
    held.end()
    assert response.cookie is not None
    assert old.id != known.id
    assert site.suspicion() == "superseded_cookie"
    assert site.only("session_suspicious_activity").session_id == known.id
    assert (site.stored(old.id), site.stored(known.id)) == ({"b": b"1"}, {"a": b"1"})


def test_a_cookie_below_the_oldest_kept_floor_locks_nobody_out(site: Site, known: Browser) -> None:
    old = known.twin()
    for _ in range(6):
        known.login("ann")
        site.clock.advance(1)
    assert old.visit(lambda session: session.update(b=1)).cookie is not None


# --- newer than the record, or another secret ---


@pytest.mark.parametrize("change", [{"generation": 9_999_999_999_999}, {"secret": "Z" * 21 + "A"}])
def test_a_cookie_the_record_does_not_know_opens_nothing(
    site: Site, known: Browser, change: dict[str, object]
) -> None:
    thief = forged(known, **change)
    response = thief.visit(lambda session: session.update(b=1))
    assert response.cookie is not None
    assert thief.id != known.id
    assert site.suspicion() == "unknown_generation"
    assert site.stored(known.id) == {"a": b"1"}


# --- ended ---


@pytest.mark.parametrize("reason", ["logout", "superseded"])
@pytest.mark.parametrize("seconds", [0.0, 29.999])
def test_a_request_that_a_logout_overtook_saves_nothing(
    site: Site, known: Browser, reason: str, seconds: float
) -> None:
    site.do("delete_session", known.id, reason)
    site.clock.advance(seconds)
    site.forget()
    held = known.begin()
    assert held.session.ended_because == reason
    held.session["b"] = 1
    response = held.respond(201)
    assert (response.status, response.set_cookie) == (201, None)
    assert site.calls == ["load"]
    assert site.lost() == ("ended", ["b"])
    assert site.only("session_data_save_failed").session_id == known.id


def test_a_request_that_a_logout_overtook_may_log_in(site: Site, known: Browser) -> None:
    old = known.twin()
    known.visit(lambda session: session.logout())
    site.forget()
    old.login("ann", b=1)
    assert site.calls == ["load", "create"]
    assert (site.record(old.id).user_id, site.stored(old.id)) == ("ann", {"b": b"1"})


def test_a_second_logout_does_nothing(site: Site, known: Browser) -> None:
    old = known.twin()
    known.visit(lambda session: session.logout())
    site.forget()
    assert old.visit(lambda session: session.logout()).set_cookie is None
    assert site.calls == ["load"]


@pytest.mark.parametrize(
    ("reason", "seconds"), [("logout", 30.0), ("superseded", 30.0), ("deleted", 0.0), ("revoked", 1.0)]
)
def test_a_session_that_ended_otherwise_is_told_and_a_write_begins_anew(
    site: Site, known: Browser, reason: str, seconds: float
) -> None:
    old = known.id
    site.do("delete_session", old, reason)
    site.clock.advance(seconds)
    site.forget()
    held = known.begin()
    assert held.session.ended_because == reason
    held.session["b"] = 1
    held.respond()
    held.end()
    assert known.id != old
    assert site.fields("session_data_retrieval_failed") == {"reason": "not_found_or_expired"}
    assert site.told == ["session_data_retrieval_failed", "session_created", "session_data_saved"]


def test_an_unknown_id_is_never_adopted(site: Site, known: Browser) -> None:
    stranger = forged(known, id="X" * 21 + "A")
    wanted = stranger.id
    response = stranger.visit(lambda session: session.update(b=1))
    assert response.cookie is not None
    assert stranger.id != wanted
    assert site.answer(wanted) is None
    assert site.suspicion() == "unknown_id"


def test_a_stale_cookie_is_left_alone_by_a_reader(site: Site, known: Browser) -> None:
    site.do("delete_session", known.id)
    assert known.visit().set_cookie is None


def test_a_restored_record_repeats_no_generation(site: Site, known: Browser) -> None:
    before = site.record(known.id)
    known.visit(lambda session: session.cycle(grace=0))
    lost = known.twin()
    site.put_back(before)
    site.clock.advance(1)
    site.forget()
    assert lost.sees == {}
    assert site.suspicion() == "unknown_generation"


# --- the backend is down, or the row is ---


def test_a_valid_cookie_over_a_backend_that_is_down_is_503_and_stays(site: Site, known: Browser) -> None:
    site.port.faults["load"] = [BackendUnavailable("down")]
    response = known.begin().answered
    if response is None:  # memory loads at the first look
        pytest.fail("no answer")
    assert (response.status, response.set_cookie) == (503, None)
    assert known.sees == {"a": 1}


@pytest.mark.parametrize("damaged", [b'{"a":', b'{"a":{"~new":1}}', b'{"a":{"~dt":"never"}}', b"[]"])
def test_a_row_that_cannot_be_decoded_is_an_anonymous_visitor_and_kept(
    site: Site, known: Browser, damaged: bytes
) -> None:
    id_ = known.id
    record = site.record(id_)
    site.put_back(replace(record, data=type(record.data)(damaged)))
    site.forget()
    held = known.begin()
    assert (dict(held.session), held.session.id) == ({}, None)
    held.session["b"] = 1
    response = held.respond()
    held.end()
    assert (response.status, known.id != id_) == (200, True)
    assert site.fields("session_data_retrieval_failed") == {"reason": "undecodable"}
    assert site.only("session_data_retrieval_failed").session_id == id_
    assert site.record(id_).data.packed == damaged
    assert "delete" not in site.calls


def test_a_row_that_cannot_even_be_read_is_an_anonymous_visitor_too(site: Site, known: Browser) -> None:
    site.port.faults["load"] = [SessionDataError("damaged")]
    assert known.sees == {}
    assert site.told == ["session_data_retrieval_failed"]
    assert site.fields("session_data_retrieval_failed") == {"reason": "undecodable"}
    assert known.sees == {"a": 1}


# --- several cookies of our name ---


def two_sessions(site: Site, first: str | None, second: str | None) -> tuple[Browser, Browser]:
    """Two clients, signed in or not."""
    made = []
    for name, user in (("one", first), ("two", second)):
        browser = site.browser()
        browser.visit(lambda session, name=name: session.update(name=name))
        if user is not None:
            browser.login(user)
        made.append(browser)
    site.forget()
    return made[0], made[1]


def both(one: Browser, two: Browser) -> list[Browser]:
    """Clients that send both cookies, in both orders."""
    clients = []
    for first, second in ((one, two), (two, one)):
        browser = first.twin()
        browser.others = (str(second.cookie),)
        clients.append(browser)
    return clients


def test_of_two_generations_of_one_session_the_newer_counts(site: Site, known: Browser) -> None:
    old = cycled(known)
    for browser in both(old, known):
        site.forget()
        assert browser.visit().set_cookie is None
        assert site.calls[0] == "load"


def test_of_two_sessions_the_live_one_is_it(site: Site) -> None:
    one, two = two_sessions(site, None, None)
    site.do("delete_session", two.id, "logout")
    for browser in both(one, two):
        assert browser.sees == {"name": "one"}


def test_of_two_live_sessions_the_signed_in_one_is_it(site: Site) -> None:
    one, two = two_sessions(site, "ann", None)
    for browser in both(one, two):
        assert browser.sees == {"name": "one"}
    assert "session_suspicious_activity" not in site.told


@pytest.mark.parametrize("users", [("ann", "bob"), (None, None)])
def test_two_sessions_of_equal_right_are_a_conflict_and_open_nothing(
    site: Site, users: tuple[str | None, str | None]
) -> None:
    one, two = two_sessions(site, *users)
    for browser in both(one, two):
        site.forget()
        assert browser.sees == {}
        assert site.suspicion() == "cookie_conflict"
        assert site.fields("session_suspicious_activity")["details"] == {"count": 2}


def test_a_login_while_cookies_conflict_ends_them_all(site: Site) -> None:
    one, two = two_sessions(site, "ann", "bob")
    [browser, _] = both(one, two)
    browser.others = (str(two.cookie),)
    response = browser.login("ann")
    assert response.cookie is not None
    assert site.record(browser.id).user_id == "ann"
    assert (site.answer(one.id), site.answer(two.id)) == (Ended("superseded", site.clock.now),) * 2


@pytest.mark.parametrize("status", [200, 500])
def test_a_logout_while_cookies_conflict_ends_them_all(site: Site, status: int) -> None:
    one, two = two_sessions(site, "ann", "bob")
    [browser, _] = both(one, two)
    response = browser.visit(lambda session: session.logout(), status=status)
    assert response.removes
    assert (site.answer(one.id), site.answer(two.id)) == (Ended("logout", site.clock.now),) * 2
    assert [event.fields["reason"] for event in site.events if event.name == "session_deleted"] == [
        "logout"
    ] * 2


def test_a_late_logout_while_cookies_conflict_ends_them_all(site: Site) -> None:
    one, two = two_sessions(site, "ann", "bob")
    held = both(one, two)[0].begin()
    held.respond()
    held.session.logout()
    held.session["b"] = 1
    held.end()
    assert (site.answer(one.id), site.answer(two.id)) == (Ended("logout", site.clock.now),) * 2
    assert site.lost() == ("response_started", ["b"])


def test_a_logout_and_a_write_while_cookies_conflict_end_them_all(site: Site) -> None:
    one, two = two_sessions(site, "ann", "bob")
    [browser, _] = both(one, two)
    browser.visit(lambda session: (session.clear(), session.update(b=1)))
    assert site.stored(browser.id) == {"b": b"1"}
    assert isinstance(site.answer(one.id), Ended)
    assert isinstance(site.answer(two.id), Ended)


def test_an_anonymous_write_while_cookies_conflict_ends_nothing(site: Site) -> None:
    one, two = two_sessions(site, "ann", "bob")
    [browser, _] = both(one, two)
    browser.visit(lambda session: session.update(b=1))
    assert site.record(one.id).user_id == "ann"
    assert site.record(two.id).user_id == "bob"


def test_a_logout_beside_an_overtaken_cookie_ends_the_live_session(site: Site) -> None:
    one, two = two_sessions(site, "ann", None)
    two.twin().login("bob")
    for browser in both(one, two):
        assert browser.sees == {"name": "one"}


# --- where a removal cookie may not be ---


@pytest.mark.parametrize(
    "act", [lambda session: None, lambda session: session.logout(), lambda s: s.update(b=1)]
)
def test_nothing_removes_the_cookie_of_a_login_that_happened_meanwhile(
    site: Site, known: Browser, act: Callable[[Session], object]
) -> None:
    slow = known.begin()
    known.visit(lambda session: (session.clear(), session.login("ann")))
    current = known.cookie
    act(slow.session)
    assert slow.respond().set_cookie is None
    assert known.cookie == current
    assert site.record(known.id).user_id == "ann"
