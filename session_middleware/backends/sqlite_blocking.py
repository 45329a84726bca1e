"""The blocking port of SQLite: in the caller's thread, for any number of threads.

Writers queue for the one writer connection; readers take an idle one, or open one more.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from session_middleware.backends.sql import Operation
from session_middleware.backends.sqlite_batches import read
from session_middleware.backends.sqlite_file import Place, border, identity, replaced
from session_middleware.backends.sqlite_handles import Handle, StaleError
from session_middleware.backends.sqlite_port import ATTEMPTS, SQLitePort, lost, result_of
from session_middleware.errors import BackendError

__all__ = ["BlockingPort"]

T = TypeVar("T")

_IDLE_READERS = 64


class BlockingPort(SQLitePort):
    """In the caller's thread. Never suspends."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._given_timeout = place.busy_timeout
        self._writer: Handle | None = None
        self._idle: list[Handle] = []

    def bound(self, seconds: float) -> None:
        """See `Bounded.bound`. A writer waits that long for other threads, then for other processes."""
        patience = min(self._given_timeout, seconds)
        if patience != self.place.busy_timeout:
            self.place = replace(self.place, busy_timeout=patience)
            for handle in list(self._handles):  # opened with another one; who is at work ends as he began
                handle.retire(0)

    async def open(self) -> None:
        """See `Port.open`."""
        self._closed = False
        await self._reading(lambda _: None)

    async def close(self) -> None:
        """See `Port.close`. Waits for what other threads are doing."""
        self._closed = True
        for handle in list(self._handles):
            handle.retire()

    async def wait(self, seconds: float) -> None:
        """See `Port.wait`."""
        time.sleep(seconds)  # noqa: ASYNC251  (this colour blocks)

    async def _reading(self, operation: Operation[T]) -> T:
        return result_of(self._on_reader(partial(read, [operation]))[0], self.place, operation)

    async def _writing(self, operation: Operation[T]) -> T:
        [outcome] = self._on_writer(partial(self._transaction, [operation]))
        if self._wal.is_large():
            self._copy_back()
        return result_of(outcome, self.place, operation)

    def _copy_back(self) -> None:
        self._wal.is_being_copied = True
        try:
            self._on_reader(self._wal.copy_on_reader)  # not on the writer: other threads go on writing
        except BackendError:  # closed meanwhile: closing copies it as well
            pass
        finally:
            self._wal.was_copied()

    _writing_alone = _writing

    async def _check_file(self) -> None:
        self._check_usable()
        self._check_still_there(self._writer_handle())

    def _check_still_there(self, writer: Handle) -> None:
        if not writer.retired and writer.identity != identity(self.place.path):
            for known in list(self._handles):
                known.abandon()
            raise replaced(self.place)

    def _on_reader(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._with(self._reader_handle, work, self._give_back)

    def _on_writer(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._with(self._writer_handle, work, lambda _: None)

    def _with(
        self,
        take: Callable[[], Handle],
        work: Callable[[sqlite3.Connection], T],
        give_back: Callable[[Handle], None],
    ) -> T:
        for _ in range(ATTEMPTS):
            self._check_usable()
            handle = take()
            try:
                return handle.use(work, self.place.busy_timeout)
            except StaleError:  # let go meanwhile: nothing was begun
                continue
            finally:
                give_back(handle)
        self._check_usable()
        raise lost(self.place)

    def _writer_handle(self) -> Handle:
        handle = self._writer
        if handle is not None and not handle.retired:
            return handle
        with border(self.place):
            fresh = self._opened_handle(reader=False)
        with self._guard:
            if self._writer is None or self._writer.retired:
                self._writer = fresh
                return fresh
        fresh.retire()
        return self._writer_handle()

    def _reader_handle(self) -> Handle:
        writer = self._writer_handle()  # which creates the tables
        with contextlib.suppress(IndexError):
            while (handle := self._idle.pop()).retired:
                pass
            return handle
        self._check_still_there(writer)  # a reader of another file would answer for that one
        with border(self.place):
            return self._opened_handle(reader=True)

    def _give_back(self, handle: Handle) -> None:
        if handle.retired:
            return
        if self._closed or len(self._idle) >= _IDLE_READERS:
            handle.retire()
        else:
            self._idle.append(handle)

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        self._writer = None
        self._idle = []
