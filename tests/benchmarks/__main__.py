"""The benchmarks: `python -m tests.benchmarks [--asgi] [--flask] [--servers] [--scale]`; see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
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
    instructions,
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
    add("--instructions", action="store_true", help="bytecode instructions of a request, by module: counts")
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
    for name in [name for name in _PARTS if getattr(options, name)] or ["asgi"]:
        yield _PARTS[name](options)


def _asgi(options: argparse.Namespace) -> _Part:
    figures = run(_effort(options), crowds=() if options.memory else _CROWDS)
    return _Part("figures", report.as_markdown(figures), report.as_json(figures))


def _flask(options: argparse.Namespace) -> _Part:
    spell = None if options.no_gunicorn else _QUICK_SPELL if options.quick else _FULL_SPELL
    figures = run_flask(_effort(options), spell)
    return _Part(FLASK_SECTION, flask_report.as_markdown(figures), {"flask": flask_report.as_json(figures)})


def _servers(options: argparse.Namespace) -> _Part:
    from tests.benchmarks import servers

    figures = servers.measure_servers(_today(), _effort(options), _CROWDS)
    return _Part(servers.SERVERS_SECTION, servers.as_markdown(figures), {"servers": servers.as_json(figures)})


def _scale(options: argparse.Namespace) -> _Part:
    figures = run_scale(options.sessions or (_QUICK_SESSIONS if options.quick else _SESSIONS))
    return _Part(SCALE_SECTION, scale_report.as_markdown(figures), {"scale": scale_report.as_json(figures)})


def _http(options: argparse.Namespace) -> _Part:
    figures = under_uvicorn.measure_http(_today(), _QUICK_HTTP if options.quick else _FULL_HTTP)
    text = under_uvicorn.as_markdown(figures)
    return _Part(under_uvicorn.HTTP_SECTION, text, {"http": under_uvicorn.as_json(figures)})


def _growth(options: argparse.Namespace) -> _Part:
    with TemporaryDirectory() as folder:
        curves = growth.measure_growth(Path(folder), quick=options.quick)
    if options.write is not None:
        growth_report.plotted(curves, options.write.parent)
    text = growth_report.as_markdown(_today(), curves)
    return _Part(growth_report.GROWTH_SECTION, text, {"growth": growth_report.as_json(_today(), curves)})


def _startup(options: argparse.Namespace) -> _Part:
    figures = startup.measure_startup(_today(), quick=options.quick)
    text = startup.as_markdown(figures)
    return _Part(startup.STARTUP_SECTION, text, {"startup": startup.as_json(figures)})


def _budget(_: argparse.Namespace) -> _Part:
    figures = budget.measure_budgets()
    return _Part(budget.BUDGET_SECTION, budget.as_markdown(figures), {"budget": budget.as_json(figures)})


def _instructions(_: argparse.Namespace) -> _Part:
    figures = instructions.measure_instructions()
    text = instructions.as_markdown(figures)
    return _Part(instructions.INSTRUCTIONS_SECTION, text, {"instructions": instructions.as_json(figures)})


_PARTS: dict[str, Callable[[argparse.Namespace], _Part]] = {
    "asgi": _asgi,
    "flask": _flask,
    "servers": _servers,
    "scale": _scale,
    "http": _http,
    "growth": _growth,
    "startup": _startup,
    "budget": _budget,
    "instructions": _instructions,
}


def _effort(options: argparse.Namespace) -> Effort:
    return _QUICK if options.quick else _FULL


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
