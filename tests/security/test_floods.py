"""A bounded slice of the floods; `make campaign` sends a million hits to each backend."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.floods import flood
from tests.test_manager import backend_named

ROOT = Path(__file__).parents[2]
HITS = 4000


@pytest.mark.parametrize("where", ["memory", "sqlite", "redis", "postgres"])
def test_a_flood_makes_no_record_and_few_log_lines_and_is_counted(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    figures = asyncio.run(flood(backend_named(where, request, tmp_path), HITS))
    assert (figures.hits, figures.records) == (HITS, 0)
    assert figures.told["bad_signature"] == HITS // 4
    assert "session_created" not in figures.told
    assert figures.lines < HITS // 20


def test_an_app_that_writes_for_whoever_comes_is_found_out() -> None:
    figures = asyncio.run(flood("memory://", 400, control=True))
    assert figures.records >= 300


@pytest.mark.campaign
@pytest.mark.parametrize("where", ["memory", "sqlite", "redis", "postgres"])
def test_a_million_hits_make_no_record_and_weigh_little(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/sessions.db"}.get(where)
    url = url or request.getfixturevalue(where).new_store()
    command = [sys.executable, "-m", "tests.security.floods", "--hits", "1000000", "--backend", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["told"]["bad_signature"] == 250_000
    assert figures["grown"] < 20
