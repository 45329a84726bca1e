"""Interrupts a coroutine at its k-th suspension, in each way in which asyncio, anyio or Python can.

Reading order: `Steps` (counts the suspensions of a coroutine and of every task begun under it, those in a
backend too), then the ways. Each takes what makes the coroutine and the number *at*, and answers whether the
coroutine came so far: so 1, 2, 3, … until one is not hit has been everywhere.

No way sleeps or depends on time: what comes at the k-th suspension is decided within that very step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import anyio

__all__ = ["LAST", "WAYS", "Make", "Steps", "Way", "ended_loop", "uninterrupted"]

LAST = 2000  # suspensions: far more than anything here has
Make: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]
Way: TypeAlias = Callable[[Make, int], Coroutine[Any, Any, bool]]


class Steps:
    """How often what runs under it was suspended; at number *at*, and at that alone, it calls `act`.

    Which answers False where it came too late: what was to be interrupted is over, and another task goes on.
    """

    def __init__(self, at: int) -> None:
        self.number = 0
        self.was_hit = False
        self.act: Callable[[], object] = bool
        self._at = at
        self._is_over = False

    def note(self) -> None:
        """One more."""
        if not self._is_over:
            self.number += 1
            if self.number == self._at:
                self.was_hit = self.act() is not False

    @contextlib.asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Every task that is begun meanwhile counts. Afterwards none of them does."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._task)
        try:
            yield
        finally:
            self._is_over = True
            loop.set_task_factory(None)

    def _task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_Counted(coroutine, self), loop=loop, **options)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose suspensions are noted."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], steps: Steps) -> None:
        self._coroutine = coroutine
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # `cr_frame` and the like

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        awaited = self._coroutine.send(value)
        self._steps.note()
        return awaited

    def throw(self, *problem: Any) -> Any:
        awaited = self._coroutine.throw(*problem)
        self._steps.note()
        return awaited

    def close(self) -> None:
        self._coroutine.close()


async def _ended(make: Make, steps: Steps, act: Callable[[asyncio.Task[Any]], object]) -> bool:
    """Run it as a task, and *act* on that at the step; whether the step came."""
    async with steps.counting():
        task = asyncio.get_running_loop().create_task(make())
        steps.act = lambda: act(task)
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()
        assert act is bool or not steps.was_hit, "the cancellation was lost"
    return steps.was_hit


# --- the ways ------------------------------------------------------------------------------------------


async def uninterrupted(make: Make, _: int) -> bool:
    """Not at all."""
    return await _ended(make, Steps(LAST), bool)


async def cancelled(make: Make, at: int) -> bool:
    """`task.cancel()`, wherever the step was: in the task itself, or in one that it waits for."""
    return await _ended(make, Steps(at), lambda task: task.cancel())


async def cancelled_twice(make: Make, at: int) -> bool:
    """The same, and once more as soon as anything is suspended again."""
    steps = Steps(at)

    def act(task: asyncio.Task[Any]) -> bool:
        asyncio.get_running_loop().call_soon(task.cancel)
        return task.cancel()

    return await _ended(make, steps, act)


async def scope_cancelled(make: Make, at: int) -> bool:
    """anyio's, which cancels again at every suspension."""

    async def within() -> None:
        with anyio.CancelScope() as scope:
            steps.act = scope.cancel
            await make()

    steps = Steps(at)
    async with steps.counting():
        task = asyncio.get_running_loop().create_task(within())
        await asyncio.wait({task})
    task.result()
    return steps.was_hit


async def timed_out(make: Make, at: int) -> bool:
    """`asyncio.timeout`, whose time is up at that step."""

    async def within() -> None:
        async with asyncio.timeout(None) as limit:
            steps.act = lambda: limit.reschedule(0)
            await make()

    steps = Steps(at)
    async with steps.counting():
        task = asyncio.get_running_loop().create_task(within())
        await asyncio.wait({task})
    with contextlib.suppress(TimeoutError):
        task.result()
    return steps.was_hit


async def closed(make: Make, at: int) -> bool:
    """`close()`: GeneratorExit, at its own suspensions. What it awaited goes on; it may not await."""
    coroutine, was_hit = make(), False

    class ByHand:
        def __await__(self) -> Any:
            nonlocal was_hit
            for number, awaited in enumerate(coroutine.__await__(), start=1):
                if number == at:
                    was_hit = True
                    coroutine.close()
                    return
                yield awaited

    await ByHand()
    return was_hit


WAYS: dict[str, Way] = {
    "cancelled": cancelled,
    "cancelled twice": cancelled_twice,
    "scope cancelled": scope_cancelled,
    "timed out": timed_out,
    "closed": closed,
}


def ended_loop(make: Make, at: int) -> bool:
    """A whole event loop that ends at that step, as `asyncio.run` ends it: every task is cancelled."""
    steps = Steps(at)

    async def main() -> None:
        over = asyncio.get_running_loop().create_future()
        async with steps.counting():
            task = asyncio.get_running_loop().create_task(make())
            task.add_done_callback(lambda _: over.done() or over.set_result(None))
            steps.act = lambda: not over.done() and over.set_result(None)
            await over
        if task.done() and not task.cancelled():
            task.result()

    asyncio.run(main())
    return steps.was_hit
