"""Campaigns: `python -m tests.model --schedules 100000 --seed 1`. Exit status 1 if an invariant broke."""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

from tests.model.invariants import Ledger
from tests.model.request import ModelSystem
from tests.model.world import Failure, Op, random_schedule, run, shrink

__all__ = ["main"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=None, help="stop early after as many")
    options = parser.parse_args()
    began, moves = time.perf_counter(), 0
    done = 0
    for number in range(options.schedules):
        if options.seconds is not None and time.perf_counter() - began > options.seconds:
            break
        random = Random(f"{options.seed}.{number}")
        eager = random.random() < 0.3
        ops = random_schedule(random, options.length)
        moves += len(ops)
        failure = attempt(ops, eager)
        if failure is not None:
            smallest = shrink(failure, lambda ops, eager=eager: attempt(ops, eager))  # type: ignore[misc]
            where = f"schedule {number} of seed {options.seed}, eager={eager}, {len(smallest.ops)} moves"
            sys.stdout.write(f"{where}\n{smallest}\n")
            return 1
        done += 1
    figures = f"{done} schedules of seed {options.seed}, {moves} moves"
    sys.stdout.write(f"{figures}, {time.perf_counter() - began:.1f} s: all invariants held\n")
    return 0


def attempt(ops: list[Op] | tuple[Op, ...], eager: bool) -> Failure | None:
    return run(lambda: ModelSystem(eager=eager), Ledger, ops)


if __name__ == "__main__":
    sys.exit(main())
