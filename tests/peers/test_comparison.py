"""The table in the README: the same small app under each middleware, and what becomes of it.

Every row is a scenario that is run, not a claim; a cell of the README that differs from the run is a failure.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from session_middleware import SessionMiddleware

starsessions = pytest.importorskip("starsessions")

KEY = "a key of the comparison, thirty-two bytes long"
README = Path(__file__).parents[2] / "README.md"


class App:
    """The app, and the gate that holds its slow requests."""

    def __init__(self, middleware: list[Middleware]) -> None:
        self.gate = asyncio.Event()
        self.held = asyncio.Event()
        handlers = (self.read, self.login, self.logout, self.write, self.slow_write, self.append, self.stream)
        self.asgi = Starlette(
            routes=[Route(f"/{handler.__name__}", handler) for handler in handlers], middleware=middleware
        )

    async def read(self, request: Request) -> Response:
        return JSONResponse(dict(request.session))

    async def login(self, request: Request) -> Response:
        request.session["user_id"] = "ada"
        return JSONResponse({})

    async def logout(self, request: Request) -> Response:
        request.session.clear()
        return JSONResponse({})

    async def write(self, request: Request) -> Response:
        request.session.update(request.query_params)
        return JSONResponse({})

    async def slow_write(self, request: Request) -> Response:
        dict(request.session)
        self.held.set()
        await self.gate.wait()
        request.session["slow"] = True
        return JSONResponse({})

    async def append(self, request: Request) -> Response:
        if "cart" in request.session:
            request.session["cart"].append("tea")
        else:
            request.session["cart"] = []
        return JSONResponse({})

    async def stream(self, request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begin"
            request.session["streamed"] = True
            yield b"end"

        return StreamingResponse(body())


def starlette_own() -> list[Middleware]:
    return [Middleware(StarletteSessions, secret_key=KEY)]


def starsessions_in_memory() -> list[Middleware]:
    store = starsessions.InMemoryStore()
    return [
        Middleware(starsessions.SessionMiddleware, store=store, cookie_https_only=False, lifetime=3600),
        Middleware(starsessions.SessionAutoloadMiddleware),
    ]


def ours() -> list[Middleware]:
    return [Middleware(SessionMiddleware, secret_key=KEY)]


@asynccontextmanager
async def browser(app: App, cookie: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app.asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        if cookie is not None:
            client.cookies.set("session", cookie, domain="localhost.local")
        yield client


async def overlapped(app: App, client: httpx.AsyncClient, path: str) -> None:
    """A slow write begins, *path* is requested and answered, the slow write ends."""
    slow = asyncio.create_task(client.get("/slow_write"))
    await app.held.wait()
    await client.get(path)
    app.gate.set()
    await slow


async def stays_logged_out(app: App) -> bool:
    async with browser(app) as client:
        await client.get("/login")
        cookie = client.cookies["session"]
        await overlapped(app, client, "/logout")
    async with browser(app, cookie) as replay:
        return "user_id" not in (await replay.get("/read")).json()


async def keeps_parallel_changes(app: App) -> bool:
    async with browser(app) as client:
        await client.get("/login")
        await overlapped(app, client, "/write?quick=1")
        return {"slow", "quick"} <= (await client.get("/read")).json().keys()


async def saves_nested_changes(app: App) -> bool:
    async with browser(app) as client:
        await client.get("/append")
        await client.get("/append")
        return (await client.get("/read")).json()["cart"] == ["tea"]


async def saves_what_a_stream_changes(app: App) -> bool:
    async with browser(app) as client:
        await client.get("/login")
        await client.get("/stream")
        return "streamed" in (await client.get("/read")).json()


async def refuses_an_id_the_client_made_up(app: App) -> bool:
    async with browser(app, "an-id-made-up-by-the-client") as planted:
        await planted.get("/login")
    async with browser(app, "an-id-made-up-by-the-client") as attacker:
        return (await attacker.get("/read")).json() == {}


async def cookie_from_before_the_login_is_worthless(app: App) -> bool:
    async with browser(app) as client:
        await client.get("/write?seen=1")
        planted = client.cookies["session"]
        await client.get("/login")
    async with browser(app, planted) as attacker:
        return "user_id" not in (await attacker.get("/read")).json()


async def a_read_sets_no_cookie(app: App) -> bool:
    async with browser(app) as client:
        await client.get("/login")
        return "set-cookie" not in (await client.get("/read")).headers


ROWS: dict[str, Callable[[App], Awaitable[bool]]] = {
    "a logout stays a logout, also for a slow request and a copied cookie": stays_logged_out,
    "parallel changes of different keys both survive": keeps_parallel_changes,
    '`session["cart"].append(...)` is saved': saves_nested_changes,
    "what a streamed response changes is saved": saves_what_a_stream_changes,
    "an id made up by the client is not adopted": refuses_an_id_the_client_made_up,
    "a cookie from before the login is worthless after it": cookie_from_before_the_login_is_worthless,
    "reading sets no cookie": a_read_sets_no_cookie,
}
COLUMNS = {
    "session_middleware": ours,
    "Starlette's own": starlette_own,
    "starsessions 2.2.1": starsessions_in_memory,
}


async def answer_of(row: str, column: str) -> str:
    return "yes" if await ROWS[row](App(COLUMNS[column]())) else "no"


def table_as_run() -> list[str]:
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for row in ROWS:
        answers = [asyncio.run(answer_of(row, column)) for column in COLUMNS]
        lines.append(f"| {row} | {' | '.join(answers)} |")
    return lines


@pytest.mark.parametrize("row", ROWS)
def test_every_row_holds_for_us(row: str) -> None:
    assert asyncio.run(answer_of(row, "session_middleware")) == "yes"


def test_the_table_in_the_readme_is_what_the_runs_say() -> None:
    assert "\n".join(table_as_run()) in README.read_text()
