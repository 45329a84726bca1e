"""The slice of the model that runs in the suite; campaigns: `python -m tests.model`."""

from __future__ import annotations

from random import Random

import pytest

from tests.model.controls import AS_WRITTEN, BROKEN, Control
from tests.model.invariants import INVARIANTS, Ledger
from tests.model.request import ModelSystem
from tests.model.world import Failure, Op, World, random_schedule, run, shrink

__all__: list[str] = []

SCHEDULES = 500
CONTROL_SCHEDULES = 4_000


@pytest.mark.parametrize("part", range(3))
def test_every_invariant_holds_in_random_interleavings(part: int) -> None:
    for number in range(part, SCHEDULES, 3):
        random = Random(f"slice.{number}")
        eager = random.random() < 0.3
        failure = run(lambda eager=eager: ModelSystem(eager=eager), Ledger, random_schedule(random))  # type: ignore[misc]
        assert failure is None, str(failure)


def first_caught(control: Control) -> Failure | None:
    for number in range(CONTROL_SCHEDULES):
        ops = control.ops or random_schedule(Random(f"control.{number}"))
        failure = run(control.system, Ledger, ops)
        if failure is not None and failure.invariant in control.caught_by:
            return failure
    return None


@pytest.mark.parametrize("control", AS_WRITTEN, ids=lambda control: control.name)
def test_a_hole_that_the_tables_had_is_found(control: Control) -> None:
    assert first_caught(control) is not None


@pytest.mark.parametrize("control", BROKEN, ids=lambda control: control.name)
def test_a_broken_system_is_caught(control: Control) -> None:
    assert first_caught(control) is not None


def test_what_a_control_was_told_to_do_is_fine_under_the_tables() -> None:
    for control in AS_WRITTEN:
        assert run(ModelSystem, Ledger, control.ops) is None


def test_a_network_that_turns_responses_round_undoes_a_login_whatever_a_server_does() -> None:
    ops: list[Op] = [
        ("whole", "victim", (("write", "a", "first"),)),
        ("start", "victim", (("renew",),)),
        *[("step", 0, None)] * 4,
        ("start", "victim", (("login", "vera"),)),
        *[("step", 0, None)] * 4,
        ("arrive", 1),
        ("arrive", 0),
        ("start", "victim", (("read",),)),
        *[("step", 0, None)] * 3,
    ]
    assert opened_at_the_end(ops, reorders=False) == "vera"
    assert opened_at_the_end(ops, reorders=True) is None


def opened_at_the_end(ops: list[Op], *, reorders: bool) -> str | None:
    world = World(ModelSystem(), Ledger(), reorders=reorders)
    for op in ops:
        world.perform(op)
    seen = world.visits[-1].handle.seen
    return None if seen is None else seen.user_id


def test_every_invariant_has_a_control() -> None:
    caught = {invariant for control in (*AS_WRITTEN, *BROKEN) for invariant in control.caught_by}
    assert caught == set(INVARIANTS)


def test_a_failing_schedule_shrinks_to_one_that_still_fails() -> None:
    control = next(control for control in BROKEN if control.name == "login without a floor")
    failure = first_caught(control)
    assert failure is not None
    smaller = shrink(failure, lambda ops: run(control.system, Ledger, ops))
    assert smaller.invariant == failure.invariant
    assert len(smaller.ops) < len(failure.ops)


def test_the_same_seed_makes_the_same_schedule() -> None:
    assert random_schedule(Random("once")) == random_schedule(Random("once"))
