"""Operations that wait at the same moment, served together.

A `Lane` belongs to one event loop and has one owner at a time. Whoever finds it free serves its own operation
at once: no queue, no task, no delay. Whoever finds it taken leaves the operation in the inbox and awaits the
answer; as soon as the lane is free, a detached task serves everything in the inbox as one batch, again and
again, until nothing waits.

So a caller who is cancelled disturbs nobody: the owner goes on, and an operation either was never handed over
or is served whole. Where to be cut short would cost the connection, the owner is a task of its own from the
first operation on (`apart`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

__all__ = ["Lane", "Outcome", "Serve"]

OperationT = TypeVar("OperationT")

Outcome: TypeAlias = object
"""What an operation answered, or the exception it ended with. Never raised here: many may share one."""
Serve: TypeAlias = Callable[[Sequence[OperationT]], Awaitable[Sequence[Outcome]]]


class _Waiting(NamedTuple, Generic[OperationT]):
    operation: OperationT
    answer: asyncio.Future[Outcome]


class Lane(Generic[OperationT]):
    """Hands operations to *serve*: one alone, or up to *most* that waited; never two batches at a time.

    *apart*: never within a caller's own task, which may be cancelled. `serve` answers one outcome per
    operation; what it raises is the outcome of all of them.
    """

    def __init__(self, serve: Serve[OperationT], *, most: int = 256, apart: bool = False) -> None:
        self._serve = serve
        self._most = most
        self._apart = apart
        self._inbox: list[_Waiting[OperationT]] = []
        self._owner: asyncio.Task[None] | None = None  # a task that nobody refers to may vanish
        self.is_busy = False

    async def do(self, operation: OperationT) -> Outcome:
        """What became of *operation*."""
        if self.is_busy or self._apart:
            waiting = _Waiting(operation, asyncio.get_running_loop().create_future())
            self._inbox.append(waiting)
            if not self.is_busy:
                self.is_busy = True
                self._hand_over()
            return await waiting.answer
        self.is_busy = True
        try:
            [outcome] = await self._outcomes([operation])
            return outcome
        finally:
            self._hand_over()

    async def drain(self) -> None:
        """Until all is served that was begun apart."""
        while (owner := self._owner) is not None:
            await asyncio.wait([owner])

    async def _outcomes(self, operations: Sequence[OperationT]) -> Sequence[Outcome]:
        try:
            return await self._serve(operations)
        except Exception as problem:  # noqa: BLE001  (each caller raises it for itself)
            return [problem] * len(operations)

    def _hand_over(self) -> None:
        loop = self._inbox[0].answer.get_loop() if self._inbox else None
        if loop is None or loop.is_closed():  # closed: this runs as the garbage of a dead loop is collected
            self._inbox.clear()
            self.is_busy = False
        else:
            self._owner = loop.create_task(self._serve_waiting())
            self._owner.add_done_callback(self._served)

    async def _serve_waiting(self) -> None:
        while self._inbox:
            batch = [waiting for waiting in self._inbox[: self._most] if not waiting.answer.done()]
            del self._inbox[: self._most]
            if batch:
                await self._answer(batch)
                await asyncio.sleep(0)  # who was answered just now may have more for the next batch

    def _served(self, owner: asyncio.Task[None]) -> None:
        if owner.cancelled():  # the loop is being shut down
            for waiting in self._inbox:
                waiting.answer.cancel()
            self._inbox.clear()
        self._owner = None
        self._hand_over()

    async def _answer(self, batch: Sequence[_Waiting[OperationT]]) -> None:
        try:
            outcomes = await self._outcomes([waiting.operation for waiting in batch])
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(outcome)
