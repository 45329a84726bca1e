"""Flask's figures, as Markdown and as JSON.

Reading order: `FlaskFigures` (one run), `as_markdown`, `FLASK_GOALS`, `as_json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tests.benchmarks import measure
from tests.benchmarks.apps import BARE, CASES
from tests.benchmarks.flask_apps import (
    COOKIE_SESSION,
    OURS_FLASK,
    OURS_FLASK_REDIS,
    OURS_FLASK_SQLITE,
    REDIS,
    SQLALCHEMY,
)
from tests.benchmarks.measure import Effort, Samples, ratio
from tests.benchmarks.report import (
    Goal,
    goal_row,
    machine,
    overheads,
    spread,
    table,
    where_and_when,
)
from tests.benchmarks.under_gunicorn import CONNECTIONS, THREADS, WORKERS, Shares, Spell

__all__ = ["FLASK_GOALS", "FLASK_SECTION", "FlaskFigures", "as_json", "as_markdown"]

FLASK_SECTION = "flask figures"
FLASK_GOALS = (
    Goal("read", OURS_FLASK, COOKIE_SESSION, 0.12),
    Goal("read", OURS_FLASK_SQLITE, SQLALCHEMY, 0.03),
)
_PACKAGES = ("flask", "werkzeug", "flask-session", "flask-sqlalchemy", "sqlalchemy", "cachelib", "redis")


@dataclass(frozen=True, slots=True)
class FlaskFigures:
    """What one run measured. `spell` and `shares` are None where gunicorn was left out."""

    day: str
    effort: Effort
    cpu: Samples
    wall: Samples
    spell: Spell | None
    shares: Shares | None


def as_markdown(figures: FlaskFigures) -> str:
    """Everything, as sections of a document."""
    return "\n".join(
        [
            where_and_when(figures.day, figures.effort, figures.cpu, machine(_PACKAGES)),
            _about_redis(figures.cpu),
            "### Called as a server calls them: CPU time\n",
            overheads(figures.cpu),
            "### Ratios of overheads, and goals\n",
            _goals(figures.cpu),
            _ratios(figures.cpu),
            "### The same: wall time\n",
            overheads(figures.wall),
            *_gunicorn(figures),
        ]
    )


def as_json(figures: FlaskFigures) -> dict[str, object]:
    """Everything, ready for `json.dumps`. Microseconds; under gunicorn requests per second and shares."""
    return {
        "day": figures.day,
        "machine": machine(_PACKAGES),
        "rounds": figures.effort.rounds,
        "requests_per_slice": figures.effort.requests,
        "cpu": measure.as_json(figures.cpu),
        "wall": measure.as_json(figures.wall),
        "noise": figures.cpu.noise(),
        "goals": [asdict(goal) | {"found": found} for goal, found in _found(figures.cpu)],
        "gunicorn": None if figures.shares is None else _shares_as_json(figures.shares),
    }


def _about_redis(samples: Samples) -> str:
    if REDIS in samples.apps():
        return "Redis ran in a process of its own, whose CPU time is in no figure; wall time has it.\n"
    return "Redis was left out: there was no `redis-server`.\n"


def _found(samples: Samples) -> Iterator[tuple[Goal, float]]:
    for goal in FLASK_GOALS:
        yield goal, ratio(samples, goal.ours, goal.peer, goal.case)


def _goals(samples: Samples) -> str:
    rows = [goal_row(goal, found) for goal, found in _found(samples)]
    return table(["case", "ours", "against", "ratio", "goal", ""], rows)


def _ratios(samples: Samples) -> str:
    every = (OURS_FLASK, OURS_FLASK_SQLITE, OURS_FLASK_REDIS)
    ours = [app for app in every if app in samples.apps()]
    rows = [
        [f"{app} / {peer}", *(f"{ratio(samples, app, peer, case):.3f}" for case in CASES[1:])]
        for app in ours
        for peer in samples.apps()
        if peer not in ours
    ]
    return table(["overhead of / of", *CASES[1:]], rows)


def _gunicorn(figures: FlaskFigures) -> Iterator[str]:
    shares, spell = figures.shares, figures.spell
    if shares is None or spell is None:
        return
    yield "### Under gunicorn: requests per second, as a share of bare Flask's\n"
    yield (
        f"`gthread`, {WORKERS} workers of {THREADS} threads, {CONNECTIONS} connections from another process "
        f"on the same machine; {spell.rounds} rounds of {spell.seconds:g} s.\n"
    )
    bare = [f"{BARE}, per second", *(f"{shares.bare(case).median:.0f}" for case in CASES)]
    rows = [[app, *(spread(shares.share(app, case), 2) for case in CASES)] for app in shares.apps()]
    yield table(["median (quartiles)", *CASES], [bare, *rows])


def _shares_as_json(shares: Shares) -> dict[str, object]:
    found = {app: {case: asdict(shares.share(app, case)) for case in CASES} for app in shares.apps()}
    return {"per_second": {BARE: {case: asdict(shares.bare(case)) for case in CASES}}, "shares": found}
