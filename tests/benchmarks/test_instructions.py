"""Instructions are counted where they are: the same each time, and one more is seen."""

from __future__ import annotations

import asyncio
import sys

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")

from tests.benchmarks import instructions
from tests.benchmarks.apps import BARE, CASES, OURS, STARLETTE
from tests.benchmarks.instructions import as_markdown, measure_instructions


def test_more_work_is_more_instructions_and_a_run_is_as_the_one_before() -> None:
    async def some() -> None:
        for _ in range(instructions._REQUESTS):
            len(())

    async def more() -> None:
        for _ in range(instructions._REQUESTS):
            len(())
            len(())

    counted = [asyncio.run(instructions._counted(work()))[__name__] for work in (some, more, some)]
    assert counted[0] == counted[2]
    assert counted[1] > counted[0] + 3
    assert sys.gettrace() is None or "coverage" in sys.modules


def test_a_case_that_writes_takes_more_than_one_that_reads_and_none_of_ours_is_in_the_bare_app() -> None:
    found = measure_instructions()
    assert set(found) == {BARE, STARLETTE, OURS}
    whole = {case: sum(found[OURS][case].values()) for case in CASES}
    assert whole["untouched"] < whole["read"] < whole["write"]
    assert not any(name.startswith("session_middleware") for by in found[BARE].values() for name in by)
    assert "| `exchange` |" in as_markdown(found)
