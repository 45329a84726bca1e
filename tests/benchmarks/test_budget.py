"""The write budget of ordinary visitors: counts, the same on every machine."""

from __future__ import annotations

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")

from tests.benchmarks import budget
from tests.benchmarks.apps import OURS, STARLETTE, STARSESSIONS
from tests.benchmarks.budget import Profile, as_json, as_markdown, measure_budgets

FEW = Profile("few", visitors=4, pages=12, pause=60.0, looks=0.75, writes=0.25)


def test_only_who_writes_costs_a_write_and_only_who_is_new_a_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PROFILES", (FEW,))
    pages = [page for _, _, page in budget._day(FEW)]
    writes = pages.count("/seed") + pages.count("/write")
    found = measure_budgets()[FEW.name]
    assert {one.requests for one in found.values()} == {len(pages)} == {48}
    assert (found[OURS].writes, found[OURS].cookies) == (writes, FEW.visitors)
    assert (found[STARLETTE].writes, found[STARLETTE].cookies) == (None, writes)
    assert (found[STARSESSIONS].writes, found[STARSESSIONS].cookies) == (48, 48)
    text = as_markdown({FEW.name: found})
    assert f"| few | {OURS} | 48 | {1000 * writes / 48:.0f} | 83 |" in text
    assert as_json({FEW.name: found})[FEW.name]


def test_whoever_only_reads_for_hours_costs_a_write_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    weeks = Profile("weeks", visitors=1, pages=100, pause=6 * 3600.0, looks=1.0, writes=0.0)
    monkeypatch.setattr(budget, "PROFILES", (weeks,))
    found = measure_budgets()[weeks.name][OURS]
    assert found.writes is not None
    assert 2 <= found.writes <= 11  # renewed after a fifth of two weeks
