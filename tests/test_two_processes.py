"""The example of two processes behind a proxy, over a real server, as its first lines tell to run it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.servers.processes import free_port, until

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_visits_add_up_over_both_processes_and_go_on_when_one_is_killed(
    server: str, request: pytest.FixtureRequest
) -> None:
    port = three_free_ports()
    backend = request.getfixturevalue(server).new_store()
    with subprocess.Popen(
        [sys.executable, "-m", "examples.two_processes"],
        cwd=ROOT,
        env={**os.environ, "SESSION_BACKEND": backend, "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            begun = [running.stdout.readline() for _ in range(3)]
            processes = [int(found[1]) for line in begun if (found := re.match(r"process (\d+)", line))]
            assert len(processes) == 2, begun
            for own in (port + 1, port + 2):
                until(lambda own=own: answers(own), "the process answers")
            jar = httpx.Cookies()
            assert [visits(port, jar) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
            os.kill(processes[0], signal.SIGKILL)
            assert [visits(port, jar) for _ in range(6)] == [7, 8, 9, 10, 11, 12]
        finally:
            running.terminate()
            assert running.wait(30) == 0


def three_free_ports() -> int:
    """The first of three in a row."""
    while True:
        port = free_port()
        with suppress(OSError), ExitStack() as stack:
            for own in (port + 1, port + 2):
                stack.enter_context(socket.create_server(("127.0.0.1", own)))
            return port


def visits(port: int, jar: httpx.Cookies) -> int:
    """One visit, on a connection of its own."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", cookies=jar) as browser:
        answer = browser.get("/me")
        jar.update(browser.cookies)
    found: int = answer.raise_for_status().json()["visits"]
    return found


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/me").is_success
    except httpx.TransportError:
        return False


def test_a_backend_that_several_hosts_cannot_share_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.two_processes"],
        cwd=ROOT,
        env={**os.environ, "SESSION_BACKEND": "sqlite:///x.db"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "SESSION_BACKEND: name a server, such as redis://localhost:6379/0\n",
    )
