"""Sessions in PostgreSQL, for any number of hosts.

    SessionMiddleware(app, secret_key=KEY, backend="postgresql://user@host/database")

Here are the description, `PostgresBackend`, and its two ports. What stands behind them: `postgres_sql`
(statements), `postgres_caps` (limits), `postgres_links` (connections, errors), `postgres_port` (operations).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, nullcontext
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from session_middleware.backends import postgres_sql
from session_middleware.backends.base import Colour, LoadAnswer, Port, wrong_colour
from session_middleware.backends.coalesce import Lane
from session_middleware.backends.hiding import Hidden, HiddenList
from session_middleware.backends.postgres_links import (
    AsyncLinks,
    BlockingLinks,
    PoolLinks,
    is_lost,
    translated,
)
from session_middleware.backends.postgres_port import PostgresPort
from session_middleware.backends.postgres_sql import CHANNEL, MIGRATIONS, Answer, Ask
from session_middleware.blocking import run_blocking
from session_middleware.errors import BackendCorrupt, ConfigurationError
from session_middleware.loops import running_library
from session_middleware.policy import Duration, seconds
from session_middleware.record import SessionId

__all__ = ["PostgresBackend"]

T = TypeVar("T")
_Loads: TypeAlias = Lane[tuple[SessionId, float]]

_ATTEMPTS: Final = 2  # of what may be repeated: the first may meet a connection that the server has ended


class PostgresBackend:
    """Records in a database of PostgreSQL 15 or newer. Describes only: opened at the first use.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's parameters behind `?`. Parts that
            are left out come from the environment (`PGHOST`, `PGPASSWORD`, …), as everywhere with libpq.
        max_connections: of one process and event loop. Default 10; more operations at once wait.
        wait: seconds that an operation waits for a free connection, and for the answer to each statement.
            Default 5; in threads it is the manager's `backend_timeout`.
        pool: a pool of psycopg_pool that you open and close, instead of *url* and the others:
            `AsyncConnectionPool` serves the async colour, `ConnectionPool` threads.

    The tables `session_middleware_*` are made at the first use, in the first schema of the search path. Works
    through PgBouncer in transaction mode. Raises `ConfigurationError` naming the argument.
    """

    colours: frozenset[Colour] = frozenset({"async", "blocking"})

    def __init__(
        self,
        url: str | None = None,
        *,
        max_connections: int = 10,
        wait: Duration = 5.0,
        pool: Any = None,
    ) -> None:
        self._pool = pool
        if pool is not None:
            self.colours = _colours_of(pool)
        self._conninfo = _conninfo_of(url, pool)
        if type(max_connections) is not int or max_connections < 1:
            raise ConfigurationError(
                f"max_connections: found {max_connections!r}, pass an integer of at least 1"
            )
        self.url = _without_password(self._conninfo)
        self._most = max_connections
        self._wait = seconds("wait", wait)
        self._ports: dict[Colour, Port] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<PostgresBackend {self.url}>"

    def port(self, colour: Colour) -> Port:
        """The one port of this colour of this backend object."""
        if colour not in self.colours:
            raise wrong_colour(self, colour)
        with self._lock:
            if colour not in self._ports:
                port = _AsyncPort if colour == "async" else _BlockingPort
                self._ports[colour] = port(self._links_of(colour))
            return self._ports[colour]

    def _links_of(self, colour: Colour) -> Any:
        if self._pool is not None:
            return PoolLinks(self._pool)
        links = AsyncLinks if colour == "async" else BlockingLinks
        return links(self._conninfo, self._most, self._wait)


class _BlockingPort(PostgresPort):
    """In threads. Its methods never suspend."""

    def __init__(self, links: BlockingLinks | PoolLinks) -> None:
        super().__init__()
        self._links = links
        self._is_migrated = False
        self._migrating = threading.Lock()

    async def open(self) -> None:
        """Connect, and make or migrate the tables."""
        self._links.is_closed = False
        self._migrate()

    async def close(self) -> None:
        """Close the connections."""
        self._links.close()

    async def wait(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)  # noqa: ASYNC251  (the blocking colour: no event loop runs here)

    def bound(self, seconds: float) -> None:
        """See `Bounded.bound`."""
        self._links.wait = seconds

    async def _alone(self, operation: Callable[[Ask], Awaitable[T]], *, again: bool = False) -> T:
        self._migrate()
        return self._run(operation, nullcontext, attempts=_ATTEMPTS if again else 1)

    async def _together(self, operation: Callable[[Ask], Awaitable[T]]) -> T:
        self._migrate()
        return self._run(operation, _in_transaction, attempts=1)

    def _migrate(self) -> None:
        if self._is_migrated:
            return
        with self._migrating:
            if not self._is_migrated:
                known = self._run(postgres_sql.version, nullcontext, attempts=_ATTEMPTS)
                if _needs_migration(known):
                    self._run(postgres_sql.migrate, _in_transaction, attempts=1)
                self._is_migrated = True

    def _run(
        self,
        operation: Callable[[Ask], Awaitable[T]],
        within: Callable[[Any], AbstractContextManager[object]],
        *,
        attempts: int,
    ) -> T:
        sent = False
        try:
            with self._links.connection() as connection:

                async def ask(statement: str, parameters: Sequence[Any]) -> Answer:
                    nonlocal sent
                    sent, parameters = True, Hidden(parameters)
                    cursor = connection.execute(statement, parameters)
                    rows = cursor.fetchall() if cursor.description else ()
                    return Answer(HiddenList(map(Hidden, rows)), cursor.rowcount)

                with within(connection):
                    return run_blocking(operation(ask))  # type: ignore[arg-type]  # it is a coroutine
        except Exception as problem:  # psycopg's become ours, any other goes on as it is
            if attempts > 1 and is_lost(problem):
                return self._run(operation, within, attempts=attempts - 1)
            raise translated(problem, sent=sent) from problem


class _AsyncPort(PostgresPort):
    """Under asyncio."""

    def __init__(self, links: AsyncLinks | PoolLinks) -> None:
        super().__init__()
        self._links = links
        self._is_migrated = False
        self._lanes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loads] = WeakKeyDictionary()

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        """See `Port.load`. Those that wait at the same moment share a statement."""
        if running_library() != "asyncio":
            return await super().load(id, now)
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            lane = self._lanes[loop] = Lane(self._loaded)
        outcome: Any = await lane.do((id, now))
        if isinstance(outcome, Exception):
            raise outcome
        return self._noted(id, outcome)

    async def open(self) -> None:
        """Connect, and make or migrate the tables."""
        self._links.is_closed = False
        await self._migrate()

    async def close(self) -> None:
        """Close the connections."""
        self._links.close()

    async def wait(self, seconds: float) -> None:
        """Suspends."""
        await asyncio.sleep(seconds)

    async def watch(self) -> AsyncGenerator[SessionId | None, None]:
        """See `Watching.watch`. Through a pooler in transaction mode nothing comes."""
        async with aclosing(self._links.listen(CHANNEL)) as told:
            async for id_ in told:
                yield SessionId(id_) if id_ else None

    async def _alone(self, operation: Callable[[Ask], Awaitable[T]], *, again: bool = False) -> T:
        await self._migrate()
        return await self._run(operation, nullcontext, attempts=_ATTEMPTS if again else 1)

    async def _together(self, operation: Callable[[Ask], Awaitable[T]]) -> T:
        await self._migrate()
        return await self._run(operation, _in_transaction, attempts=1)

    async def _migrate(self) -> None:
        if self._is_migrated:
            return
        known = await self._run(postgres_sql.version, nullcontext, attempts=_ATTEMPTS)
        if _needs_migration(known):
            await self._run(postgres_sql.migrate, _in_transaction, attempts=1)
        self._is_migrated = True

    async def _run(
        self,
        operation: Callable[[Ask], Awaitable[T]],
        within: Callable[[Any], AbstractAsyncContextManager[object]],
        *,
        attempts: int,
    ) -> T:
        sent = False
        try:
            async with self._links.connection() as connection:

                async def ask(statement: str, parameters: Sequence[Any]) -> Answer:
                    nonlocal sent
                    sent, parameters = True, Hidden(parameters)
                    cursor = await connection.execute(statement, parameters)
                    rows = await cursor.fetchall() if cursor.description else ()
                    return Answer(HiddenList(map(Hidden, rows)), cursor.rowcount)

                async with within(connection):
                    return await operation(ask)
        except Exception as problem:  # psycopg's become ours, any other goes on as it is
            if attempts > 1 and is_lost(problem):
                return await self._run(operation, within, attempts=attempts - 1)
            raise translated(problem, sent=sent) from problem


def _in_transaction(connection: Any) -> Any:
    return connection.transaction()


def _needs_migration(known: int | None) -> bool:
    if known is not None and known > len(MIGRATIONS):
        raise BackendCorrupt(
            f"PostgreSQL: the tables are of version {known}, made by a newer release; this one knows "
            f"{len(MIGRATIONS)}: upgrade the package"
        )
    return known != len(MIGRATIONS)


def _conninfo_of(url: str | None, pool: object) -> str:
    if pool is not None:
        if url is not None:
            raise ConfigurationError("url: the pool knows it already; pass either url or pool")
        return "postgresql://"
    if not str(url).startswith(("postgresql://", "postgres://")):
        raise ConfigurationError("url: pass an address such as postgresql://user:password@host:5432/database")
    return str(url)


def _colours_of(pool: object) -> frozenset[Colour]:
    if not callable(getattr(pool, "connection", None)):
        raise ConfigurationError(
            f"pool: found {type(pool).__name__}, pass a ConnectionPool or AsyncConnectionPool of psycopg_pool"
        )
    colour: Colour = "async" if hasattr(pool, "__aenter__") else "blocking"
    return frozenset({colour})


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"postgresql://{user}{parts.hostname or ''}{port}{parts.path}"
