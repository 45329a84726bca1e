"""Random operations on every backend, in both colours, agree with the model; broken managers do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from session_middleware import MemoryBackend
from session_middleware.backends.base import Colour
from session_middleware.backends.capabilities import Page
from session_middleware.record import UNSET, Delta, SessionId, replace
from session_middleware.where import Where
from tests.stateful.machine import ManagerMachine, machine_for

ROOT = Path(__file__).parents[2]
SLICE = settings(max_examples=15, stateful_step_count=30, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("colour", ["async", "blocking"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_random_operations_do_what_the_model_says(kind: str, colour: Colour) -> None:
    run_state_machine_as_test(machine_for(kind, colour), settings=SLICE)


def test_several_processes_on_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-m", "tests.stateful", str(tmp_path), name, colour, str(number), "6"]
        for number, (name, colour) in enumerate([("x", "async"), ("y", "blocking")])
    ]
    running = [
        subprocess.Popen(one, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for one in commands
    ]
    told = [process.communicate(timeout=300)[0] for process in running]
    assert [text.splitlines()[-1] for text in told] == ["held", "held"], "\n".join(told)


# --- controls: each of these must be found ---


class NeverExpires(MemoryBackend):
    async def load(self, id: SessionId, now: float) -> Any:  # noqa: A002
        return await super().load(id, 0.0)


class LosesUnset(MemoryBackend):
    async def commit(self, id: SessionId, delta: Delta, now: float) -> Any:  # noqa: A002
        return await super().commit(id, replace(delta, unset=()), now)


class SetsCounters(MemoryBackend):
    async def commit(self, id: SessionId, delta: Delta, now: float) -> Any:  # noqa: A002
        counted = {name: b"%d" % by for name, by in delta.increments.items()}
        return await super().commit(id, replace(delta, increments={}, set={**delta.set, **counted}), now)


class KeepsNobody(MemoryBackend):
    async def delete_user(self, user_id: str, now: float, reason: str, **more: Any) -> Any:
        return await super().delete_user(user_id, now, reason)


class RenewsPastTheLimit(MemoryBackend):
    async def commit(self, id: SessionId, delta: Delta, now: float) -> Any:  # noqa: A002
        return await super().commit(id, replace(delta, limit=now + 10_000), now)


class TellsTwice(MemoryBackend):
    async def delete_expired(self, now: float, limit: int) -> Any:
        ended = await super().delete_expired(now, limit)
        return [*ended, *ended]


class IgnoresRetention(MemoryBackend):
    async def commit(self, id: SessionId, delta: Delta, now: float) -> Any:  # noqa: A002
        return await super().commit(id, replace(delta, retained_until=UNSET), now)


class FindsByCreationAlone(MemoryBackend):
    async def find(self, where: Where, now: float, **more: Any) -> Any:
        return await super().find(Where(created_before=where.created_before, ids=where.ids), now, **more)


class SkipsBetweenPages(MemoryBackend):
    async def find(self, where: Where, now: float, **more: Any) -> Page:
        page = await super().find(where, now, **more)
        return page if page.after is None else Page(page.records[:-1], page.after)


class ForgetsWhy(MemoryBackend):
    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002
        return await super().delete(id, now, "deleted", by)


@pytest.mark.parametrize(
    "broken",
    [
        NeverExpires,
        LosesUnset,
        SetsCounters,
        KeepsNobody,
        RenewsPastTheLimit,
        TellsTwice,
        IgnoresRetention,
        FindsByCreationAlone,
        SkipsBetweenPages,
        ForgetsWhy,
    ],
)
def test_a_backend_that_breaks_a_promise_is_found(broken: type[MemoryBackend]) -> None:
    class Machine(ManagerMachine):
        make_backend = staticmethod(lambda _: broken())
        colour = "async"

    quick = settings(SLICE, max_examples=300, report_multiple_bugs=False, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=quick)
