"""A slice of the races: some orders of each pair. All of them: `python -m tests.model.races`."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from random import Random

import pytest

from tests.model.races import (
    BEGINNINGS,
    OPERATIONS,
    Beginning,
    EveryOrder,
    Make,
    Operation,
    every_order_of,
    fits,
    pairs,
    real_system,
    some_orders_of,
)
from tests.model.real import MemoryShelf, PostgresShelf, RedisShelf, Shelf, SQLiteShelf
from tests.model.world import Failure

__all__: list[str] = []

RACES = [(beginning, pair) for beginning in BEGINNINGS for pair in pairs() if fits(beginning, pair)]
ON_MEMORY, ELSEWHERE = 4, 100


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    made: Shelf
    if request.param == "sqlite":
        made = SQLiteShelf(request.getfixturevalue("tmp_path"))
    else:
        kind = {"redis": RedisShelf, "postgres": PostgresShelf}[request.param]
        made = kind(request.getfixturevalue(request.param).new_store())
    yield made
    made.close()


def check(failures: Iterator[Failure | None]) -> None:
    for failure in failures:
        assert failure is None, str(failure)


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=lambda beginning: beginning.name)
def test_each_pair_holds_every_invariant_on_memory(beginning: Beginning) -> None:
    for pair in filter(lambda pair: fits(beginning, pair), pairs()):
        check(some_orders_of(real_system(MemoryShelf()), beginning, pair, Random(1), ON_MEMORY))


def test_a_write_and_a_logout_hold_them_in_every_order_on_memory() -> None:
    pair = (OPERATIONS["slow write"], OPERATIONS["logout"])
    check(every_order_of(real_system(MemoryShelf()), BEGINNINGS[0], pair))


def test_some_pairs_hold_them_where_records_are_stored(shelf: Shelf) -> None:
    chance = Random(2)
    for beginning, pair in chance.sample(RACES, ELSEWHERE):
        check(some_orders_of(real_system(shelf), beginning, pair, chance, 1))


def test_three_at_a_time_hold_them() -> None:
    chance = Random(3)
    for _ in range(150):
        beginning = chance.choice(BEGINNINGS)
        three = chance.choices([one for one in OPERATIONS.values() if fits(beginning, [one])], k=3)
        check(some_orders_of(real_system(MemoryShelf()), beginning, three, chance, 1))


# That every order is among them


def test_every_order_is_tried_once() -> None:
    orders, found = EveryOrder(), []
    while not orders.is_done:
        left, word = {"a": 3, "b": 4}, ""
        while going := [name for name, steps in left.items() if steps]:
            word += (chosen := going[orders.choose(len(going))])
            left[chosen] -= 1
        found.append(word)
        orders.turn()
    assert len(found) == len(set(found)) == comb(7, 3)


def test_all_ten_operations_of_the_plan_are_raced() -> None:
    planned = "slow read, slow write, renew, cycle, login, logout, revoke user, eviction, expiry, cleanup"
    assert set(planned.split(", ")) <= OPERATIONS.keys()
    assert len(pairs()) == comb(len(OPERATIONS) + 1, 2)


# What is broken on purpose

NOT_BY_PAIRS: dict[str, str] = {}
"""Broken ones that no pair can show, and what it takes."""


def catches(
    make: Make, caught_by: tuple[str, ...], races: list[tuple[Beginning, tuple[Operation, ...]]]
) -> bool:
    failures = (found for beginning, pair in races for found in every_order_of(make, beginning, pair))
    return any(found is not None and found.invariant in caught_by for found in failures)
