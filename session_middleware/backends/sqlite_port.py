"""What both ports of SQLite have in common: the operations, their connections, and forks.

Reading order: `SQLitePort`: the four ways to run something, which a colour brings; the operations; which file
the connections are of; forks.
"""

from __future__ import annotations

import sqlite3
import threading
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar, cast

from session_middleware.backends import sql, sql_caps, sql_mending, sql_queries, sqlite_file
from session_middleware.backends.base import EndedRecord, LoadAnswer
from session_middleware.backends.capabilities import Admitted, Caps, Page, Position, Salvaged, Summary, Usage
from session_middleware.backends.coalesce import Outcome
from session_middleware.backends.sql import Operation
from session_middleware.backends.sql_figures import Sums
from session_middleware.backends.sqlite_batches import Wal, write
from session_middleware.backends.sqlite_file import Place, identity, open_connection, translated
from session_middleware.backends.sqlite_handles import Handle, keep_forever, let_go_before_forks
from session_middleware.errors import (
    BackendClosed,
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    WrongProcess,
)
from session_middleware.record import Committed, CreateResult, Delta, Record, Refused, SessionId
from session_middleware.where import Where

__all__ = ["ATTEMPTS", "SQLitePort", "lost", "result_of"]

T = TypeVar("T")

ATTEMPTS = 3
"""How often an operation that was not begun takes another connection."""

_EXPIRED_AT_ONCE = 64  # rows of one cleanup transaction: others wait a few milliseconds at most


class SQLitePort:
    """The contract over four ways to run something, which a colour brings."""

    immediate = False

    def __init__(self, place: Place) -> None:
        self.place = place
        self._closed = False
        self._was_open = False  # since this object was made
        self._forked = False  # a connection could not be let go before a fork: unsafe from now on
        self._unsafe = False  # the same, found before the fork that is under way
        self._opening = threading.Lock()  # held while a connection is opened, and throughout a fork
        self._guard = threading.Lock()  # held for a moment, to change which connections are the port's
        self._handles: set[Handle] = set()
        self._wal = Wal(place.path, sqlite_file.WAL_MOST)
        let_go_before_forks(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place.path}>"

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

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        """See `Port.load`."""
        return await self._reading(lambda execute: sql.load(execute, id, now))

    async def create(self, record: Record, now: float) -> CreateResult:
        """See `Port.create`."""
        return await self._writing(lambda execute: sql.create(execute, record, now))

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        """See `Port.commit`."""
        return await self._writing(lambda execute: sql.commit(execute, id, delta, now))

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
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
        """See `Counting.usage`."""
        return (await self.summary(now, ())).usage

    async def summary(self, now: float, ages: Sequence[float]) -> Summary:
        """See `Summarizing.summary`. Read in parts, so that loads go on in between."""
        sums = Sums(now, ages)
        while not sums.is_done:
            await self._reading(sums.next_part)
        return sums.summary()

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        """See `Epochal.end_all_before`. Writes one row; those of the sessions go by and by."""
        return await self._writing(lambda execute: sql.end_all_before(execute, t, now, reason, by))

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        """See `Iterating.find`."""
        return await self._reading(lambda execute: sql_queries.find(execute, where, now, limit, after))

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        """See `Iterating.end_found`."""
        return await self._writing(
            lambda execute: sql_queries.end_found(execute, ids, where, now, reason, by)
        )

    async def acquire_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.acquire_lease`."""
        return await self._writing(lambda execute: sql.acquire_lease(execute, name, holder, seconds, now))

    async def renew_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.renew_lease`."""
        return await self._writing(lambda execute: sql.renew_lease(execute, name, holder, seconds, now))

    async def release_lease(self, name: str, holder: str) -> bool:
        """See `Leases.release_lease`."""
        return await self._writing(lambda execute: sql.release_lease(execute, name, holder))

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        """See `Capped.create_within`."""
        return await self._writing(lambda execute: sql_caps.create_within(execute, record, now, caps))

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        """See `Capped.commit_within`."""
        return await self._writing(lambda execute: sql_caps.commit_within(execute, id, delta, now, caps))

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        """See `Capped.shrink`."""
        return await self._writing_alone(lambda execute: sql_caps.shrink(execute, now, caps, limit))

    async def salvage(self, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
        """See `Salvaging.salvage`."""
        return await self._reading(lambda execute: sql_mending.salvage(execute, id, now))

    async def mend(self, record: Record, salvaged: Salvaged) -> bool:
        """See `Salvaging.mend`."""
        return await self._writing(lambda execute: sql_mending.mend(execute, record, salvaged))

    def _check_usable(self) -> None:
        if self._forked:
            raise WrongProcess(
                f"{self.place.path}: this process was forked while it worked on the file: its connections "
                "cannot be replaced safely; fork before the first request, or start workers by spawn"
            )
        if self._closed:
            raise BackendClosed(f"{self.place.path} was closed: call open(), or start() the manager, first")

    def _opened_handle(self, *, reader: bool) -> Handle:
        """A connection that is ready. In the thread that will use it; never during a fork."""
        with self._opening:
            handle = Handle(self._connected(reader=reader), identity(self.place.path))
            self._was_open = True
            self._handles = {known for known in self._handles if not known.retired} | {handle}
            return handle

    def _connected(self, *, reader: bool) -> sqlite3.Connection:
        """What makes a place unfit is a setting at first; once it was open, it is a fault of the place."""
        try:
            return open_connection(self.place, reader=reader)
        except ConfigurationError as problem:
            if not self._was_open:
                raise
            raise BackendUnavailable(str(problem)) from problem

    def _transaction(
        self, operations: Sequence[Operation[Any]], connection: sqlite3.Connection
    ) -> list[Outcome]:
        if self._wal.is_huge():  # nobody else finds the moment to copy it whole: writers wait for it now
            self._wal.copy_on_writer(connection)
        return write(operations, connection)

    # --- forks: see `sqlite_handles` ---

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
        keep_forever(self._handles)
        self._handles = set()
        self._wal = Wal(self.place.path, sqlite_file.WAL_MOST)


def result_of(outcome: Outcome, place: Place, _: Operation[T]) -> T:
    """What the operation answered; raises what it ended with."""
    if isinstance(outcome, Exception):
        raise translated(outcome, place) from outcome.__cause__
    return cast("T", outcome)


def lost(place: Place) -> BackendUnavailable:
    """The error for an operation that found no connection that lasted."""
    return BackendUnavailable(f"{place.path}: the connection was lost {ATTEMPTS} times in a row")
