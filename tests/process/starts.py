"""A thousand event loops, starts and stops: each serves its visitor right, and nothing is left of any.

    python -m tests.process.starts --backend sqlite --count 1000

Reading order: `ROUNDS` (what is done again and again), `Weight` (what must not grow), `grown`. Each round
is a life: an event loop for one request without any lifespan, a lifespan with a request and a WebSocket, a
new manager over the same store, the same without an event loop. One visitor comes in all of them, and finds
the number of the visit before.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import threading
import types
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from session_middleware import Session, SessionManager, SessionMiddleware, WSGISessionMiddleware, loops
from session_middleware.backends.base import Backend
from session_middleware.housekeeping import Housekeeper
from tests.asgi.harness import KEY, Client, chat, page
from tests.clocks.wandering import MakeBackend, stores
from tests.wsgi.harness import Client as PlainClient
from tests.wsgi.harness import page as plain_page

__all__ = ["ROUNDS", "Growth", "Rounds", "Weight", "grown"]

WARM_UP = 4  # rounds after which caches are full
PATIENCE = 10.0  # seconds
_HANDFUL = 150  # objects, by which caches of others differ from one moment to the next
_PAGE = os.sysconf("SC_PAGESIZE")


# --- what is done again and again ---


class Rounds:
    """Of one kind over one store. `run` does the next one, and says what its visitor found."""

    def __init__(self, make: MakeBackend) -> None:
        self.make = make
        self.seen: list[int] = []
        self.begin()

    def begin(self) -> None:
        """What all rounds share."""

    def run(self) -> None:
        """One round."""
        raise NotImplementedError

    def end(self) -> None:
        """Close what all rounds shared."""

    def count(self, session: Session) -> None:
        self.seen.append(session.get("n", 0))
        session["n"] = session.get("n", 0) + 1

    def served_by(self, manager: SessionManager) -> SessionMiddleware:
        """An app for this visitor; whoever comes by WebSocket is echoed."""
        requests, sockets = page(self.count), chat(lambda *_: None, first=self.count)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await (sockets if scope["type"] == "websocket" else requests)(scope, receive, send)

        return SessionMiddleware(app, manager=manager, monitor=False)


def made(backend: Backend) -> SessionManager:
    return SessionManager(backend, secret_key=KEY, log=False)


class NewLoops(Rounds):
    """A request in an event loop of its own, with no lifespan: everything opens at first use."""

    def begin(self) -> None:
        self.manager = made(self.make())
        self.client = Client(self.served_by(self.manager))

    def run(self) -> None:
        asyncio.run(self.client.get())

    def end(self) -> None:
        asyncio.run(self.manager.stop())


class Lifespans(NewLoops):
    """A start, a request, a WebSocket, a stop, in an event loop of their own: one manager."""

    def run(self) -> None:
        asyncio.run(self.live())

    async def live(self) -> None:
        async with self.manager:
            await self.client.get()
            socket = await self.client.connect()
            socket.say("hello")
            await socket.next()
            await socket.leave()


class StartsAndStops(Lifespans):
    """The same in one event loop."""

    def begin(self) -> None:
        super().begin()
        self.runner = asyncio.Runner()

    def run(self) -> None:
        self.runner.run(self.live_and_settle())

    async def live_and_settle(self) -> None:
        """What was told to stop has stopped."""
        await self.live()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=PATIENCE)

    def end(self) -> None:
        self.runner.close()


class NewManagers(Lifespans):
    """The same with a new manager over a new backend each time."""

    def begin(self) -> None:
        self.cookies: dict[str, str] = {}

    def run(self) -> None:
        super().begin()
        self.client.cookies = self.cookies
        super().run()
        del self.manager, self.client

    def end(self) -> None:
        """Nothing is left open."""


class Plain(Rounds):
    """A new manager that serves a WSGI app, and whose thread ends with it."""

    def begin(self) -> None:
        self.cookie: str | None = None

    def run(self) -> None:
        manager = made(self.make())
        client = PlainClient(WSGISessionMiddleware(plain_page(self.count), manager=manager, monitor=False))
        client.cookie = self.cookie
        with manager.blocking:
            client.get()
            client.get()
        self.cookie = client.cookie
        Housekeeper.of(manager).stop(PATIENCE)


ROUNDS: dict[str, type[Rounds]] = {
    "a loop for each request": NewLoops,
    "lifespans": Lifespans,
    "starts and stops in one loop": StartsAndStops,
    "new managers": NewManagers,
    "without an event loop": Plain,
}


# --- what must not grow ---


@dataclass(frozen=True)
class Weight:
    """What the process has in use."""

    files: int
    threads: int
    tasks: int
    objects: int  # but weak references: of its cursors, `sqlite3.Connection` forgets them by the hundred
    resident: int  # bytes

    @classmethod
    def now(cls) -> Weight:
        for _ in range(3):  # what finalizers let go of
            gc.collect()
        files = len(list(Path("/proc/self/fd").iterdir()))
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        objects = sum(type(one) is not weakref.ref and not _of_coverage(one) for one in gc.get_objects())
        return cls(files, threading.active_count(), len(loops._background), objects, resident)


def _of_coverage(one: object) -> bool:
    """A method of a tracer: coverage keeps four of each thread that it has seen."""
    if not isinstance(one, types.BuiltinMethodType | types.MethodType):
        return False
    return type(one.__self__).__module__.startswith("coverage")


@dataclass(frozen=True)
class Growth:
    """By how much, over a number of rounds."""

    files: int
    threads: int
    tasks: int
    objects: int
    resident: int  # bytes
    rounds: int

    @classmethod
    def between(cls, before: Weight, after: Weight, rounds: int) -> Growth:
        return cls(
            after.files - before.files,
            after.threads - before.threads,
            after.tasks - before.tasks,
            after.objects - before.objects,
            after.resident - before.resident,
            rounds,
        )

    @property
    def is_none(self) -> bool:
        """No file, thread or task is left, and over a handful not one object for every fifth round."""
        few = _HANDFUL + self.rounds / 5
        return max(self.files, self.threads, self.tasks) <= 0 and self.objects <= few


def grown(kind: type[Rounds], make: MakeBackend, count: int) -> tuple[Growth, list[int]]:
    """What *count* rounds left behind, and what the visitor found in all of them."""
    rounds = kind(make)
    for _ in range(WARM_UP):
        rounds.run()
    before = Weight.now()
    for _ in range(count):
        rounds.run()
    after = Weight.now()
    rounds.end()
    return Growth.between(before, after, count), rounds.seen


def main() -> int:
    """Run them; prints a line of figures for each kind. 0: nothing grew, and the visitor was right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("memory", "sqlite", "redis", "postgres"), default="sqlite")
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args()
    is_well = True
    for name, kind in ROUNDS.items():
        with stores(given.backend) as make:
            growth, seen = grown(kind, make, given.count)
        is_right = seen == list(range(len(seen)))
        is_well &= is_right and growth.is_none
        told = {"backend": given.backend, "kind": name, "requests": len(seen)}
        sys.stdout.write(f"{json.dumps({**told, **growth.__dict__, 'each right': is_right})}\n")
        sys.stdout.flush()
    return int(not is_well)


if __name__ == "__main__":
    raise SystemExit(main())
