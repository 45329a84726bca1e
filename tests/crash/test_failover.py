"""A bounded slice of the failover runs; `make campaign` runs more of each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[2]
HARM = ("lost", "revived", "crossed")


@pytest.fixture(autouse=True)
def servers_are_here(redis: RedisServer, postgres: PostgresServer) -> None:
    """Else these are left out, too."""


def failover(*arguments: str) -> tuple[int, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.failover", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("server", ["sentinel", "redis", "postgres"])
def test_nothing_acknowledged_is_lost_when_an_app_process_and_then_the_server_die(server: str) -> None:
    """A replica has each change before it is answered; the others write to the disk."""
    status, figures = failover("--on", server, "--answers", "600", "--seed", "5", "--replicas", "1")
    assert status == 0, figures
    assert figures["answers"] >= 600
    assert figures["logouts"] > 5
    assert figures["refused"] > 0
    assert [figures[name] for name in HARM] == [0, 0, 0]


def test_the_harness_catches_an_app_that_writes_behind() -> None:
    status, figures = failover("--on", "redis", "--answers", "600", "--seed", "5", "--control")
    assert status == 0, figures
    assert figures["lost"] > 0


@pytest.mark.campaign
@pytest.mark.parametrize("server", ["sentinel", "redis", "postgres"])
@pytest.mark.parametrize("seed", range(5))
def test_many_failovers_lose_nothing(server: str, seed: int) -> None:
    status, figures = failover("--on", server, "--answers", "10000", "--seed", str(seed), "--replicas", "1")
    assert status == 0, figures
