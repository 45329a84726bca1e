"""A row that cannot be decoded: what can still be read of it, and a whole one in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from session_middleware.backends.capabilities import Salvaged
from session_middleware.backends.sql import (
    _BY_ID,
    _EPOCH,
    COLUMNS,
    HEADER_TYPES,
    Execute,
    _own,
    facts_of,
    row_of,
)
from session_middleware.record import Record, SessionId

__all__ = ["mend", "salvage"]

_OF_ROW = ",".join(f"session.{name}" for name in COLUMNS)
_SELECT = f"SELECT {_OF_ROW} {_BY_ID} AND session.created_at>={_EPOCH}"
_UPDATE = (
    f"UPDATE session SET {','.join(f'{name}=?' for name in COLUMNS)}"  # noqa: S608  (the same)
    f" WHERE {' AND '.join(f'{name} IS ?' for name in COLUMNS)}"
)


def salvage(execute: Execute, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
    """See `Salvaging.salvage`. `facts` can be read as a whole or not at all: it is one JSON text."""
    rows = execute(_SELECT, (id,)).fetchall()
    if not rows:
        return None
    stored = dict(zip(COLUMNS, _own(rows[0], id), strict=True))
    fields = {name: stored[name] for name, kind in HEADER_TYPES.items() if _is(stored[name], kind)}
    if fields.get("deadline", now + 1) <= now:
        return None
    if "absolute_deadline" in fields:
        fields["limit"] = fields.pop("absolute_deadline")
    fields |= facts_of(fields.pop("facts", ""))
    return Salvaged(fields, _as_bytes(stored["data"]), rows[0])


def mend(execute: Execute, record: Record, salvaged: Salvaged) -> bool:
    """See `Salvaging.mend`."""
    stored = salvaged.mark
    if not isinstance(stored, Sequence):
        raise TypeError("salvaged: it was not read by this backend")
    return execute(_UPDATE, (*row_of(record), *stored)).rowcount > 0


def _is(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _as_bytes(value: object) -> bytes:
    """A column that was written by others may be of any type."""
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()
