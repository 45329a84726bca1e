"""The process that a fault is injected into: takes every step of `STEPS`, and says so before and after.

python -m tests.disk.worker FILE --durability full --backend behind
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from session_middleware import BackendError, SQLiteBackend
from session_middleware.backends import sqlite_file
from session_middleware.backends.base import Backend, Colour, Port
from session_middleware.record import CREATED, Committed, CreateResult, Delta, Record, Refused, SessionId
from tests.crash.harness import WriteBehind
from tests.disk.visits import STEPS, Visitor, site

__all__ = ["Swallowing", "Wrapped", "main", "take"]


class Swallowing:
    """A control: a port that says a write is done, whatever became of it."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def create(self, record: Record, now: float) -> CreateResult:
        try:
            return await self._port.create(record, now)
        except BackendError:
            return CREATED

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        try:
            return await self._port.commit(id, delta, now)
        except BackendError:
            return Committed(1, int(now * 1000))

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (as above)
        try:
            return await self._port.delete(id, now, reason, by)
        except BackendError:
            return True


class Wrapped:
    """A backend whose ports are wrapped."""

    def __init__(self, inner: Backend, wrap: Callable[[Port], Any]) -> None:
        self.url = inner.url
        self.colours = inner.colours
        self._inner = inner
        self._wrap = wrap

    def port(self, colour: Colour) -> Port:
        wrapped: Port = self._wrap(self._inner.port(colour))
        return wrapped


WRAPS: dict[str, Callable[[Port], Any]] = {
    "ours": lambda port: port,
    "behind": WriteBehind,
    "swallowing": Swallowing,
}


def main() -> int:
    """Take the steps; 0 once all were taken, whatever was answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--durability", default="normal", choices=("normal", "full"))
    parser.add_argument("--backend", default="ours", choices=WRAPS)
    given = parser.parse_args()
    sqlite_file.WAL_MOST = 32 * 1024  # so that the log is copied back amid the steps
    backend = SQLiteBackend(given.file, durability=given.durability)
    take(Wrapped(backend, WRAPS[given.backend]), tell)
    return 0


def take(backend: Backend, tell: Callable[[dict[str, Any]], Any]) -> None:
    """Each step, told before and after."""
    manager, served, clock = site(backend)
    visitors = {name: Visitor(served, name) for name, _ in STEPS}
    for n, (name, verb) in enumerate(STEPS):
        tell({"n": n, "visitor": name, "verb": verb, "had": visitors[name].session_id})
        answered = answer_of(visitors[name], verb, n)
        tell({"n": n, **answered})
        if answered["status"] != 200 and verb == "login":
            clock.advance(31)  # if it was applied all the same, its lost cookie locks nobody out for longer
    manager.blocking.stop()


def answer_of(visitor: Visitor, verb: str, n: int) -> dict[str, Any]:
    try:
        return visitor.does(verb, n)
    except Exception as problem:  # noqa: BLE001  (what a server would answer 500 for: the ledger tells)
        return {"status": 500, "id": visitor.session_id, "problem": repr(problem)}


def tell(line: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), f"{json.dumps(line)}\n".encode())


if __name__ == "__main__":
    raise SystemExit(main())
