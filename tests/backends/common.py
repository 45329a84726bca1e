"""What the tests of several servers share: a record, a port as another process has it, an app that counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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

__all__ = ["ID", "KEY", "NOW", "counted_over_a_fork", "counting", "opened", "record"]

KEY = "0123456789abcdef0123456789abcdef"
NOW = 1_760_000_000.0
ID = SessionId("A" * 22)

ROOT = Path(__file__).parents[2]
FORK = """
import os, sys
from session_middleware import SessionManager
sessions = SessionManager(sys.argv[1], log=False).blocking
made = sessions.create_session("ada", {"n": 0})
child = os.fork()
for _ in range(50):
    sessions.transact(made.id, lambda session: session.update(n=session["n"] + 1))
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(sessions.get_session(made.id)["n"])
sessions.stop()
"""


def counted_over_a_fork(url: str) -> tuple[str, str]:
    """What a process says that forked with its connections open, and counted on both sides."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout, done.stderr


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
