"""Two app processes over one server, and visitors of both; then a process dies, and then the server.

Each visitor counts in its session, signs in and out, and remembers what it was told. After the first third of
the answers one app process is killed (`kill -9`) and started again; after the second the server: a Redis
master whose replica is promoted by sentinels, or a Redis or PostgreSQL that is started again over its own
files. What the visitors were told is then compared with what the server holds.

`python -m tests.crash.failover --on sentinel --answers 3000 --seed 1` prints the figures. With `--control`
the app acknowledges first and writes later, so writes must get lost: finding none would prove nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend
from session_middleware.backends.postgres import PostgresBackend
from session_middleware.backends.redis import RedisBackend
from tests.crash.harness import KEY, Client, WriteBehind, call
from tests.servers.postgres import postgres_server
from tests.servers.processes import until
from tests.servers.redis import redis_server
from tests.servers.redis_cluster import watched_redis

VISITORS = 16
PATIENCE = 60.0  # seconds for all to go on after a failure


@dataclass
class Visitor:
    """One browser, and what it was told."""

    name: str
    client: Client = field(default_factory=Client)
    unsure: bool = False  # a request since the last answer may have been carried out


@dataclass
class Figures:
    """What a run came to."""

    answers: int = 0
    refused: int = 0  # 503, or no connection
    logouts: int = 0
    lost: int = 0
    revived: int = 0
    crossed: int = 0  # a visitor met somebody else's session
    longest_outage: float = 0.0  # seconds without an answer for anybody


async def write(request: Request) -> JSONResponse:
    """Counts on; whose session it is, is said by the first visit."""
    session = request.session
    owner = session.setdefault("owner", request.query_params["name"])
    session["n"] = int(request.query_params["n"])
    await session.manager.save(session)
    return JSONResponse({"id": session.id, "owner": owner})


async def logout(request: Request) -> JSONResponse:
    request.session.logout()
    return JSONResponse({"id": None})


class App:
    """One app process."""

    process: int

    def __init__(self, make: Callable[[], Backend], *, control: bool) -> None:
        self._make = make
        self._control = control
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]

    def start(self) -> None:
        """Fork it."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.process = os.fork()
        if self.process:
            listener.close()
            return
        try:
            app = Starlette(
                routes=[Route(f"/{one.__name__}", one, methods=["POST"]) for one in (write, logout)]
            )
            manager = SessionManager(self._make(), secret_key=KEY, log=False)
            if self._control:
                manager.performer.port = WriteBehind(manager.performer.port)  # type: ignore[assignment]
            app.add_middleware(SessionMiddleware, manager=manager)
            uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on")).run(sockets=[listener])
        finally:
            os._exit(0)

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


class Run:
    """Visitors over the apps, with faults in the middle."""

    def __init__(self, apps: list[App], fail: Callable[[], None], answers: int, seed: int) -> None:
        self.apps, self.fail, self.wanted = apps, fail, answers
        self.chance = random.Random(seed)
        self.figures = Figures()
        self.visitors = [Visitor(f"visitor-{n}") for n in range(VISITORS)]
        self._faults = {answers // 3: self._lose_an_app, 2 * answers // 3: self._lose_the_server}
        self._failing: list[asyncio.Future[None]] = []
        self._last = 0.0

    async def go(self) -> None:
        """Until so many answers have come."""
        self._last = asyncio.get_running_loop().time()
        await asyncio.gather(*(self._visit(visitor) for visitor in self.visitors))
        await asyncio.gather(*self._failing)

    async def _visit(self, visitor: Visitor) -> None:
        while self.figures.answers < self.wanted:
            now = asyncio.get_running_loop().time()
            assert now - self._last < PATIENCE, "nobody gets an answer any more"
            try:
                await self._step(visitor)
            except (OSError, ValueError, asyncio.IncompleteReadError):
                visitor.unsure = True
                self.figures.refused += 1
                await asyncio.sleep(0.01)
                continue
            self._answered()

    def _answered(self) -> None:
        now = asyncio.get_running_loop().time()
        self.figures.longest_outage = max(self.figures.longest_outage, round(now - self._last, 2))
        self._last = now
        self.figures.answers += 1
        fault = self._faults.pop(self.figures.answers, None)
        if fault is not None:
            fault()

    def _lose_an_app(self) -> None:
        self.apps[0].kill()
        self.apps[0].start()

    def _lose_the_server(self) -> None:
        self._failing.append(asyncio.get_running_loop().run_in_executor(None, self.fail))

    async def _step(self, visitor: Visitor) -> None:
        client, port = visitor.client, self.chance.choice(self.apps).port
        if client.session_id and self.chance.random() < 0.05:
            leaving = client.session_id
            await call(port, client, "/logout")
            client.ended.append(leaving)
            client.session_id, client.acknowledged, visitor.unsure = "", 0, False
            self.figures.logouts += 1
            return
        n = client.acknowledged + 1
        answer = await call(port, client, f"/write?n={n}&name={visitor.name}")
        self.figures.crossed += answer["owner"] != visitor.name
        if client.session_id and answer["id"] != client.session_id:
            self.figures.lost += not visitor.unsure  # a new one: else a logout in flight was carried out
        client.session_id, client.acknowledged, visitor.unsure = answer["id"], n, False

    def check(self, backend: Backend) -> None:
        """What the server holds against what the visitors were told."""
        with SessionManager(backend, log=False).blocking as sessions:
            for visitor in self.visitors:
                client = visitor.client
                self.figures.revived += sum(sessions.get_session(id_) is not None for id_ in client.ended)
                if client.session_id:
                    stored = sessions.get_session(client.session_id)
                    n = -1 if stored is None else stored.get("n", -1)
                    gone = stored is None and visitor.unsure  # a logout in flight
                    self.figures.lost += n not in {client.acknowledged, client.acknowledged + 1} and not gone
                    self.figures.crossed += stored is not None and stored["owner"] != visitor.name


@contextmanager
def redis_with_sentinels(replicas: int) -> Iterator[tuple[Callable[[], Backend], Callable[[], None]]]:
    with watched_redis() as watched:

        def fail() -> None:
            watched.master.kill()
            until(lambda: watched.knows(watched.replica), "the replica is the master")
            watched.master.start()  # the sentinels make it a replica

        yield (lambda: RedisBackend(watched.url, replicas=replicas, wait=0.5)), fail


@contextmanager
def redis_started_again(_: int) -> Iterator[tuple[Callable[[], Backend], Callable[[], None]]]:
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:

        def fail() -> None:
            server.kill()
            server.start()

        yield (lambda: RedisBackend(server.url, wait=0.5)), fail


@contextmanager
def postgres_started_again(_: int) -> Iterator[tuple[Callable[[], Backend], Callable[[], None]]]:
    with postgres_server() as server:
        url = server.new_store()

        def fail() -> None:
            server.kill()
            server.start()

        yield (lambda: PostgresBackend(url, wait=2)), fail


SERVERS = {"sentinel": redis_with_sentinels, "redis": redis_started_again, "postgres": postgres_started_again}


def run(on: str, answers: int, seed: int, *, replicas: int = 0, control: bool = False) -> Figures:
    """One run; see the top."""
    with SERVERS[on](replicas) as (make, fail):
        apps = [App(make, control=control) for _ in range(2)]
        for app in apps:
            app.start()
        try:
            for app in apps:
                until(lambda app=app: asyncio.run(_answers(app.port)), "the app answers")
            ours = Run(apps, fail, answers, seed)
            asyncio.run(ours.go())
        finally:
            for app in apps:
                app.kill()
        ours.check(make())
        return ours.figures


async def _answers(port: int) -> bool:
    try:
        return bool(await call(port, Client(), "/logout"))
    except (OSError, ValueError):
        return False


def main() -> int:
    """Exit status 0 if nothing was lost, or if the control lost something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=SERVERS, default="sentinel")
    parser.add_argument("--answers", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--control", action="store_true")
    given: Any = parser.parse_args()
    figures = run(given.on, given.answers, given.seed, replicas=given.replicas, control=given.control)
    sys.stdout.write(f"{json.dumps(asdict(figures))}\n")
    return int(bool(figures.lost or figures.revived or figures.crossed) is not given.control)


if __name__ == "__main__":
    raise SystemExit(main())
