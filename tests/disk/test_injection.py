"""A bounded slice of the walks; `make campaign` strikes every call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.disk.injection import Figures, strace_is_missing, strike, walk


@pytest.fixture(autouse=True)
def strace(unavailable: Callable[[str], NoReturn], tmp_path: Path) -> None:
    reason = strace_is_missing(tmp_path)
    if reason is not None:
        unavailable(reason)


def struck(folder: Path, fault: str, call: str, n: int, *arguments: str) -> Figures:
    """One run, in which the fault must have been injected."""
    figures = Figures()
    assert strike(figures, folder / "sessions.db", fault, call, n, *arguments)
    return figures


@pytest.mark.parametrize(("call", "n"), [("pwrite64", 222), ("fdatasync", 30)])
def test_whoever_is_killed_at_a_write_loses_nothing_acknowledged(tmp_path: Path, call: str, n: int) -> None:
    figures = struck(tmp_path, "KILL", call, n, "--durability", "full")
    assert figures.faults == []


@pytest.mark.parametrize(("fault", "call", "n"), [("EIO", "pwrite64", 99), ("ENOSPC", "fdatasync", 12)])
def test_one_failed_call_refuses_at_most_one_request(tmp_path: Path, fault: str, call: str, n: int) -> None:
    figures = struck(tmp_path, fault, call, n, "--durability", "full")
    assert figures.faults == []


@pytest.mark.parametrize(("fault", "call", "n"), [("EIO+", "fdatasync", 15), ("ENOSPC+", "pwrite64", 150)])
def test_while_the_disk_fails_writes_are_refused_and_afterwards_all_is_well(
    tmp_path: Path, fault: str, call: str, n: int
) -> None:
    figures = struck(tmp_path, fault, call, n, "--durability", "full")
    assert figures.faults == []
    assert figures.acknowledged > 2
    assert figures.refused > 2


def test_a_backend_that_writes_behind_is_caught_by_a_kill(tmp_path: Path) -> None:
    assert any(
        "not {" in fault for fault in struck(tmp_path, "KILL", "pwrite64", 121, "--backend", "behind").faults
    )


def test_a_backend_that_swallows_errors_is_caught(tmp_path: Path) -> None:
    figures = struck(tmp_path, "EIO+", "pwrite64", 121, "--backend", "swallowing")
    assert any("lost" in fault for fault in figures.faults)


def test_a_walk_goes_on_until_a_run_is_not_touched() -> None:
    figures = walk("KILL", "unlink", first=3)
    assert figures.points == 2
    assert figures.faults == []
