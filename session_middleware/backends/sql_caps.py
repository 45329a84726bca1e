"""How many sessions a file holds at most, and which go first. Each call is one transaction, so it is exact.

What this needs is added to a file when it is first used on it, because it costs every write something:
`total` counts the rows by triggers, `session_rank` (about two pages more for a write) orders them as they go.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from session_middleware.backends.base import EVICTED, EndedRecord
from session_middleware.backends.capabilities import Admitted, Caps, Full
from session_middleware.backends.sql import (
    _FOUND,
    _LIVE,
    _SELECT_HEADER_TO_CHANGE,
    Execute,
    _ending,
    _led_right,
    _note,
    _own,
    commit,
    create,
    delete_expired,
    expire_rows,
    first_bucket,
    record_of,
    remove,
    sessions_of,
)
from session_middleware.record import (
    EXISTS,
    GONE,
    Committed,
    CreateResult,
    Delta,
    Ended,
    Record,
    Refused,
    SessionId,
    apply,
    replace,
)

__all__ = ["commit_within", "create_within", "shrink"]


def _priority_in(table: str) -> str:
    return f"(CASE WHEN json_valid({table}facts) THEN json_extract({table}facts,'$[4]') ELSE 0 END)"


def _rank_in(table: str) -> str:
    return f"{_priority_in(table)}, ({table}user_id IS NOT NULL), {table}last_seen_at, {table}id"


_NEEDED: Final = (
    "CREATE TABLE total(n INTEGER PRIMARY KEY CHECK(n=0), sessions INTEGER NOT NULL)",
    "INSERT INTO total SELECT 0, count(*) FROM session",
    "CREATE TRIGGER session_more AFTER INSERT ON session BEGIN UPDATE total SET sessions=sessions+1; END",
    "CREATE TRIGGER session_less AFTER DELETE ON session BEGIN UPDATE total SET sessions=sessions-1; END",
    f"CREATE INDEX session_rank ON session({_rank_in('')})",
)
_HIGHEST: Final = 2**63 - 1
_AT_ONCE: Final = 64  # expired rows that one call removes at most


def create_within(execute: Execute, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
    """See `Capped.create_within`."""
    if _is_taken(execute, record.id, now):
        return Admitted(EXISTS)
    too_many = _too_many_of(execute, record.user_id, record.id, now, caps)
    if too_many and caps.reject:
        return Admitted(Full.OF_USER)
    short = 0 if caps.total is None else _total(execute) + 1 - len(too_many) - caps.total
    expired = _expired_first(execute, short, now)
    short -= len(expired)
    others = _lowest(execute, short, record.priority, {*caps.held, *(one.id for one in too_many)})
    if len(others) < short:
        return Admitted(Full.SESSIONS, others=expired)
    _evict(execute, [*too_many, *others], now)
    return Admitted(create(execute, record, now), too_many, [*expired, *others])


def commit_within(
    execute: Execute,
    id: SessionId,  # noqa: A002  (the contract's word)
    delta: Delta,
    now: float,
    caps: Caps,
) -> Admitted[Committed | Refused]:
    """See `Capped.commit_within`."""
    rows = execute(_SELECT_HEADER_TO_CHANGE, (id, now)).fetchall()
    if not rows:
        return Admitted(GONE)
    before = record_of(_own(rows[0], id))
    applied = apply(before, replace(delta, set={}, unset=(), increments={}), now)
    if isinstance(applied, Refused):
        return Admitted(applied)
    newly = applied[0].user_id if applied[0].user_id != before.user_id else None
    too_many = _too_many_of(execute, newly, id, now, caps)
    if too_many and caps.reject:
        return Admitted(Full.OF_USER)
    _evict(execute, too_many, now)
    return Admitted(commit(execute, id, delta, now), too_many)


def shrink(execute: Execute, now: float, caps: Caps, limit: int) -> Admitted[None]:
    """See `Capped.shrink`."""
    of_user = [] if caps.per_user is None or caps.reject else _beyond(execute, caps.per_user, now, limit)
    _evict(execute, of_user, now)
    short = 0 if caps.total is None else min(limit, _total(execute) - caps.total)
    expired = _expired_first(execute, short, now)
    lowest = _lowest(execute, short - len(expired), _HIGHEST, set(caps.held))
    _evict(execute, lowest, now)
    return Admitted(None, of_user, [*expired, *lowest])


def _is_taken(execute: Execute, id_: SessionId, now: float) -> bool:
    live = execute(f"SELECT 1 FROM session WHERE id=? AND {_LIVE}", (id_, now)).fetchall()  # noqa: S608  (names)
    return bool(live) or _ending(execute, id_) is not None


# --- what is too much ----------------------------------------------------------------------------------


def _total(execute: Execute) -> int:
    try:
        [(total,)] = execute("SELECT sessions FROM total", ()).fetchall()
    except sqlite3.OperationalError as problem:
        if "no such table" not in str(problem):
            raise
        for statement in _NEEDED:
            execute(statement, ())
        return _total(execute)
    return int(total)


def _too_many_of(
    execute: Execute, user: str | None, own: SessionId, now: float, caps: Caps
) -> list[EndedRecord]:
    """The oldest sessions of the user that must go for one more."""
    if user is None or caps.per_user is None:
        return []
    others = [known for known in sessions_of(execute, user, now) if known[0] != own]
    most = max(0, len(others) + 1 - caps.per_user)
    return [EndedRecord(id_, user, EVICTED, created_at) for id_, created_at in others[:most]]


def _beyond(execute: Execute, most: int, now: float, limit: int) -> list[EndedRecord]:
    crowds = execute(
        f"SELECT user_id FROM session WHERE user_id IS NOT NULL AND {_LIVE}"  # noqa: S608  (names)
        " GROUP BY user_id HAVING count(*)>? LIMIT ?",
        (now, most, limit),
    ).fetchall()
    caps, nobody = Caps(per_user=most + 1), SessionId("")  # as if there came one more than there may be
    return [one for (user,) in crowds for one in _too_many_of(execute, user, nobody, now, caps)][:limit]


# --- what goes -----------------------------------------------------------------------------------------


def _expired_first(execute: Execute, number: int, now: float) -> list[EndedRecord]:
    if number <= 0:
        return []
    ended, _ = delete_expired(execute, now, min(number, _AT_ONCE))
    more = min(number, _AT_ONCE) - len(ended)
    if more:  # a minute is filed as a whole; some of this one may have passed
        rows = execute(
            "SELECT n FROM session WHERE bucket=? AND deadline<=? LIMIT ?", (first_bucket(now), now, more)
        ).fetchall()
        ended += expire_rows(execute, [n for (n,) in rows], now)
    return ended


def _lowest(execute: Execute, number: int, priority: int, spared: Collection[str]) -> list[EndedRecord]:
    """So many of the lowest rank, but none above this priority; fewer where there are not as many."""
    if number <= 0:
        return []
    rows = execute(
        f"SELECT session.id, session.user_id, session.created_at, session.id=found.id {_FOUND}"
        f" WHERE {_priority_in('found.')}<=? ORDER BY {_rank_in('found.')} LIMIT ?",
        (priority, number + len(spared)),
    ).fetchall()
    chosen = [
        EndedRecord(id_, user, EVICTED, at) for id_, user, at, _ in _led_right(rows) if id_ not in spared
    ]
    return chosen[:number]


def _evict(execute: Execute, records: Sequence[EndedRecord], now: float) -> None:
    ids = [record.id for record in records]
    remove(execute, ids)
    if ids:
        _note(execute, [(id_, Ended(EVICTED, now)) for id_ in ids], now)
