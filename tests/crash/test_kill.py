"""A bounded slice of the kill campaign; `make campaign` runs 2,000 kills."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kill(*arguments: str) -> tuple[int, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.harness", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_no_acknowledged_write_or_logout_is_lost_when_the_server_is_killed() -> None:
    status, figures = kill("--kills", "8", "--seed", "7")
    assert status == 0, figures
    assert figures["kills"] == 8
    assert figures["writes"] > 100
    assert figures["lost"] == figures["revived"] == figures["broken"] == 0


def test_the_harness_catches_a_backend_that_writes_behind() -> None:
    status, figures = kill("--kills", "4", "--seed", "7", "--control")
    assert status == 0, figures
    assert figures["lost"] > 0


@pytest.mark.campaign
def test_two_thousand_kills_lose_nothing() -> None:
    status, figures = kill("--kills", "2000", "--seed", "2027")
    assert status == 0, figures
    assert figures["lost"] == figures["revived"] == figures["broken"] == 0
