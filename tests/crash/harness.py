"""Kills a writing server with SIGKILL, again and again, and looks for acknowledged writes that are gone.

A child process serves an app under `SessionMiddleware` on SQLite with uvicorn; eight clients of this process
write, log in and log out over real connections. After a random number of answers the child is killed while
requests are in flight. What the clients were told is then compared with what the database holds.

`python -m tests.crash.harness --kills 300 --seed 1 --folder DIR` prints the figures. With `--control` the
backend acknowledges first and writes later, so writes must get lost: finding none would prove nothing.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from session_middleware import SessionManager, SessionMiddleware, SQLiteBackend
from session_middleware.backends.base import Port
from session_middleware.blocking import run_blocking
from session_middleware.record import Committed, Delta, Record, Refused, SessionId

CLIENTS = 8
KEY = "a key of the crash harness, thirty-two bytes long"


@dataclass
class Client:
    """One visitor, and what the server told it."""

    cookie: str = ""
    session_id: str = ""
    acknowledged: int = 0
    ended: list[str] = field(default_factory=list)  # sessions whose logout was acknowledged


@dataclass
class Figures:
    """What a run came to."""

    kills: int = 0
    writes: int = 0
    logouts: int = 0
    lost: int = 0
    revived: int = 0
    broken: int = 0  # databases that failed SQLite's own integrity check


async def write(request: Request) -> JSONResponse:
    request.session["n"] = int(request.query_params["n"])
    request.session.setdefault("log", []).append(request.session["n"])
    del request.session["log"][:-5]
    await request.session.manager.save(request.session)
    return JSONResponse({"id": request.session.id})


async def login(request: Request) -> JSONResponse:
    request.session.login(request.query_params["user"])
    request.session["n"] = 0
    return JSONResponse({"id": None})


async def logout(request: Request) -> JSONResponse:
    request.session.logout()
    return JSONResponse({"id": None})


class WriteBehind:
    """The control: a port that says a commit is done, and writes it ten commits later."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._waiting: list[tuple[SessionId, Delta, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        self._waiting.append((id, delta, now))
        if len(self._waiting) >= 10:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                await self._port.commit(*one)
        record = await self._port.load(id, now)
        return Committed(1, record.generation) if isinstance(record, Record) else Refused.GONE


def app_on(database: Path, *, control: bool) -> Starlette:
    routes = [Route(f"/{handler.__name__}", handler, methods=["POST"]) for handler in (write, login, logout)]
    app = Starlette(routes=routes)
    manager = SessionManager(SQLiteBackend(database), secret_key=KEY, log=False)
    if control:
        manager.performer.port = WriteBehind(manager.performer.port)  # type: ignore[assignment]
    app.add_middleware(SessionMiddleware, manager=manager)
    return app


def serve(listener: socket.socket, database: Path, *, control: bool) -> int:
    """Fork a server on *listener*; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        config = uvicorn.Config(app_on(database, control=control), log_level="error", lifespan="on")
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        os._exit(0)


async def call(port: int, client: Client, path: str) -> dict[str, Any]:
    """One request on its own connection. `OSError` or `ValueError` when the server dies meanwhile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        cookie = f"Cookie: {client.cookie}\r\n" if client.cookie else ""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n"
        writer.write(f"{head}{cookie}\r\n".encode())
        answer = (await reader.read()).decode()
    finally:
        writer.close()
    headers, _, body = answer.partition("\r\n\r\n")
    if not headers.startswith("HTTP/1.1 200"):
        raise ValueError(headers[:60])
    for line in headers.split("\r\n"):
        if line.lower().startswith("set-cookie: "):
            value = line[len("set-cookie: ") :].partition(";")[0]
            client.cookie = "" if value == "session=null" else value
    answered: dict[str, Any] = json.loads(body)
    return answered


async def visit(port: int, client: Client, chance: random.Random, figures: Figures) -> None:
    """One step of one client, noted once it was acknowledged."""
    if client.session_id and chance.random() < 0.03:
        await call(port, client, "/logout")
        client.ended.append(client.session_id)
        client.session_id, client.acknowledged = "", 0
        figures.logouts += 1
        return
    n = client.acknowledged + 1
    answer = await call(port, client, f"/write?n={n}")
    client.session_id, client.acknowledged = answer["id"], n
    figures.writes += 1


async def hammer(
    port: int, child: int, clients: list[Client], chance: random.Random, figures: Figures
) -> None:
    """All clients at once, until the server is killed after a random number of answers."""
    left = chance.randrange(5, 120)

    async def act(client: Client) -> None:
        nonlocal left
        while left > 0:
            try:
                await visit(port, client, chance, figures)
            except (OSError, ValueError, asyncio.IncompleteReadError):
                return
            left -= 1
            if left == 0:
                os.kill(child, signal.SIGKILL)

    await reachable(port)
    await asyncio.gather(*(act(client) for client in clients))


async def reachable(port: int) -> None:
    """Until the server answers; its listening socket holds the connection meanwhile."""
    await call(port, Client(), "/logout")


def check(database: Path, clients: list[Client], figures: Figures) -> None:
    """What the database holds against what the clients were told."""
    with sqlite3.connect(database) as connection:
        figures.broken += connection.execute("PRAGMA integrity_check").fetchone() != ("ok",)
    connection.close()
    manager = SessionManager(SQLiteBackend(database), log=False)
    with manager.blocking:
        for client in clients:
            if client.session_id:
                stored = manager.blocking.get_session(client.session_id)
                n = -1 if stored is None else stored.get("n", -1)
                # A write that was in flight may have been applied; one that was acknowledged must have been.
                figures.lost += n not in {client.acknowledged, client.acknowledged + 1}
                if stored is None:  # a logout in flight may have been applied too; then it is not lost
                    figures.lost -= manager_says_logout(manager, client.session_id)
                if stored is None:
                    client.session_id, client.acknowledged, client.cookie = "", 0, ""
                else:
                    client.acknowledged = n
            figures.revived += sum(manager.blocking.get_session(id_) is not None for id_ in client.ended)


def manager_says_logout(manager: SessionManager, session_id: str) -> bool:
    """Whether the database remembers a logout of this session."""
    port = manager.backend.port("blocking")
    ended = run_blocking(port.load(SessionId(session_id), manager.clock()))
    return ended is not None and not isinstance(ended, Record) and ended.reason == "logout"


def run(kills: int, seed: int, folder: Path, *, control: bool = False) -> Figures:
    """*kills* rounds over one database in *folder*."""
    chance, figures = random.Random(seed), Figures()
    clients = [Client() for _ in range(CLIENTS)]
    database = folder / "sessions.db"
    for _ in range(kills):
        # Only the child keeps the listener, so what waits in its queue is reset when it dies.
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            port = listener.getsockname()[1]
            child = serve(listener, database, control=control)
        try:
            asyncio.run(hammer(port, child, clients, chance, figures))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        figures.kills += 1
        check(database, clients, figures)
    return figures


def main() -> int:
    """Exit status 0 if nothing was lost, or if the control lost something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--control", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = run(given.kills, given.seed, given.folder or Path(temporary), control=given.control)
    sys.stdout.write(f"{json.dumps(figures.__dict__)}\n")
    harmed = bool(figures.lost or figures.revived or figures.broken)
    return int(harmed is not given.control)


if __name__ == "__main__":
    raise SystemExit(main())
