"""Several threads with event loops that come and go, one middleware, one visitor with a request in each.

    python -m tests.process.loops --backend sqlite --seed 1 --count 300

Each thread makes a seeded series of event loops, some for a single request, some for several. In them the
visitor counts, writes under a key of the thread, counts in a transaction; or somebody opens a WebSocket, and
another thread ends its session. No count may be lost, each WebSocket is closed with 1008 by its own loop, and
in the end nothing is in flight. Prints one line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend
from tests.asgi.harness import KEY, Client, Socket, chat, page
from tests.clocks.wandering import stores

__all__ = ["Threads", "faults_of"]

THREADS = 4
PATIENCE = 60.0  # seconds
_MOVES = ("count", "count", "write", "transaction", "socket")


class Threads:
    """Of one middleware over one backend."""

    def __init__(self, backend: Backend) -> None:
        self.manager = SessionManager(backend, secret_key=KEY, log=False, check_interval=1e6)
        self.middleware = SessionMiddleware(self._app, manager=self.manager, monitor=False)
        self.visitor = Client(self.middleware)
        self.done: Counter[str] = Counter()
        self.written: dict[str, int] = {}

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix("/")

        def act(session: Any) -> None:
            match path.split("-"):
                case ["begin"]:
                    session.update(n=0, t=0)
                case ["count"]:
                    session.increment("n")
                case ["write", key, value]:
                    session[key] = int(value)

        serve = chat(lambda *_: None, first=len) if scope["type"] == "websocket" else page(act)
        await serve(scope, receive, send)

    def run(self, seed: int, count: int) -> list[str]:
        """*count* moves of each thread. What is wrong."""
        asyncio.run(self.visitor.get("/begin"))
        self.id = self.visitor.cookies["session"].partition(".")[0]
        with ThreadPoolExecutor(THREADS + 1) as self.threads:
            works = [self.threads.submit(self._live, number, seed, count) for number in range(THREADS)]
            faults = [repr(problem) for work in works if (problem := work.exception()) is not None]
        return faults + asyncio.run(self._ended())

    def _live(self, number: int, seed: int, count: int) -> None:
        chance = random.Random(f"loops {seed} {number}")
        left = count
        while left > 0:
            moves = min(left, chance.choice((1, 1, 6)))
            left -= moves
            asyncio.run(self._moves(number, chance.choices(_MOVES, k=moves)))

    async def _moves(self, number: int, moves: list[str]) -> None:
        self.done["loops"] += 1
        for move in moves:
            self.done[move] += 1
            async with asyncio.timeout(PATIENCE):
                await getattr(self, f"_{move}")(f"k{number}")

    async def _count(self, _: str) -> None:
        await self._get("/count")

    async def _write(self, key: str) -> None:
        self.written[key] = self.written.get(key, 0) + 1
        await self._get(f"/write-{key}-{self.written[key]}")

    async def _transaction(self, _: str) -> None:
        async with self.manager.transaction(self.id, timeout=PATIENCE) as session:
            session["t"] += 1

    async def _socket(self, _: str) -> None:
        somebody = Client(self.middleware)
        await somebody.get("/begin")
        socket = LoopBound(somebody, "/")
        await socket.next()
        id_ = somebody.cookies["session"].partition(".")[0]
        self.threads.submit(self.manager.blocking.delete_session, id_)
        while (message := await socket.next())["type"] != "websocket.close":
            pass
        await socket.task
        if message["code"] != 1008:
            raise AssertionError(message)

    async def _get(self, path: str) -> None:
        answer = await self.visitor.copy().get(path)
        if answer.status != 200:
            raise AssertionError(f"{path} was answered {answer.status}")

    async def _ended(self) -> list[str]:
        session = await self.manager.get_session(self.id)
        expected = {"n": self.done["count"], "t": self.done["transaction"], **self.written}
        faults = [] if session == expected else [f"found {session and dict(session)}, expected {expected}"]
        if len(self.manager.activity):
            faults.append(f"{len(self.manager.activity)} requests are still in flight")
        if len(self.manager.heartbeat._timers) > THREADS + 1:
            faults.append(f"{len(self.manager.heartbeat._timers)} event loops are remembered")
        await self.manager.stop()
        self.manager.blocking.stop()
        return faults


class LoopBound(Socket):
    """A WebSocket whose server may be spoken to in its own event loop only."""

    async def _send(self, message: dict[str, Any]) -> None:
        if asyncio.get_running_loop() is not self.task.get_loop():
            raise RuntimeError("another event loop speaks to this server")
        await super()._send(message)


def faults_of(backend: Backend, seed: int, count: int) -> tuple[list[str], Counter[str]]:
    """What is wrong, and how much was done."""
    threads = Threads(backend)
    return threads.run(seed, count), threads.done


def main() -> int:
    """Run it; prints each fault, and one line of figures. 0: there was none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("memory", "sqlite", "redis", "postgres"), default="memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    given = parser.parse_args()
    with stores(given.backend) as make:
        faults, done = faults_of(make(), given.seed, given.count)
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    sys.stdout.write(f"{json.dumps({'backend': given.backend, **done, 'faults': len(faults)})}\n")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
