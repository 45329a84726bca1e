"""One shutdown with five hundred requests in flight; a server that acknowledges too early is caught."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.shutdown import IN_FLIGHT, KNOWN, PATIENCE, Round, Shape, Told

ROOT = Path(__file__).parents[2]
SOME, THREADS = KNOWN + 7, 40


def shut_down(url: str, folder: Path, *, visitors: int, stuck: int = 0, control: bool = False) -> Told:
    told = Told()
    Round(Shape(url, visitors, visitors, 2026, stuck, control=control), told).run(folder)
    assert told.counted.total() == visitors
    return told


def test_with_500_requests_in_flight_each_is_answered_and_what_was_acknowledged_is_stored(
    tmp_path: Path,
) -> None:
    told = shut_down(f"sqlite:///{tmp_path}/sessions.db", tmp_path, visitors=IN_FLIGHT)
    assert told.faults == []
    assert told.counted == {"acknowledged": IN_FLIGHT}


def test_who_is_cut_off_is_refused_whole_and_nothing_of_it_is_stored_by_half(tmp_path: Path) -> None:
    told = shut_down(f"sqlite:///{tmp_path}/sessions.db", tmp_path, visitors=SOME, stuck=5)
    assert told.faults == []
    assert told.counted["refused"] >= 5


@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_the_same_over_a_server(server: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    told = shut_down(request.getfixturevalue(server).new_store(), tmp_path, visitors=SOME)
    assert told.faults == []
    assert told.counted == {"acknowledged": SOME}


def test_the_same_under_gunicorn_in_threads(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    url, told = f"sqlite:///{tmp_path}/sessions.db", Told()
    visits = Round(Shape(url, THREADS, THREADS, 2026), told)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        process = gunicorn(listener, {"SESSION_BACKEND": url, "ENOUGH": str(THREADS)}, tmp_path / "log")
        port = listener.getsockname()[1]
    try:
        answers = asyncio.run(visits.come(port))
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    visits.check(answers)
    assert told.faults == []
    assert told.counted == {"acknowledged": THREADS}


def gunicorn(listener: socket.socket, settings: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gunicorn", "--worker-class=gthread", "--workers=1"]
    command += [
        f"--threads={THREADS}",
        f"--bind=fd://{listener.fileno()}",
        f"--graceful-timeout={PATIENCE:.0f}",
    ]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("w") as told:
        return subprocess.Popen(
            [*command, "tests.process.served:app"],
            cwd=ROOT,
            env={**os.environ, **settings, "PYTHONPATH": path},
            pass_fds=[listener.fileno()],
            stdout=told,
            stderr=told,
        )


def test_a_server_that_acknowledges_first_and_writes_later_is_caught(tmp_path: Path) -> None:
    told = shut_down(f"sqlite:///{tmp_path}/sessions.db", tmp_path, visitors=SOME, control=True)
    assert "acknowledged, and lost" in told.faults
