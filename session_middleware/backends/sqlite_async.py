"""The async port of SQLite: on two worker threads, for any number of event loops.

Everything an operation does happens in **one hop** to a worker, so a caller who is cancelled never leaves a
transaction half open, and whatever waits at the same moment shares the hop and the transaction (`coalesce`).

Reading order: `AsyncPort`, then `_Lanes`, what one event loop has of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from session_middleware.backends.coalesce import Lane, Outcome
from session_middleware.backends.sql import Operation
from session_middleware.backends.sqlite_batches import read
from session_middleware.backends.sqlite_file import Place, border, identity, replaced
from session_middleware.backends.sqlite_handles import StaleError, keep_forever
from session_middleware.backends.sqlite_links import Hop, Link, Pair, do_nothing
from session_middleware.backends.sqlite_port import ATTEMPTS, SQLitePort, lost, result_of
from session_middleware.errors import ConfigurationError

__all__ = ["AsyncPort"]

T = TypeVar("T")


class AsyncPort(SQLitePort):
    """On two worker threads, for any number of event loops."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._pair: Pair | None = None
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lanes] = (
            weakref.WeakKeyDictionary()
        )
        self._latest: _Lanes | None = None

    async def open(self) -> None:
        """See `Port.open`."""
        self._closed = False
        await self._reading(lambda _: None)

    async def close(self) -> None:
        """See `Port.close`. Operations that were accepted, on whichever loop, are finished first."""
        lanes = self._lanes_here()
        self._closed = True
        while any(lanes.are_busy for lanes in list(self._lanes.values())):  # noqa: ASYNC110  (on several loops)
            await asyncio.sleep(0.001)
        with self._guard:
            pair, self._pair = self._pair, None
        if pair is not None:
            try:
                await asyncio.shield(lanes.detached(pair.close()))
            except asyncio.CancelledError:  # a loop that ends may not even begin to close it
                pair.let_go()
                self._retire_all()
                raise
        self._retire_all()

    def _retire_all(self) -> None:
        for handle in list(self._handles):
            handle.retire()

    async def wait(self, seconds: float) -> None:
        """See `Port.wait`."""
        await asyncio.sleep(seconds)

    async def _reading(self, operation: Operation[T]) -> T:
        lane = self._lanes_here().reader
        self._check_usable()
        return result_of(await lane.do(operation), self.place, operation)

    async def _writing(self, operation: Operation[T]) -> T:
        lane = self._lanes_here().writer
        self._check_usable()
        return result_of(await lane.do(operation), self.place, operation)

    async def _writing_alone(self, operation: Operation[T]) -> T:
        self._lanes_here()
        self._check_usable()
        with border(self.place):
            [outcome] = await self._serve_writers([operation])
        return result_of(outcome, self.place, operation)

    async def _check_file(self) -> None:
        self._lanes_here()
        self._check_usable()
        with border(self.place):
            pair = await self._opened()
        if not pair.is_stale and pair.writer.handle.identity != identity(self.place.path):
            await asyncio.shield(self._lanes_here().detached(self._abandon(pair)))
            raise replaced(self.place)

    def _lanes_here(self) -> _Lanes:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                "backend: SQLite's async port needs a running asyncio loop, and there is none (trio, or code "
                'without a loop). Use backend="memory://", run the app on asyncio, or use the blocking port'
            ) from None
        latest = self._latest  # almost always there is one loop, and a weak dictionary is slow
        if latest is not None and latest.loop() is loop:
            return latest
        lanes = self._latest = self._lanes.get(loop) or self._new_lanes(loop)
        return lanes

    def _new_lanes(self, loop: asyncio.AbstractEventLoop) -> _Lanes:
        for known in [known for known in self._lanes if known.is_closed()]:
            del self._lanes[known]
        lanes = self._lanes[loop] = _Lanes(self._serve_readers, self._serve_writers)
        return lanes

    async def _serve_readers(self, operations: Sequence[Operation[Any]]) -> Sequence[Outcome]:
        return await self._hop("reader", partial(read, operations))

    async def _serve_writers(self, operations: Sequence[Operation[Any]]) -> Sequence[Outcome]:
        outcomes = await self._hop("writer", partial(self._transaction, operations))
        if (pair := self._pair) is not None and self._wal.is_large():
            self._wal.is_being_copied = True
            copying = self._lanes_here().detached(self._copy_back(pair.reader))
            copying.add_done_callback(self._wal.was_copied)
        return outcomes

    async def _copy_back(self, reader: Link) -> None:
        try:
            await Hop(reader, self._wal.copy_on_reader)
        except asyncio.CancelledError:  # the loop is being closed, and its worker must have answered by then
            with contextlib.suppress(StaleError):
                await Hop(reader, do_nothing)
            raise
        except StaleError:  # closed meanwhile: closing copies it as well
            pass

    async def _hop(self, role: Literal["reader", "writer"], work: Callable[[sqlite3.Connection], T]) -> T:
        for _ in range(ATTEMPTS):
            pair = await self._opened()
            link = pair.reader if role == "reader" else pair.writer
            try:
                return await Hop(link, work)
            except StaleError:  # closed before a fork, or its thread is dead: nothing was begun
                self._discard(pair)
        raise lost(self.place)

    async def _opened(self) -> Pair:
        pair = self._pair
        if pair is not None and not pair.is_stale:
            return pair
        if pair is not None:
            self._discard(pair)
        lanes = self._lanes_here()
        if lanes.opening is None or lanes.opening.done():
            lanes.opening = lanes.detached(self._open_pair())
        return await asyncio.shield(lanes.opening)  # others wait for it too

    async def _open_pair(self) -> Pair:
        if self._forked:
            self._check_usable()
        writer = await Link.opened(partial(self._opened_handle, reader=False))
        try:
            reader = await Link.opened(partial(self._opened_handle, reader=True))
        except BaseException:  # a cancellation too leaves no connection behind
            await writer.close()
            raise
        pair = Pair(writer, reader)
        if reader.handle.identity != writer.handle.identity:  # a reader would answer for another file
            await self._abandon(pair)
            raise replaced(self.place)
        return await self._first(pair)

    async def _first(self, fresh: Pair) -> Pair:
        """Of the pairs that several loops opened at once, the first; the others are closed."""
        with self._guard:
            if self._pair is None or self._pair.is_stale:
                self._pair = fresh
            pair = self._pair
        if pair is not fresh:
            await fresh.close()
        return pair

    def _discard(self, pair: Pair) -> None:
        with self._guard:
            if self._pair is not pair:
                return
            self._pair = None
        pair.let_go()

    async def _abandon(self, pair: Pair) -> None:
        with self._guard:
            if self._pair is pair:
                self._pair = None
        await pair.reader.abandon()
        await pair.writer.abandon()

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        keep_forever((self._pair, self._lanes))
        self._pair = None
        self._lanes = weakref.WeakKeyDictionary()
        self._latest = None


class _Lanes:
    """What one event loop has of its own."""

    def __init__(
        self,
        read: Callable[[Sequence[Operation[Any]]], Awaitable[Sequence[Outcome]]],
        write: Callable[[Sequence[Operation[Any]]], Awaitable[Sequence[Outcome]]],
    ) -> None:
        self.reader: Lane[Operation[Any]] = Lane(read)
        self.writer: Lane[Operation[Any]] = Lane(write)
        self.opening: asyncio.Task[Pair] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # a task that nobody refers to may vanish
        self.loop = weakref.ref(asyncio.get_running_loop())

    @property
    def are_busy(self) -> bool:
        """Whether something was accepted that a running loop will still finish."""
        loop = self.loop()
        return loop is not None and loop.is_running() and (self.reader.is_busy or self.writer.is_busy)

    def detached(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """*work* as a task that goes on when its caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it hears of it; if all were cancelled, nobody needs to
