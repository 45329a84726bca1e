"""The tables, as Markdown and as JSON.

Reading order: `Figures` (one run), `as_markdown`, `GOALS`, `as_json`, `written_into` (a document's figures,
renewed between its two marks).
"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from tests.benchmarks import measure
from tests.benchmarks.apps import BARE, CASES, NAIVE, OURS, OURS_SQLITE, STARLETTE, STARSESSIONS
from tests.benchmarks.measure import Effort, Samples, Spread, ratio
from tests.benchmarks.micro import Pair

__all__ = [
    "BEGIN",
    "END",
    "GOALS",
    "Crowd",
    "Figures",
    "Goal",
    "as_json",
    "as_markdown",
    "machine",
    "written_into",
]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_PACKAGES = (
    "starlette",
    "starsessions",
    "aiosqlite",
    "itsdangerous",
    "msgspec",
    "structlog",
)


@dataclass(frozen=True, slots=True)
class Crowd:
    """SQLite, with so many clients at once: CPU and wall time."""

    clients: int
    cpu: Samples
    wall: Samples


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run measured, on *day* (ISO)."""

    day: str
    effort: Effort
    memory: Samples
    crowds: Sequence[Crowd]
    steps: Sequence[Pair]


@dataclass(frozen=True, slots=True)
class Goal:
    """The largest ratio we want between two apps' overheads in one case. `clients`: 0 is in memory."""

    case: str
    ours: str
    peer: str
    most: float
    clients: int = 0


GOALS = (
    Goal("untouched", OURS, STARLETTE, 0.045),
    Goal("read", OURS, STARLETTE, 0.20),
    Goal("read", OURS, STARSESSIONS, 0.14),
    Goal("write", OURS, STARLETTE, 0.14),
    Goal("write", OURS, STARSESSIONS, 0.18),
    Goal("new", OURS, STARLETTE, 0.45),
    Goal("new", OURS, STARSESSIONS, 0.40),
    Goal("read", OURS_SQLITE, NAIVE, 0.33, clients=64),
    Goal("write", OURS_SQLITE, NAIVE, 0.45, clients=64),
)


def as_markdown(figures: Figures) -> str:
    """Everything, as sections of a document."""
    parts = [
        _where_and_when(figures),
        "## In memory\n",
        _overheads(figures.memory),
        "## Ratios and goals\n",
        _goals(figures),
        *(part for crowd in figures.crowds for part in _crowd(crowd)),
        "## Single steps\n",
        _steps(figures.steps),
    ]
    return "\n".join(parts)


def as_json(figures: Figures) -> dict[str, object]:
    """Everything, ready for `json.dumps`. Microseconds."""
    return {
        "day": figures.day,
        "machine": machine(),
        "rounds": figures.effort.rounds,
        "requests_per_slice": figures.effort.requests,
        "memory": {"cpu": measure.as_json(figures.memory), "noise": figures.memory.noise()},
        "sqlite": [
            {"clients": crowd.clients, "cpu": measure.as_json(crowd.cpu), "wall": measure.as_json(crowd.wall)}
            for crowd in figures.crowds
        ],
        "steps": [asdict(pair) | {"ratio": pair.ratio} for pair in figures.steps],
        "goals": [asdict(goal) | {"found": found} for goal, found in _found(figures)],
    }


def machine() -> dict[str, str]:
    """What it ran on, without anything that names the machine."""
    found = {"cores": str(os.cpu_count()), "system": f"{platform.system()} {platform.machine()}"}
    found["Python"] = f"{platform.python_implementation()} {platform.python_version()}"
    found["SQLite"] = sqlite3.sqlite_version
    return found | {name: version(name) for name in _PACKAGES}


def written_into(document: str, text: str) -> str:
    """*document* with *text* between its two marks. Raises `ValueError` if it lacks one."""
    before, begins, rest = document.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends):
        raise ValueError(f"the document lacks {BEGIN} … {END}: nowhere to put the figures")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"


def _where_and_when(figures: Figures) -> str:
    named = ", ".join(f"{name} {value}" for name, value in machine().items())
    return (
        f"Measured on {figures.day}, {figures.effort.rounds} rounds of {figures.effort.requests} requests.\n"
        f"{named}.\n"
        f"Noise (quartile distance of equal slices, over their median): {figures.memory.noise():.0%}.\n"
    )


def _overheads(samples: Samples) -> str:
    bare = [BARE, *(f"{samples.bare(case).median:.1f}" for case in CASES)]
    rows = [[app, *(_spread(samples.overhead(app, case)) for case in CASES)] for app in samples.apps()]
    return _table(["µs over the bare app, median (quartiles)", *CASES], [bare, *rows])


def _goals(figures: Figures) -> str:
    rows = [_goal_row(goal, found) for goal, found in _found(figures)]
    return _table(["case", "ours", "against", "ratio", "goal", ""], rows)


def _goal_row(goal: Goal, found: float) -> list[str]:
    ours = f"{goal.ours}, {goal.clients} at once" if goal.clients else goal.ours
    verdict = "reached" if found <= goal.most else "not reached"
    return [goal.case, ours, goal.peer, f"{found:.3f}", f"≤ {goal.most:.3g}", verdict]


def _found(figures: Figures) -> Iterator[tuple[Goal, float]]:
    """Each goal with the ratio that this run found; a goal whose apps were not measured is left out."""
    by_clients = {crowd.clients: crowd.cpu for crowd in figures.crowds} | {0: figures.memory}
    for goal in GOALS:
        samples = by_clients.get(goal.clients)
        if samples is not None and {goal.ours, goal.peer} <= set(samples.apps()):
            yield goal, ratio(samples, goal.ours, goal.peer, goal.case)


def _crowd(crowd: Crowd) -> Iterator[str]:
    at_once = "one request at a time" if crowd.clients == 1 else f"{crowd.clients} clients at once"
    for name, samples in (("CPU time", crowd.cpu), ("wall time", crowd.wall)):
        yield f"## SQLite, {at_once}: {name}\n"
        yield _overheads(samples)
        yield _crowd_ratios(samples)


def _crowd_ratios(samples: Samples) -> str:
    found = ", ".join(f"{case} {ratio(samples, OURS_SQLITE, NAIVE, case):.2f}" for case in CASES[1:])
    return f"{OURS_SQLITE} over {NAIVE}: {found}.\n"


def _steps(pairs: Iterable[Pair]) -> str:
    rows = [
        [pair.name, f"{pair.ours:.2f}", _or_dash(pair.theirs), _or_dash(pair.ratio), pair.goal]
        for pair in pairs
    ]
    return _table(["step", "ours, µs", "theirs, µs", "ratio", "goal"], rows)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.1f} ({spread.low:.1f} to {spread.high:.1f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("--:" for _ in head[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))
