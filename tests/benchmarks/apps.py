"""The app that is measured, and the session middlewares around it, each in its default configuration.

Reading order: `handlers` (one small app for all), `Candidate`, then the candidates.

The app uses Starlette's `Request` and `Response` and a table of paths instead of a router, which would cost
everyone the same and drown what is looked for.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starsessions import InMemoryStore, SessionAutoloadMiddleware, load_session
from starsessions import SessionMiddleware as StarSessions

from session_middleware import SessionMiddleware
from tests.benchmarks.naive import NaiveSQLiteMiddleware
from tests.benchmarks.traffic import live

__all__ = [
    "BARE",
    "CASES",
    "NAIVE",
    "OURS",
    "OURS_SQLITE",
    "PAGES",
    "PAYLOAD",
    "STARLETTE",
    "STARSESSIONS",
    "STARSESSIONS_LOADED",
    "Candidate",
    "Case",
    "Page",
    "handlers",
    "ignore",
    "in_memory",
    "in_sqlite",
]

Case: TypeAlias = Literal["none", "untouched", "read", "write", "new"]
CASES: Final[tuple[Case, ...]] = ("none", "untouched", "read", "write", "new")
PAYLOAD: Final = {
    "user": "alice@example.org",
    "locale": "en-GB",
    "theme": "dark",
    "n": 0,
    "cart": [
        {"sku": f"SKU-{number:05d}", "quantity": number, "price": 1999 + number} for number in range(1, 6)
    ],
    "recent": [f"/catalogue/item/{number:04d}" for number in range(8)],
}
"""About 500 bytes of JSON."""

_KEY = secrets.token_urlsafe(32)
_Prepare: TypeAlias = Callable[[Request], Awaitable[object]]
Page: TypeAlias = Callable[[Request], bytes]


# --- one app for all ---


def ignore(_: Request) -> bytes:
    """The page that does not look at the session."""
    return b"ignored"


def _seed(request: Request) -> bytes:
    request.session.update(PAYLOAD)
    return b"seeded"


def _read(request: Request) -> bytes:
    return str(request.session.get("user")).encode()


def _count(request: Request) -> bytes:
    request.session["n"] += 1
    return b"%d" % request.session["n"]


def _begin(request: Request) -> bytes:
    request.session["n"] = 1
    return b"begun"


def _show(request: Request) -> bytes:
    return repr(sorted(request.session)).encode()


PAGES: Final[dict[str, Page]] = {
    "/none": ignore,
    "/untouched": ignore,
    "/read": _read,
    "/write": _count,
    "/new": _begin,
    "/seed": _seed,
    "/show": _show,
}


def handlers(prepare: _Prepare | None = None, pages: dict[str, Page] = PAGES) -> ASGIApp:
    """The app: a page per case. *prepare* runs before a page that looks at the session."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        page = pages[scope["path"]]
        request = Request(scope, receive, send)
        if prepare is not None and page is not ignore:
            await prepare(request)
        await Response(page(request), media_type="text/plain")(scope, receive, send)

    return app


# --- the candidates ---


@dataclass(frozen=True, slots=True)
class Candidate:
    """An app to measure, and what it claims: which cases are answered with a Set-Cookie of the session.

    `has_session` is False for the bare app alone.
    """

    name: str
    app: ASGIApp
    sets_cookie: frozenset[str]
    has_session: bool = True


BARE = "bare app"
STARLETTE = "Starlette, cookie"
STARSESSIONS = "starsessions, memory"
STARSESSIONS_LOADED = "starsessions, memory, loaded by the handler"
OURS = "ours, memory"
OURS_SQLITE = "ours, SQLite"
NAIVE = "naive aiosqlite"


def in_memory() -> list[Candidate]:
    """Everything that is measured one request at a time: bare, peers, ours in memory."""
    return [_bare(), _starlette(), _starsessions(), _starsessions_loaded(), _ours(OURS, "memory://")]


def in_sqlite(folder: Path) -> list[Candidate]:
    """Bare, the naive middleware and ours, each with a file of its own in *folder*."""
    naive = NaiveSQLiteMiddleware(handlers(), _KEY, folder / "naive.db")
    ours = _ours(OURS_SQLITE, f"sqlite:///{folder / 'ours.db'}")
    return [_bare(), Candidate(NAIVE, naive, frozenset({"new"})), ours]


def _bare() -> Candidate:
    pages: dict[str, Page] = dict.fromkeys(PAGES, ignore)
    return Candidate(BARE, handlers(pages=pages), frozenset(), has_session=False)


def _starlette() -> Candidate:
    return Candidate(STARLETTE, StarletteSessions(handlers(), _KEY), frozenset({"write", "new"}))


def _starsessions() -> Candidate:
    """With its autoload, so that handlers need not change; it saves and sets its cookie at each request."""
    inner = SessionAutoloadMiddleware(handlers())
    app = StarSessions(inner, store=InMemoryStore(), lifetime=_LIFETIME, rolling=True)
    return Candidate(STARSESSIONS, app, frozenset({"untouched", "read", "write", "new"}))


def _starsessions_loaded() -> Candidate:
    """Without it: each handler that looks at the session loads it first."""
    inner = handlers(prepare=load_session)
    app = StarSessions(inner, store=InMemoryStore(), lifetime=_LIFETIME, rolling=True)
    return Candidate(STARSESSIONS_LOADED, app, frozenset({"read", "write", "new"}))


def _ours(name: str, backend: str) -> Candidate:
    app = SessionMiddleware(handlers(), _KEY, backend=backend)
    return Candidate(name, app, frozenset({"new"}))


_LIFETIME: Final = 14 * 24 * 60 * 60  # seconds, as everyone else's
