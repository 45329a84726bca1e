"""What is done on a connection in one go: a batch of operations, and copying the write-ahead log back.

Reading order: `read` and `write` (each operation fails for itself), then `Wal`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

from session_middleware.backends.coalesce import Outcome
from session_middleware.backends.sql import Execute, Operation
from session_middleware.backends.sqlite_handles import is_busy, roll_back

__all__ = ["Wal", "read", "write"]


def read(operations: Sequence[Operation[Any]], connection: sqlite3.Connection) -> list[Outcome]:
    """What each operation answers, or its exception. Several share a snapshot, taken after all had asked."""
    execute = _execute_of(connection)
    if len(operations) == 1:
        return [_attempt(operations[0], execute)]
    execute("BEGIN", ())  # spares each of them the locks of a snapshot of its own
    try:
        return [_attempt(operation, execute) for operation in operations]
    finally:
        roll_back(connection)


def _execute_of(connection: sqlite3.Connection) -> Execute:
    """One cursor for all: whoever executes has fetched everything before the next one does."""
    return connection.cursor().execute


def _attempt(operation: Operation[Any], execute: Execute) -> Outcome:
    try:
        return operation(execute)
    except Exception as problem:  # noqa: BLE001  (its caller raises it)
        return problem


def write(operations: Sequence[Operation[Any]], connection: sqlite3.Connection) -> list[Outcome]:
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
        roll_back(connection)
        return [problem] if len(operations) == 1 else _write_one_by_one(operations, connection)
    return outcomes


def _write_one_by_one(operations: Sequence[Operation[Any]], connection: sqlite3.Connection) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for operation in operations:
        [outcome] = write([operation], connection)
        outcomes.append(outcome)
        if is_busy(outcome):
            return outcomes + [outcome] * (len(operations) - len(outcomes))
    return outcomes


class Wal:
    """When the write-ahead log of the file *path* is to be copied back into it, and the copying.

    The log starts again from its beginning once all of it was copied, and is then cut to `most` bytes. A
    reader connection copies it while writers go on. Under writes without a pause that never gets to the end,
    so the writer does it where the log has grown to `_HUGE` times as much. Where an open snapshot holds the
    copying up, the next attempt comes after as much growth again.
    """

    _HUGE = 4

    def __init__(self, path: str, most: int) -> None:
        self._path = f"{path}-wal"
        self._most = most
        self._large_at = most
        self._huge_at = self._HUGE * most
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
        self._large_at = self._uncopied(connection) + self._most

    def copy_on_writer(self, connection: sqlite3.Connection) -> None:
        """Work of the writer connection."""
        self._huge_at = self._uncopied(connection) + self._HUGE * self._most

    def _uncopied(self, connection: sqlite3.Connection) -> int:
        """Copies; how many bytes the log has if something is left to copy, else 0."""
        with self._lock, contextlib.suppress(sqlite3.Error):  # a full disk: nothing is lost, the log grows
            [(busy, pages, copied)] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if not busy and pages == copied:
                self._large_at = self._most
                return 0
        return _size(self._path)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  (after each transaction: Path costs more than stat)
    except OSError:
        return 0
