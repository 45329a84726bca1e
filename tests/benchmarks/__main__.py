"""The benchmarks: `python -m tests.benchmarks [--asgi] [--flask] [--servers] [--scale]`; see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import (
    budget,
    flask_report,
    growth,
    growth_report,
    report,
    scale_report,
    startup,
    under_uvicorn,
)
from tests.benchmarks.apps import in_memory, in_sqlite
from tests.benchmarks.flask_apps import Site, in_flask
from tests.benchmarks.flask_report import FLASK_SECTION, FlaskFigures
from tests.benchmarks.measure import Effort, measure
from tests.benchmarks.micro import measure_steps
from tests.benchmarks.redis_server import own_redis
from tests.benchmarks.report import Crowd, Figures, written_into
from tests.benchmarks.scale_memory import measure_memory
from tests.benchmarks.scale_report import SCALE_SECTION, ScaleFigures
from tests.benchmarks.scale_sqlite import measure_sqlite
from tests.benchmarks.under_gunicorn import Spell, measure_served

__all__ = ["main", "run", "run_flask", "run_scale"]

_FULL, _QUICK = Effort(rounds=150, requests=50), Effort(rounds=6, requests=20)
_FULL_SPELL, _QUICK_SPELL = Spell(rounds=11, seconds=0.4), Spell(rounds=2, seconds=0.1)
_FULL_HTTP, _QUICK_HTTP = Spell(rounds=7, seconds=1), Spell(rounds=1, seconds=1)
_PARTS = ("budget", "flask", "growth", "http", "scale", "servers", "startup")  # beside --asgi
_CROWD_REQUESTS = 4  # of each of many clients in one slice
_CROWDS = (1, 64)  # clients at once
_SESSIONS, _QUICK_SESSIONS, _FEWEST_SESSIONS = 1_000_000, 20_000, 1_000


@dataclass(frozen=True, slots=True)
class _Part:
    """What one part of the benchmarks found: its section of the document, and its figures."""

    section: str
    text: str
    figures: dict[str, object]


def main() -> int:
    """Measure, print the tables, and write what was asked for."""
    options = _parser().parse_args()
    figures: dict[str, object] = {}
    for part in _parts(options):
        print(part.text, flush=True)
        figures |= part.figures
        if options.write is not None:
            document = options.write.read_text(encoding="utf-8")
            options.write.write_text(written_into(document, part.text, part.section), encoding="utf-8")
    if options.json is not None:
        text = json.dumps(figures, indent=2, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--asgi", action="store_true", help="the ASGI apps, and single steps: done if no part is named")
    add("--flask", action="store_true", help="the Flask apps, in this process and under gunicorn")
    add("--scale", action="store_true", help="many sessions at once, in memory and in SQLite")
    add("--servers", action="store_true", help="the ASGI apps over Redis and PostgreSQL")
    add("--budget", action="store_true", help="backend writes and cookies per thousand requests: counts")
    add("--startup", action="store_true", help="imports, the first request, the command line")
    add("--growth", action="store_true", help="how costs grow with values, keys, sessions, requests at once")
    add("--http", action="store_true", help="the ASGI apps under uvicorn, loaded by wrk")
    add("--sessions", type=_number, metavar="N", help=f"how many that are (default {_SESSIONS:,})")
    add("--quick", action="store_true", help="a few rounds: to see that it runs, not to be quoted")
    add("--memory", action="store_true", help="of the ASGI apps, leave SQLite out")
    add("--no-gunicorn", action="store_true", help="of the Flask apps, leave gunicorn out")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--write", type=Path, metavar="DOCUMENT", help="renew the figures in this document")
    return parser


def _parts(options: argparse.Namespace) -> Iterator[_Part]:
    effort = _QUICK if options.quick else _FULL
    if options.asgi or not any(getattr(options, name) for name in _PARTS):
        figures = run(effort, crowds=() if options.memory else _CROWDS)
        yield _Part("figures", report.as_markdown(figures), report.as_json(figures))
    if options.http:
        spell = _QUICK_HTTP if options.quick else _FULL_HTTP
        http = under_uvicorn.measure_http(_today(), spell)
        found = {"http": under_uvicorn.as_json(http)}
        yield _Part(under_uvicorn.HTTP_SECTION, under_uvicorn.as_markdown(http), found)
    if options.budget:
        spent = budget.measure_budgets()
        yield _Part(budget.BUDGET_SECTION, budget.as_markdown(spent), {"budget": budget.as_json(spent)})
    if options.startup:
        begun = startup.measure_startup(_today(), quick=options.quick)
        yield _Part(startup.STARTUP_SECTION, startup.as_markdown(begun), {"startup": startup.as_json(begun)})
    if options.growth:
        with TemporaryDirectory() as folder:
            curves = growth.measure_growth(Path(folder), quick=options.quick)
        if options.write is not None:
            growth_report.plotted(curves, options.write.parent)
        told = {"growth": growth_report.as_json(_today(), curves)}
        yield _Part(growth_report.GROWTH_SECTION, growth_report.as_markdown(_today(), curves), told)
    if options.flask:
        spell = None if options.no_gunicorn else _QUICK_SPELL if options.quick else _FULL_SPELL
        flask = run_flask(effort, spell)
        yield _Part(FLASK_SECTION, flask_report.as_markdown(flask), {"flask": flask_report.as_json(flask)})
    if options.scale:
        scale = run_scale(options.sessions or (_QUICK_SESSIONS if options.quick else _SESSIONS))
        yield _Part(SCALE_SECTION, scale_report.as_markdown(scale), {"scale": scale_report.as_json(scale)})
    if options.servers:
        from tests.benchmarks import servers

        both = servers.measure_servers(_today(), effort, _CROWDS)
        yield _Part(servers.SERVERS_SECTION, servers.as_markdown(both), {"servers": servers.as_json(both)})


def _number(text: str) -> int:
    number = int(text)
    if number < _FEWEST_SESSIONS:
        raise argparse.ArgumentTypeError(f"found {number}, pass {_FEWEST_SESSIONS} at least")
    return number


def run(effort: Effort, *, crowds: tuple[int, ...] = _CROWDS) -> Figures:
    """Everything in this process, one after the other. *crowds*: how many clients at once, for SQLite."""
    memory, _ = asyncio.run(measure(in_memory(), effort))
    measured = [_crowd(clients, effort) for clients in crowds]
    steps = measure_steps(effort.rounds)
    return Figures(_today(), effort, memory, measured, steps)


def run_flask(effort: Effort, spell: Spell | None) -> FlaskFigures:
    """The Flask apps in this process, then under gunicorn. *spell*: None leaves gunicorn out."""
    with TemporaryDirectory() as folder, own_redis(Path(folder)) as redis_url:
        with in_flask(_site(folder, "here", redis_url)) as candidates:
            cpu, wall = asyncio.run(measure(candidates, effort))
        shares = None
        if spell is not None:
            shares = measure_served(_site(folder, "served", redis_url), spell)
    return FlaskFigures(_today(), effort, cpu, wall, spell, shares)


def run_scale(sessions: int) -> ScaleFigures:
    """So many sessions in memory, in a process of its own, so that what it holds is known; then in SQLite."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        memory = process.submit(measure_memory, sessions).result()
    with TemporaryDirectory() as folder:
        sqlite = measure_sqlite(sessions, Path(folder))
    return ScaleFigures(_today(), memory, sqlite)


def _site(folder: str, name: str, redis_url: str | None) -> Site:
    own = Path(folder, name)
    own.mkdir()
    return Site(own, redis_url)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _crowd(clients: int, effort: Effort) -> Crowd:
    requests = effort.requests if clients == 1 else _CROWD_REQUESTS
    own = Effort(max(1, effort.rounds // 3), requests)
    with TemporaryDirectory() as folder:
        cpu, wall = asyncio.run(measure(in_sqlite(Path(folder)), own, clients=clients))
    return Crowd(clients, cpu, wall)


if __name__ == "__main__":
    sys.exit(main())
