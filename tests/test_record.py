"""What a commit makes of a record: `apply` and its parts, as pure functions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_middleware.errors import SessionDataError
from session_middleware.record import (
    CONFLICT,
    KEPT_FLOORS,
    MAX_COUNTER,
    Committed,
    Delta,
    Grace,
    Record,
    Refused,
    SessionId,
    apply,
    next_generation,
    replace,
)
from session_middleware.values import Values

NOW = 2000.0  # seconds; its generation is 2_000_000
RECORD = Record(
    id=SessionId("I" * 22),
    secret="S" * 22,
    generation=1_000_000,
    floors=(1_000_000,),
    created_at=1000.0,
    deadline=3000.0,
    limit=9000.0,
    last_seen_at=1000.0,
    user_id="ann",
    data=Values(b'{"a":1,"b":2}'),
)


def after(delta: Delta, record: Record = RECORD, now: float = NOW) -> Record:
    applied = apply(record, delta, now)
    assert not isinstance(applied, Refused)
    return applied[0]


def answer(delta: Delta, record: Record = RECORD, now: float = NOW) -> Committed:
    applied = apply(record, delta, now)
    assert not isinstance(applied, Refused)
    return applied[1]


# --- refusals ---


@pytest.mark.parametrize(
    ("admitted", "refused"), [(999_999, True), (1_000_000, False), (1_000_001, False), (None, False)]
)
def test_what_was_admitted_below_the_floor_is_refused(admitted: int | None, *, refused: bool) -> None:
    assert (apply(RECORD, Delta(set={"a": b"5"}, admitted=admitted), NOW) is CONFLICT) is refused


@pytest.mark.parametrize(("version", "refused"), [(1, False), (2, True), (0, True)])
def test_another_version_than_asked_for_is_refused(version: int, *, refused: bool) -> None:
    assert (apply(RECORD, Delta(if_version=version), NOW) is CONFLICT) is refused


def test_a_record_without_floors_refuses_nothing() -> None:
    assert replace(RECORD, floors=()).floor == 0


# --- values ---


def test_unset_comes_before_set_and_set_before_increments() -> None:
    record = after(Delta(unset=("a", "b", "no"), set={"a": b"10"}, increments={"a": 5, "c": 2}))
    assert dict(record.data) == {"a": b"15", "c": b"2"}


def test_an_increment_answers_the_new_value() -> None:
    assert answer(Delta(increments={"a": 5, "new": -1})).counters == {"a": 6, "new": -1}


@pytest.mark.parametrize("stored", [b'"5"', b"5.0", b"true", b"null", b"[]", b"10000000000000000000000"])
def test_what_is_no_integer_cannot_be_incremented(stored: bytes) -> None:
    with pytest.raises(SessionDataError, match="'n'") as refused:
        apply(replace(RECORD, data=Values.of({"n": stored})), Delta(increments={"n": 1}), NOW)
    assert refused.value.key == "n"


@pytest.mark.parametrize(("stored", "by"), [(MAX_COUNTER, 1), (-MAX_COUNTER, -1)])
def test_a_counter_stays_within_64_bits(stored: int, by: int) -> None:
    record = replace(RECORD, data=Values.of({"n": b"%d" % stored}))
    assert dict(after(Delta(increments={"n": 0}), record).data) == {"n": b"%d" % stored}
    with pytest.raises(SessionDataError, match="64 bits"):
        apply(record, Delta(increments={"n": by}), NOW)


def test_nothing_to_change_keeps_the_very_same_values() -> None:
    assert after(Delta()).data is RECORD.data


# --- every commit ---


def test_every_commit_is_a_version() -> None:
    record = after(after_delta := Delta(), RECORD)
    assert (record.version, answer(after_delta).version) == (2, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_id", "bob"),
        ("user_id", None),
        ("authenticated_at", 5.0),
        ("idle_timeout", 60.0),
        ("status", "done"),
        ("priority", 4),
        ("metadata", {"a": 1}),
    ],
)
def test_a_field_is_replaced_and_all_others_are_kept(name: str, value: Any) -> None:
    record = after(Delta(**{name: value}))
    assert getattr(record, name) == value
    assert replace(record, **{name: getattr(RECORD, name)}, version=1) == RECORD


def test_last_seen_never_goes_back() -> None:
    assert after(Delta(seen_at=1500.0)).last_seen_at == 1500.0
    assert after(Delta(seen_at=500.0)).last_seen_at == 1000.0


# --- deadlines ---


@pytest.mark.parametrize(
    ("delta", "deadline"),
    [
        (Delta(renew_to=4000.0), 4000.0),
        (Delta(renew_to=2500.0), 3000.0),
        (Delta(renew_to=10_000.0), 9000.0),
        (Delta(expire_at=2500.0), 2500.0),
        (Delta(expire_at=10_000.0), 9000.0),
        (Delta(limit=2500.0), 2500.0),
        (Delta(limit=20_000.0, renew_to=10_000.0), 10_000.0),
        (Delta(retained_until=2100.0), 2100.0),
        (Delta(retained_until=2100.0, renew_to=4000.0), 2100.0),
    ],
)
def test_a_deadline_is_renewed_forward_set_exactly_and_never_past_a_limit(
    delta: Delta, deadline: float
) -> None:
    assert after(delta).deadline == deadline


def test_a_retention_holds_until_it_is_lifted() -> None:
    kept = after(Delta(retained_until=2100.0))
    assert after(Delta(renew_to=4000.0), kept).deadline == 2100.0
    assert after(Delta(renew_to=4000.0, retained_until=None), kept).deadline == 4000.0


OPTIONAL_TIME = st.none() | st.floats(0, 20_000)


@given(renew_to=OPTIONAL_TIME, limit=OPTIONAL_TIME, expire_at=OPTIONAL_TIME, retained=OPTIONAL_TIME)
def test_no_delta_puts_the_deadline_past_the_limit(
    renew_to: float | None, limit: float | None, expire_at: float | None, retained: float | None
) -> None:
    record = after(Delta(renew_to=renew_to, limit=limit, expire_at=expire_at, retained_until=retained))
    assert record.deadline <= record.limit
    assert record.retained_until is None or record.deadline <= record.retained_until


# --- generations ---


@pytest.mark.parametrize(
    ("generation", "made"), [(1, 2_000_000), (2_000_000, 2_000_001), (3_000_000, 3_000_001)]
)
def test_a_generation_grows_and_tells_its_time(generation: int, made: int) -> None:
    assert next_generation(generation, NOW) == made


def test_a_cycle_with_grace_keeps_the_old_generation_waiting() -> None:
    record = after(Delta(cycle=30.0, admitted=1_000_000))
    assert (record.generation, dict(record.accepted), record.floors) == (
        2_000_000,
        {1_000_000: Grace(30.0)},
        (1_000_000,),
    )
    assert answer(Delta(cycle=30.0, admitted=1_000_000)).cycled


def test_a_cycle_with_grace_of_a_loser_makes_no_generation_and_keeps_the_values() -> None:
    current = after(Delta(cycle=30.0, admitted=1_000_000))
    late = Delta(cycle=30.0, admitted=1_000_000, set={"x": b"1"})
    record = after(late, current, NOW + 1)
    assert (record.generation, record.data["x"]) == (current.generation, b"1")
    assert (answer(late, current).generation, answer(late, current).cycled) == (current.generation, False)


def test_a_cycle_without_grace_empties_what_was_accepted_and_raises_the_floor() -> None:
    current = after(Delta(cycle=30.0, admitted=1_000_000))
    record = after(Delta(cycle=0.0, admitted=1_000_000), current, NOW + 1)
    assert (record.generation, dict(record.accepted), record.floors) == (
        2_001_000,
        {},
        (1_000_000, 2_001_000),
    )
    assert record.floor == 2_001_000


def test_floors_are_the_newest_few() -> None:
    record = RECORD
    for step in range(8):
        record = after(Delta(cycle=0.0), record, NOW + step)
    assert len(record.floors) == KEPT_FLOORS
    assert record.floors[-1] == record.generation
    assert list(record.floors) == sorted(record.floors)


def test_at_most_four_generations_wait() -> None:
    record = RECORD
    made = [record.generation]
    for step in range(6):
        record = after(Delta(cycle=30.0), record, NOW + step)
        made.append(record.generation)
    assert list(record.accepted) == made[-5:-1]


def test_a_grace_begins_once_for_those_below_the_admitted() -> None:
    record = replace(
        RECORD,
        generation=1_500_000,
        accepted={1_000_000: Grace(30.0), 1_400_000: Grace(5.0), 900_000: Grace(9.0, 2001.0)},
    )
    started = after(Delta(start_grace=True, admitted=1_400_000), record)
    assert (
        dict(started.accepted)
        == {
            900_000: Grace(9.0, 2001.0),
            1_000_000: Grace(30.0, 2030.0),
            1_400_000: Grace(5.0),
        }
        or started.floor == 1_000_000
    )
    again = after(Delta(start_grace=True, admitted=1_500_000), started, NOW + 0.5)
    assert again.accepted[1_000_000].until == 2030.0
    assert again.accepted[1_400_000].until == 2005.5


def test_what_has_run_out_is_forgotten_by_the_next_commit() -> None:
    record = replace(RECORD, accepted={900_000: Grace(9.0, NOW), 950_000: Grace(9.0, NOW + 0.1)})
    assert list(after(Delta(), record).accepted) == [950_000]


# --- a cycle that waits ---


@pytest.mark.parametrize(
    ("due", "ordered", "expected"), [(None, 30.0, 30.0), (30.0, 0.0, 0.0), (0.0, 30.0, 0.0), (5.0, 30.0, 5.0)]
)
def test_of_two_orders_the_stricter_wins(due: float | None, ordered: float, expected: float) -> None:
    assert after(Delta(cycle_due=ordered), replace(RECORD, cycle_due=due)).cycle_due == expected


@pytest.mark.parametrize(
    ("due", "cycle", "left"), [(30.0, 30.0, None), (30.0, 0.0, None), (0.0, 0.0, None), (0.0, 30.0, 0.0)]
)
def test_a_cycle_clears_what_was_due_but_not_one_that_is_stricter(
    due: float, cycle: float, left: float | None
) -> None:
    assert after(Delta(cycle=cycle, admitted=1_000_000), replace(RECORD, cycle_due=due)).cycle_due == left


def test_a_cycle_that_was_lost_clears_nothing() -> None:
    record = replace(RECORD, generation=1_500_000, cycle_due=30.0)
    assert after(Delta(cycle=30.0, admitted=1_000_000), record).cycle_due == 30.0


# --- nothing secret in any repr ---


@pytest.mark.parametrize("value", [RECORD, Delta(set={"password": b'"hunter2"'}, metadata={"x": "hunter2"})])
def test_no_repr_holds_a_secret_or_a_value(value: Record | Delta) -> None:
    shown = f"{value!r} {value} {value.__rich_repr__()}"
    assert RECORD.secret not in shown
    assert "hunter2" not in shown
