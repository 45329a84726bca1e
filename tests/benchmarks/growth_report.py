"""The curves, as Markdown with the law that each follows, and as plots (SVG) beside the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.benchmarks.growth import Curve, Law, law_of
from tests.benchmarks.report import machine, table

__all__ = ["GROWTH_SECTION", "as_json", "as_markdown", "plotted"]

GROWTH_SECTION = "growth figures"
_PACKAGES: Final = ("msgspec",)
_TITLES: Final = {
    "value": "The size of one value",
    "keys": "The number of keys",
    "crowd": "Requests and WebSockets open at once",
    "sessions": "The number of sessions",
}


def as_markdown(day: str, curves: Sequence[Curve]) -> str:
    """A table and a plot for each curve."""
    named = ", ".join(f"{name} {value}" for name, value in machine(_PACKAGES).items())
    parts = [f"Measured on {day}.\n{named}.\n"]
    for curve in curves:
        parts += [
            f"### {_TITLES[curve.name]}\n",
            _table(curve),
            f"![{_TITLES[curve.name]}]({_file(curve)})\n",
        ]
    return "\n".join(parts)


def _table(curve: Curve) -> str:
    xs = [x for x, _ in next(iter(curve.points.values()))]
    rows = [
        [case, *(f"{y:.1f}" for _, y in points), _law(curve, law_of(points, by_logarithm=curve.by_logarithm))]
        for case, points in curve.points.items()
    ]
    return table([f"{curve.y}, by {curve.x}", *(f"{x:,.0f}" for x in xs), "law"], rows)


def _law(curve: Curve, law: Law) -> str:
    if curve.by_logarithm:
        return f"{law.base:.1f} + {law.slope:.2f} log₁₀ n (R² {law.explained:.2f})"
    return f"{law.base:.1f} + {law.slope * 1000:.2f} n / 1000 (R² {law.explained:.2f})"


def _file(curve: Curve) -> str:
    return f"plots/growth-{curve.name}.svg"


def plotted(curves: Sequence[Curve], folder: Path) -> list[Path]:
    """Draw each curve into a file below *folder*."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 10})
    made = []
    for curve in curves:
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for case, points in curve.points.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=case)
        axes.set(xscale="log", yscale="log", xlabel=curve.x, ylabel=curve.y, title=_TITLES[curve.name])
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
        path = folder / _file(curve)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
        # Its lines end in spaces, which no text of ours does.
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
        made.append(path)
    return made


def as_json(day: str, curves: Sequence[Curve]) -> dict[str, object]:
    """Ready for `json.dumps`."""
    return {"day": day, "machine": machine(_PACKAGES), "curves": [asdict(curve) for curve in curves]}
