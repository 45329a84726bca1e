"""What a request leaves behind, decided without a backend: rows of the commit table at their edges.

`tests/life` shows the same table from outside, over every backend. Here is what only a plan can tell: what is
not done, what is done to sessions beside this one, and the exact moments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from session_middleware.changes import Changes, changes_of, login_of
from session_middleware.errors import SessionDataError
from session_middleware.plan import (
    NOTHING,
    Create,
    End,
    Keep,
    Lost,
    Relogin,
    Swap,
    Write,
    checked_metadata,
    is_settled,
    new_record,
    plan_commit,
    plan_late,
    plan_refused,
)
from session_middleware.policy import Policy
from session_middleware.record import UNSET, Delta, Ended, Grace, Record, SessionId, replace
from session_middleware.session import Fresh, JustEnded, Life, Live, Opening, Overtaken, Session, SetCookie
from session_middleware.values import Values

NOW = 2000.0  # seconds
POLICY = Policy(idle_timeout=100.0, absolute_timeout=1000.0, renew_after=0.25)
ID, OTHER, MADE = (SessionId(letter * 21 + "A") for letter in "ION")
PROMISE = (SessionId("P" * 21 + "A"), "s" * 21 + "A", 1_990_000)
RECORD = Record(
    id=ID,
    secret="s",
    generation=1_900_000,
    floors=(1_900_000,),
    created_at=1900.0,
    deadline=NOW + 100.0,
    limit=NOW + 900.0,
    last_seen_at=NOW,
    data=Values.of({"a": b"1", "n": b"5"}),
)
ANN = replace(RECORD, user_id="ann")
BESIDE = replace(RECORD, id=OTHER)
ELSE = replace(RECORD, id=SessionId("E" * 21 + "A"))


def mint() -> tuple[SessionId, str]:
    return MADE, "m" * 21 + "A"


def live(record: Record = RECORD, **facts: Any) -> Live:
    return Live(record, facts.pop("admitted", record.generation), **facts)


def opened(
    opening: Opening,
    act: Callable[[Session], object] = lambda session: None,
    policy: Policy = POLICY,
    **facts: Any,
) -> Session:
    """A session that was opened so, and what its handler did. *facts*: of its `Life`."""
    session, life = Session(), Life(policy, None, opening)
    session.open(life)
    for name, value in facts.items():
        setattr(life, name, value)
    act(session)
    return session


def assign(**values: Any) -> Callable[[Session], None]:
    return lambda session: session.update(values)


def both(*acts: Callable[[Session], object]) -> Callable[[Session], object]:
    return lambda session: [act(session) for act in acts]


def login(name: str) -> Callable[[Session], None]:
    return lambda session: session.login(name)


def count(session: Session) -> int:
    return session.increment("n")


def commit(session: Session, now: float = NOW, **options: Any) -> Any:
    return plan_commit(session, now, mint, **options)


def late(session: Session, now: float = NOW) -> Any:
    return plan_late(session, now, mint)


def refused(session: Session, answer: Record | Ended | None, now: float = NOW) -> Any:
    return plan_refused(session, answer, now, mint)


# --- is_settled ---


def append_in_place(session: Session) -> None:
    dict.__setitem__(session, "a", 2)  # as a change within a value is


UNSETTLED: dict[str, Session] = {
    "a verb was called": opened(live(), lambda session: session.renew()),
    "told to be modified": opened(live(), lambda session: setattr(session, "modified", True)),
    "a cookie is owed": opened(live(), owed=SetCookie(ID, "s", 1, 1.0)),
    "the metadata was looked at": opened(live(), lambda session: session.metadata),
    "somebody writes before the commit": opened(live(), before_commit=(lambda: None,)),
    "a nested change": opened(live(), append_in_place),
    "a change of nobody's session": opened(Fresh(), append_in_place),
    "opened by a promise": opened(live(promised=True)),
    "an older generation": opened(live(admitted=1)),
    "a cycle is due": opened(live(replace(RECORD, cycle_due=0.0))),
    "superseded generations": opened(live(replace(RECORD, accepted={1: Grace(30.0)}))),
    "a renewal is due": opened(live(replace(RECORD, deadline=NOW + 74.0))),
}


@pytest.mark.parametrize("why", UNSETTLED)
def test_a_session_is_not_settled_where(why: str) -> None:
    assert not is_settled(UNSETTLED[why], NOW)


@pytest.mark.parametrize(
    "session",
    [
        opened(Fresh()),
        opened(live()),
        opened(live(ANN), lambda session: session.get("a")),
        opened(live(replace(RECORD, deadline=NOW + 75.0))),
        opened(live(replace(RECORD, deadline=NOW + 74.0)), passive=True),
        opened(live(replace(RECORD, deadline=NOW + 74.0, limit=NOW + 74.0))),  # a renewal gains nothing
        opened(Overtaken(RECORD)),
        opened(JustEnded(ID, "logout")),
    ],
    ids=["nobody", "read", "read of a user", "in time", "passive", "at its limit", "overtaken", "just ended"],
)
def test_a_session_that_nothing_was_done_to_is_settled_and_its_plan_is_nothing(session: Session) -> None:
    assert is_settled(session, NOW) is True
    assert commit(session) is NOTHING
    assert late(session) is NOTHING


# --- a live session ---


def test_a_renewal_sets_the_cookie_anew_only_where_that_has_an_age() -> None:
    due = live(replace(RECORD, deadline=NOW + 10.0))
    assert commit(opened(due)).sends_cookie
    assert commit(opened(due), cookie_ages=False) == Write(
        due.record, Delta(admitted=due.admitted, renew_to=NOW + 100.0, seen_at=NOW), shown=due.record.data
    )
    assert commit(opened(due), cookie_ages=False).sends_cookie is False


def test_a_response_without_a_failure_is_the_ordinary_one() -> None:
    assert commit(opened(live(), assign(a=2))).delta.set == {"a": b"2"}


@pytest.mark.parametrize(
    ("act", "record", "asked"),
    [
        (assign(a=2), RECORD, False),
        (login("ann"), RECORD, False),
        (lambda session: session.cycle(), RECORD, True),
        (assign(a=2), replace(RECORD, cycle_due=30.0), True),
        (lambda session: session.cycle(), replace(RECORD, cycle_due=30.0), True),
    ],
    ids=["a value", "a login", "cycle()", "due", "both"],
)
def test_a_plan_tells_whether_a_cycle_was_asked_for(
    act: Callable[[Session], object], record: Record, *, asked: bool
) -> None:
    assert commit(opened(live(record), act)).asked_cycle is asked


@pytest.mark.parametrize(("own", "due", "grace"), [(10.0, 20.0, 10.0), (20.0, 10.0, 10.0), (20.0, 0.0, 0.0)])
def test_of_two_cycles_the_strictest_wins(own: float, due: float, grace: float) -> None:
    session = opened(live(replace(RECORD, cycle_due=due)), lambda session: session.cycle(grace=own))
    assert commit(session).delta.cycle == grace


def test_a_login_over_a_live_session_ends_those_beside_it() -> None:
    other_user = commit(opened(live(ANN), login("bob"), others=(BESIDE, ELSE)))
    assert (other_user.reason, other_user.old, other_user.also_end) == ("superseded", ID, (OTHER, ELSE.id))
    assert other_user.needs_old_alive is False
    nobody_yet = commit(opened(live(), login("bob"), others=(BESIDE, ELSE)))
    assert (nobody_yet.user_id, nobody_yet.also_end) == ("bob", (OTHER, ELSE.id))


def test_a_change_that_is_no_login_leaves_those_beside_it_alone() -> None:
    plan = commit(opened(live(ANN), assign(a=2), others=(BESIDE,)))
    assert (plan.user_id, plan.also_end) == (None, ())


@pytest.mark.parametrize("absolute", [50.0, 1000.0])
def test_a_login_with_an_expiry_of_its_own_ends_by_the_limit_of_the_login(absolute: float) -> None:
    policy = Policy(idle_timeout=100.0, absolute_timeout=absolute)
    record = replace(RECORD, limit=NOW + 200.0)
    act = both(login("ann"), lambda session: session.set_expiry(500))
    plan = commit(opened(live(record), act, policy))
    assert (plan.delta.limit, plan.delta.expire_at) == (NOW + absolute, NOW + min(500.0, absolute))
    assert (plan.delta.renew_to, plan.delta.idle_timeout) == (None, 500.0)


def test_a_login_renews_up_to_its_own_limit() -> None:
    record = replace(RECORD, limit=NOW + 20.0, deadline=NOW + 20.0)
    assert commit(opened(live(record), login("ann"))).delta.renew_to == NOW + 100.0


def test_an_asked_renewal_goes_no_further_than_the_limit() -> None:
    record = replace(RECORD, limit=NOW + 50.0, deadline=NOW + 50.0)
    assert commit(opened(live(record), lambda session: session.renew())).delta.renew_to == NOW + 50.0


def test_a_passive_request_that_writes_was_not_seen_and_renews_nothing() -> None:
    record = replace(RECORD, deadline=NOW + 1.0)
    plan = commit(opened(live(record), assign(a=2), passive=True))
    assert plan.delta == Delta(set={"a": b"2"}, admitted=record.generation)
    assert commit(opened(live(record), assign(a=2))).delta.seen_at == NOW


@pytest.mark.parametrize(
    ("accepted", "admitted", "came_back", "starts"),
    [
        ({}, 5, True, False),
        ({4: Grace(30.0)}, 5, True, True),
        ({4: Grace(30.0)}, 5, False, False),
        ({4: Grace(30.0, NOW + 1)}, 5, True, False),  # it runs already
        ({5: Grace(30.0)}, 5, True, False),  # the one that came
        ({6: Grace(30.0)}, 5, True, False),
        ({4: Grace(30.0), 6: Grace(30.0)}, 5, True, True),
        ({3: Grace(30.0, NOW + 1), 4: Grace(30.0)}, 5, True, True),
    ],
)
def test_the_grace_of_generations_that_wait_starts_when_a_newer_cookie_comes_back(
    accepted: dict[int, Grace], admitted: int, *, came_back: bool, starts: bool
) -> None:
    record = replace(RECORD, generation=9, accepted=accepted)
    plan = commit(opened(live(record, admitted=admitted, came_back=came_back), assign(a=2)))
    assert plan.delta.start_grace is starts


def test_an_owed_cookie_is_sent_though_nothing_is_to_be_saved() -> None:
    owed = SetCookie(ID, "s", RECORD.generation, NOW)
    plan = commit(opened(live(), owed=owed))
    assert plan == Write(
        RECORD, Delta(admitted=RECORD.generation, seen_at=NOW), sends_cookie=True, shown=RECORD.data
    )


@pytest.mark.parametrize("opening", [Fresh(), Overtaken(RECORD), JustEnded(ID, "logout")], ids=repr)
def test_a_failed_response_saves_nothing_of_whoever_has_no_live_session(opening: Opening) -> None:
    owed = SetCookie(ID, "s", RECORD.generation, NOW)
    assert commit(opened(opening, assign(a=2), owed=owed), failed=True) is NOTHING


def test_a_failed_response_confirms_the_cookie_that_an_early_save_owes_and_saves_nothing() -> None:
    assert commit(opened(live(), assign(a=2)), failed=True) is NOTHING
    session = opened(live(admitted=7), assign(a=2), owed=SetCookie(ID, "s", 7, NOW))
    assert commit(session, failed=True) == Write(RECORD, Delta(admitted=7), sends_cookie=True)


# --- logout ---


def test_a_logout_ends_this_session_and_loses_nothing() -> None:
    plan = commit(opened(live(), lambda session: session.logout()))
    assert (plan, plan.lost, plan.why_lost, plan.others) == (End(ID), (), "", ())


def test_a_logout_while_cookies_conflict_ends_each_session_once() -> None:
    session = opened(Fresh(), lambda session: session.logout(), others=(RECORD, BESIDE, ELSE))
    plan = commit(session)
    assert (plan.id, plan.others) == (ID, (OTHER, ELSE.id))


@pytest.mark.parametrize(
    ("act", "values"),
    [(assign(b=1), {"b": b"1"}), (lambda session: session.increment("new"), {"new": b"1"})],
    ids=["assigned", "counted"],
)
def test_what_is_written_after_a_logout_begins_a_session_if_the_old_one_was_alive(
    act: Callable[[Session], object], values: dict[str, bytes]
) -> None:
    session = opened(live(), both(lambda session: session.logout(), act), others=(BESIDE,))
    plan = commit(session)
    assert (plan.old, plan.reason, plan.needs_old_alive, plan.also_end) == (ID, "logout", True, ())
    assert (dict(plan.record.data), plan.record.user_id) == (values, None)


def test_a_login_after_a_logout_needs_nobody_alive_and_ends_those_beside_it() -> None:
    session = opened(live(), both(lambda session: session.logout(), login("ann")), others=(BESIDE,))
    plan = commit(session)
    assert (plan.reason, plan.needs_old_alive, plan.also_end) == ("logout", False, (OTHER,))
    assert (plan.record.user_id, plan.record.authenticated_at) == ("ann", NOW)


# --- nothing was loaded ---


def test_the_first_write_leaves_other_sessions_alone_unless_it_signs_in_or_comes_after_a_logout() -> None:
    beside: dict[str, Any] = {"others": (BESIDE, ELSE)}
    assert commit(opened(Fresh(), assign(a=1), **beside)).also_end == ()
    assert commit(opened(Fresh(), login("ann"), **beside)).also_end == (OTHER, ELSE.id)
    over = both(lambda session: session.logout(), assign(a=1))
    assert commit(opened(Fresh(), over, **beside)).also_end == (OTHER, ELSE.id)


def test_a_look_while_cookies_conflict_ends_nothing() -> None:
    assert commit(opened(Fresh(), lambda session: session.renew(), others=(RECORD, BESIDE))) is NOTHING


def test_a_new_record_says_what_was_asked_for_and_begins_now() -> None:
    plan = commit(opened(Fresh(), assign(a=1)))
    assert isinstance(plan, Create)
    assert plan.record == Record(
        id=MADE,
        secret="m" * 21 + "A",
        generation=2_000_000,
        floors=(2_000_000,),
        created_at=NOW,
        last_seen_at=NOW,
        deadline=NOW + 100.0,
        limit=NOW + 1000.0,
        data=Values.of({"a": b"1"}),
    )
    assert (plan.record.priority, plan.record.user_id, plan.record.authenticated_at) == (0, None, None)


def test_a_new_record_of_nobody_has_no_user_and_no_time_of_a_login() -> None:
    for nobody in (None, UNSET):
        record = new_record(opened(Fresh()), {}, nobody, NOW, mint)
        assert (record.user_id, record.authenticated_at) == (None, None)
    signed_in = new_record(opened(Fresh()), {}, "ann", NOW, mint)
    assert (signed_in.user_id, signed_in.authenticated_at) == ("ann", NOW)


@pytest.mark.parametrize(("now", "generation"), [(NOW, 2_000_000), (1980.0, 1_990_000)])
def test_the_first_write_makes_what_was_promised_and_no_generation_goes_back(
    now: float, generation: int
) -> None:
    record = commit(opened(Fresh(promised=PROMISE), assign(a=1)), now).record
    assert (record.id, record.secret) == PROMISE[:2]
    assert (record.generation, record.floors) == (generation, (generation,))


@pytest.mark.parametrize(
    "act",
    [
        login("ann"),
        assign(role="admin"),
        both(assign(a=1), lambda session: session.cycle(grace=0)),
    ],
    ids=["login", "privilege", "cycle without grace"],
)
def test_a_session_that_begins_with_a_privilege_is_not_opened_by_its_promise(
    act: Callable[[Session], object],
) -> None:
    record = commit(opened(Fresh(promised=PROMISE), act)).record
    assert (record.id, record.secret) == PROMISE[:2]
    assert (record.generation, record.floors) == (2_000_001, (2_000_000, 2_000_001))


@pytest.mark.parametrize("grace", [1.0, 30.0])
def test_a_cycle_with_grace_before_the_first_write_leaves_the_promise_open(grace: float) -> None:
    act = both(assign(a=1), lambda session: session.cycle(grace=grace))
    assert commit(opened(Fresh(promised=PROMISE), act)).record.floors == (2_000_000,)


def test_a_login_without_a_promise_begins_with_one_generation() -> None:
    assert commit(opened(Fresh(), login("ann"))).record.floors == (2_000_000,)


def test_a_write_after_a_logout_ends_what_was_made_of_the_promise_and_takes_another_id() -> None:
    act = both(lambda session: session.logout(), assign(a=1))
    plan = commit(opened(Fresh(promised=PROMISE), act))
    assert isinstance(plan, Swap)
    assert (plan.record.id, plan.old, plan.reason, plan.needs_old_alive) == (MADE, PROMISE[0], "logout", True)


def test_a_login_after_a_logout_makes_what_was_promised() -> None:
    act = both(lambda session: session.logout(), login("ann"))
    plan = commit(opened(Fresh(promised=PROMISE), act))
    assert isinstance(plan, Create)
    assert (plan.record.id, plan.record.user_id) == (PROMISE[0], "ann")


# --- overtaken, or just ended ---


@pytest.mark.parametrize("opening", [Overtaken(RECORD), JustEnded(ID, "logout")], ids=repr)
def test_whoever_was_overtaken_and_changed_nothing_loses_nothing(opening: Opening) -> None:
    assert commit(opened(opening, lambda session: session.renew())) is NOTHING


def test_an_overtaken_login_looks_again_and_a_write_is_lost() -> None:
    assert commit(opened(Overtaken(RECORD), login("ann"))) == Relogin(ID)
    assert commit(opened(Overtaken(RECORD), assign(b=1, a=1))) == Lost(ID, ("a", "b"), "superseded")


def test_a_login_after_a_logout_in_another_request_ends_those_beside_it() -> None:
    plan = commit(opened(JustEnded(ID, "logout"), login("ann"), others=(BESIDE,)))
    assert isinstance(plan, Create)
    assert (plan.record.user_id, plan.also_end) == ("ann", (OTHER,))


# --- refused by a backend ---


def test_a_refused_login_of_nobodys_session_swaps_it_and_ends_those_beside_it() -> None:
    plan = refused(opened(live(), login("ann"), others=(BESIDE,)), RECORD)
    assert (type(plan), plan.old, plan.reason, plan.also_end) == (Swap, ID, "superseded", (OTHER,))


@pytest.mark.parametrize("answer", [None, Ended("logout", NOW), replace(RECORD, user_id="bob")], ids=repr)
def test_a_refused_login_of_a_session_that_is_gone_or_anothers_creates_and_ends_those_beside_it(
    answer: Record | Ended | None,
) -> None:
    plan = refused(opened(live(), login("ann"), others=(BESIDE,)), answer)
    assert (type(plan), plan.also_end) == (Create, (OTHER,))


@pytest.mark.parametrize(
    ("answer", "id_", "reason"),
    [(None, ID, "gone"), (Ended("logout", NOW), ID, "gone"), (BESIDE, OTHER, "superseded")],
)
@pytest.mark.parametrize(("act", "keys"), [(assign(a=2), ("a",)), (lambda session: session.renew(), ())])
def test_a_refused_change_is_lost_and_told_even_if_it_names_no_key(
    act: Callable[[Session], object],
    keys: tuple[str, ...],
    answer: Record | Ended | None,
    id_: SessionId,
    reason: str,
) -> None:
    assert refused(opened(live(), act), answer) == Lost(id_, keys, reason)


@pytest.mark.parametrize(
    ("act", "missing"),
    [
        (login("ann"), ()),
        (both(login("ann"), assign(a=2)), ("a",)),
        (both(login("ann"), assign(b=1, c=2)), ("b", "c")),
        (both(login("ann"), count), ("n",)),
        (both(login("ann"), lambda session: session.pop("a")), ("a",)),
    ],
    ids=["nothing", "another value", "new values", "a counter", "a removal"],
)
def test_a_double_click_keeps_the_session_and_names_what_it_does_not_say(
    act: Callable[[Session], object], missing: tuple[str, ...]
) -> None:
    assert refused(opened(live(), act), ANN) == Keep(ANN, missing)


def test_a_double_click_names_nothing_that_the_session_says_too() -> None:
    session = opened(live(), both(login("ann"), assign(b=1), lambda session: session.pop("a")))
    says_so = replace(ANN, data=Values.of({"b": b"1"}))
    assert refused(session, says_so) == Keep(says_so, ())


# --- once the response has left ---


def test_a_late_change_is_written_without_a_cookie() -> None:
    plan = late(opened(live(), assign(a=2)))
    assert plan == Write(RECORD, Delta(set={"a": b"2"}, admitted=RECORD.generation, seen_at=NOW))
    assert (plan.sends_cookie, plan.asked_cycle, plan.refused) == (False, False, ())


@pytest.mark.parametrize(
    ("record", "key", "taken"),
    [
        (RECORD, "user_id", False),
        (RECORD, "role", False),
        (RECORD, "b", True),
        (ANN, "user_id", False),
        (ANN, "role", True),
        (ANN, "b", True),
    ],
)
def test_a_late_change_of_the_user_or_of_nobodys_privilege_is_refused(
    record: Record, key: str, *, taken: bool
) -> None:
    session = opened(live(record), lambda session: dict.__setitem__(session, key, "x"))
    plan = late(session)
    if taken:
        assert (plan.delta.set, plan.refused) == ({key: b'"x"'}, ())
    else:
        assert plan == Lost(ID, (key,), "response_started")


def test_what_is_refused_late_is_named_beside_what_is_written() -> None:
    session = opened(live(), lambda session: dict.update(session, user_id="x", b=1, n=5))
    plan = late(session)
    assert (plan.delta.set, plan.delta.user_id, plan.refused) == ({"b": b"1"}, UNSET, ("user_id",))


def test_a_removed_or_counted_privilege_of_nobody_is_refused_late_too() -> None:
    policy = Policy(idle_timeout=100.0, privilege_keys=frozenset({"a", "n"}))
    session = opened(live(), lambda session: (dict.pop(session, "a"), session.increment("n")), policy)
    assert late(session) == Lost(ID, ("a", "n"), "response_started")


def test_a_login_that_an_exception_left_without_a_response_is_refused() -> None:
    plan = late(opened(live(ANN), both(login("bob"), assign(b=1))))
    assert (plan.delta.user_id, plan.refused) == (UNSET, ("user_id",))
    assert late(opened(live(), login("bob"))) == Lost(ID, ("user_id",), "response_started")


def test_a_late_privilege_of_a_user_cycles_at_the_next_response_without_grace() -> None:
    session = opened(live(ANN), lambda session: dict.__setitem__(session, "role", "admin"))
    delta = late(session).delta
    assert (delta.cycle, delta.cycle_due) == (None, 0.0)


@pytest.mark.parametrize("opening", [Fresh(), Fresh(promised=PROMISE)], ids=["nobody", "promised"])
def test_what_is_written_late_after_a_logout_of_nobody_is_lost(opening: Opening) -> None:
    session = opened(opening, both(lambda session: session.logout(), assign(b=1)))
    assert late(session) == Lost(None, ("b",), "response_started")


def test_a_late_write_makes_what_was_promised() -> None:
    plan = late(opened(Fresh(promised=PROMISE), assign(b=1)))
    assert isinstance(plan, Create)
    assert plan.record.id == PROMISE[0]


# --- metadata ---


def test_metadata_is_held_to_the_limits_of_values() -> None:
    life = Life(Policy(max_keys=2, max_bytes=100), None, Fresh())
    assert checked_metadata(life, {"a": 1, "b": [2]}) == {"a": 1, "b": [2]}
    assert checked_metadata(life, {}) == {}
    for large in ({"a": 1, "b": 2, "c": 3}, {"a": "x" * 200}):
        with pytest.raises(SessionDataError, match="limit"):
            checked_metadata(life, large)


def test_metadata_that_was_only_looked_at_is_not_written_again() -> None:
    record = replace(RECORD, metadata={"a": [1]})
    plan = commit(opened(live(record), both(lambda session: session.metadata, assign(b=1))))
    assert plan.delta.metadata is UNSET


# --- changes ---


def test_changes_but_for_some_keys_are_the_others() -> None:
    changes = Changes({"a": b"1", "b": b"2"}, ("c", "d"), {"e": 1, "f": 2})
    assert changes.without({"a", "c", "e"}) == Changes({"b": b"2"}, ("d",), {"f": 2})
    assert changes.without(set()) == changes


@pytest.mark.parametrize(
    ("changes", "empty"),
    [
        (Changes({}, (), {}), True),
        (Changes({"a": b"1"}, (), {}), False),
        (Changes({}, ("a",), {}), False),
        (Changes({}, (), {"a": 1}), False),
    ],
)
def test_changes_are_empty_where_nothing_differs(changes: Changes, *, empty: bool) -> None:
    assert changes.is_empty() is empty


def test_a_counter_that_was_removed_again_is_removed_and_not_counted() -> None:
    changes = changes_of(opened(live(), both(count, lambda session: dict.pop(session, "n"))))
    assert (changes.unset, changes.counted) == (("n",), {})


def test_a_value_that_was_assigned_is_compared_by_its_types_too() -> None:
    loaded = replace(RECORD, data=Values.of({"l": b"[1]"}))
    assert changes_of(opened(live(loaded), assign(l=(1,)))).assigned == {"l": b'{"~t":[1]}'}
    assert changes_of(opened(live(loaded), assign(l=[1]))).assigned == {}
    beside_others = replace(RECORD, data=Values.of({"l": b"[1]", "other": b"1"}))
    both_changed = changes_of(opened(live(beside_others), assign(l=(1,), other=2)))
    assert both_changed.assigned == {"l": b'{"~t":[1]}', "other": b"2"}


def test_a_session_that_is_too_large_already_may_shrink_but_not_grow() -> None:
    large = live(replace(RECORD, data=Values.of({"a": b"1", "b": b"1", "c": b"1"})))
    policy = Policy(max_keys=1)
    assert changes_of(opened(large, lambda session: session.pop("a"), policy)).unset == ("a",)
    for act in (assign(c=2), lambda session: session.increment("c")):
        with pytest.raises(SessionDataError, match="limit is 1"):
            changes_of(opened(large, act, policy))


@pytest.mark.parametrize(("size", "fits"), [(3, True), (4, False)])
def test_as_many_keys_as_allowed_are_saved(size: int, *, fits: bool) -> None:
    policy = Policy(idle_timeout=100.0, max_keys=3)
    session = opened(Fresh(), assign(**{f"k{number}": 1 for number in range(size)}), policy)
    if fits:
        assert len(changes_of(session).assigned) == size
    else:
        with pytest.raises(SessionDataError, match="limit"):
            changes_of(session)


@pytest.mark.parametrize(("by", "size"), [(1, 1), (10**15, 16)])
def test_counters_count_towards_the_size_of_a_session(by: int, size: int) -> None:
    exactly = len("counter") + size + len("b") + 1
    counted = both(lambda session: session.increment("counter", by), assign(b=1))
    assert changes_of(opened(Fresh(), counted, Policy(max_bytes=exactly))).counted == {"counter": by}
    with pytest.raises(SessionDataError, match=f"would hold {exactly} bytes"):
        changes_of(opened(Fresh(), counted, Policy(max_bytes=exactly - 1)))


def test_a_user_key_that_is_another_user_by_now_signs_in() -> None:
    kept = replace(RECORD, data=Values.of({"user_id": b'"ann"'}))
    for record, act, user in (
        (RECORD, assign(user_id="ann"), "ann"),
        (kept, assign(user_id="bob"), "bob"),
        (kept, assign(a=1), UNSET),
        (kept, assign(_user_id="zoe"), UNSET),  # the first key counts, and says ann as before
        (kept, lambda session: session.pop("user_id"), None),
        (replace(kept, user_id="ann"), assign(user_id="bob"), "bob"),
        (replace(kept, user_id="zoe"), assign(user_id="bob"), UNSET),  # this app calls login() itself
    ):
        session = opened(live(record), act)
        assert login_of(session, changes_of(session)) == user
