"""The curves: the law that is found is the one that was drawn, and what is measured grows as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")

from tests.benchmarks.growth import Curve, law_of, measure_growth
from tests.benchmarks.growth_report import as_json, as_markdown, plotted

DRAWN = Curve("value", "bytes", "µs", {"read": [(1, 11.0), (10, 20.0), (100, 110.0)]})


def test_the_law_is_that_of_the_points() -> None:
    law = law_of(DRAWN.points["read"])
    assert (law.base, law.slope, law.explained) == pytest.approx((10.0, 1.0, 1.0))
    law = law_of([(10, 5.0), (100, 7.0), (1000, 9.0)], by_logarithm=True)
    assert (law.base, law.slope, law.explained) == pytest.approx((3.0, 2.0, 1.0))


def test_points_that_follow_no_line_are_told_from_those_that_do() -> None:
    assert law_of([(1, 1.0), (2, -1.0), (3, 1.0), (4, -1.0)]).explained < 0.3


def test_each_curve_has_a_point_for_each_step(tmp_path: Path) -> None:
    curves = measure_growth(tmp_path, quick=True)
    assert [curve.name for curve in curves] == ["value", "keys", "crowd", "sessions"]
    for curve in curves:
        for points in curve.points.values():
            assert len({x for x, _ in points}) == 3
    assert "| read |" in as_markdown("2026-01-01", curves)
    assert as_json("2026-01-01", curves)["day"] == "2026-01-01"


def test_the_table_tells_the_law() -> None:
    assert "10.0 + 1000.00 n / 1000 (R² 1.00)" in as_markdown("2026-01-01", [DRAWN])


def test_a_plot_is_the_same_each_time_it_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws: pip install -e '.[dev]'")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    [first] = plotted([DRAWN], tmp_path / "a")
    [second] = plotted([DRAWN], tmp_path / "b")
    assert first.read_text() == second.read_text()
    assert "The size of one value" in first.read_text()
