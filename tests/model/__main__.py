"""Campaigns: `python -m tests.model --system memory --schedules 20000 --seed 1`.

`--system`: `model` (default), or the real middleware over `memory`, `sqlite`, `redis` or `postgres`. Exit
status 1 if an invariant broke; the smallest schedule that still breaks it is shown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from tests.model.invariants import Ledger
from tests.model.real import MemoryShelf, PostgresShelf, RealSystem, RedisShelf, Shelf, SQLiteShelf
from tests.model.request import ModelSystem
from tests.model.system import System
from tests.model.world import Failure, Op, random_schedule, run, shrink
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_server

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


SYSTEMS = ("memory", "sqlite", "redis", "postgres")


@contextmanager
def shelf_of(name: str) -> Iterator[Shelf]:
    """Where the records of the real middleware live, for as long as the campaign takes."""
    with ExitStack() as stack:
        if name == "memory":
            shelf: Shelf = MemoryShelf()
        elif name == "sqlite":
            shelf = SQLiteShelf(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        elif name == "redis":
            shelf = RedisShelf(stack.enter_context(redis_server()).new_store())
        else:
            shelf = PostgresShelf(stack.enter_context(postgres_server()).new_store())
        yield shelf
        shelf.close()


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
