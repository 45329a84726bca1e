"""Quantiles and distinct counts keep their promises, merged and stored too, in constant memory."""

import json
import random
from typing import Any

import pytest

from session_middleware.monitoring.sketches import Distinct, Quantiles
from session_middleware.monitoring.windows import KeyedCounts, Rates, SlidingCount


def again(one: Any) -> Any:
    """What comes back from a store."""
    other = type(one)()
    other.merge(json.loads(json.dumps(one.state())))
    return other


@pytest.mark.parametrize("draw", ["lognormvariate", "expovariate", "gauss"])
def test_quantiles_are_within_two_percent_merged_and_stored_too(draw: str) -> None:
    chance = random.Random(7)
    arguments = {"lognormvariate": (-4, 2), "expovariate": (3,), "gauss": (5, 1)}[draw]
    values = [getattr(chance, draw)(*arguments) for _ in range(20_000)]
    left, right = Quantiles(), Quantiles()
    for place, value in enumerate(values):
        (left if place % 3 else right).add(value)
    merged = again(left)
    merged.merge(right.state())
    values.sort()
    assert merged.summary()["count"] == 20_000
    assert merged.summary()["max"] == values[-1]
    assert merged.summary()["mean"] == pytest.approx(sum(values) / 20_000)
    for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert merged.summary()[name] == pytest.approx(values[int(part * 19_999)], rel=0.02)


def test_values_of_any_kind_are_counted_and_an_empty_one_has_no_quantiles() -> None:
    one = Quantiles()
    assert one.summary()["p50"] is None
    for value in (-1.0, 0.0, 1e300, 1e-300, 2.0):
        one.add(value)
    assert (again(one).summary()["count"], again(one).summary()["min"]) == (5, -1.0)


@pytest.mark.parametrize("number", [0, 1, 2047, 2049, 20_000, 200_000])
def test_distinct_counts_are_within_two_percent_and_exact_for_few(number: int) -> None:
    one = Distinct()
    for index in range(number):
        one.add(f"session {index}")
        if index % 10 == 0:
            one.add(f"session {index // 2}")
    slack = 0 if number < 2048 else 0.02 * number
    assert abs(again(one).count() - number) <= slack


def test_merged_distinct_counts_do_not_count_twice_what_both_saw() -> None:
    few, many = Distinct(), Distinct()
    for index in range(10_000):
        many.add(str(index))
        if index < 1000:
            few.add(str(index))
    merged = again(few)
    merged.merge(many.state())
    assert merged.count() == pytest.approx(10_000, rel=0.02)


def test_a_window_forgets_what_is_older_and_counts_what_comes_late() -> None:
    window = SlidingCount(60.0)
    for moment in (0.0, 30.0, 59.0, 20.0):
        window.add(moment)
    assert window.value(59.0) == 4
    assert window.value(75.0) == 3
    assert window.value(200.0) == 0


def test_windows_by_key_remember_so_many_keys_and_no_more() -> None:
    counts = KeyedCounts(60.0, limit=2)
    assert [counts.add(key, 1.0) for key in "aabca"] == [1, 2, 1, 1, 1]


def test_rates_know_the_last_hour() -> None:
    rates = Rates()
    for moment in range(0, 7200, 10):
        rates.add("x", float(moment))
    assert rates.within(60, 7199)["x"] == 6
    assert rates.within(3600, 7199)["x"] == 360
    assert rates.within(60, 9000)["x"] == 0


def test_rates_know_so_many_names_and_call_the_rest_other() -> None:
    rates = Rates()
    for number in range(1000):
        rates.add(f"name {number}", 5.0)
    assert len(rates.within(60, 5.0)) == 129
    assert rates.within(60, 5.0).total() == 1000
