"""The benchmark of many sessions, with few: what it refuses, what it reports. Nothing depends on speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")

from session_middleware.backends import sql
from session_middleware.backends.base import EndedRecord
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.sqlite import SQLiteBackend
from session_middleware.backends.sqlite_blocking import BlockingPort
from session_middleware.blocking import run_blocking
from tests.benchmarks import scale_report
from tests.benchmarks.report import written_into
from tests.benchmarks.scale import (
    MOST_ROWS,
    TENTH_OVER,
    Scale,
    ScaleClaimError,
    Times,
    Watch,
    made_manager,
    sample,
    write,
)
from tests.benchmarks.scale_memory import bytes_traced, measure_memory
from tests.benchmarks.scale_report import SCALE_GOALS, ScaleFigures, as_json, as_markdown
from tests.benchmarks.scale_sqlite import measure_sqlite, one_delete

SESSIONS = 2_000
SHORT = 0.05
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def memory() -> Scale:
    return measure_memory(SESSIONS, alone=SHORT)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    return measure_sqlite(SESSIONS, tmp_path_factory.mktemp("scale"), alone=SHORT)


def test_in_memory_both_cleanups_go_in_small_steps_while_somebody_writes(memory: Scale) -> None:
    assert memory.tenth.sessions == SESSIONS // 10
    assert memory.rest.sessions >= SESSIONS - SESSIONS // 10
    assert memory.tenth.steps.calls == 4  # of 64, and 8 that are left over
    assert memory.tenth.waits.calls >= 1
    assert memory.pauses is not None
    assert memory.pauses.full > 0


def test_in_sqlite_both_cleanups_go_in_small_steps_while_another_process_writes(sqlite: Scale) -> None:
    assert (sqlite.tenth.sessions, sqlite.rest.sessions) == (200, 1_800)
    assert (sqlite.tenth.steps.calls, sqlite.rest.steps.calls) == (4, 29)
    assert sqlite.tenth.waits.calls >= 1
    assert sqlite.tenth.one_delete is not None


def test_a_session_takes_what_its_values_take_at_least(memory: Scale, sqlite: Scale) -> None:
    assert memory.bytes_each["traced"] > memory.payload
    assert sqlite.bytes_each["file"] > sqlite.payload


def test_bytes_are_counted_per_session() -> None:
    assert bytes_traced(2_000) == pytest.approx(bytes_traced(1_000), rel=0.25)


class AllAtOnce(MemoryBackend):
    """The control: a cleanup that removes whatever is over, in one step."""

    def port(self, colour: Any) -> MemoryBackend:
        return self

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        return await super().delete_expired(now, 10**9)

    async def wait(self, seconds: float) -> None:
        """In no event loop: there is nothing to wait for."""


class NothingAtAll(AllAtOnce):
    """A cleanup that removes nothing."""

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        return []


class OneDelete(SQLiteBackend):
    """The control over SQLite: everything that is over in one DELETE."""

    def port(self, colour: Any) -> BlockingPort:
        self.ports = getattr(self, "ports", {})
        return self.ports.setdefault(colour, self._made())  # type: ignore[no-any-return]

    def _made(self) -> BlockingPort:
        class Port(BlockingPort):
            async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
                ended, _ = await self._writing(lambda execute: sql.delete_expired(execute, now, 10_000))
                return ended

        return Port(super().port("blocking").place)  # type: ignore[attr-defined]


def test_a_cleanup_in_memory_that_goes_in_one_step_is_refused() -> None:
    with pytest.raises(ScaleClaimError, match="removed 200 sessions in one step"):
        measure_memory(SESSIONS, AllAtOnce(), alone=SHORT)


def test_a_cleanup_that_removes_nothing_is_refused() -> None:
    with pytest.raises(ScaleClaimError, match="removed 0 sessions of 200"):
        measure_memory(SESSIONS, NothingAtAll(), alone=SHORT)


def test_a_cleanup_in_one_delete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScaleClaimError, match="removed 200 sessions in one step"):
        measure_sqlite(SESSIONS, tmp_path, OneDelete(tmp_path / "all.db"), alone=SHORT)


def test_one_delete_that_finds_other_rows_is_refused_and_leaves_all_where_they_are(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "a.db")
    manager, clock = made_manager(backend)
    with manager.blocking:
        manager.blocking.create_session("alice")
        clock.advance(20 * 24 * 60 * 60)
        with pytest.raises(ScaleClaimError, match="found 1 sessions that were over, not 7"):
            one_delete(backend, 7, clock.now)
        assert manager.blocking.cleanup_expired() == 1


def test_a_write_that_was_none_is_refused() -> None:
    with pytest.raises(ScaleClaimError, match="was answered Refused"):
        write(MemoryBackend(), "a" * 22, TENTH_OVER)  # type: ignore[arg-type]


def test_a_watched_port_is_itself_again_afterwards() -> None:
    port, watch = MemoryBackend(), Watch()
    with watch.over(port):
        run_blocking(port.delete_expired(1.0, MOST_ROWS))
    run_blocking(port.delete_expired(2.0, MOST_ROWS))
    assert watch.rows == [0]


def test_the_sample_leaves_out_what_is_over_first() -> None:
    ids = [f"{number}" for number in range(1_000)]
    some = sample(ids)  # type: ignore[arg-type]
    assert len(some) == len(set(some)) == 800
    assert min(int(id_) for id_ in some) >= 200


def test_times_are_the_median_the_99th_in_a_hundred_and_the_longest() -> None:
    assert Times.of([number / 100 for number in range(101)]) == Times(0.5, 0.99, 1.0, 101)


def test_the_report_tells_for_each_goal_whether_this_run_reached_it(memory: Scale, sqlite: Scale) -> None:
    fast = Times(0.0, 0.0, 0.0, 1)
    found = ScaleFigures(
        "2026-01-31",
        replace(memory, bytes_each={"resident": 650.0, "traced": 600.0}),
        replace(sqlite, tenth=replace(sqlite.tenth, steps=replace(fast, longest=0.002), one_delete=0.1)),
    )
    text = as_markdown(found)
    assert "| memory: bytes resident per session | 650 | ≤ 700 | reached |" in text
    assert "/ one DELETE of the same rows | 0.02 | ≤ 0.01 | not reached |" in text
    assert text.count("reached |") == len(SCALE_GOALS)
    assert "2,000 sessions of 506 bytes" in text


def test_what_was_not_measured_is_told_and_no_goal_reached(memory: Scale, sqlite: Scale) -> None:
    found = ScaleFigures("2026-01-31", replace(memory, bytes_each={}, pauses=None), sqlite)
    assert "| memory: bytes resident per session | - | ≤ 700 | not measured |" in as_markdown(found)
    goals = json.loads(json.dumps(as_json(found)))["goals"]
    assert [goal["found"] for goal in goals[:2]] == [None, None]


@pytest.mark.parametrize("section", ["figures", "flask figures", scale_report.SCALE_SECTION])
def test_the_document_has_a_place_for_each_part(section: str) -> None:
    document = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert f"<!-- {section}: begin -->\n\nnew figures\n\n<!--" in written_into(
        document, "new figures", section
    )
