"""The figures of many sessions, as Markdown and as JSON.

Reading order: `ScaleFigures` (one run), `SCALE_GOALS`, `as_markdown`, `as_json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from tests.benchmarks.report import machine, table
from tests.benchmarks.scale import Cleaned, Scale, Times

__all__ = ["SCALE_GOALS", "SCALE_SECTION", "ScaleFigures", "ScaleGoal", "as_json", "as_markdown"]

SCALE_SECTION = "scale figures"
_PACKAGES = ("msgspec",)
_WITHOUT_DIGITS = 100  # from here on


@dataclass(frozen=True, slots=True)
class ScaleFigures:
    """What one run measured, on *day* (ISO)."""

    day: str
    memory: Scale
    sqlite: Scale


@dataclass(frozen=True, slots=True)
class ScaleGoal:
    """The most we want of something at a million sessions. `found` is None where it was not measured."""

    name: str
    found: Callable[[ScaleFigures], float | None]
    most: float
    unit: str = ""


def _pause(figures: ScaleFigures) -> float | None:
    pauses = figures.memory.pauses
    return None if pauses is None else pauses.steady.longest * 1e3


def _longest_step(figures: ScaleFigures) -> float:
    return max(figures.memory.tenth.steps.longest, figures.memory.rest.steps.longest) * 1e3


def _step_of_one_delete(figures: ScaleFigures) -> float | None:
    cleaned = figures.sqlite.tenth
    return None if cleaned.one_delete is None else cleaned.steps.longest / cleaned.one_delete


def _wait(figures: ScaleFigures) -> float:
    return max(figures.sqlite.tenth.waits.p99, figures.sqlite.rest.waits.p99) * 1e3


SCALE_GOALS = (
    ScaleGoal("memory: bytes resident per session", lambda it: it.memory.bytes_each.get("resident"), 700),
    ScaleGoal("memory: longest pause of the garbage collector, steady", _pause, 3, " ms"),
    ScaleGoal("memory: longest step of a cleanup", _longest_step, 1, " ms"),
    ScaleGoal("SQLite: longest step of a cleanup / one DELETE of the same rows", _step_of_one_delete, 0.01),
    ScaleGoal("SQLite: another process's write meanwhile, p99", _wait, 10, " ms"),
)


def as_markdown(figures: ScaleFigures) -> str:
    """Everything, as sections of a document."""
    both = (figures.memory, figures.sqlite)
    return "\n".join(
        [
            _where_and_when(figures),
            "### Goals, for a million\n",
            table(["", "found", "goal", ""], [_goal_row(goal, figures) for goal in SCALE_GOALS]),
            "### What they take\n",
            table(["", *(scale.backend for scale in both)], _sizes(both)),
            "### One call, while nothing else runs\n",
            table(["µs: median / p99 / longest", *(scale.backend for scale in both)], _calls(both)),
            "### Cleanup, while somebody else writes\n",
            table(["", *(scale.backend for scale in both)], _cleanups(both)),
        ]
    )


def as_json(figures: ScaleFigures) -> dict[str, object]:
    """Everything, ready for `json.dumps`. Seconds and bytes; the goals in the units of the table."""
    goals = [
        {"name": goal.name, "most": goal.most, "unit": goal.unit.strip(), "found": goal.found(figures)}
        for goal in SCALE_GOALS
    ]
    return {"machine": machine(_PACKAGES), "goals": goals} | asdict(figures)


def _where_and_when(figures: ScaleFigures) -> str:
    named = ", ".join(f"{name} {value}" for name, value in machine(_PACKAGES).items())
    return (
        f"Measured on {figures.day}, with {figures.memory.sessions:,} sessions of {figures.memory.payload}"
        f" bytes of JSON.\n{named}.\n"
    )


def _goal_row(goal: ScaleGoal, figures: ScaleFigures) -> list[str]:
    found, most = goal.found(figures), f"≤ {goal.most:g}{goal.unit}"
    if found is None:
        return [goal.name, "-", most, "not measured"]
    return [
        goal.name,
        f"{_figure(found)}{goal.unit}",
        most,
        "reached" if found <= goal.most else "not reached",
    ]


def _figure(found: float) -> str:
    return f"{found:,.0f}" if found >= _WITHOUT_DIGITS else f"{found:.3g}"


def _sizes(both: Sequence[Scale]) -> Iterator[list[str]]:
    yield ["sessions", *(f"{scale.sessions:,}" for scale in both)]
    yield ["seconds to fill it", *(f"{scale.filled:.1f}" for scale in both)]
    for way, words in _WAYS.items():
        sizes = [scale.bytes_each.get(way) for scale in both]
        yield [f"bytes per session, {words}", *(_or_dash(one, "{:.0f}") for one in sizes)]
    pauses = [scale.pauses for scale in both]
    for name, words in _PAUSES.items():
        found = [None if one is None else _longest(getattr(one, name)) * 1e3 for one in pauses]
        yield [f"longest pause of the collector, ms, {words}", *(_or_dash(one, "{:.2f}") for one in found)]


_WAYS = {
    "resident": "by what the process grew",
    "traced": "by what Python allocated",
    "file": "by the size of the file",
}
_PAUSES = {"filling": "while it was filled", "steady": "while requests came", "full": "in a full run"}


def _longest(found: float | Times) -> float:
    return found.longest if isinstance(found, Times) else found


def _calls(both: Sequence[Scale]) -> Iterator[list[str]]:
    for name in dict.fromkeys(name for scale in both for name in scale.calls):
        found = [scale.calls.get(name) for scale in both]
        yield [name, *("-" if one is None else _times(one, 1e6) for one in found)]


def _cleanups(both: Sequence[Scale]) -> Iterator[list[str]]:
    yield ["a writer alone, ms: median / p99 / longest", *(_times(scale.alone, 1e3, 3) for scale in both)]
    for words, of in _CLEANUPS.items():
        found = [of(scale) for scale in both]
        yield [f"{words}: sessions", *(f"{one.sessions:,}" for one in found)]
        yield [f"{words}: seconds, pauses included", *(f"{one.seconds:.1f}" for one in found)]
        yield [f"{words}: steps", *(f"{one.steps.calls:,}" for one in found)]
        yield [f"{words}: a step, ms", *(_times(one.steps, 1e3, 3) for one in found)]
        yield [f"{words}: a writer meanwhile, ms", *(_times(one.waits, 1e3, 3) for one in found)]
        deletes = [None if one.one_delete is None else one.one_delete * 1e3 for one in found]
        if any(deletes):
            yield [f"{words}: one DELETE instead, ms", *(_or_dash(one, "{:.0f}") for one in deletes)]


_CLEANUPS: dict[str, Callable[[Scale], Cleaned]] = {
    "10 %": lambda scale: scale.tenth,
    "all the rest": lambda scale: scale.rest,
}


def _times(found: Times, factor: float, digits: int = 1) -> str:
    return " / ".join(f"{one * factor:.{digits}f}" for one in (found.p50, found.p99, found.longest))


def _or_dash(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)
