"""Connections to SQLite that one thread uses at a time, and that are let go before each fork.

Reading order: `Connection`, `Handle`, what is never freed (`keep_forever`), then forks.

Three things must never happen to a connection, each for a reason that SQLite documents ("How to corrupt"):

* To be used, or closed, in a forked child. Even a *fresh* connection of the child would share the lock table
  that SQLite inherited, and lose commits when the parent closes. So connections are let go **before** each
  fork, and both sides open their own at the next use.
* To be closed after its file was deleted or replaced: closing removes the write-ahead log by name, and that
  is the new file's by now. Such a connection is kept, unused, until the process ends.
* To be open twice through different paths of one file system that has no working locks: `sqlite_file` refuses
  those.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from session_middleware.errors import BackendUnavailable

__all__ = [
    "Connection",
    "Forking",
    "Handle",
    "StaleError",
    "is_busy",
    "keep_forever",
    "let_go_before_forks",
    "roll_back",
]

T = TypeVar("T")


class _Answer(Generic[T]):
    """What `execute` hands to aiosqlite in place of a cursor."""

    __slots__ = ("_result",)

    def __init__(self, result: T) -> None:
        self._result = result

    def fetchall(self) -> T:
        return self._result


class Connection(sqlite3.Connection):
    """A connection whose `execute` runs a callable, too: so one hop of aiosqlite does any work."""

    def execute(self, statement: Any, parameters: Any = ()) -> Any:
        """As sqlite3's, or `statement(connection)`, to be asked for by `fetchall`."""
        if callable(statement):
            return _Answer(statement(self))
        return super().execute(statement, parameters)


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, if there is one: on a full disk SQLite has ended it by itself."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            sqlite3.Connection.execute(connection, "ROLLBACK")


def is_busy(problem: object) -> bool:
    """Whether another connection has the lock that was needed."""
    name = getattr(problem, "sqlite_errorname", None) or ""
    return isinstance(problem, sqlite3.Error) and name.startswith("SQLITE_BUSY")


class StaleError(Exception):
    """The connection was let go before the work was begun: take another."""


class Handle:
    """A connection that one thread uses at a time, and that any thread may take away in between.

    `identity` tells which file it is of.
    """

    def __init__(self, connection: sqlite3.Connection, identity: tuple[int, int] | None) -> None:
        self.connection = connection
        self.identity = identity
        self.retired = False
        self._lock = threading.Lock()

    def use(self, work: Callable[[sqlite3.Connection], T], patience: float = -1) -> T:
        """What *work* returns. `StaleError` if the connection was taken away.

        `BackendUnavailable`, with nothing begun, if it is not idle within *patience* seconds (-1: for ever).
        """
        if not self._lock.acquire(timeout=patience):
            raise BackendUnavailable(f"other threads kept the database busy for more than {patience} s")
        try:
            if self.retired:
                raise StaleError
            return work(self.connection)
        finally:
            self._lock.release()

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
        keep_forever(connection)


class _Kept(msgspec.Struct, gc=False):
    """Something that is never freed, not even when the interpreter exits: a circle no collector sees."""

    held: object
    itself: object = None


def keep_forever(held: object) -> None:
    """Never free *held*, nor what it refers to."""
    kept = _Kept(held)
    kept.itself = kept


# --- forks ---------------------------------------------------------------------------------------------


class Forking(Protocol):
    """Who has connections, and is told of each fork."""

    def before_fork(self) -> None:
        """Close what is open, so that nothing is inherited. New connections wait until after the fork."""

    def after_fork_here(self) -> None:
        """Go on: whoever needs a connection opens a new one."""

    def after_fork_in_child(self) -> None:
        """Start afresh."""


def let_go_before_forks(owner: Forking) -> None:
    """Tell *owner* of each fork for as long as it lives."""
    _OWNERS.add(owner)


_OWNERS: weakref.WeakSet[Forking] = weakref.WeakSet()
_forking: list[Forking] = []
_fork_lock = threading.Lock()  # two threads may fork at the same moment


def _before_fork() -> None:
    _fork_lock.acquire()
    _forking[:] = _OWNERS
    for owner in _forking:
        owner.before_fork()


def _after_fork(act: Callable[[Forking], None]) -> None:
    for owner in _forking:
        act(owner)
    _forking.clear()
    _fork_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(lambda owner: owner.after_fork_here()),
        after_in_child=lambda: _after_fork(lambda owner: owner.after_fork_in_child()),
    )
