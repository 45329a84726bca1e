"""Every session of before is ended in one write, on every backend, awaited and as plain calls."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from session_middleware import (
    ConfigurationError,
    SessionEvent,
    SessionManager,
    SessionNotFoundError,
    SQLiteBackend,
)
from session_middleware.record import Ended
from session_middleware.testing import broken
from session_middleware.testing.clock import ManualClock
from tests.test_manager import Driven


def before_and_after(driven: Driven, number: int = 3) -> tuple[list[Any], Any, float]:
    """Sessions of before, one of after, and the moment between."""
    before = [driven.create_session(user_id="ada", data={"n": n}) for n in range(number)]
    moment = driven.clock.advance(10) or driven.clock.now
    driven.clock.advance(10)
    return before, driven.create_session(user_id="ada"), moment


def test_what_was_created_before_is_ended_and_the_rest_lives_on(driven: Driven) -> None:
    before, after, moment = before_and_after(driven)
    assert driven.end_all_before(moment, reason="key leaked", by="eve") is None
    assert [driven.get_session(one.id) for one in before] == [None] * 3
    assert [one.id for one in driven.get_user_sessions("ada")] == [after.id]
    assert [one.id for one in driven.get_sessions()] == [after.id]
    assert driven.count() == driven.get_statistics()["total_sessions"] == 1
    assert driven.why_ended(before[0].id) == Ended("key leaked", driven.clock.now, "eve")
    assert driven.delete_user_sessions("ada") == 1


def test_nothing_can_be_done_any_more_to_what_was_ended(driven: Driven) -> None:
    before, _, moment = before_and_after(driven, 1)
    held = driven.get_session(before[0].id)
    driven.end_all_before(moment)
    held["late"] = True
    assert driven.save(held) is False
    assert driven.delete_session(held.id) is False
    for call in (driven.update_session, driven.renew_session, driven.complete, driven.cycle_session):
        with pytest.raises(SessionNotFoundError):
            call(held.id)


def test_a_socket_of_such_a_session_is_open_no_longer(driven: Driven) -> None:
    before, after, moment = before_and_after(driven, 1)
    held = driven.get_session(before[0].id)
    assert driven.is_still_open(held, driven.clock.now) is True
    driven.end_all_before(moment)
    assert driven.is_still_open(held, driven.clock.now) is False
    assert driven.is_still_open(driven.get_session(after.id), driven.clock.now) is True


def test_it_is_told_at_once_and_of_each_session_when_it_is_cleaned_up(driven: Driven) -> None:
    before, _, moment = before_and_after(driven, 150)
    driven.end_all_before(moment, reason="key leaked", by="eve")
    [told] = driven.heard("sessions_ended")
    assert told.fields == {"before": moment, "reason": "key leaked"}
    assert not driven.heard("session_deleted")
    assert driven.cleanup_expired() == 150
    deleted = driven.heard("session_deleted")
    assert sorted(event.session_id or "" for event in deleted) == sorted(one.id for one in before)
    assert {(event.user_id, event.fields["reason"]) for event in deleted} == {("ada", "key leaked")}
    assert driven.heard("sessions_cleaned_up")[-1].fields["by_reason"] == {"key leaked": 150}
    assert not driven.heard("session_expired")
    assert driven.manager.get_metrics()["total_sessions_cleaned"] == 150
    assert driven.manager.get_metrics()["total_sessions_expired"] == 0
    assert driven.cleanup_expired() == 0
    assert driven.why_ended(before[0].id).reason == "key leaked"


def test_it_goes_forward_only(driven: Driven) -> None:
    before, after, moment = before_and_after(driven)
    driven.end_all_before(moment, reason="first")
    driven.end_all_before(moment - 1000, reason="second")
    driven.end_all_before(moment, reason="third")
    assert driven.why_ended(before[0].id).reason == "first"
    assert [event.fields["reason"] for event in driven.heard("sessions_ended")] == ["first"]
    driven.end_all_before(driven.clock.advance(1) or driven.clock.now, reason="fourth")
    assert driven.get_session(after.id) is None


def test_sessions_that_begin_afterwards_are_as_any_other(driven: Driven) -> None:
    driven.create_session()
    driven.clock.advance(1)
    driven.end_all_before(driven.clock.now)
    made = driven.create_session(data={"n": 1})
    driven.update_session(made.id, n=2)
    assert dict(driven.get_session(made.id)) == {"n": 2}


@pytest.mark.parametrize(
    ("t", "found"),
    [
        ("yesterday", "t: found str"),
        (True, "t: found bool"),
        (None, "t: found NoneType"),
        (float("nan"), "t: found nan"),
        (float("-inf"), "t: found -inf"),
    ],
)
def test_a_moment_that_is_none_is_refused(driven: Driven, t: Any, found: str) -> None:
    with pytest.raises(ConfigurationError, match=found):
        driven.end_all_before(t)


def test_a_moment_in_the_future_is_refused(driven: Driven) -> None:
    made = driven.create_session()
    with pytest.raises(ConfigurationError, match="t: found a moment 60 s in the future"):
        driven.end_all_before(driven.clock.now + 60)
    assert driven.get_session(made.id) is not None
    with pytest.raises(ConfigurationError, match="reason: found ''"):
        driven.end_all_before(driven.clock.now, reason="")


def test_a_backend_that_lacks_it_is_named() -> None:
    manager = SessionManager(broken.HesitantBackend(), log=False)
    with pytest.raises(ConfigurationError, match="hesitant://"):
        asyncio.run(manager.end_all_before(1.0))


def test_other_managers_over_the_same_file_know_at_once(tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "sessions.db"
    here, there = (SessionManager(SQLiteBackend(path), clock=clock, log=False).blocking for _ in "ab")
    with here, there:
        one = here.create_session()
        assert there.get_session(one.id) is not None
        clock.advance(5)
        here.end_all_before(clock.now, reason="key leaked")
        assert there.get_session(one.id) is None
        assert there.why_ended(one.id).reason == "key leaked"


def test_what_makes_room_after_it_is_told_as_ended_not_expired(tmp_path: Path) -> None:
    clock = ManualClock()
    for backend in ("memory://", SQLiteBackend(tmp_path / "sessions.db")):
        manager = SessionManager(backend, clock=clock, log=False, max_sessions=1)
        told: list[SessionEvent] = []
        manager.subscribe(None, told.append)
        with manager.blocking as sessions:
            old = sessions.create_session(user_id="ada")
            clock.advance(1)
            sessions.end_all_before(clock.now, reason="key leaked")
            sessions.create_session(user_id="bob")
        ended = [event for event in told if event.session_id == old.id and event.name != "session_created"]
        assert [(event.name, event.fields.get("reason")) for event in ended if "bound" not in event.name] == [
            ("session_deleted", "key leaked")
        ]
