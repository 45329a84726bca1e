"""The WSGI app that the shutdown test serves by gunicorn: when enough writes wait, it ends its server."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from session_middleware import SessionManager, WSGISessionMiddleware
from tests.crash.harness import KEY

ENOUGH = int(os.environ.get("ENOUGH", "0"))
_opened = threading.Event()
_lock = threading.Lock()
_waiting = 0


def pages(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """`/begin` and `/write`, as in `tests.process.shutdown`."""
    session = environ["session"]
    if environ["PATH_INFO"] == "/begin":
        session.update(a=0, b=0)
    else:
        session["a"] = 1
        _pass()
        session["b"] = 1
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"{}"]


def _pass() -> None:
    global _waiting  # noqa: PLW0603  (there is one gate per process)
    with _lock:
        _waiting += 1
        if _waiting == ENOUGH:
            os.kill(os.getppid(), signal.SIGTERM)  # of gunicorn's arbiter, which tells its worker
            _opened.set()
    _opened.wait()


app = WSGISessionMiddleware(
    pages,
    manager=SessionManager(os.environ.get("SESSION_BACKEND", "memory://"), secret_key=KEY, log=False),
    monitor=False,
)
