"""A million sessions in a file of SQLite.

Reading order: `measure_sqlite`, `fill` (whole transactions, by the backend's own functions), `one_delete`
(what a cleanup would cost that does it all at once), `_writing` (a writer in another process).
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec

from session_middleware.backends import sql
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.sqlite import SQLiteBackend
from session_middleware.record import CREATED, Record, SessionId, replace
from session_middleware.values import Values
from tests.benchmarks.scale import (
    ALL_OVER,
    START,
    Scale,
    ScaleClaimError,
    both_cleanups,
    created_at,
    made_manager,
    owner,
    payload,
    payload_size,
    sample,
    timings,
    undisturbed,
    written_to,
)

__all__ = ["fill", "measure_sqlite", "one_delete"]

_AT_ONCE = 20_000  # rows of one transaction while the file is filled
_ALONE = 1.0  # seconds
_ROOT = Path(__file__).parents[2]
_encode = msgspec.json.encode


def measure_sqlite(
    sessions: int, folder: Path, backend: SQLiteBackend | None = None, *, alone: float = _ALONE
) -> Scale:
    """Everything about SQLite, in a new file in *folder*.

    *backend*: one whose file does not exist yet, instead. *alone*: seconds that a writer has to itself.
    """
    backend = backend or SQLiteBackend(folder / "scale.db")
    manager, clock = made_manager(backend)
    with manager.blocking:
        began = time.perf_counter()
        ids = fill(backend, sessions)
        filled, some = time.perf_counter() - began, sample(ids)
        each = {"file": Path(backend.path).stat().st_size / sessions}
        calls = timings(manager, some, [owner(number, sessions) for number in range(len(some))])
        waits = partial(_writing, backend, written_to(manager, clock))
        by_itself = undisturbed(waits, alone)
        instead = partial(one_delete, backend)
        tenth, rest = both_cleanups(manager, clock, sessions, waits, one_delete=instead)
    return Scale("SQLite", sessions, payload_size(), filled, each, calls, by_itself, tenth, rest)


def one_delete(backend: SQLiteBackend, expected: int, now: float) -> float:
    """Seconds that one DELETE of everything that is over takes. It is taken back, and its commit not counted.

    Raises `ScaleClaimError` unless it found *expected* rows.
    """
    with closing(_connected(backend)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        began = time.perf_counter()
        due = "DELETE FROM session WHERE bucket<=? AND deadline<=?"
        removed = connection.execute(due, (int(now // 60), now)).rowcount
        took = time.perf_counter() - began
        connection.execute("ROLLBACK")
    if removed != expected:
        raise ScaleClaimError(f"one DELETE found {removed} sessions that were over, not {expected}")
    return took


def _connected(backend: SQLiteBackend) -> sqlite3.Connection:
    return sqlite3.connect(backend.path, isolation_level=None, timeout=60.0)


def fill(backend: SQLiteBackend, sessions: int) -> list[SessionId]:
    """Put so many into its file: the ids. Afterwards all is in the file, and nothing in its log."""
    ids: list[SessionId] = []
    records = _records(sessions)
    with closing(_connected(backend)) as connection:
        while some := list(islice(records, _AT_ONCE)):
            connection.execute("BEGIN IMMEDIATE")
            for record in some:
                if sql.create(connection.execute, record, record.created_at) is not CREATED:
                    raise ScaleClaimError("an id came twice")
            connection.execute("COMMIT")
            ids += [record.id for record in some]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return ids


def _records(sessions: int) -> Iterator[Record]:
    """What the manager makes of a sign-in, again and again."""
    pattern = _pattern()
    lives, most = pattern.deadline - START, pattern.limit - START
    for number in range(sessions):
        at = created_at(number, sessions)
        yield replace(
            pattern,
            id=SessionId(secrets.token_urlsafe(16)),
            secret=secrets.token_urlsafe(16),
            created_at=at,
            last_seen_at=at,
            authenticated_at=at,
            deadline=at + lives,
            limit=at + most,
            generation=int(at * 1000),
            floors=(int(at * 1000),),
            user_id=owner(number, sessions),
            data=Values(_encode(payload(number))),
        )


def _pattern() -> Record:
    manager, _ = made_manager(MemoryBackend())
    session = manager.blocking.create_session("somebody", payload(0))
    record: Record = session.life.record
    return record


# --- a writer beside ---


@contextmanager
def _writing(backend: SQLiteBackend, ids: list[SessionId]) -> Iterator[list[float]]:
    """Within it another process writes to *ids* in turn; it has begun. Its first problem is raised."""
    taken: list[float] = []
    command = [sys.executable, "-m", "tests.benchmarks.scale_writer"]
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"path": backend.path, "ids": ids, "now": ALL_OVER}) + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != "writing":
            raise ScaleClaimError("the writer in another process has ended; it says above why")
        yield taken
        process.stdin.close()
        taken += json.loads(process.stdout.read() or "[]")
    if process.returncode or not taken:
        raise ScaleClaimError("the writer in another process has failed; it says above why")
