"""Sessions found and ended by conditions, on every backend, awaited and as plain calls."""

from typing import Any

import pytest

from session_middleware import ConfigurationError, SessionManager, SessionNotFoundError, Where
from session_middleware.testing import broken
from tests.manager.damage import damage
from tests.test_manager import Driven


def made(driven: Driven, number: int, **arguments: Any) -> list[str]:
    """That many sessions, a second apart, oldest first."""
    ids = []
    for _ in range(number):
        driven.clock.now += 1
        ids.append(driven.create_session(**arguments).id)
    return ids


def ids_of(sessions: Any) -> list[str]:
    return [session.id for session in sessions]


def live(driven: Driven) -> set[str]:
    return set(ids_of(driven.get_sessions(limit=1000)))


def test_all_sessions_are_got_newest_first(driven: Driven) -> None:
    ids = made(driven, 5, data={"n": 1})
    got = driven.get_sessions()
    assert ids_of(got) == ids[::-1]
    assert dict(got[0]) == {"n": 1}
    assert got[0].manager is driven.manager


def test_there_may_be_none(driven: Driven) -> None:
    assert driven.get_sessions() == []
    assert driven.get_sessions_info() == []


def test_sessions_are_got_by_conditions_as_object_or_arguments_or_both(driven: Driven) -> None:
    ada = made(driven, 3, user_id="ada")
    made(driven, 2, user_id=7)
    assert ids_of(driven.get_sessions(user_id="ada")) == ada[::-1]
    assert ids_of(driven.get_sessions(Where(user_id="ada"))) == ada[::-1]
    cut = driven.get_session(ada[1]).created_at
    assert ids_of(driven.get_sessions(Where(user_id="ada"), created_before=cut)) == ada[:1]
    assert len(driven.get_sessions(user_id=7)) == 2


def test_each_page_goes_on_where_the_last_one_ended(driven: Driven) -> None:
    ids = made(driven, 7)
    for step in (lambda one: one, lambda one: one.id):
        pages, after = [], None
        while page := driven.get_sessions(limit=3, after=after):
            pages.append(ids_of(page))
            after = step(page[-1])
        assert pages == [ids[:3:-1], ids[3:0:-1], ids[:1]]


def test_pages_do_not_shift_while_sessions_end_and_begin(driven: Driven) -> None:
    ids = made(driven, 6)
    first = driven.get_sessions_info(limit=2)
    driven.delete_session(first[-1]["session_id"])
    driven.delete_session(ids[2])
    made(driven, 3)
    rest = driven.get_sessions_info(limit=10, after=first[-1])
    assert [row["session_id"] for row in first + rest] == [ids[5], ids[4], ids[3], ids[1], ids[0]]


def test_the_id_of_a_session_that_ended_tells_no_place(driven: Driven) -> None:
    [one] = made(driven, 1)
    driven.delete_session(one)
    with pytest.raises(SessionNotFoundError, match="pass the session itself"):
        driven.get_sessions(after=one)


def test_a_session_that_cannot_be_decoded_takes_no_place_on_a_page(driven: Driven) -> None:
    ids = made(driven, 5)
    spoil(driven, ids[3])
    assert ids_of(driven.get_sessions(limit=3)) == [ids[4], ids[2], ids[1]]


def spoil(driven: Driven, session_id: str) -> None:
    """Damage the stored values, as a disk or an older release might."""
    damage(driven, session_id, b'{"good":1,"bad":{"~dt":"?"}}')


def test_a_row_tells_what_a_table_shows(driven: Driven) -> None:
    progress = {"current_step": 1, "total_steps": 4, "percentage": 25.0, "description": "half of half"}
    one = driven.create_session(data={"a": 1})
    driven.set_items(one.id, ["first", "second"])
    driven.set_progress(one.id, 1, 4, "half of half")
    two = driven.create_session(user_id="ada")
    driven.clock.now += 5400
    driven.renew_session(two.id)
    rows = {row["session_id"]: row for row in driven.get_sessions_info()}
    assert rows[one.id] == {
        "session_id": one.id,
        "status": None,
        "created_at": driven.clock.now - 5400,
        "last_accessed": driven.clock.now - 5400,
        "age_hours": 1.5,
        "num_items": 2,
        "progress": progress,
    }
    assert rows[two.id]["last_accessed"] == driven.clock.now
    assert rows[two.id]["progress"] is None


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "10", None])
def test_a_limit_is_an_integer_over_zero(driven: Driven, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^limit: "):
        driven.get_sessions(limit=limit)


@pytest.mark.parametrize("after", [7, {"id": "x"}, b"x"], ids=repr)
def test_a_place_that_is_none_is_refused(driven: Driven, after: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^after: "):
        driven.get_sessions(after=after)


def test_conditions_are_checked_by_name(driven: Driven) -> None:
    for operation in (driven.get_sessions, driven.get_sessions_info, driven.end_sessions):
        with pytest.raises(ConfigurationError, match=r"^network: "):
            operation(network="example.org")
        with pytest.raises(ConfigurationError, match=r"^users: "):
            operation(users="ada")


# --- ending ---


def test_a_dry_run_counts_and_changes_nothing(driven: Driven) -> None:
    ada = made(driven, 3, user_id="ada", data={"n": 1})
    before = [driven.record(id_) for id_ in ada]
    driven.events.clear()
    assert driven.end_sessions(user_id="ada") == 3
    assert [driven.record(id_) for id_ in ada] == before
    assert driven.events == []


def test_the_sessions_that_meet_the_conditions_are_ended_and_no_others(driven: Driven) -> None:
    ada, bob = made(driven, 3, user_id="ada"), made(driven, 2, user_id="bob")
    driven.events.clear()
    assert driven.end_sessions(user_id="ada", dry_run=False, reason="leaked", by="eve") == 3
    assert live(driven) == set(bob)
    deleted = driven.heard("session_deleted")
    assert {(event.session_id, event.user_id, event.fields["reason"]) for event in deleted} == {
        (id_, "ada", "leaked") for id_ in ada
    }
    ended = driven.why_ended(ada[0])
    assert (ended.reason, ended.at, ended.by) == ("leaked", driven.clock.now, "eve")
    assert driven.end_sessions(user_id="ada", dry_run=False) == 0


def test_more_sessions_are_ended_than_fit_in_one_step(driven: Driven) -> None:
    made(driven, 200, user_id="ada")
    [other] = made(driven, 1, user_id="bob")
    assert driven.end_sessions(Where(user_id="ada"), dry_run=False) == 200
    assert live(driven) == {other}
    assert len({event.session_id for event in driven.heard("session_deleted")}) == 200


def test_without_a_condition_nothing_is_ended(driven: Driven) -> None:
    ids = made(driven, 2)
    for given in ({}, {"where": Where()}, {"user_id": None}):
        with pytest.raises(ConfigurationError, match="delete_all"):
            driven.end_sessions(**given, dry_run=False)
    assert live(driven) == set(ids)


@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_a_dry_run_is_true_or_false(driven: Driven, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^dry_run: "):
        driven.end_sessions(user_id="ada", dry_run=value)


@pytest.mark.parametrize("reason", ["", None, 7])
def test_a_reason_is_a_word(driven: Driven, reason: Any) -> None:
    made(driven, 1, user_id="ada")
    with pytest.raises(ConfigurationError, match=r"^reason: "):
        driven.end_sessions(user_id="ada", dry_run=False, reason=reason)
    assert driven.count() == 1


def test_all_sessions_are_ended_only_when_that_is_confirmed(driven: Driven) -> None:
    ids = made(driven, 70)
    for confirm in (False, 1, "yes"):
        with pytest.raises(ConfigurationError, match=r"delete_all\(confirm=True\)"):
            driven.delete_all(confirm=confirm)
    assert driven.count() == 70
    assert driven.delete_all(confirm=True) == 70
    assert driven.count() == 0
    assert driven.why_ended(ids[0]).reason == "deleted"
    assert driven.delete_all(confirm=True) == 0


# --- why ---


def test_why_a_session_ended_is_known_for_a_while(driven: Driven) -> None:
    [deleted, idle, alive] = made(driven, 3)
    driven.delete_session(deleted, reason="logout")
    assert driven.why_ended(deleted).reason == "logout"
    assert driven.why_ended(alive) is None
    assert driven.why_ended("A" * 22) is None
    assert driven.why_ended("../odd") is None
    driven.clock.now += driven.manager.policy.idle_timeout
    assert driven.why_ended(idle).reason == "idle_timeout"
    driven.cleanup_expired()
    assert driven.why_ended(idle).reason == "idle_timeout"


def test_a_backend_that_cannot_is_named() -> None:
    import asyncio

    manager = SessionManager(broken.HesitantBackend(), log=False)
    with pytest.raises(ConfigurationError, match="hesitant://"):
        asyncio.run(manager.get_sessions())
    with pytest.raises(ConfigurationError, match="hesitant://"):
        asyncio.run(manager.end_sessions(user_id="ada"))
