"""A child that is forked while its parent serves requests begins with none, and with no event loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FORKED = """
import asyncio, os, sys
from session_middleware import SessionManager, SessionMiddleware
from tests.asgi.harness import KEY, Client, chat, page, put

manager = SessionManager(sys.argv[1], secret_key=KEY, log=False, check_interval=100_000)
middleware = SessionMiddleware(page(put(n=1)), manager=manager, monitor=False)

async def child():
    print("in flight", len(manager.activity), flush=True)
    client = Client(middleware)
    middleware.app = page(put(n=1))
    await client.get()
    middleware.app = chat(lambda *_: None, first=lambda session: session.get("n"))
    socket = await client.connect()
    await manager.delete_session(client.cookies["session"].partition(".")[0])
    async with asyncio.timeout(20):
        while (message := await socket.next())["type"] != "websocket.close":
            pass
    await socket.task
    print("closed", message["code"], "stopped", await manager.stop(), flush=True)

def fork(session):
    session["forks"] = 1
    process = os.fork()
    if process == 0:
        asyncio.run(child())
        os._exit(0)
    os.waitpid(process, 0)

async def parent():
    client = Client(middleware)
    middleware.app = chat(lambda *_: None, first=lambda session: session.update(n=1))
    socket = await client.connect()
    middleware.app = page(fork)
    print("answered", (await client.get()).status, "in flight", len(manager.activity))
    await socket.leave()

asyncio.run(parent())
"""


@pytest.mark.parametrize("where", ["memory", "sqlite", "redis", "postgres"])
def test_a_child_forked_in_a_request_serves_its_own_and_closes_its_sockets(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/sessions.db"}
    url = urls.get(where) or request.getfixturevalue(where).new_store()
    done = subprocess.run(
        [sys.executable, "-c", FORKED, url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = ["in flight 0", "closed 1008 stopped True", "answered 200 in flight 1"]
    assert done.stdout.splitlines() == lines, done.stderr
