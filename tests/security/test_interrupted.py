"""A slice of the interruptions. All of them: `python -m tests.security.interrupted`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from session_middleware import MemoryBackend
from session_middleware.activity import Activity
from session_middleware.record import Committed, Delta, Refused, SessionId
from tests.security.interrupted import LOOP_ENDED, OPERATIONS, REQUESTS, Experiment, Figures, Operation, World
from tests.security.interrupting import WAYS
from tests.test_manager import backend_named

ALL_WAYS = [*WAYS, LOOP_ENDED]
AFTERWARDS = 2  # requests after each interruption
DATABASES = {"sqlite": 0, "redis": 1, "postgres": 2}
STRIDE = 7  # suspensions, over a database
PATIENCE = 60.0  # seconds for an interpreter to end
ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(backend_named(request.param, request, tmp_path))
    yield made
    made.close()


@pytest.mark.parametrize("way", ALL_WAYS)
@pytest.mark.parametrize("world", ["memory"], indirect=True)
def test_whatever_is_interrupted_is_done_whole_or_not_at_all_and_leaves_nothing(
    world: World, way: str
) -> None:
    figures = Figures()
    for number, operation in enumerate(OPERATIONS.values()):
        Experiment(world, operation, way, figures, AFTERWARDS).run(2, first=1 + number % 2)
    assert figures.interruptions > len(REQUESTS) // 2
    assert 0 < figures.done < figures.interruptions or way == "closed"


@pytest.mark.parametrize("world", ["sqlite", "redis", "postgres"], indirect=True)
def test_so_it_is_over_a_database_here_some_operations_in_one_way_each(
    world: World, request: pytest.FixtureRequest
) -> None:
    first, figures = DATABASES[request.node.callspec.params["world"]], Figures()
    for number, operation in enumerate([*OPERATIONS.values()][first :: len(DATABASES)]):
        way = ALL_WAYS[number % len(ALL_WAYS)]
        Experiment(world, operation, way, figures, AFTERWARDS).run(STRIDE, first=1 + number % STRIDE)
    assert figures.interruptions > len(DATABASES)


@pytest.mark.parametrize("where", ["sqlite", "redis", "postgres"])
def test_the_interpreter_ends_although_requests_were_cut_short_and_nothing_was_closed(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/s.db" if where == "sqlite" else request.getfixturevalue(where).new_store()
    command = [sys.executable, "-m", "tests.security.interrupted", "--leave", "--backend", url]
    command += ["--stride", str(STRIDE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


HANGS = """
import asyncio, aiosqlite
async def main():
    return await aiosqlite.connect(":memory:")  # on a thread that is no daemon
left = asyncio.run(main())
"""


@pytest.mark.campaign  # it takes its time
def test_an_interpreter_that_does_not_end_is_found() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", HANGS], timeout=5, check=False)


# --- controls ------------------------------------------------------------------------------------------


class InTwoSteps:
    """Over memory, but it suspends: and each value of a commit comes in a step of its own."""

    url = "broken://"
    colours = frozenset({"async"})
    immediate = False

    def __init__(self) -> None:
        self._real: Any = MemoryBackend().port("blocking")

    def port(self, _: str) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        for name, value in list(delta.set.items())[1:]:
            await self._real.commit(id, Delta(set={name: value}), now)
            await asyncio.sleep(0)
        answer: Committed | Refused = await self._real.commit(id, delta, now)
        return answer


@pytest.mark.parametrize(("name", "way"), [("set_items", "cancelled"), ("write", "loop ended")])
def test_a_commit_in_two_steps_is_found_half_done(name: str, way: str) -> None:
    world = World(InTwoSteps())
    with pytest.raises(AssertionError, match="half done"):
        Experiment(world, OPERATIONS[name], way, Figures()).run()
    world.close()


@pytest.mark.parametrize("way", ["cancelled", "cancelled twice", "scope cancelled", "timed out"])
def test_a_request_that_is_not_counted_down_when_it_is_cancelled_is_found(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = Activity.leave

    def forget(activity: Activity, request: Any) -> None:
        if not isinstance(sys.exception(), asyncio.CancelledError):
            leave(activity, request)

    monkeypatch.setattr(Activity, "leave", forget)
    world = World(MemoryBackend())
    with pytest.raises(AssertionError, match=r"left over\nactive requests"):
        Experiment(world, OPERATIONS["write"], way, Figures()).run()
    world.manager.activity._open.clear()  # else it would wait for it
    world.close()


def test_a_task_that_is_left_running_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.security.interrupted.DEADLINE", 0.01)
    world, forgotten, tasks = World(MemoryBackend()), asyncio.Event(), []

    async def begin_and_forget() -> None:
        tasks.append(asyncio.create_task(forgotten.wait()))
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="left over"):
        Experiment(world, Operation("forget", lambda _: begin_and_forget()), "cancelled", Figures()).run()
    forgotten.set()
    world.close()


def test_a_descriptor_that_is_left_open_is_found() -> None:
    world, opened = World(MemoryBackend()), []

    async def open_and_forget() -> None:
        opened.append(os.dup(0))
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match=r"left over\nfiles"):
        Experiment(world, Operation("forget", lambda _: open_and_forget()), "cancelled", Figures()).run()
    for one in opened:
        os.close(one)
    world.close()
