"""A connection on a worker thread (aiosqlite's), and the one hop there and back.

Reading order: `Pair`, `Link`, `Hop`, then how the death of a worker thread is told to whoever waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import aiosqlite

from session_middleware.backends.sqlite_handles import Handle, StaleError
from session_middleware.errors import BackendUnavailable

__all__ = ["Hop", "Link", "Pair", "do_nothing"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pair:
    """The two connections of the async port."""

    writer: Link
    reader: Link

    @property
    def is_stale(self) -> bool:
        return self.writer.is_stale or self.reader.is_stale

    async def close(self) -> None:
        await self.reader.close()
        await self.writer.close()

    def let_go(self) -> None:
        """The same, when nobody can wait for it any more."""
        self.reader.let_go()
        self.writer.let_go()


class Link:
    """A connection on its worker thread.

    The thread dies when the loop that awaits it was closed meanwhile (aiosqlite 0.22). Then `_mourn` tells
    all who still wait, on whichever loop, that they must ask another.
    """

    def __init__(self, opened: Callable[[], Handle]) -> None:
        self._make = opened
        self.handle: Handle
        self.database = aiosqlite.Connection(self._connect, iter_chunk_size=1)
        self.thread: threading.Thread = getattr(self.database, "_thread")  # noqa: B009  (aiosqlite's own)
        self.thread.daemon = True  # else a connection that nobody closed keeps the interpreter from exiting
        self.waiting: set[asyncio.Future[Any]] = set()

    @classmethod
    async def opened(cls, make: Callable[[], Handle]) -> Link:
        """A link whose connection *make* opened, on the worker thread."""
        link = cls(make)
        try:
            _ = await link.database
        except Exception:
            # It still has to answer this loop, which may be closed next.
            while link.thread.is_alive():  # noqa: ASYNC110  (a thread sets no Event when it ends)
                await asyncio.sleep(0.001)
            raise
        threading.Thread(target=_mourn, args=(link.thread, link.waiting), daemon=True).start()
        return link

    def _connect(self) -> sqlite3.Connection:
        self.handle = self._make()
        return self.handle.connection

    @property
    def is_stale(self) -> bool:
        return self.handle.retired or not self.thread.is_alive()

    async def close(self) -> None:
        """Close behind whatever was handed over before. Idempotent."""
        with contextlib.suppress(StaleError):
            await Hop(self, self.handle.shut)
        self.handle.retire()
        await self._stop()

    def let_go(self) -> None:
        """As `close`, on the worker thread, which tells nobody: the event loop may be over by then."""
        setattr(self.database, "_connection", None)  # noqa: B010  (not aiosqlite's to close)
        if self.thread.is_alive():
            getattr(self.database, "_tx").put_nowait((None, self._end))  # noqa: B009  (aiosqlite's own)
        else:
            self._end()

    def _end(self) -> None:
        self.handle.retire()
        _ = self.database.stop()  # in a thread without an event loop there is nothing to await

    async def abandon(self) -> None:
        """Never use the connection again, and never close it."""
        with contextlib.suppress(StaleError):
            await Hop(self, self.handle.leave)
        self.handle.abandon()
        await self._stop()

    async def _stop(self) -> None:
        setattr(self.database, "_connection", None)  # noqa: B010  (not aiosqlite's to close)
        answer = self.database.stop()
        if answer is not None and self.thread.is_alive():
            with contextlib.suppress(StaleError):
                await _watched(self, answer)


class Hop(Generic[T]):
    """*work*, done on the link's thread in one go; awaiting it brings the result.

    aiosqlite calls `execute` of our connection on its thread, and ours accepts a callable. Cancelling does
    not stop what was handed over. Raises `StaleError` if the work was never begun.
    """

    __slots__ = ("_begun", "_link", "_work")

    def __init__(self, link: Link, work: Callable[[sqlite3.Connection], T]) -> None:
        self._link = link
        self._work = work
        self._begun = False

    def run(self, _: sqlite3.Connection) -> T:
        """On the worker thread."""
        return self._link.handle.use(self._begin)

    def _begin(self, connection: sqlite3.Connection) -> T:
        self._begun = True
        return self._work(connection)

    def __await__(self) -> Generator[Any, None, T]:
        # By hand, to hold the very future that the worker will answer: a dead worker answers none.
        try:
            steps = self._link.database.execute_fetchall(cast("str", self.run)).__await__()
            answer = cast("asyncio.Future[T]", next(steps))
        except ValueError:  # aiosqlite: "Connection closed"
            raise StaleError from None
        self._link.waiting.add(answer)
        try:
            if not self._link.thread.is_alive():
                raise StaleError  # noqa: TRY301  (one place says what a lost hop is)
            yield answer
            return answer.result()
        except (StaleError, ValueError) as problem:  # ValueError: "no active connection", or the work's own
            raise self._lost(problem) from None
        finally:
            self._link.waiting.discard(answer)
            steps.close()

    def _lost(self, problem: Exception) -> Exception:
        if not self._begun:
            return StaleError()
        if isinstance(problem, ValueError):
            return problem
        return BackendUnavailable("the thread of the database is gone", unknown=True)


def do_nothing(_: sqlite3.Connection) -> None:
    """Work that does nothing: when it is done, so is what was handed over before."""


async def _watched(link: Link, answer: asyncio.Future[T]) -> T:
    """What *answer* brings; `StaleError` if the thread that owes it is dead."""
    link.waiting.add(answer)
    try:
        if not link.thread.is_alive():
            raise StaleError
        return await answer
    finally:
        link.waiting.discard(answer)


def _mourn(thread: threading.Thread, waiting: set[asyncio.Future[Any]]) -> None:
    thread.join()
    for answer in list(waiting):
        with contextlib.suppress(RuntimeError):  # its loop was closed too
            answer.get_loop().call_soon_threadsafe(_orphan, answer)


def _orphan(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(StaleError())
