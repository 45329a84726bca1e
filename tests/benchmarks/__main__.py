"""The benchmark: `python -m tests.benchmarks [--quick] [--json FILE] [--write docs/benchmarks.md]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.apps import in_memory, in_sqlite
from tests.benchmarks.measure import Effort, measure
from tests.benchmarks.micro import measure_steps
from tests.benchmarks.report import Crowd, Figures, as_json, as_markdown, written_into

__all__ = ["main"]

_FULL, _QUICK = Effort(rounds=150, requests=50), Effort(rounds=6, requests=20)
_CROWD_REQUESTS = 4  # of each of many clients in one slice
_CROWDS = (1, 64)  # clients at once


def main() -> int:
    """Measure, print the tables, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a few rounds: to see that it runs, not to be quoted"
    )
    parser.add_argument("--memory", action="store_true", help="leave SQLite out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="renew the figures in this document")
    options = parser.parse_args()
    figures = run(_QUICK if options.quick else _FULL, crowds=() if options.memory else _CROWDS)
    text = as_markdown(figures)
    print(text)
    if options.json is not None:
        options.json.write_text(
            json.dumps(as_json(figures), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if options.write is not None:
        document = options.write.read_text(encoding="utf-8")
        options.write.write_text(written_into(document, text), encoding="utf-8")
    return 0


def run(effort: Effort, *, crowds: tuple[int, ...] = _CROWDS) -> Figures:
    """Everything in this process, one after the other. *crowds*: how many clients at once, for SQLite."""
    memory, _ = asyncio.run(measure(in_memory(), effort))
    measured = [_crowd(clients, effort) for clients in crowds]
    steps = measure_steps(effort.rounds)
    return Figures(datetime.now(UTC).date().isoformat(), effort, memory, measured, steps)


def _crowd(clients: int, effort: Effort) -> Crowd:
    requests = effort.requests if clients == 1 else _CROWD_REQUESTS
    own = Effort(max(1, effort.rounds // 3), requests)
    with TemporaryDirectory() as folder:
        cpu, wall = asyncio.run(measure(in_sqlite(Path(folder)), own, clients=clients))
    return Crowd(clients, cpu, wall)


if __name__ == "__main__":
    sys.exit(main())
