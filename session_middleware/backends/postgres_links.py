"""Connections to PostgreSQL: few, kept, and never shared by two operations at a time.

Reading order: `Links` (which there are), `BlockingLinks` and `AsyncLinks` (who waits for one, and how),
`translated` (errors).

A connection belongs to the event loop that opened it, and to the process: one of a loop that is over, or of
the parent of a fork, is dropped without a word to the server. An operation that was cut short leaves its
connection only if it is idle again; else it is closed.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any, Final, Generic, TypeAlias, TypeVar

from session_middleware.errors import (
    BackendClosed,
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    SessionDataError,
)
from session_middleware.loops import running_library

try:
    import psycopg
    from psycopg import errors as sqlstates
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import ConnStatus, TransactionStatus
except ImportError as missing:
    raise ConfigurationError(
        "backend: PostgreSQL needs another package: pip install 'session_middleware[postgres]'"
    ) from missing

__all__ = ["AsyncLinks", "BlockingLinks", "PoolLinks", "is_lost", "listening", "translated"]

ConnectionT = TypeVar("ConnectionT", bound="psycopg.AsyncConnection[Any] | psycopg.Connection[Any]")
_Options: TypeAlias = dict[str, Any]

_SILENCE: Final = 10.0  # seconds after which who listens asks whether the server is still there
# No prepared statements on the server: a pooler between us may hand each statement another connection.
_OPTIONS: Final[_Options] = {"autocommit": True, "prepare_threshold": None}


class Links(Generic[ConnectionT]):
    """At most so many connections at once; `wait` is how long one is waited for, in seconds."""

    def __init__(self, conninfo: str, most: int, wait: float) -> None:
        self.conninfo = conninfo
        self.most = most
        self.wait = wait
        self.is_closed = False

    def options(self) -> _Options:
        """Of a new connection: the server has as long to take it up as to answer, at least libpq's 2 s."""
        told = "connect_timeout" in conninfo_to_dict(self.conninfo) or "PGCONNECT_TIMEOUT" in os.environ
        return _OPTIONS if told else {**_OPTIONS, "connect_timeout": max(2, math.ceil(self.wait))}

    def _check_open(self) -> None:
        if self.is_closed:
            raise _closed()

    def _none_free(self) -> BackendUnavailable:
        return BackendUnavailable(
            f"all {self.most} connections to PostgreSQL were busy for {self.wait} s: raise max_connections"
        )


class _Answering:
    """Waits for each answer at most so many seconds, then gives the connection up."""

    patience = 5.0  # seconds; set anew whenever the connection is taken

    def wait(self, steps: Any, *arguments: Any, **options: Any) -> Any:
        """psycopg's, which calls this for every exchange with the server."""
        return super().wait(self._until(steps), *arguments, **options)  # type: ignore[misc]  # of either colour

    def _until(self, steps: Any) -> Any:
        """The same steps; psycopg sends them a falsy word a few times a second while nothing comes."""
        deadline = monotonic() + self.patience
        try:
            waits_for = next(steps)
            while True:
                ready = yield waits_for
                if not ready and monotonic() >= deadline:
                    self.pgconn.finish()  # type: ignore[attr-defined]  # likewise
                    raise BackendUnavailable(
                        f"PostgreSQL did not answer within {self.patience} s", unknown=True
                    )
                waits_for = steps.send(ready)
        except StopIteration as done:
            return done.value


class _Connection(_Answering, psycopg.Connection[Any]):  # type: ignore[misc]  # its wait is typed
    """In threads."""


class _AsyncConnection(_Answering, psycopg.AsyncConnection[Any]):  # type: ignore[misc]  # likewise
    """Under asyncio."""


def _is_usable(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> bool:
    pgconn = connection.pgconn
    return pgconn.status == ConnStatus.OK and pgconn.transaction_status == TransactionStatus.IDLE


def _drop(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """At once, and without an event loop."""
    connection.pgconn.finish()


def _forget(connections: list[Any]) -> None:
    """Of the parent process: not even closed, since that would say goodbye in its name."""
    _inherited.extend(connections)


_inherited: list[Any] = []


class BlockingLinks(Links["_Connection"]):
    """For threads."""

    def __init__(self, conninfo: str, most: int, wait: float) -> None:
        super().__init__(conninfo, most, wait)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._free = threading.Semaphore(self.most)
        self._idle: list[_Connection] = []

    @contextmanager
    def connection(self) -> Iterator[_Connection]:
        """One that nobody else uses meanwhile."""
        self._check_open()
        if self._pid != os.getpid():
            _forget(self._idle)
            self._begin()
        if not self._free.acquire(timeout=self.wait):
            raise self._none_free()
        try:
            connection = self._idle_one() or _Connection.connect(self.conninfo, **self.options())
            connection.patience = self.wait
            try:
                yield connection
            finally:
                if _is_usable(connection) and not self.is_closed:
                    self._idle.append(connection)
                else:
                    _drop(connection)
        finally:
            self._free.release()

    def _idle_one(self) -> _Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def close(self) -> None:
        """Close those that are idle; the others when they are."""
        self.is_closed = True
        if self._pid != os.getpid():
            return
        while (connection := self._idle_one()) is not None:
            _drop(connection)


class _OfLoop:
    """Those of one event loop."""

    def __init__(self, most: int) -> None:
        self.free = asyncio.Semaphore(most)
        self.idle: list[_AsyncConnection] = []


class AsyncLinks(Links["_AsyncConnection"]):
    """For asyncio, any number of event loops."""

    def __init__(self, conninfo: str, most: int, wait: float) -> None:
        super().__init__(conninfo, most, wait)
        self._pid = os.getpid()
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[_AsyncConnection]:
        """One that nobody else uses meanwhile."""
        self._check_open()
        mine = self._of_this_loop()
        try:
            async with asyncio.timeout(self.wait):
                await mine.free.acquire()
        except TimeoutError:
            raise self._none_free() from None
        try:
            connection = mine.idle.pop() if mine.idle else await self._new()
            connection.patience = self.wait
            try:
                yield connection
            finally:
                if _is_usable(connection) and not self.is_closed:
                    mine.idle.append(connection)
                else:
                    _drop(connection)
        finally:
            mine.free.release()

    async def _new(self) -> _AsyncConnection:
        return await _AsyncConnection.connect(self.conninfo, **self.options())

    def listen(self, channel: str) -> AsyncGenerator[str | None, None]:
        """See `listening`."""
        self._check_open()
        return listening(self.conninfo, self.options(), channel)

    def _of_this_loop(self) -> _OfLoop:
        if running_library() != "asyncio":
            raise ConfigurationError("backend: PostgreSQL's async port runs under asyncio alone (psycopg)")
        if self._pid != os.getpid():
            for one in self._loops.values():
                _forget(one.idle)
            self._pid = os.getpid()
            self._loops = {}
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._drop_of_ended_loops()
            self._loops[loop] = _OfLoop(self.most)
        return self._loops[loop]

    def _drop_of_ended_loops(self) -> None:
        for loop, links in list(self._loops.items()):
            if loop.is_closed():
                while links.idle:
                    _drop(links.idle.pop())
                del self._loops[loop]

    def close(self) -> None:
        """Close those that are idle, of every loop; the others when they are."""
        self.is_closed = True
        if self._pid != os.getpid():
            return
        for links in list(self._loops.values()):
            while links.idle:
                _drop(links.idle.pop())


async def listening(conninfo: str, options: _Options, channel: str) -> AsyncGenerator[str | None, None]:
    """What is told on a channel, on a connection of its own; None at first."""
    try:
        async with await psycopg.AsyncConnection.connect(conninfo, **options) as connection:
            await connection.execute(f"LISTEN {channel}")
            yield None
            while True:
                async for told in connection.notifies(timeout=_SILENCE):
                    yield told.payload
                async with asyncio.timeout(_SILENCE):
                    await connection.execute("SELECT 1")  # is the server still there?
    except (psycopg.Error, OSError) as problem:  # a timeout is an OSError
        raise translated(problem, sent=False) from problem


class PoolLinks:
    """Those of a pool of the app's own, which opens and closes it."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.is_closed = False
        self.wait: float | None = None  # None: the pool's own

    def connection(self) -> Any:
        """One that nobody else uses meanwhile, as a context."""
        if self.is_closed:
            raise _closed()
        return self._pool.connection(timeout=self.wait)

    def listen(self, channel: str) -> AsyncGenerator[str | None, None]:
        """See `listening`. Beside the pool, all of whose connections others may need."""
        return listening(self._pool.conninfo, {**(self._pool.kwargs or {}), "autocommit": True}, channel)

    def close(self) -> None:
        """Use it no more."""
        self.is_closed = True


def _closed() -> BackendClosed:
    return BackendClosed("PostgreSQL was closed: call open(), or start() the manager, first")


# --- errors --------------------------------------------------------------------------------------------


_BY_STATE: Final[tuple[tuple[type[psycopg.Error], type[BackendError]], ...]] = (
    (sqlstates.ReadOnlySqlTransaction, BackendReadOnly),
    (sqlstates.InsufficientPrivilege, BackendReadOnly),
    (sqlstates.DiskFull, BackendFull),
    (sqlstates.OutOfMemory, BackendFull),
    (sqlstates.UndefinedTable, BackendCorrupt),
    (sqlstates.UndefinedColumn, BackendCorrupt),
    (sqlstates.DataCorrupted, BackendCorrupt),
    (sqlstates.IndexCorrupted, BackendCorrupt),
)


def is_lost(problem: Exception) -> bool:
    """Whether the connection was lost, rather than the statement refused."""
    gone = (psycopg.OperationalError, psycopg.InterfaceError)
    if isinstance(problem, sqlstates.ConnectionTimeout):
        return False  # another attempt would take as long
    return isinstance(problem, gone) and (
        problem.sqlstate is None or isinstance(problem, sqlstates.AdminShutdown | sqlstates.CrashShutdown)
    )


def translated(problem: Exception, *, sent: bool) -> Exception:
    """Ours for one of psycopg's; any other as it is. *sent*: a statement may have reached the server."""
    if isinstance(problem, psycopg.DataError | UnicodeError):
        return SessionDataError(f"PostgreSQL cannot hold this record: {type(problem).__name__}")
    for kind, ours in _BY_STATE:
        if isinstance(problem, kind):
            return ours(f"PostgreSQL: {problem.diag.message_primary or type(problem).__name__}")
    if isinstance(problem, psycopg.Error):
        told = problem.diag.message_primary or str(problem).partition("\n")[0] or type(problem).__name__
        return BackendUnavailable(f"PostgreSQL: {told}", unknown=sent and problem.sqlstate is None)
    if isinstance(problem, OSError):
        return BackendUnavailable(f"PostgreSQL: {problem}", unknown=sent)
    return problem
