"""A real gunicorn, `gthread` with `--preload`, several processes on one SQLite file, under load from here."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("flask")
pytest.importorskip("gunicorn")

ROOT = Path(__file__).parents[2]
WORKERS, THREADS, VISITORS, EACH = 4, 4, 6, 12


@pytest.fixture(params=["imported", "used"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Gunicorn on a socket that listens already: no free port to lose to another, no waiting for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        command = [sys.executable, "-m", "gunicorn", "--preload", "--worker-class=gthread"]
        command += [f"--workers={WORKERS}", f"--threads={THREADS}", f"--bind=fd://{listener.fileno()}"]
        command += ["--graceful-timeout=5", "--log-level=warning", "tests.flask.served:app"]
        environment = {**os.environ, "SESSION_BACKEND": f"sqlite:///{tmp_path}/sessions.db"}
        environment["USED_BEFORE_THE_FORK"] = "yes" if request.param == "used" else ""
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with (tmp_path / "log").open("w+") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()], stdout=log, stderr=log
            )
            try:
                yield "http://{}:{}".format(*listener.getsockname())
            finally:
                process.terminate()
                process.wait(timeout=30)
            log.seek(0)
            assert "Traceback" not in log.read()


class Visitor:
    """A browser with many tabs: requests in parallel, with the cookie of its login."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self.statuses: list[int] = []
        self.processes: set[int] = set()
        self.cookie = ""

    def ask(self, method: str, path: str) -> httpx.Response:
        headers = {"cookie": f"session={self.cookie}"} if self.cookie else {}
        answer = httpx.request(method, self.address + path, headers=headers, timeout=30, trust_env=False)
        self.statuses.append(answer.status_code)
        if answer.is_success:
            self.processes.add(answer.json()["process"])
        return answer

    def login(self) -> None:
        self.cookie = self.ask("POST", f"/login/{self.name}").cookies["session"]

    def write(self, first: int, step: int) -> None:
        for number in range(first, EACH, step):
            self.ask("POST", f"/put/k{number}")


def together(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_no_update_is_lost_no_session_comes_back_and_nothing_is_a_5xx(address: str) -> None:
    visitors = [Visitor(address, f"user{number}") for number in range(VISITORS)]
    for visitor in visitors:
        visitor.login()
    together(
        *(threading.Thread(target=visitor.write, args=(tab, 2)) for visitor in visitors for tab in range(2))
    )
    expected = {f"k{number}": 1 for number in range(EACH)} | {"count": EACH}
    for visitor in visitors:
        seen = visitor.ask("GET", "/values").json()
        assert (seen["user"], seen["values"]) == (visitor.name, expected)
    # Each one signs out while its other tab writes on: nothing of that may bring the session back.
    writers = [threading.Thread(target=visitor.write, args=(0, 1)) for visitor in visitors]
    leavers = [threading.Thread(target=visitor.ask, args=("POST", "/logout")) for visitor in visitors]
    together(*writers, *leavers)
    for visitor in visitors:
        seen = visitor.ask("GET", "/values").json()
        assert (seen["user"], seen["values"]) == (None, {})
    assert {status for visitor in visitors for status in visitor.statuses} == {200}
    assert len(set.union(*(visitor.processes for visitor in visitors))) > 1
