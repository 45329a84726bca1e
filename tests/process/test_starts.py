"""A slice of many starts and stops; and that what they would leave behind is noticed."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from session_middleware import MemoryBackend, SessionManager, loops
from session_middleware.backends.urls import backend_from
from tests.clocks.wandering import MakeBackend
from tests.process.starts import ROUNDS, Lifespans, NewManagers, grown

COUNTS = {"memory": 40, "sqlite": 5, "redis": 5, "postgres": 3}


@pytest.fixture(params=COUNTS)
def store(request: pytest.FixtureRequest, tmp_path: object) -> tuple[MakeBackend, int]:
    name: str = request.param
    if name == "memory":
        shared = MemoryBackend()
        return (lambda: shared), COUNTS[name]
    url = f"sqlite:///{tmp_path}/s.db" if name == "sqlite" else request.getfixturevalue(name).new_store()
    return (lambda: backend_from(url)), COUNTS[name]


@pytest.mark.parametrize("kind", ROUNDS)
def test_many_lives_leave_nothing_behind_and_serve_the_visitor_right(
    store: tuple[MakeBackend, int], kind: str
) -> None:
    growth, seen = grown(ROUNDS[kind], *store)
    assert growth.is_none, growth
    assert seen == list(range(len(seen)))
    assert len(seen) >= store[1]


# --- controls ---


class Leaky(Lifespans):
    """Leaves something behind in each round."""

    def run(self) -> None:
        super().run()
        self.leave()

    def leave(self) -> None:
        raise NotImplementedError


class LeavesFiles(Leaky):
    def begin(self) -> None:
        super().begin()
        self.left: list[int] = []

    def leave(self) -> None:
        self.left.append(os.dup(0))

    def end(self) -> None:
        super().end()
        for one in self.left:
            os.close(one)


class LeavesThreads(Leaky):
    def begin(self) -> None:
        super().begin()
        self.go_on = threading.Event()

    def leave(self) -> None:
        threading.Thread(target=self.go_on.wait, daemon=True).start()

    def end(self) -> None:
        super().end()
        self.go_on.set()


class LeavesTasks(Leaky):
    def begin(self) -> None:
        super().begin()
        self.loop = asyncio.new_event_loop()

    def leave(self) -> None:
        self.loop.run_until_complete(self._begin_something())

    async def _begin_something(self) -> None:
        loops.spawn(asyncio.Event().wait)  # type: ignore[arg-type]

    def end(self) -> None:
        super().end()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.loop.run_until_complete(asyncio.wait({task}))
        self.loop.close()


class KeepsManagers(NewManagers):
    """Whoever remembers each manager remembers all they hold."""

    def begin(self) -> None:
        super().begin()
        self.kept: list[SessionManager] = []

    def run(self) -> None:
        super().run()
        self.kept.append(SessionManager(log=False))


@pytest.mark.parametrize(
    ("leaky", "left"),
    [
        (LeavesFiles, "files"),
        (LeavesThreads, "threads"),
        (LeavesTasks, "tasks"),
        (KeepsManagers, "objects"),
    ],
)
def test_what_a_life_leaves_behind_is_noticed(leaky: type[Lifespans], left: str) -> None:
    shared = MemoryBackend()
    growth, _ = grown(leaky, lambda: shared, 10)
    assert not growth.is_none
    assert getattr(growth, left) >= 10
