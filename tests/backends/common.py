"""What the tests of several servers share: a record, a port as another process has it, an app that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from session_middleware import SessionMiddleware
from session_middleware.backends.base import Backend
from session_middleware.backends.urls import backend_from
from session_middleware.blocking import run_blocking
from session_middleware.record import Record, SessionId

__all__ = ["ID", "KEY", "NOW", "counting", "opened", "record"]

KEY = "0123456789abcdef0123456789abcdef"
NOW = 1_760_000_000.0
ID = SessionId("A" * 22)


def record(**facts: Any) -> Record:
    known = {"id": ID, "secret": "s" * 22, "generation": 1, "created_at": NOW, "last_seen_at": NOW}
    return Record(**{**known, "deadline": NOW + 1000, "limit": NOW + 9000, **facts})


@contextmanager
def opened(backend: Backend | str) -> Iterator[Any]:
    """Another process's port, as it were."""
    made: Any = backend_from(backend).port("blocking")
    try:
        run_blocking(made.open())
        yield made
    finally:
        run_blocking(made.close())


def count(request: Request) -> PlainTextResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return PlainTextResponse(str(request.session["n"]))


@contextmanager
def counting(backend: Backend | str) -> Iterator[TestClient]:
    """A visitor of an app that says how often he came."""
    app = Starlette(routes=[Route("/", count)])
    with TestClient(SessionMiddleware(app, KEY, backend=backend, monitor=False, log=False)) as client:
        yield client
