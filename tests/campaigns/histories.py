"""Histories of concurrent operations for as long as you like, with figures.

    python -m tests.campaigns.histories --backend sqlite --how processes --histories 200 --seed 1

A history that no order explains is printed with its seed, and the exit code is 1. The ways:

    tasks       of one event loop
    cancelled   the same, with one caller in seven cancelled
    threads     over one blocking port
    processes   rounds of six histories by four processes, one of which is killed
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from session_middleware.backends.base import Backend
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.urls import backend_from
from session_middleware.blocking import run_blocking
from session_middleware.testing import broken
from session_middleware.testing.histories import (
    Operation,
    Outcome,
    Shape,
    describe,
    is_linearizable,
    record_async,
    record_processes,
    record_threads,
)

__all__ = ["main"]

WAYS = ("tasks", "cancelled", "threads", "processes")
ROUND = 6  # histories for which a crew of processes lasts


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        make_backend = _backend(arguments.backend, Path(folder))
        if arguments.how not in WAYS:
            raise SystemExit(f"--how: one of {', '.join(WAYS)}")
        return _campaign(make_backend, arguments.how, arguments.histories, arguments.seed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--backend", default="sqlite", help="memory, sqlite, an address, or a class of testing.broken"
    )
    parser.add_argument("--how", default="tasks", choices=WAYS)
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _backend(name: str, folder: Path) -> Callable[[], Backend]:
    if name == "memory":
        return MemoryBackend
    if name == "sqlite":
        from session_middleware.backends.sqlite import SQLiteBackend

        return partial(SQLiteBackend, folder / "sessions.db")
    if "://" in name:
        return partial(backend_from, name)
    wrong: Callable[[], Backend] = getattr(broken, name)
    return wrong


def _campaign(make_backend: Callable[[], Backend], how: str, histories: int, seed: int) -> int:
    began = time.perf_counter()
    operations = unknown = count = 0
    bad: list[str] = []
    for label, history in _recorded(make_backend, how, histories, seed):
        count += 1
        operations += len(history)
        unknown += sum(operation.answer is Outcome.UNKNOWN for operation in history)
        if not is_linearizable(history):
            bad.append(label)
            sys.stdout.write(f"{label}\n{describe(history)}\n\n")
    sys.stdout.write(
        f"{how}: {count} histories from seed {seed}, {operations} operations, {unknown} of unknown outcome, "
        f"{len(bad)} not linearizable, {time.perf_counter() - began:.1f} s\n"
    )
    return 1 if bad else 0


def _recorded(
    make_backend: Callable[[], Backend], how: str, histories: int, seed: int
) -> Iterator[tuple[str, list[Operation]]]:
    if how == "processes":
        for one in range(seed, seed + -(-histories // ROUND)):
            made = record_processes(make_backend, one, Shape(clients=4), histories=ROUND, kill=True)
            yield from ((f"seed {one}, history {number}", history) for number, history in enumerate(made))
    elif how == "threads":
        port = make_backend().port("blocking")
        for one in range(seed, seed + histories):
            yield f"seed {one}", record_threads(port, one)
        run_blocking(port.close())
    else:
        shape = Shape(cancel=0.15 if how == "cancelled" else 0.0)
        yield from asyncio.run(_in_one_loop(make_backend(), range(seed, seed + histories), shape))


async def _in_one_loop(backend: Backend, seeds: range, shape: Shape) -> list[tuple[str, list[Operation]]]:
    port = backend.port("async")
    try:
        return [(f"seed {one}", await record_async(port, one, shape)) for one in seeds]
    finally:
        await port.close()


if __name__ == "__main__":
    sys.exit(main())
