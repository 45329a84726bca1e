"""A WSGI app under the same requests, checks and rounds as an ASGI app.

Reading order: `environ_of` (a scope as a server's environ), `WSGIServed` (what checks call, and what a slice
calls without anything in between), `answered` (one request, served as a server does).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

from starlette.types import Receive, Scope, Send

from tests.benchmarks.traffic import given_up, live

__all__ = ["WSGIApp", "WSGIServed", "answered", "environ_of"]

WSGIApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def environ_of(scope: Scope) -> dict[str, Any]:
    """What a WSGI server makes of the same request."""
    address, port = scope["server"]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"],
        "QUERY_STRING": "",
        "RAW_URI": scope["path"],
        "REMOTE_ADDR": scope["client"][0],
        "REMOTE_PORT": str(scope["client"][1]),
        "SERVER_NAME": address,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        environ["HTTP_" + name.decode().upper().replace("-", "_")] = value.decode("latin-1")
    return environ


class WSGIServed:
    """A WSGI app: called like an ASGI app to look at an answer; `slice_of` calls it as its server does."""

    def __init__(self, app: WSGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        status, headers, body = answered(self.app, environ_of(scope))
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def slice_of(self, scopes: Sequence[Scope]) -> Callable[[], Awaitable[object]]:
        """The work of serving these requests, the answers going nowhere; environs are made here."""
        app, environs = self.app, [environ_of(scope) for scope in scopes]

        async def work() -> None:  # one coroutine for the whole slice: it never suspends
            for environ in given_up(environs):
                _served(app, environ, _ignored)

        return work


def answered(app: WSGIApp, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status line, headers and body of the answer."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        started.append((status, headers))

    body = _served(app, environ, start_response)
    return *started[-1], body


def _served(app: WSGIApp, environ: dict[str, Any], start_response: Callable[..., Any]) -> bytes:
    chunks = app(environ, start_response)
    try:
        return b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _ignored(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
    pass
