"""SIGTERM with five hundred requests in flight: each is answered whole or not at all, and done if answered.

    python -m tests.process.shutdown --backend sqlite --seed 1 --rounds 20

Reading order: `Gate` and `app_on` (the server, in a process of its own), `ask` (a visitor), `Round`. Five
hundred visitors send a write each, most of them their first. When enough of them have come the server ends
itself by SIGTERM, and lets the handlers go on. In every other round some never come to an end, so the server
cuts them off. What the visitors were told is then compared with what is stored. With `--control` the backend
acknowledges first and writes later.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import json
import os
import random
import signal
import socket
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from session_middleware import Session, SessionEvent, SessionManager, SessionMiddleware
from session_middleware.backends.urls import backend_from
from tests.clocks.wandering import address
from tests.crash.harness import KEY, WriteBehind

__all__ = ["Round", "Told", "main"]

IN_FLIGHT = 500
KNOWN = 53  # of them have a session already; more than the control holds back
PATIENCE = 300.0  # seconds for the server to end
_GRACE = 2  # seconds that it gives requests that are stuck


@dataclass(frozen=True)
class Shape:
    """Of one round."""

    url: str
    visitors: int
    enough: int  # requests, after which SIGTERM comes
    seed: object
    stuck: int = 0  # requests that never end
    control: bool = False


# --- the server ---


class Gate:
    """Holds all writes until enough have come; then comes SIGTERM, and they go on in a random order."""

    def __init__(self, shape: Shape) -> None:
        self.enough, self.stuck = shape.enough, shape.stuck
        self.chance = random.Random(f"shutdown {shape.seed}")
        self.come = 0
        self.opened = asyncio.Event()

    async def passed(self, number: int) -> None:
        self.come += 1
        if self.come == self.enough:
            os.kill(os.getpid(), signal.SIGTERM)
            self.opened.set()
        await self.opened.wait()
        if number < self.stuck:
            await asyncio.Event().wait()
        for _ in range(self.chance.randrange(20)):
            await asyncio.sleep(0)


def app_on(shape: Shape, goodbye: Path) -> SessionMiddleware:
    gate: list[Gate] = []

    async def begin(request: Request) -> JSONResponse:
        request.session.update(a=0, b=0)
        return JSONResponse({})

    async def write(request: Request) -> JSONResponse:
        if not gate:
            gate.append(Gate(shape))  # in its event loop
        request.session["a"] = 1
        await gate[0].passed(int(request.query_params["number"]))
        request.session["b"] = 1
        return JSONResponse({})

    def say_goodbye(event: SessionEvent) -> None:
        goodbye.write_text(str(event.fields["active_requests"]))

    manager = SessionManager(backend_from(shape.url), secret_key=KEY, log=False)
    manager.subscribe("session_manager_stopped", say_goodbye)
    if shape.control:
        performer: Any = manager.performer
        performer.port = WriteBehind(performer.port)
    routes = [Route(f"/{handler.__name__}", handler, methods=["POST"]) for handler in (begin, write)]
    return SessionMiddleware(Starlette(routes=routes), manager=manager, monitor=False)


def serve(listener: socket.socket, shape: Shape, goodbye: Path) -> int:
    """Fork a server on *listener*; its process id. It ends with status 0 if it ended by itself."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        app: Any = app_on(shape, goodbye)
        config = uvicorn.Config(
            app,
            log_level="critical",
            lifespan="on",
            timeout_graceful_shutdown=_GRACE if shape.stuck else None,
            backlog=2048,
        )
        server = uvicorn.Server(config)
        # As `Server.run`, which ends by the signal itself once all is over.
        signal.signal(signal.SIGTERM, lambda *_: None)
        server.run(sockets=[listener])
        status = 0
    finally:
        os._exit(status)


# --- the visitors ---


@dataclass
class Visitor:
    """One browser with one session."""

    number: int
    cookie: str = ""

    @property
    def id(self) -> str:
        return self.cookie.removeprefix("session=").partition(".")[0]


@dataclass
class Told:
    """What the visitors were told, and what is wrong."""

    counted: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


async def ask(port: int, visitor: Visitor, path: str) -> str:
    """`acknowledged`, `refused` (a whole 5xx), `closed` (nothing came), or `half` of an answer."""
    cookie = f"Cookie: {visitor.cookie}\r\n" if visitor.cookie else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n{cookie}\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode())
            answer = await reader.read()
        finally:
            writer.close()
    except OSError:
        return "closed"
    return _read(answer, visitor) if answer else "closed"


class _Received:
    """What has come, as `http.client` reads it from a socket."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._answer)


def _read(answer: bytes, visitor: Visitor) -> str:
    response = http.client.HTTPResponse(_Received(answer), method="POST")  # type: ignore[arg-type]
    try:
        response.begin()
        response.read()  # by its length, in chunks (h11), or until the end
    except (http.client.HTTPException, OSError):
        return "half"
    if response.status != http.HTTPStatus.OK:
        return "refused" if response.status in {500, 503} else f"half, or wrong: {response.status}"
    visitor.cookie = response.headers.get("set-cookie", visitor.cookie).partition(";")[0]
    return "acknowledged"


# --- a round ---


class Round:
    """One server, from its first request to its end."""

    def __init__(self, shape: Shape, told: Told) -> None:
        self.shape = shape
        self.told = told
        self.visitors = [Visitor(number) for number in range(shape.visitors)]

    def run(self, folder: Path) -> None:
        goodbye = folder / "goodbye"
        goodbye.unlink(missing_ok=True)
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            port = listener.getsockname()[1]
            child = serve(listener, self.shape, goodbye)
        try:
            answers = asyncio.run(self.come(port))
            status = self._ended(child)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        if status != 0:
            self.told.faults.append(f"the server ended with status {status}")
        if not goodbye.exists() or goodbye.read_text() != "0":
            self.told.faults.append("the manager was not stopped after the last request")
        self.check(answers)

    async def come(self, port: int) -> list[str]:
        for visitor in self.visitors[:KNOWN]:
            answer = await ask(port, visitor, "/begin")
            if answer != "acknowledged":
                raise RuntimeError(f"no session to begin with: {answer}")
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(
                *(ask(port, visitor, f"/write?number={visitor.number}") for visitor in self.visitors)
            )

    def _ended(self, child: int) -> int:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def check(self, answers: list[str]) -> None:
        with SessionManager(self.shape.url, log=False).blocking as sessions:
            for visitor, answer in zip(self.visitors, answers, strict=True):
                self.told.counted[answer] += 1
                if answer == "acknowledged" and _content(sessions.get_session(visitor.id)) != (1, 1):
                    self.told.faults.append("acknowledged, and lost")
                if answer.startswith("half"):
                    self.told.faults.append(answer)
            for session in sessions.get_sessions(limit=100_000):
                if _content(session) not in {(0, 0), (1, 1)}:
                    self.told.faults.append(f"stored by half: {_content(session)}")


def _content(session: Session | None) -> tuple[Any, Any] | None:
    return None if session is None else (session.get("a"), session.get("b"))


def main() -> int:
    """Run them; prints each kind of fault, and a line of figures. 0: none, or, by `--control`, some were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("sqlite", "redis", "postgres"), default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--control", action="store_true")
    given = parser.parse_args()
    told, chance = Told(), random.Random(given.seed)
    with address(given.backend) as url, tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            stuck = (number % 2) * 20
            enough = chance.choice((IN_FLIGHT, chance.randrange(2 * KNOWN, IN_FLIGHT)))
            seed = f"{given.seed} {number}"
            shape = Shape(url, IN_FLIGHT, enough, seed, stuck, control=given.control)
            Round(shape, told).run(Path(folder))
    for fault, times in Counter(told.faults).items():
        sys.stdout.write(f"{times} times: {fault}\n")
    figures = {"backend": given.backend, "rounds": given.rounds, **told.counted, "faults": len(told.faults)}
    sys.stdout.write(f"{json.dumps(figures)}\n")
    return int(bool(told.faults) is not given.control)


if __name__ == "__main__":
    raise SystemExit(main())
