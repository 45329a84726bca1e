"""A storm: two hundred users at once, half of whose requests are cancelled, over a connection that delays.

Each user's session holds a name of its own, and each request answers what it saw and counts itself. Whoever
is cancelled is cancelled after some turns of the event loop, as the seed says; meanwhile the proxy before
the server holds answers back, now for longer and now for less. Then:

* nobody ever saw another's name, nobody who had a session saw none, and nobody was refused;
* each counter is at least what was acknowledged and at most what was tried;
* nothing is left over (`at_rest`).

`python -m tests.security.storm --server redis --seed 2026 --count 50` prints figures. With `--control` a
connection goes back to the pool although its answer was not read, and nothing looks whether there is one:
the exit status is 0 if that is found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest import mock

from session_middleware.backends import redis_links
from session_middleware.backends.coalesce import Lane
from session_middleware.backends.urls import backend_from
from tests.asgi.harness import Answer, Client
from tests.security.at_rest import at_rest
from tests.security.interrupted import World
from tests.servers.postgres import postgres_server
from tests.servers.proxy import Proxy, proxy
from tests.servers.redis import redis_server

__all__ = ["Figures", "careless_pool", "main", "storm"]

USERS = 200
TURNS = 60  # of the event loop, at most, until a request is cancelled
DELAYS = (0.0, 0.001, 0.005, 0.02)  # seconds that answers are held back


@dataclass
class Figures:
    """What a storm came to."""

    users: int = 0
    answered: int = 0
    cancelled: int = 0
    crossed: int = 0  # saw what is another's
    lost: int = 0  # saw nothing of their own, or counted wrong
    refused: int = 0

    @property
    def is_bad(self) -> bool:
        return (self.crossed, self.lost, self.refused) != (0, 0, 0)

    def __str__(self) -> str:
        return (
            f"{self.users} users, {self.answered} requests answered, {self.cancelled} cancelled: "
            f"{self.crossed} saw another's session, {self.lost} lost something, {self.refused} refused"
        )


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers what the session holds, and counts; at first it takes the name from the path."""
    session = scope["session"]
    session.setdefault("name", scope["path"])
    session.increment("visits")
    body = json.dumps(dict(session)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class User:
    """One browser, which makes one request after the other."""

    def __init__(self, client: Client, name: str, chance: Random, between: Proxy, figures: Figures) -> None:
        self.client = client
        self.name = f"/{name}"
        self.tried = self.acknowledged = 0
        self._chance = chance
        self._between = between
        self._figures = figures

    async def live(self, visits: int) -> None:
        self._judge(await self.client.get(self.name))  # whole, so that there is a cookie
        for _ in range(visits):
            self._between.delay = self._chance.choice(DELAYS)
            await self._visit(is_cut_short=self._chance.random() < 0.5)

    async def _visit(self, *, is_cut_short: bool) -> None:
        task = asyncio.create_task(self.client.get("/nobody"))
        for _ in range(self._chance.randrange(TURNS) if is_cut_short else 0):
            await asyncio.sleep(0)
        if is_cut_short:
            task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            self.tried += 1
            self._figures.cancelled += 1
        elif task.exception() is not None:
            self._figures.refused += 1
        else:
            self._judge(task.result())

    def _judge(self, answer: Answer) -> None:
        self._figures.answered += 1
        self.tried += 1
        if answer.status != 200:
            self._figures.refused += 1
            return
        seen = json.loads(answer.body)
        self.acknowledged += 1
        self._compare(seen)

    def _compare(self, seen: Any) -> None:
        name = seen.get("name")
        self._figures.crossed += name not in {self.name, "/nobody"}
        is_counted = self.acknowledged <= seen.get("visits", 0) <= self.tried
        self._figures.lost += name == "/nobody" or not is_counted

    async def look(self, world: World) -> None:
        """At the end, at what is stored."""
        id_ = self.client.cookies.get("session", "").partition(".")[0]
        try:
            session = await world.manager.get_session(id_)
        except Exception:  # noqa: BLE001  (whatever it is: it is counted)
            self._figures.refused += 1
        else:
            self._compare({"name": "/nobody"} if session is None else session)


async def storm(world: World, between: Proxy, seed: int, users: int, visits: int) -> Figures:
    """One, and a look at what it left."""
    figures, chance = Figures(users=users), Random(seed)
    world.site.middleware.app = app
    crowd = [
        User(world.site.new_client(), f"user-{number}", Random(chance.random()), between, figures)
        for number in range(users)
    ]
    await asyncio.gather(*(user.live(visits) for user in crowd))
    between.heal()
    await world.settle()
    await asyncio.gather(*(user.look(world) for user in crowd))
    return figures


async def _warm(world: World) -> Any:
    await world.begin()
    await world.go_on(2)
    await world.clear()
    return await _rest(world)


async def _rest(world: World) -> Any:
    """Without what the proxy has in this process."""
    await world.settle()
    rest = await at_rest(world.manager)
    return {name: what for name, what in rest.items() if name != "files"}


def run(url: str, port: int, seed: int, users: int, visits: int) -> Figures:
    """A storm over the store of this address, whose server listens on *port*. Raises for what it left."""
    with proxy(port) as between:
        world = World(backend_from(url.replace(f":{port}", f":{between.port}", 1)))
        try:
            before = world.run(_warm(world))
            figures: Figures = world.run(storm(world, between, seed, users, visits))
            if not figures.is_bad:
                assert world.run(_rest(world)) == before, "left over"
        finally:
            between.heal()
            world.close()
    return figures


# --- the control ---------------------------------------------------------------------------------------


async def _careless(mine: Any, commands: Any) -> list[Any]:
    pool = mine.client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(
            connection.pack_commands(map(redis_links._sent, commands)), check_health=False
        )
        return [redis_links._answer_of(command, await _read(connection)) for command in commands]
    finally:
        pool._in_use_connections.discard(connection)
        pool._available_connections.append(connection)


async def _read(connection: Any) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except redis_links.redis.ResponseError as refusal:
        return refusal


async def _unlooked(_: Any, connection: Any) -> None:
    await connection.connect()


@contextmanager
def careless_pool() -> Iterator[None]:
    """Redis with a connection that is taken back with its answer unread, by whoever is cancelled."""

    async def alone(self: Any, operation: Any) -> Any:
        [outcome] = await self._outcomes([operation])
        return outcome

    with (
        mock.patch.object(redis_links._OfLoop, "_piped", _careless),
        mock.patch.object(Lane, "do", alone),
        mock.patch("redis.asyncio.ConnectionPool.ensure_connection", _unlooked),
        mock.patch("session_middleware.loops.Finisher.finish", lambda _, operation: operation),
    ):
        yield


def main() -> int:
    """Exit status 0 if no session was crossed or lost, or if the control's were."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", choices=("redis", "postgres"), default="redis")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--count", type=int, default=50, help="requests of each user")
    parser.add_argument("--control", action="store_true")
    given = parser.parse_args()
    began = time.perf_counter()
    server_of = redis_server if given.server == "redis" else postgres_server
    with server_of() as server, careless_pool() if given.control else nullcontext():
        figures = run(server.new_store(), server.port, given.seed, given.users, given.count)
    took = time.perf_counter() - began
    sys.stdout.write(f"{given.server}: {figures}, seed {given.seed}, {took:.0f} s\n")
    return int(figures.is_bad is not given.control)


if __name__ == "__main__":
    sys.exit(main())
