"""How sessions in SQLite are found by conditions: the second half of `sql`, over the same tables.

Reading order: `find` (a page of sessions), `end_found`.

Sessions are walked in the order of their creation along an index, a window of bounded size at a time, so no
read holds its snapshot for long, however rare what is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from session_middleware.backends.base import EndedRecord
from session_middleware.backends.capabilities import Page, Position
from session_middleware.backends.sql import (
    _FOUND,
    _HEADER,
    _JOINED,
    _LIVE_ROW,
    _ROW_AND_VALUES,
    _SQLITE_PARAMETERS,
    Execute,
    _led_right,
    _note,
    _readable,
    moment,
    remove,
)
from session_middleware.record import Ended, SessionId
from session_middleware.where import Where

__all__ = ["end_found", "find"]

_SEEN_AT_ONCE = 1000  # rows of one window
_TOP: Final = Position(math.inf, SessionId(""))
_BOTTOM: Final = Position(-math.inf, SessionId(""))
_ID_AT, _CREATED_AT, _USER_AT = (_HEADER.index(name) for name in ("id", "created_at", "user_id"))
_BETWEEN = "(found.created_at, found.id)<(?,?) AND (found.created_at, found.id)>=(?,?)"
_NEWEST_FIRST = "ORDER BY found.created_at DESC, found.id DESC"

_Terms: TypeAlias = tuple[str, tuple[Any, ...]]


class _Walk(NamedTuple):
    """Along which index, what it is made of, and the condition that keeps to it."""

    along: str
    columns: tuple[str, ...]
    base: str
    parameters: tuple[Any, ...] = ()

    @property
    def leads_right(self) -> str:
        """Whether a row says of itself what the index says of it."""
        return " AND ".join(f"session.{name}=found.{name}" for name in self.columns)


def find(execute: Execute, where: Where, now: float, limit: int, after: Position | None) -> Page:
    """See `Iterating.find`."""
    top = _TOP if after is None else after
    if where.created_before is not None:
        top = min(top, Position(where.created_before, SessionId("")))
    if where.ids is not None:
        return _find_ids(execute, where, now, limit, top)
    bottom = _BOTTOM if where.created_after is None else Position(where.created_after, SessionId(""))
    walk = _walk_of(where)
    end = _end_of_window(execute, walk, top, bottom)
    rows = _led_right(_rows_between(execute, walk, top, end or bottom, _also(where, now), limit))
    more = _position_of(rows[-1]) if len(rows) == limit else end
    return _page(rows, where, more)


def _page(rows: Sequence[Sequence[Any]], where: Where, more: Position | None) -> Page:
    records = [_readable(row) for row in rows]
    damaged = [row[_ID_AT] for row, record in zip(rows, records, strict=True) if record is None]
    return Page([one for one in records if one is not None and where.matches(one)], more, damaged)


def _walk_of(where: Where) -> _Walk:
    if where.user_id is not None:
        return _Walk("session_user", ("user_id", "created_at"), "found.user_id=? AND", (where.user_id,))
    if where.status is not None:
        return _Walk("session_status", ("status", "created_at"), "found.status=? AND", (where.status,))
    return _Walk("session_created", ("created_at", "id"), "")


def _end_of_window(execute: Execute, walk: _Walk, top: Position, bottom: Position) -> Position | None:
    """The last place of this window, or None where it reaches to the bottom."""
    rows = execute(
        f"SELECT created_at, id FROM session AS found INDEXED BY {walk.along} WHERE {walk.base}"  # noqa: S608  (ours)
        f" {_BETWEEN} {_NEWEST_FIRST} LIMIT 1 OFFSET ?",
        (*walk.parameters, *top, *bottom, _SEEN_AT_ONCE - 1),
    ).fetchall()
    return Position(*rows[0]) if rows else None


def _rows_between(
    execute: Execute, walk: _Walk, top: Position, end: Position, also: _Terms, limit: int
) -> list[Sequence[Any]]:
    terms, parameters = also
    return execute(
        f"SELECT {_ROW_AND_VALUES},{walk.leads_right} FROM session AS found INDEXED BY {walk.along} {_JOINED}"  # noqa: S608  (ours)
        f" WHERE {walk.base} {_BETWEEN} AND {terms} {_NEWEST_FIRST} LIMIT ?",
        (*walk.parameters, *top, *end, *parameters, limit),
    ).fetchall()


def _also(where: Where, now: float) -> _Terms:
    """What else the columns tell, so that fewer rows have to be decoded. The walk keeps to the user."""
    wanted = [
        (_LIVE_ROW, now),
        ("session.status=?", None if where.user_id is None else where.status),
        ("session.last_seen_at<?", where.seen_before),
        ("session.last_seen_at>=?", where.seen_after),
    ]
    asked = [(term, value) for term, value in wanted if value is not None]
    return " AND ".join(term for term, _ in asked), tuple(value for _, value in asked)


def _position_of(row: Sequence[Any]) -> Position:
    return Position(row[_CREATED_AT], row[_ID_AT])


def _find_ids(execute: Execute, where: Where, now: float, limit: int, top: Position) -> Page:
    """A page of those that are named: they are looked up and sorted, so each page costs as many look-ups."""
    ids = sorted(where.ids or ())
    places: list[Position] = []
    for start in range(0, len(ids), _SQLITE_PARAMETERS):
        some = ids[start : start + _SQLITE_PARAMETERS]
        rows = execute(
            f"SELECT created_at, id FROM session WHERE id IN ({_marks(some)}) AND typeof(created_at)='real'",  # noqa: S608  (question marks)
            some,
        )
        places += [Position(*row) for row in rows.fetchall()]
    below = sorted((place for place in places if place < top), reverse=True)
    wanted = [place.id for place in below[: min(limit, _SQLITE_PARAMETERS)]]
    found = _live(execute, wanted, now)
    more = below[len(wanted) - 1] if len(wanted) < len(below) else None
    return _page(sorted(found, key=_position_of, reverse=True), where, more)


def _live(execute: Execute, ids: Sequence[SessionId], now: float) -> list[Sequence[Any]]:
    """Their rows."""
    rows = execute(
        f"SELECT {_ROW_AND_VALUES},session.id=found.id {_FOUND}"
        f" WHERE found.id IN ({_marks(ids)}) AND {_LIVE_ROW}",
        (*ids, now),
    ).fetchall()
    return _led_right(rows)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def end_found(
    execute: Execute, ids: Sequence[SessionId], where: Where, now: float, reason: str, by: str | None
) -> list[EndedRecord]:
    """See `Iterating.end_found`. All of them at one moment."""
    ended: list[EndedRecord] = []
    for start in range(0, len(ids), _SQLITE_PARAMETERS - 1):
        some = ids[start : start + _SQLITE_PARAMETERS - 1]
        rows = _live(execute, some, now)
        ended += [_ended_row(row, reason, now) for row in rows if where.is_empty or _matches(row, where)]
    remove(execute, [one.id for one in ended])
    if ended:
        _note(execute, [(one.id, Ended(reason, now, by)) for one in ended], now)
    return ended


def _matches(row: Sequence[Any], where: Where) -> bool:
    record = _readable(row)
    return record is not None and where.matches(record)


def _ended_row(row: Sequence[Any], reason: str, now: float) -> EndedRecord:
    user = row[_USER_AT]
    return EndedRecord(
        row[_ID_AT], user if isinstance(user, str) else None, reason, moment(row[_CREATED_AT], now)
    )
