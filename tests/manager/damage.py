"""To look at, and to write into, what a backend stores, past the backend."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from session_middleware.record import replace
from session_middleware.values import Values
from tests.servers.redis import client
from tests.test_manager import Driven

__all__ = ["damage", "stored_text", "write"]

_FIELDS = {"data": "s", "facts": "h"}  # what those of Redis are called


def damage(driven: Driven, session_id: str, packed: bytes) -> None:
    """Put these bytes where the session's values are."""
    record = driven.record(session_id)
    assert record is not None
    port: Any = driven.manager.backend.port("blocking")
    if hasattr(port, "_records"):
        port._records[record.id] = replace(record, data=Values(packed))
    else:
        write(driven.manager.backend, "data", packed, session_id)


def write(backend: Any, column: str, value: object, session_id: str | None) -> None:
    """Past the backend."""
    if backend.url.startswith("redis"):
        with client(backend.url) as operator:
            operator.hset(f"session_middleware:session:{session_id}", _FIELDS[column], value)
        return
    if not hasattr(backend, "path"):
        import psycopg

        with psycopg.connect(backend._conninfo, autocommit=True) as server:
            statement: Any = f"UPDATE session_middleware_session SET {column}=%s WHERE id=%s"  # noqa: S608  (its name)
            server.execute(statement, (value, session_id))
        return
    with closing(sqlite3.connect(backend.path)) as file, file:
        file.execute(f"UPDATE session SET {column}=? WHERE id=?", (value, session_id))  # noqa: S608  (its name)


def stored_text(backend: Any) -> str:
    """All that is stored, as text."""
    if hasattr(backend, "_records"):
        return "\n".join(f"{record.metadata} {record.data.packed!r}" for record in backend._records.values())
    if hasattr(backend, "path"):
        with closing(sqlite3.connect(backend.path)) as file:
            return "\n".join(file.iterdump())
    if backend.url.startswith("redis"):
        with client(backend.url) as operator:
            return "\n".join(repr(operator.hgetall(key)) for key in operator.keys("*:session:*"))
    import psycopg

    with psycopg.connect(backend._conninfo) as server:
        rows = server.execute(
            "SELECT convert_from(data, 'UTF8'), s::text FROM session_middleware_session s"
        ).fetchall()
    return "\n".join(map(str, rows))
