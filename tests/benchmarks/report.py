"""The tables, as Markdown and as JSON.

Reading order: `Figures` (one run), `as_markdown`, `GOALS`, `as_json`, `written_into` (a document's figures,
renewed between its two marks).
"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    "goal_row",
    "machine",
    "overheads",
    "spread",
    "table",
    "where_and_when",
    "written_into",
]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
"""The marks of the section `figures`."""
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
        where_and_when(figures.day, figures.effort, figures.memory, machine()),
        "## In memory\n",
        overheads(figures.memory),
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


def machine(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """What it ran on, and with which *packages*, without anything that names the machine."""
    found = {"cores": str(os.cpu_count()), "system": f"{platform.system()} {platform.machine()}"}
    found["Python"] = f"{platform.python_implementation()} {platform.python_version()}"
    found["SQLite"] = sqlite3.sqlite_version
    return found | {name: version(name) for name in packages}


def written_into(document: str, text: str, section: str = "figures") -> str:
    """*document* with *text* between the two marks of *section*. Raises `ValueError` if it lacks one."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    before, begins, rest = document.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise ValueError(f"the document lacks {begin} … {end}: nowhere to put the figures")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def where_and_when(day: str, effort: Effort, samples: Samples, found: Mapping[str, str]) -> str:
    """The day, the effort, the machine (*found*), and how far equal slices lay apart."""
    named = ", ".join(f"{name} {value}" for name, value in found.items())
    return (
        f"Measured on {day}, {effort.rounds} rounds of {effort.requests} requests.\n"
        f"{named}.\n"
        f"Noise (quartile distance of equal slices, over their median): {samples.noise():.0%}. "
        f"Left out, since others had the core: {samples.left_out} rounds.\n"
    )


def overheads(samples: Samples) -> str:
    """A row per app, a column per case; the first row is the bare app's own cost."""
    bare = [BARE, *(f"{samples.bare(case).median:.1f}" for case in CASES)]
    rows = [[app, *(spread(samples.overhead(app, case)) for case in CASES)] for app in samples.apps()]
    return table(["µs over the bare app, median (quartiles)", *CASES], [bare, *rows])


def _goals(figures: Figures) -> str:
    rows = [goal_row(goal, found) for goal, found in _found(figures)]
    return table(["case", "ours", "against", "ratio", "goal", ""], rows)


def goal_row(goal: Goal, found: float) -> list[str]:
    """What is compared, the ratio found, and whether that reaches the goal."""
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
        yield overheads(samples)
        yield _crowd_ratios(samples)


def _crowd_ratios(samples: Samples) -> str:
    found = ", ".join(f"{case} {ratio(samples, OURS_SQLITE, NAIVE, case):.2f}" for case in CASES[1:])
    return f"{OURS_SQLITE} over {NAIVE}: {found}.\n"


def _steps(pairs: Iterable[Pair]) -> str:
    rows = [
        [pair.name, f"{pair.ours:.2f}", _or_dash(pair.theirs), _or_dash(pair.ratio), pair.goal]
        for pair in pairs
    ]
    return table(["step", "ours, µs", "theirs, µs", "ratio", "goal"], rows)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def spread(found: Spread, digits: int = 1) -> str:
    """The median, and the quartiles in brackets."""
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; all columns but the first hold figures."""
    rule = ["---", *("--:" for _ in head[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))
