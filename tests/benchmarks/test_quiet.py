"""Rounds that others disturbed are left out, but never more than half."""

from __future__ import annotations

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")

from tests.benchmarks import quiet
from tests.benchmarks.measure import Samples
from tests.benchmarks.quiet import Watch, quietest


def test_disturbed_rounds_are_left_out_but_never_more_than_half() -> None:
    assert quietest([0.0, 0.5, 0.01, 0.06, 0.05]) == [0, 2, 4]
    assert quietest([0.0, 0.01, 0.02, 0.5]) == [0, 1, 2]
    assert quietest([0.9, 0.8, 0.7, 0.6]) == [2, 3]
    assert quietest([0.9]) == [0]


def test_what_is_left_out_is_left_out_of_every_app_and_counted() -> None:
    samples = Samples()
    for number in range(4):
        for app in ("a", "b"):
            samples.add(app, "read", float(number))
    samples.keep([1, 3])
    assert (samples.taken, samples.left_out) == ({("a", "read"): [1.0, 3.0], ("b", "read"): [1.0, 3.0]}, 2)


def test_the_share_is_that_of_the_time_since(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, now = 1.0, 10.0
    monkeypatch.setattr(quiet, "_waited", lambda: waited)
    monkeypatch.setattr(quiet.time, "perf_counter", lambda: now)
    watch = Watch()
    waited, now = 1.5, 12.0
    assert watch.share() == 0.25
