"""An app behind a port of this machine, which checks may call like an ASGI app."""

from __future__ import annotations

import asyncio
import http.client
import os
from pathlib import Path

from starlette.types import Receive, Scope, Send

from tests.benchmarks.apps import BARE, Candidate
from tests.benchmarks.traffic import live

__all__ = ["PATIENCE", "ROOT", "Remote", "python_path"]

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds


class Remote:
    """It, and the cases that it says it answers with a cookie."""

    def __init__(self, name: str, port: int, sets_cookie: frozenset[str]) -> None:
        self.name = name
        self.port = port
        self.sets_cookie = sets_cookie

    def candidate(self) -> Candidate:
        """What it claims."""
        return Candidate(self.name, self, self.sets_cookie, has_session=self.name != BARE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        status, headers, body = await asyncio.to_thread(self._asked, scope)
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def _asked(self, scope: Scope) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            connection.request(scope["method"], scope["path"], headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


def python_path() -> str:
    """For a process that imports `tests`."""
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
