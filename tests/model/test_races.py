"""A slice of the races: some orders of each pair. All of them: `python -m tests.model.races`."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from random import Random

import pytest

from tests.model.controls import AS_WRITTEN, BROKEN
from tests.model.races import (
    BEGINNINGS,
    OPERATIONS,
    Beginning,
    EveryOrder,
    Make,
    RaceLedger,
    RacePort,
    every_order_of,
    fits,
    pairs,
    real_system,
    some_orders_of,
)
from tests.model.real import MemoryShelf, PostgresShelf, RedisShelf, Shelf, SQLiteShelf, SteppedPort
from tests.model.test_real import CONTROLS as BROKEN_PRODUCTS
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


# What is broken on purpose, and the pair that shows it

WRITES = ("slow write", "slow write")
WRITE_AND_LOGIN, WRITE_AND_LOGOUT = ("slow write", "login"), ("slow write", "logout")
PRODUCTS = {
    "a commit that upserts": WRITE_AND_LOGOUT,
    "a login without a floor": WRITE_AND_LOGIN,
    "a commit for anybody": WRITE_AND_LOGIN,
    "a cycle that accepts nothing older": ("slow read", "cycle"),
    "a renewal that moves the limit": ("slow read", "slow read"),
    "the last write wins": WRITES,
    "a removal cookie for a stale session": WRITE_AND_LOGIN,
    "a loss that is not told": WRITE_AND_LOGIN,
    "a stale cookie that is anonymous at once": WRITE_AND_LOGIN,
    "a login that is dropped": ("login", "login"),
}
PRODUCTS_NOT_BY_PAIRS = {
    "a due cycle that is forgotten": "no operation of the plan leaves a cycle due",
    "a logout that hides a failed delete": "no backend call fails here",
    "a stale cookie that is locked out": "nobody comes back later with a cookie from before a login",
    "a login that a promise opens": "nobody is promised a session: that is `eager`",
}
MODELS = {
    "0 <= now - then": WRITE_AND_LOGIN,
    "commit that upserts": WRITE_AND_LOGOUT,
    "a read replica that lags": WRITE_AND_LOGOUT,
    "last write wins": WRITES,
    "read, modify, write of counters": WRITES,
    "login without a floor": WRITE_AND_LOGIN,
    "grace accepted after login": WRITE_AND_LOGIN,
    "commit ignores admitted": WRITE_AND_LOGIN,
    "cycle without accepted": ("slow read", "cycle"),
    "renewal moves the limit": ("slow read", "slow read"),
    "login keeps the limit": WRITE_AND_LOGIN,
    "stale cookies are anonymous at once": WRITE_AND_LOGIN,
    "a write just after the end creates": WRITE_AND_LOGOUT,
    "a refused change creates": WRITE_AND_LOGIN,
    "logout gives way to a cycle": ("cycle", "logout"),
    "a lost change is not reported": WRITE_AND_LOGIN,
    "a refused login is dropped": ("login", "login"),
    "the cookie names the old generation": ("cycle", "login"),
}
"""The other broken models need what no pair has: a cookie that is planted, an early save, a promise, a due
cycle, a call that fails, a response that is lost for long, or a visitor who comes back long after. ("removal
cookie for a stale session" breaks another invariant first, as the product of that name does.)"""


def shown_by(make: Make, names: tuple[str, str], caught_by: tuple[str, ...]) -> bool:
    pair = [OPERATIONS[name] for name in names]
    found = (one for beginning in BEGINNINGS for one in every_order_of(make, beginning, pair))
    return any(failure is not None and failure.invariant in caught_by for failure in found)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_broken_product_is_shown_by_one_pair(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [control] = [control for control in BROKEN_PRODUCTS if control.name == name]
    for owner, attribute, replacement in control.patches:
        monkeypatch.setattr(owner, attribute, replacement)
    port = RacePort if control.port is SteppedPort else type("Broken", (control.port, RacePort), {})
    assert shown_by(real_system(MemoryShelf(), port), PRODUCTS[name], control.caught_by)


@pytest.mark.parametrize("name", MODELS)
def test_a_broken_model_is_shown_by_one_pair(name: str) -> None:
    [control] = [control for control in BROKEN if control.name == name] or [
        control for control in AS_WRITTEN if control.name == name
    ]
    make: Make = lambda _: (control.system(), RaceLedger(None))  # noqa: E731  (what `real_system` answers)
    assert shown_by(make, MODELS[name], control.caught_by)


def test_each_broken_product_is_shown_by_a_pair_or_told_why_not() -> None:
    assert PRODUCTS.keys() | PRODUCTS_NOT_BY_PAIRS.keys() == {control.name for control in BROKEN_PRODUCTS}
