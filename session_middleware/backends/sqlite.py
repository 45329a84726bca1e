"""Sessions in a file of SQLite, for any number of threads and processes on one host.

Reading order: `SQLiteBackend` (what it describes), `_Port` (the operations, in both colours),
`_BlockingPort`, `_AsyncPort` with `_Link` and `_Hop`, then what both stand on: `_Handle` (a connection that
one thread uses at a time), `_read` / `_write` (a batch in one go), opening a file, forks, errors. The
statements are in `sql`.

How each colour talks to the file:

* A port has one writer connection and at least one reader connection (`query_only`).
* The async port gives each its worker thread (aiosqlite's). Everything an operation does happens in **one
  hop** to that thread, so a caller who is cancelled never leaves a transaction half open, and whatever waits
  at the same moment shares the hop and the transaction (`coalesce`).
* The blocking port works in the caller's thread: writers queue for the one connection, readers take an idle
  one.

Three things must never happen to a connection, each for a reason that SQLite documents ("How to corrupt"):

* To be used, or closed, in a forked child. Even a *fresh* connection of the child would share the lock table
  that SQLite inherited, and lose commits when the parent closes. So connections are let go **before** each
  fork, and both sides open their own at the next use.
* To be closed after its file was deleted or replaced: closing removes the write-ahead log by name, and that
  is the new file's by now. Such a connection is kept, unused, until the process ends.
* To be open twice through different paths of one file system that has no working locks: those are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
import weakref
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar, cast

import aiosqlite
import msgspec

from session_middleware.backends import sql
from session_middleware.backends.base import Colour, EndedRecord, LoadAnswer, Port, Usage, wrong_colour
from session_middleware.backends.coalesce import Lane, Outcome
from session_middleware.backends.sql import Execute, Operation
from session_middleware.errors import (
    BackendClosed,
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    SessionDataError,
    SessionError,
    WrongProcess,
)
from session_middleware.record import Committed, CreateResult, Delta, Record, Refused, SessionId

__all__ = ["NETWORK_FILE_SYSTEMS", "SQLiteBackend", "file_system_of"]

T = TypeVar("T")

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
        *("glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    }
)
"""Where the locks and the shared memory of a write-ahead log do not reach every host, or do not work."""

_MEBIBYTE = 2**20
_WAL_MOST = 4 * _MEBIBYTE  # then it is copied back into the file
_EXPIRED_AT_ONCE = 64  # rows of one cleanup transaction: others wait a few milliseconds at most
_IDLE_READERS = 64
_ATTEMPTS = 3
_OPENING_PAUSE = 0.005  # seconds
_KNOWN_VERSION = len(sql.MIGRATIONS)


class SQLiteBackend:
    """Records in the file *path*. Describes only: the file is opened, or created, at the first use.

    `busy_timeout`: seconds to wait for another process that writes. Default 5; then the visitor gets 503.

    `durability`: "normal" (default) survives a crash of the process at any moment, but a power cut may undo
    the last commits, a logout among them; "full" waits for the disk at each transaction (6 times slower).

    `force_network_filesystem`: open a file on NFS, SMB and the like all the same. Default False: their locks
    lose data as soon as two hosts use the file.
    """

    colours: frozenset[Colour] = frozenset({"async", "blocking"})

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = 5.0,
        durability: Literal["normal", "full"] = "normal",
        force_network_filesystem: bool = False,
    ) -> None:
        given = _path_text(path)
        _check_arguments(busy_timeout, durability, force_network_filesystem)
        self.url = f"sqlite:///{given}"
        self.path = os.path.abspath(given)  # noqa: PTH100  (a later chdir must not lead to another file)
        self.busy_timeout = float(busy_timeout)
        self.durability = durability
        self.force_network_filesystem = force_network_filesystem
        self._ports: dict[Colour, Port] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SQLiteBackend {self.url}>"

    def port(self, colour: Colour) -> Port:
        """The one port of this colour of this backend object."""
        if colour not in self.colours:
            raise wrong_colour(self, colour)
        with self._lock:
            if colour not in self._ports:
                place = _Place(self.path, self.busy_timeout, self.durability, self.force_network_filesystem)
                self._ports[colour] = _AsyncPort(place) if colour == "async" else _BlockingPort(place)
            return self._ports[colour]


@dataclass(frozen=True, slots=True)
class _Place:
    """Which file, and how."""

    path: str
    busy_timeout: float  # seconds
    durability: str
    forced: bool


def _path_text(path: object) -> str:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise ConfigurationError(f"path: found {type(path).__name__}, pass the name of a file as str or Path")
    if text == ":memory:" or "mode=memory" in text:
        raise ConfigurationError(
            'path: SQLite\'s ":memory:" is one database per connection; use MemoryBackend() or backend="memory://"'
        )
    if not text or "\0" in text:
        raise ConfigurationError('path: found no file name, pass one such as "sessions.db"')
    if text.startswith(("file:", "sqlite:")):
        raise ConfigurationError(
            'path: found a URL, pass the name of a file; URLs go to backend="sqlite:///…"'
        )
    return text


def _check_arguments(busy_timeout: object, durability: object, forced: object) -> None:
    is_number = isinstance(busy_timeout, int | float) and not isinstance(busy_timeout, bool)
    if not is_number or not 0 <= cast("float", busy_timeout) <= 3600:  # noqa: PLR2004  (an hour)
        raise ConfigurationError(f"busy_timeout: found {busy_timeout!r}, pass seconds from 0 to 3600")
    if durability not in ("normal", "full"):
        raise ConfigurationError(f'durability: found {durability!r}, pass "normal" or "full"')
    if not isinstance(forced, bool):
        raise ConfigurationError(f"force_network_filesystem: found {forced!r}, pass True or False")


# --- the operations, in both colours -------------------------------------------------------------------


class _Port:
    """The contract over three ways to run an operation, which a colour brings."""

    immediate = False

    def __init__(self, place: _Place) -> None:
        self.place = place
        self._closed = False
        self._forked = False  # a connection could not be let go before a fork: unsafe from now on
        self._unsafe = False  # the same, found before the fork that is under way
        self._opening = threading.Lock()  # held while a connection is opened, and throughout a fork
        self._guard = threading.Lock()  # held for a moment, to change which connections are the port's
        self._handles: set[_Handle] = set()
        self._wal = _Wal(place.path)
        _PORTS.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__.strip('_')} {self.place.path}>"

    @abstractmethod
    async def _reading(self, operation: Operation[T]) -> T:
        """What *operation* answers on a reader connection."""

    @abstractmethod
    async def _writing(self, operation: Operation[T]) -> T:
        """What it answers in a transaction on the writer connection, maybe together with others."""

    @abstractmethod
    async def _writing_alone(self, operation: Operation[T]) -> T:
        """What it answers in a transaction of its own."""

    @abstractmethod
    async def _check_file(self) -> None:
        """Let go of a file that is no longer the one at the path, and raise `BackendUnavailable`."""

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002
        """See `Port.load`."""
        return await self._reading(lambda execute: sql.load(execute, id, now))

    async def create(self, record: Record, now: float) -> CreateResult:
        """See `Port.create`."""
        return await self._writing(lambda execute: sql.create(execute, record, now))

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002
        """See `Port.commit`."""
        return await self._writing(lambda execute: sql.commit(execute, id, delta, now))

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002
        """See `Port.delete`. Fails on a full disk, like every write: then the session is still alive."""
        return await self._writing(lambda execute: sql.delete(execute, id, now, reason, by))

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        """See `Port.delete_expired`. In transactions of 64 rows, with nothing else inside.

        Looks first whether the file is still the one that was opened. If it was deleted or replaced, what is
        at the path now is used from here on, and this call is a `BackendUnavailable` that says so.
        """
        await self._check_file()
        ended: list[EndedRecord] = []
        while len(ended) < limit:
            most = min(_EXPIRED_AT_ONCE, limit - len(ended))
            try:
                some, seen = await self._writing_alone(partial(sql.delete_expired, now=now, most=most))
            except BackendError:
                if not ended:
                    raise
                break  # what was removed so far is reported now or never
            ended += some
            if seen < most:
                break
        return ended

    async def list_user(self, user_id: str, now: float) -> Sequence[Record]:
        """See `ByUser.list_user`."""
        return await self._reading(lambda execute: sql.list_user(execute, user_id, now))

    async def delete_user(
        self, user_id: str, now: float, reason: str, *, keep: Sequence[SessionId] = (), by: str | None = None
    ) -> Sequence[SessionId]:
        """See `ByUser.delete_user`."""
        return await self._writing(lambda execute: sql.delete_user(execute, user_id, now, reason, keep, by))

    async def count(self, now: float) -> int:
        """See `Counting.count`."""
        return await self._reading(lambda execute: sql.count(execute, now))

    async def usage(self, now: float) -> Usage:
        """See `Counting.usage`. Read in parts, so that loads go on in between."""
        sessions, created, statuses = 0, 0.0, Counter[str]()
        after: int | None = None
        while True:
            part, after = await self._reading(partial(sql.usage_part, after=after, now=now))
            for status, number, created_sum in part:
                sessions += number
                created += created_sum
                statuses.update({} if status is None else {status: number})
            if after is None:
                return Usage(sessions, now - created / sessions if sessions else None, dict(statuses))

    def _check_usable(self) -> None:
        if self._forked:
            raise WrongProcess(
                f"{self.place.path}: this process was forked while it worked on the file: its connections "
                "cannot be replaced safely; fork before the first request, or start workers by spawn"
            )
        if self._closed:
            raise BackendClosed(f"{self.place.path} was closed: call open(), or start() the manager, first")

    def _opened_handle(self, *, reader: bool) -> _Handle:
        """A connection that is ready. In the thread that will use it; never during a fork."""
        with self._opening:
            handle = _Handle(_open(self.place, reader=reader), _identity(self.place.path))
            self._handles = {known for known in self._handles if not known.retired} | {handle}
            return handle

    def _transaction(
        self, operations: Sequence[Operation[Any]], connection: sqlite3.Connection
    ) -> list[Outcome]:
        if self._wal.is_huge():  # nobody else finds the moment to copy it whole: writers wait for it now
            self._wal.copy_on_writer(connection)
        return _write(operations, connection)

    # --- forks: see the head of the file ---

    def before_fork(self) -> None:
        """Close what is open, so that nothing is inherited. New connections wait until after the fork."""
        self._opening.acquire()
        patience = self.place.busy_timeout + 1.0
        closed = [handle.retire(patience) for handle in self._handles]
        self._unsafe = not all(closed)

    def after_fork_here(self) -> None:
        """Go on: whoever needs a connection opens a new one."""
        self._opening.release()

    def after_fork_in_child(self) -> None:
        """Start afresh."""
        self._forked = self._unsafe
        self._opening.release()
        self._guard = threading.Lock()  # a thread that does not exist here may have held it
        _keep_forever(self._handles)
        self._handles = set()
        self._wal = _Wal(self.place.path)


class _BlockingPort(_Port):
    """In the caller's thread. Never suspends."""

    def __init__(self, place: _Place) -> None:
        super().__init__(place)
        self._writer: _Handle | None = None
        self._idle: list[_Handle] = []

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
        return _result(self._on_reader(partial(_read, [operation]))[0], self.place, operation)

    async def _writing(self, operation: Operation[T]) -> T:
        [outcome] = self._on_writer(partial(self._transaction, [operation]))
        if self._wal.is_large():
            self._copy_back()
        return _result(outcome, self.place, operation)

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
        handle = self._writer_handle()
        if not handle.retired and handle.identity != _identity(self.place.path):
            for known in list(self._handles):
                known.abandon()
            raise _replaced(self.place)

    def _on_reader(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._with(self._reader_handle, work, self._give_back)

    def _on_writer(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._with(self._writer_handle, work, lambda _: None)

    def _with(
        self,
        take: Callable[[], _Handle],
        work: Callable[[sqlite3.Connection], T],
        give_back: Callable[[_Handle], None],
    ) -> T:
        for _ in range(_ATTEMPTS):
            self._check_usable()
            handle = take()
            try:
                return handle.use(work)
            except _StaleError:  # let go meanwhile: nothing was begun
                continue
            finally:
                give_back(handle)
        self._check_usable()
        raise _unavailable(self.place)

    def _writer_handle(self) -> _Handle:
        handle = self._writer
        if handle is not None and not handle.retired:
            return handle
        with _border(self.place):
            fresh = self._opened_handle(reader=False)
        with self._guard:
            if self._writer is None or self._writer.retired:
                self._writer = fresh
                return fresh
        fresh.retire()
        return self._writer_handle()

    def _reader_handle(self) -> _Handle:
        self._writer_handle()  # which creates the tables
        with contextlib.suppress(IndexError):
            while (handle := self._idle.pop()).retired:
                pass
            return handle
        with _border(self.place):
            return self._opened_handle(reader=True)

    def _give_back(self, handle: _Handle) -> None:
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


class _AsyncPort(_Port):
    """On two worker threads, for any number of event loops."""

    def __init__(self, place: _Place) -> None:
        super().__init__(place)
        self._pair: _Pair | None = None
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lanes] = (
            weakref.WeakKeyDictionary()
        )

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
            await asyncio.shield(lanes.detached(pair.close()))
        for handle in list(self._handles):
            handle.retire()

    async def wait(self, seconds: float) -> None:
        """See `Port.wait`."""
        await asyncio.sleep(seconds)

    async def _reading(self, operation: Operation[T]) -> T:
        lane = self._lanes_here().reader
        self._check_usable()
        return _result(await lane.do(operation), self.place, operation)

    async def _writing(self, operation: Operation[T]) -> T:
        lane = self._lanes_here().writer
        self._check_usable()
        return _result(await lane.do(operation), self.place, operation)

    async def _writing_alone(self, operation: Operation[T]) -> T:
        self._lanes_here()
        self._check_usable()
        with _border(self.place):
            [outcome] = await self._serve_writers([operation])
        return _result(outcome, self.place, operation)

    async def _check_file(self) -> None:
        self._lanes_here()
        self._check_usable()
        with _border(self.place):
            pair = await self._opened()
        if not pair.is_stale and pair.writer.handle.identity != _identity(self.place.path):
            await asyncio.shield(self._lanes_here().detached(self._abandon(pair)))
            raise _replaced(self.place)

    def _lanes_here(self) -> _Lanes:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                "backend: SQLite's async port needs a running asyncio loop, and there is none (trio, or code "
                'without a loop). Use backend="memory://", run the app on asyncio, or use the blocking port'
            ) from None
        lanes = self._lanes.get(loop)
        if lanes is None:
            for known in [known for known in self._lanes if known.is_closed()]:
                del self._lanes[known]
            lanes = self._lanes[loop] = _Lanes(self._serve_readers, self._serve_writers)
        return lanes

    async def _serve_readers(self, operations: Sequence[Operation[Any]]) -> Sequence[Outcome]:
        return await self._hop("reader", partial(_read, operations))

    async def _serve_writers(self, operations: Sequence[Operation[Any]]) -> Sequence[Outcome]:
        outcomes = await self._hop("writer", partial(self._transaction, operations))
        if (pair := self._pair) is not None and self._wal.is_large():
            self._wal.is_being_copied = True
            copying = self._lanes_here().detached(self._copy_back(pair.reader))
            copying.add_done_callback(self._wal.was_copied)
        return outcomes

    async def _copy_back(self, reader: _Link) -> None:
        try:
            await _Hop(reader, self._wal.copy_on_reader)
        except asyncio.CancelledError:  # the loop is being closed, and its worker must have answered by then
            with contextlib.suppress(_StaleError):
                await _Hop(reader, _pass)
            raise
        except _StaleError:  # closed meanwhile: closing copies it as well
            pass

    async def _hop(self, role: Literal["reader", "writer"], work: Callable[[sqlite3.Connection], T]) -> T:
        for _ in range(_ATTEMPTS):
            pair = await self._opened()
            link = pair.reader if role == "reader" else pair.writer
            try:
                return await _Hop(link, work)
            except _StaleError:  # closed before a fork, or its thread is dead: nothing was begun
                self._discard(pair)
        raise _unavailable(self.place)

    async def _opened(self) -> _Pair:
        pair = self._pair
        if pair is not None and not pair.is_stale:
            return pair
        if pair is not None:
            self._discard(pair)
        lanes = self._lanes_here()
        if lanes.opening is None or lanes.opening.done():
            lanes.opening = lanes.detached(self._open_pair())
        return await asyncio.shield(lanes.opening)  # others wait for it too

    async def _open_pair(self) -> _Pair:
        if self._forked:
            self._check_usable()
        writer = await _Link.opened(partial(self._opened_handle, reader=False))
        try:
            reader = await _Link.opened(partial(self._opened_handle, reader=True))
        except BaseException:
            await writer.close()
            raise
        return await self._first(_Pair(writer, reader))

    async def _first(self, fresh: _Pair) -> _Pair:
        """Of the pairs that several loops opened at once, the first; the others are closed."""
        with self._guard:
            if self._pair is None or self._pair.is_stale:
                self._pair = fresh
            pair = self._pair
        if pair is not fresh:
            await fresh.close()
        return pair

    def _discard(self, pair: _Pair) -> None:
        with self._guard:
            if self._pair is not pair:
                return
            self._pair = None
        _ = self._lanes_here().detached(pair.close())

    async def _abandon(self, pair: _Pair) -> None:
        with self._guard:
            if self._pair is pair:
                self._pair = None
        await pair.reader.abandon()
        await pair.writer.abandon()

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        _keep_forever((self._pair, self._lanes))
        self._pair = None
        self._lanes = weakref.WeakKeyDictionary()


class _Lanes:
    """What one event loop has of its own."""

    def __init__(
        self,
        read: Callable[[Sequence[Operation[Any]]], Awaitable[Sequence[Outcome]]],
        write: Callable[[Sequence[Operation[Any]]], Awaitable[Sequence[Outcome]]],
    ) -> None:
        self.reader: Lane[Operation[Any]] = Lane(read)
        self.writer: Lane[Operation[Any]] = Lane(write)
        self.opening: asyncio.Task[_Pair] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # a task that nobody refers to may vanish
        self._loop = weakref.ref(asyncio.get_running_loop())

    @property
    def are_busy(self) -> bool:
        """Whether something was accepted that a running loop will still finish."""
        loop = self._loop()
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


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two connections of the async port."""

    writer: _Link
    reader: _Link

    @property
    def is_stale(self) -> bool:
        return self.writer.is_stale or self.reader.is_stale

    async def close(self) -> None:
        await self.reader.close()
        await self.writer.close()


class _Link:
    """A connection on its worker thread.

    The thread dies when the loop that awaits it was closed meanwhile (aiosqlite 0.22). Then `_mourn` tells
    all who still wait, on whichever loop, that they must ask another.
    """

    def __init__(self, opened: Callable[[], _Handle]) -> None:
        self._make = opened
        self.handle: _Handle
        self.database = aiosqlite.Connection(self._connect, iter_chunk_size=1)
        self.thread: threading.Thread = getattr(self.database, "_thread")  # noqa: B009  (aiosqlite's own)
        self.thread.daemon = True  # else a connection that nobody closed keeps the interpreter from exiting
        self.waiting: set[asyncio.Future[Any]] = set()

    @classmethod
    async def opened(cls, make: Callable[[], _Handle]) -> _Link:
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
        with contextlib.suppress(_StaleError):
            await _Hop(self, self.handle.shut)
        self.handle.retire()
        await self._stop()

    async def abandon(self) -> None:
        """Never use the connection again, and never close it."""
        with contextlib.suppress(_StaleError):
            await _Hop(self, self.handle.leave)
        self.handle.abandon()
        await self._stop()

    async def _stop(self) -> None:
        setattr(self.database, "_connection", None)  # noqa: B010  (not aiosqlite's to close)
        answer = self.database.stop()
        if answer is not None and self.thread.is_alive():
            with contextlib.suppress(_StaleError):
                await _watched(self, answer)


async def _watched(link: _Link, answer: asyncio.Future[T]) -> T:
    """What *answer* brings; `_StaleError` if the thread that owes it is dead."""
    link.waiting.add(answer)
    try:
        if not link.thread.is_alive():
            raise _StaleError
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
        answer.set_exception(_StaleError())


class _Hop(Generic[T]):
    """*work*, done on the link's thread in one go; awaiting it brings the result.

    aiosqlite calls `execute` of our connection on its thread, and ours accepts a callable. Cancelling does
    not stop what was handed over. Raises `_StaleError` if the work was never begun.
    """

    __slots__ = ("_begun", "_link", "_work")

    def __init__(self, link: _Link, work: Callable[[sqlite3.Connection], T]) -> None:
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
            raise _StaleError from None
        self._link.waiting.add(answer)
        try:
            if not self._link.thread.is_alive():
                raise _StaleError  # noqa: TRY301  (one place says what a lost hop is)
            yield answer
            return answer.result()
        except (_StaleError, ValueError) as problem:  # ValueError: "no active connection", or the work's own
            raise self._lost(problem) from None
        finally:
            self._link.waiting.discard(answer)
            steps.close()

    def _lost(self, problem: Exception) -> Exception:
        if not self._begun:
            return _StaleError()
        if isinstance(problem, ValueError):
            return problem
        return BackendUnavailable("the thread of the database is gone", unknown=True)


# --- connections ---------------------------------------------------------------------------------------


class _StaleError(Exception):
    """The connection was let go before the work was begun: take another."""


class _Answer(Generic[T]):
    """What `execute` hands to aiosqlite in place of a cursor."""

    __slots__ = ("_result",)

    def __init__(self, result: T) -> None:
        self._result = result

    def fetchall(self) -> T:
        return self._result


class _Connection(sqlite3.Connection):
    """A connection whose `execute` runs a callable, too."""

    def execute(self, statement: Any, parameters: Any = ()) -> Any:
        if callable(statement):
            return _Answer(statement(self))
        return super().execute(statement, parameters)


def _execute_of(connection: sqlite3.Connection) -> Execute:
    return partial(sqlite3.Connection.execute, connection)


class _Handle:
    """A connection that one thread uses at a time, and that any thread may take away in between."""

    def __init__(self, connection: sqlite3.Connection, identity: tuple[int, int] | None) -> None:
        self.connection = connection
        self.identity = identity
        self.retired = False
        self._lock = threading.Lock()

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What *work* returns. `_StaleError` if the connection was taken away."""
        with self._lock:
            if self.retired:
                raise _StaleError
            return work(self.connection)

    def retire(self, patience: float = -1) -> bool:
        """Close it once it is idle; False if it is not within *patience* seconds (-1: for ever)."""
        if not self._lock.acquire(timeout=patience):
            return False
        try:
            if not self.retired:
                self.shut(self.connection)
        finally:
            self._lock.release()
        return True

    def abandon(self) -> None:
        """Take it away without closing it."""
        with self._lock:
            if not self.retired:
                self.leave(self.connection)

    def shut(self, connection: sqlite3.Connection) -> None:
        """Work that closes it."""
        self.retired = True
        connection.close()

    def leave(self, connection: sqlite3.Connection) -> None:
        """Work that leaves it open for ever."""
        self.retired = True
        _keep_forever(connection)


class _Kept(msgspec.Struct, gc=False):
    """Something that is never freed, not even when the interpreter exits: a circle no collector sees."""

    held: Any
    itself: Any = None


def _keep_forever(held: object) -> None:
    kept = _Kept(held)
    kept.itself = kept


class _Wal:
    """When the write-ahead log is to be copied back into the file, and the copying.

    The log starts again from its beginning once all of it was copied, and is then cut to `_WAL_MOST`. A
    reader connection copies it while writers go on. Under writes without a pause that never gets to the end,
    so the writer does it where the log has grown to `_HUGE` times as much. Where an open snapshot holds the
    copying up, the next attempt comes after as much growth again.
    """

    _HUGE = 4

    def __init__(self, path: str) -> None:
        self._path = f"{path}-wal"
        self._large_at = _WAL_MOST
        self._huge_at = self._HUGE * _WAL_MOST
        self._lock = threading.Lock()
        self.is_being_copied = False  # by a reader

    def is_large(self) -> bool:
        """Whether a reader is to copy it now."""
        return not self.is_being_copied and self._large_at < _size(self._path) <= self._huge_at

    def was_copied(self, _: object = None) -> None:
        """The reader is done, or was never asked."""
        self.is_being_copied = False

    def is_huge(self) -> bool:
        """Whether the writer is to copy it now."""
        return _size(self._path) > self._huge_at

    def copy_on_reader(self, connection: sqlite3.Connection) -> None:
        """Work of a reader connection."""
        self._large_at = self._uncopied(connection) + _WAL_MOST

    def copy_on_writer(self, connection: sqlite3.Connection) -> None:
        """Work of the writer connection."""
        self._huge_at = self._uncopied(connection) + self._HUGE * _WAL_MOST

    def _uncopied(self, connection: sqlite3.Connection) -> int:
        """Copies; how many bytes the log has if something is left to copy, else 0."""
        with self._lock, contextlib.suppress(sqlite3.Error):  # a full disk: nothing is lost, the log grows
            [(busy, pages, copied)] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if not busy and pages == copied:
                self._large_at = _WAL_MOST
                return 0
        return _size(self._path)


def _pass(_: sqlite3.Connection) -> None:
    """Work that does nothing: when it is done, so is what was handed over before."""


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  (after each transaction: Path costs more than stat)
    except OSError:
        return 0


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  (as above)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# --- batches -------------------------------------------------------------------------------------------


def _read(operations: Sequence[Operation[Any]], connection: sqlite3.Connection) -> list[Outcome]:
    """What each operation answers, or its exception."""
    execute = _execute_of(connection)
    return [_attempt(operation, execute) for operation in operations]


def _attempt(operation: Operation[Any], execute: Execute) -> Outcome:
    try:
        return operation(execute)
    except Exception as problem:  # noqa: BLE001  (its caller raises it)
        return problem


def _write(operations: Sequence[Operation[Any]], connection: sqlite3.Connection) -> list[Outcome]:
    """What each operation answers, all in one transaction; if one of them fails, each in its own."""
    execute = _execute_of(connection)
    try:
        execute("BEGIN IMMEDIATE", ())
    except sqlite3.Error as problem:
        return [problem] * len(operations)  # nobody gets the lock: trying one by one would only wait longer
    try:
        outcomes = [operation(execute) for operation in operations]
        execute("COMMIT", ())
    except Exception as problem:  # noqa: BLE001  (as above)
        _roll_back(connection)
        return [problem] if len(operations) == 1 else _write_one_by_one(operations, connection)
    return outcomes


def _write_one_by_one(operations: Sequence[Operation[Any]], connection: sqlite3.Connection) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for operation in operations:
        [outcome] = _write([operation], connection)
        outcomes.append(outcome)
        if isinstance(outcome, sqlite3.Error) and _error_name(outcome).startswith("SQLITE_BUSY"):
            return outcomes + [outcome] * (len(operations) - len(outcomes))
    return outcomes


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # on a full disk SQLite has rolled back by itself
        with contextlib.suppress(sqlite3.Error):
            sqlite3.Connection.execute(connection, "ROLLBACK")


# --- opening -------------------------------------------------------------------------------------------


def _open(place: _Place, *, reader: bool) -> sqlite3.Connection:
    """A connection with its settings; the writer's creates the file and its tables."""
    if not reader:
        _check_place(place)
        _create_file(place)
    connection = sqlite3.connect(
        place.path,
        timeout=place.busy_timeout,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,  # `_Handle` sees to that; whoever forks must be able to close it
        cached_statements=256,
        factory=_Connection,
    )
    try:
        if reader:
            _prepare_reader(connection)
        else:
            _prepare_patiently(connection, place)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare_reader(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only=1").fetchall()
    connection.execute("PRAGMA cache_size=-16000").fetchall()  # KiB
    connection.execute("PRAGMA temp_store=MEMORY").fetchall()


def _prepare_patiently(connection: sqlite3.Connection, place: _Place) -> None:
    """As `_prepare_writer`. Of several that switch a new file to WAL, SQLite fails some without waiting."""
    patience = time.monotonic() + place.busy_timeout
    while True:
        try:
            return _prepare_writer(connection, place)
        except sqlite3.OperationalError as problem:
            _roll_back(connection)
            if not _error_name(problem).startswith("SQLITE_BUSY") or time.monotonic() >= patience:
                raise
        time.sleep(_OPENING_PAUSE)


def _prepare_writer(connection: sqlite3.Connection, place: _Place) -> None:
    connection.execute("BEGIN")  # one snapshot: another process may be migrating
    version = _checked_version(connection, place)
    connection.execute("COMMIT")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()  # heeded before the first table only
    [(mode,)] = connection.execute("PRAGMA journal_mode=WAL").fetchall()
    if mode != "wal":
        raise ConfigurationError(
            f"path: {place.path}: SQLite answered journal_mode={mode}, and needs wal; use a local file system"
        )
    for setting in (
        f"synchronous={place.durability}",
        "wal_autocheckpoint=0",  # another connection does it: writers would wait
        f"journal_size_limit={_WAL_MOST}",
        "cache_size=-16000",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {setting}").fetchall()
    if version < _KNOWN_VERSION:
        _migrate(connection, place)


def _migrate(connection: sqlite3.Connection, place: _Place) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _checked_version(connection, place)  # another process may have been faster
        for steps in sql.MIGRATIONS[version:]:
            for statement in steps:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={sql.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={_KNOWN_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _checked_version(connection: sqlite3.Connection, place: _Place) -> int:
    """The file's version. `ConfigurationError` if it is a newer one, or somebody else's."""
    [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    [(owner,)] = connection.execute("PRAGMA application_id").fetchall()
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if owner != sql.APPLICATION_ID and (owner or version or tables):
        raise ConfigurationError(
            f"path: {place.path} is the database of another application; give sessions a file of their own"
        )
    if version > _KNOWN_VERSION:
        raise ConfigurationError(
            f"path: {place.path} has schema version {version}, this release knows {_KNOWN_VERSION}; "
            "upgrade session_middleware, or use another file. Nothing was changed"
        )
    return int(version)


def _create_file(place: _Place) -> None:
    """Make sure that the file exists, and that only its owner may read it if we made it."""
    try:
        os.close(os.open(place.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except PermissionError as problem:
        raise BackendReadOnly(f"{place.path} cannot be created here: {problem.strerror}") from problem
    except OSError as problem:
        raise BackendUnavailable(f"{place.path} cannot be created: {problem.strerror}") from problem


def _check_place(place: _Place) -> None:
    parent = os.path.dirname(place.path)  # noqa: PTH120  (paths are text throughout)
    if not os.path.isdir(parent):  # noqa: PTH112
        raise ConfigurationError(f"path: the directory {parent} does not exist; create it first")
    if os.path.isdir(place.path):  # noqa: PTH112
        raise ConfigurationError(f"path: {place.path} is a directory; pass the name of a file in it")
    system = None if place.forced else file_system_of(place.path, _mounts())
    if system in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"path: {place.path} is on a network file system ({system}), where SQLite loses data; use a "
            "local disk, or force_network_filesystem=True if one host alone uses the file"
        )


def _mounts() -> str:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
            return lines.read()
    except OSError:  # not Linux: nothing is known
        return ""


def file_system_of(path: str, mountinfo: str) -> str | None:
    """The type of the file system that holds *path*, by the text of `/proc/self/mountinfo` (see proc(5))."""
    real = os.path.realpath(path)
    holding = [(len(point), system) for point, system in _mount_points(mountinfo) if _is_below(real, point)]
    # Of mounts on one point the last one hides the others, and `max` answers the first: so from the end.
    return max(reversed(holding), key=lambda mount: mount[0], default=(0, None))[1]


def _mount_points(mountinfo: str) -> Iterator[tuple[str, str]]:
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if separator:
            yield _unescaped(before.split(" ")[4]), after.split(" ")[0]


def _unescaped(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


# --- forks ---------------------------------------------------------------------------------------------

_PORTS: weakref.WeakSet[_Port] = weakref.WeakSet()
_forking: list[_Port] = []
_fork_lock = threading.Lock()  # two threads may fork at the same moment


def _before_fork() -> None:
    _fork_lock.acquire()
    _forking[:] = _PORTS
    for port in _forking:
        port.before_fork()


def _after_fork(act: Callable[[_Port], None]) -> None:
    for port in _forking:
        act(port)
    _forking.clear()
    _fork_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(lambda port: port.after_fork_here()),
        after_in_child=lambda: _after_fork(lambda port: port.after_fork_in_child()),
    )


# --- errors --------------------------------------------------------------------------------------------


def _result(outcome: Outcome, place: _Place, _: Operation[T]) -> T:
    """What the operation answered; raises what it ended with."""
    if isinstance(outcome, Exception):
        raise _translated(outcome, place) from outcome.__cause__
    return cast("T", outcome)


@contextlib.contextmanager
def _border(place: _Place) -> Iterator[None]:
    """Where the errors of sqlite3 become ours."""
    try:
        yield
    except Exception as problem:
        raise _translated(problem, place) from problem


def _error_name(problem: Exception) -> str:
    return getattr(problem, "sqlite_errorname", None) or ""


def _translated(problem: Exception, place: _Place) -> Exception:
    if isinstance(problem, sqlite3.Error):
        name = _error_name(problem)
        for prefixes, error in _ERRORS:
            if name.startswith(prefixes):
                return error(f"{place.path}: {problem} ({name})")
    if isinstance(problem, sqlite3.Error | OverflowError | UnicodeError):
        return SessionDataError(f"SQLite cannot hold this record: {type(problem).__name__}")
    return problem


_Make = Callable[[str], SessionError]
_ERRORS: Final[Iterable[tuple[tuple[str, ...], _Make]]] = (
    (("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"), BackendUnavailable),
    (("SQLITE_FULL",), BackendFull),
    (("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"), BackendReadOnly),
    (("SQLITE_CORRUPT", "SQLITE_NOTADB"), BackendCorrupt),
    (("SQLITE_IOERR",), partial(BackendUnavailable, unknown=True)),
    (("SQLITE_CANTOPEN",), BackendUnavailable),
    (("SQLITE_TOOBIG", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_RANGE"), SessionDataError),
    (("SQLITE_",), BackendError),
)


def _unavailable(place: _Place) -> BackendUnavailable:
    return BackendUnavailable(f"{place.path}: the connection was lost {_ATTEMPTS} times in a row")


def _replaced(place: _Place) -> BackendUnavailable:
    return BackendUnavailable(
        f"{place.path} was deleted or replaced while it was open; sessions are kept in what is there now"
    )
