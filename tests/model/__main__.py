"""Campaigns: `python -m tests.model --system memory --schedules 20000 --seed 1`.

`--system`: `model` (default), or the real middleware over `memory`, `sqlite`, `redis` or `postgres`. Exit
status 1 if an invariant broke; the smallest schedule that still breaks it is shown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from random import Random

from tests.model.invariants import Ledger
from tests.model.real import SYSTEMS, RealSystem, shelf_of
from tests.model.request import ModelSystem
from tests.model.system import System
from tests.model.world import Failure, Op, random_schedule, run, shrink

__all__ = ["main"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--system", choices=("model", *SYSTEMS), default="model")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=None, help="stop early after as many")
    options = parser.parse_args()
    if options.system == "model":
        return campaign(options, lambda eager: ModelSystem(eager=eager))
    with shelf_of(options.system) as shelf:
        return campaign(options, lambda eager: RealSystem(shelf, eager=eager))


def campaign(options: argparse.Namespace, system: Callable[[bool], System]) -> int:
    began, moves, done = time.perf_counter(), 0, 0
    for number in range(options.schedules):
        if options.seconds is not None and time.perf_counter() - began > options.seconds:
            break
        random = Random(f"{options.seed}.{number}")
        eager = random.random() < 0.3
        ops = random_schedule(random, options.length)
        failure = attempt(system, ops, eager)
        if failure is not None:
            smallest = shrink(failure, lambda ops, eager=eager: attempt(system, ops, eager))  # type: ignore[misc]
            where = f"schedule {number} of seed {options.seed}, eager={eager}, {len(smallest.ops)} moves"
            sys.stdout.write(f"{where}\n{smallest}\n")
            return 1
        moves, done = moves + len(ops), done + 1
    figures = f"{options.system}: {done} schedules of seed {options.seed}, {moves} moves"
    sys.stdout.write(f"{figures}, {time.perf_counter() - began:.1f} s: all invariants held\n")
    return 0


def attempt(system: Callable[[bool], System], ops: Sequence[Op], eager: bool) -> Failure | None:
    return run(lambda: system(eager), Ledger, ops)


if __name__ == "__main__":
    sys.exit(main())
