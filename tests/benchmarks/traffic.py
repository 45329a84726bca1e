"""A browser's requests as ASGI scopes, a cookie jar, and the plainest server that can call an app.

Reading order: `Browser.scope`, `exchange` (one request, its answer looked at), `serve` (many, unlooked at),
`running` (the app's lifespan), `live` (an app's part in it).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "COOKIE",
    "FOREIGN",
    "HEADERS",
    "Answer",
    "Browser",
    "exchange",
    "given_up",
    "live",
    "running",
    "serve",
]

T = TypeVar("T")

COOKIE = "session"
HEADERS = (
    (b"host", b"shop.example.org"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.7,de;q=0.3"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"referer", b"https://shop.example.org/catalogue?page=4"),
    (b"sec-fetch-site", b"same-origin"),
    (b"sec-fetch-mode", b"navigate"),
)
FOREIGN = "_ga=GA1.2.1234567890.1690000000; csrftoken=abcdefghijklmnopqrstuvwxyz0123456789ABCD"
_BODY: Message = {"type": "http.request", "body": b"", "more_body": False}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    set_cookies: tuple[str, ...]


@dataclass(slots=True)
class Browser:
    """One visitor: the cookie of ours it holds (None: none), beside two foreign ones that come first."""

    cookie: str | None = field(default=None, repr=False)

    def scope(self, path: str) -> Scope:
        """A request for *path*, new each time: middlewares write into scopes."""
        ours = "" if self.cookie is None else f"; {COOKIE}={self.cookie}"
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [*HEADERS, (b"cookie", (FOREIGN + ours).encode("latin-1"))],
            "client": ("203.0.113.7", 50432),
            "server": ("shop.example.org", 443),
            "state": {},
        }

    def take(self, answer: Answer) -> None:
        """Keep the cookie that the answer sets."""
        for line in answer.set_cookies:
            morsel = SimpleCookie(line).get(COOKIE)
            if morsel is not None:
                self.cookie = morsel.value


async def exchange(app: ASGIApp, browser: Browser, path: str) -> Answer:
    """Send one request, keep the cookie it sets, and return the answer."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await app(browser.scope(path), _receive, send)
    headers = messages[0]["headers"] if messages else ()
    cookies = tuple(
        bytes(value).decode("latin-1") for name, value in headers if name.lower() == b"set-cookie"
    )
    body = b"".join(message.get("body", b"") for message in messages)
    answer = Answer(messages[0]["status"] if messages else 0, body, cookies)
    browser.take(answer)
    return answer


async def serve(app: ASGIApp, scopes: Iterable[Scope]) -> None:
    """Call *app* with each scope, one after the other; the answers go nowhere."""
    for scope in scopes:
        await app(scope, _receive, _send)


def given_up(requests: list[T]) -> Iterator[T]:
    """Each of them, once: nobody holds one that was served, as under a server."""
    requests.reverse()
    while requests:
        yield requests.pop()


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[None]:
    """Within it the app's lifespan has started, as under a server."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(_lifespan(app, scope, inbox, outbox))
    await _step("startup", inbox, outbox)
    try:
        yield
    finally:
        await _step("shutdown", inbox, outbox)
        await task


async def live(receive: Receive, send: Send) -> None:
    """The lifespan of an app that has nothing to prepare."""
    for step in ("startup", "shutdown"):
        await receive()
        message: Message = {"type": f"lifespan.{step}.complete"}
        await send(message)


async def _lifespan(
    app: ASGIApp, scope: Scope, inbox: asyncio.Queue[Message], outbox: asyncio.Queue[Message]
) -> None:
    try:
        await app(scope, inbox.get, outbox.put)
    except BaseException as problem:
        await outbox.put({"type": "lifespan.failed", "message": repr(problem)})
        raise


async def _step(name: str, inbox: asyncio.Queue[Message], outbox: asyncio.Queue[Message]) -> None:
    await inbox.put({"type": f"lifespan.{name}"})
    answer = await outbox.get()
    if answer["type"] != f"lifespan.{name}.complete":
        raise RuntimeError(f"the app did not finish its {name}: {answer}")


async def _receive() -> Message:
    return _BODY


async def _send(message: Message) -> None:
    pass
