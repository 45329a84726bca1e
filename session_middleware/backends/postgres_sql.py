"""Sessions as rows of PostgreSQL: the tables, every statement, and what each operation does.

Reading order: `MIGRATIONS`, the statements, then the operations. Each is a coroutine over `Ask`, which runs
one statement; those that need several run in a transaction that their caller has begun.

A session that ended leaves its row behind, emptied, as the memory of its ending: so each operation touches
one row, and what makes it atomic is that row's lock. A change is a compare-and-set on the row's version.
Which rows may be due is told by `bucket`, as in `sql`: a renewal leaves it where it is, and writes no index.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from session_middleware.backends.base import (
    ENDINGS_KEPT,
    EndedRecord,
    Epoch,
    LoadAnswer,
    ending_of,
)
from session_middleware.backends.capabilities import Page, Position, Salvaged, Summary, Usage
from session_middleware.backends.hiding import Hidden
from session_middleware.backends.sql import (
    COLUMNS,
    HEADER_TYPES,
    LAST_BUCKET,
    bucket_of,
    facts_of,
    moment,
    record_of,
    row_of,
)
from session_middleware.errors import SessionDataError
from session_middleware.record import (
    CREATED,
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
)
from session_middleware.where import Where

__all__ = ["CHANNEL", "MIGRATIONS", "Answer", "Ask", "Stored"]


class Answer(NamedTuple):
    """What a statement answered."""

    rows: Sequence[Sequence[Any]]
    changed: int


Ask: TypeAlias = Callable[[str, Sequence[Any]], Awaitable[Answer]]

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE session_middleware_session(
             id text COLLATE "C" PRIMARY KEY,
             version bigint NOT NULL,
             created_at double precision NOT NULL,
             last_seen_at double precision NOT NULL,
             deadline double precision NOT NULL,
             absolute_deadline double precision NOT NULL,
             retained_until double precision,
             idle_timeout double precision,
             user_id text COLLATE "C",
             status text COLLATE "C",
             facts text NOT NULL,
             bucket bigint NOT NULL,
             data bytea NOT NULL,
             priority bigint NOT NULL,
             ended_reason text,
             ended_at double precision,
             ended_by text,
             noted_at double precision
           ) WITH (fillfactor=70, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_cost_delay=0)""",
        """CREATE INDEX session_middleware_bucket ON session_middleware_session(bucket)
             WHERE noted_at IS NULL""",
        """CREATE INDEX session_middleware_created ON session_middleware_session(created_at, id)
             WHERE noted_at IS NULL""",
        """CREATE INDEX session_middleware_user ON session_middleware_session(user_id, created_at, id)
             WHERE noted_at IS NULL AND user_id IS NOT NULL""",
        """CREATE INDEX session_middleware_status ON session_middleware_session(status, created_at, id)
             WHERE noted_at IS NULL AND status IS NOT NULL""",
        """CREATE INDEX session_middleware_noted ON session_middleware_session(noted_at)
             WHERE noted_at IS NOT NULL""",
        """CREATE TABLE session_middleware_epoch(
             n integer PRIMARY KEY CHECK(n=1),
             before double precision NOT NULL,
             said_at double precision NOT NULL,
             reason text NOT NULL,
             said_by text
           )""",
        "INSERT INTO session_middleware_epoch VALUES(1, '-infinity', '-infinity', '', NULL)",
        """CREATE TABLE session_middleware_lease(
             name text COLLATE "C" PRIMARY KEY,
             holder text NOT NULL,
             until double precision NOT NULL
           )""",
    ),
)
"""What brings the tables from each version to the next; the table `…_version` tells the present one."""

_LOCK: Final = 0x73657373  # of migrations, and of the number of sessions
_HEADER: Final = tuple(HEADER_TYPES)
_FIELDS: Final = ",".join(_HEADER)
_TABLE: Final = "session_middleware_session"
_EPOCH: Final = "(SELECT before FROM session_middleware_epoch)"
_LIVE: Final = f"s.noted_at IS NULL AND s.deadline>%s AND s.created_at>={_EPOCH}"
_EVERY: Final = (*COLUMNS, "priority")
_ID_AT, _CREATED_AT, _USER_AT = (_HEADER.index(name) for name in ("id", "created_at", "user_id"))
_DEADLINE_AT: Final = _HEADER.index("deadline")
_FACTS_AT: Final = _HEADER.index("facts")
_BUCKET_AT: Final = len(_HEADER) + 1

# Only names of tables and columns are put into these texts; values are always parameters.
_SELECT: Final = f"SELECT {','.join(f's.{name}' for name in _HEADER)},s.data,s.bucket FROM {_TABLE} s"  # noqa: S608
_LOAD: Final = (
    f"SELECT {_FIELDS},data,bucket,{_EPOCH},ended_reason,ended_at,ended_by FROM {_TABLE} WHERE id=ANY(%s)"  # noqa: S608
)
_INSERT: Final = (
    f"INSERT INTO {_TABLE} AS s({','.join(_EVERY)}) VALUES({','.join(['%s'] * len(_EVERY))})"
    f" ON CONFLICT(id) DO UPDATE SET {','.join(f'{name}=excluded.{name}' for name in _EVERY)},"
    "noted_at=NULL,ended_reason=NULL,ended_at=NULL,ended_by=NULL"
    f" WHERE s.noted_at IS NULL AND (s.deadline<=%s OR s.created_at<{_EPOCH})"
)
_SWAP: Final = (
    f"UPDATE {_TABLE} s SET {','.join(f'{name}=%s' for name in _EVERY)}"  # noqa: S608
    f" WHERE s.id=%s AND s.version=%s AND s.facts=%s AND {_LIVE}"
)
_END: Final = (
    f"UPDATE {_TABLE} s SET ended_reason=%s,ended_at=%s,ended_by=%s,noted_at=%s,"  # noqa: S608
    f"data='',facts='',user_id=NULL,status=NULL,bucket={LAST_BUCKET}"
)

CHANNEL: Final = "session_middleware"
"""Where ids of sessions are told as they end; an empty one means that it may be any."""
_TELL: Final = f" RETURNING pg_notify('{CHANNEL}', s.id)"


class Stored(NamedTuple):
    """A record as it was read, and where it is filed.

    `facts`, as they are in the row, hold the secret: by them a session is told from another under its id.
    """

    record: Record
    bucket: int
    facts: str

    def __repr__(self) -> str:
        return f"Stored({self.record!r}, {self.bucket})"

    def __rich_repr__(self) -> Iterator[object]:
        yield self.record
        yield self.bucket


# --- the tables ------------------------------------------------------------------------------------------


async def migrate(ask: Ask) -> None:
    """Bring the tables to the present version, in a transaction. One process does it, others wait."""
    await ask("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    await ask("CREATE TABLE IF NOT EXISTS session_middleware_version(version integer NOT NULL)", ())
    rows = (await ask("SELECT version FROM session_middleware_version", ())).rows
    present = rows[0][0] if rows else 0
    for statements in MIGRATIONS[present:]:
        for statement in statements:
            await ask(statement, ())
    if not rows:
        await ask("INSERT INTO session_middleware_version VALUES(%s)", (len(MIGRATIONS),))
    elif present < len(MIGRATIONS):
        await ask("UPDATE session_middleware_version SET version=%s", (len(MIGRATIONS),))


async def version(ask: Ask) -> int | None:
    """That of the tables; None: there are none."""
    [[name]] = (await ask("SELECT to_regclass('session_middleware_version')::text", ())).rows
    if name is None:
        return None
    rows = (await ask("SELECT version FROM session_middleware_version", ())).rows
    return int(rows[0][0]) if rows else None


# --- one session -----------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """What `Port.load` answers, and the live record as it is stored; or why it cannot be read."""

    answer: LoadAnswer
    stored: Stored | None = None
    problem: SessionDataError | None = None


async def load(ask: Ask, wanted: Sequence[tuple[SessionId, float]]) -> list[Loaded]:
    """See `Port.load`: each of these ids, at a moment of its own, in one statement."""
    rows = (await ask(_LOAD, (list({id_ for id_, _ in wanted}),))).rows
    found = {row[_ID_AT]: row for row in rows}
    return [await _loaded(ask, found.get(id_), now) for id_, now in wanted]


async def _loaded(ask: Ask, row: Sequence[Any] | None, now: float) -> Loaded:
    if row is None:
        return Loaded(None)
    before, reason, ended_at, ended_by = row[-4:]
    if ended_at is not None:
        return Loaded(Ended(reason, ended_at, ended_by))
    try:
        record = record_of(row)
    except SessionDataError as problem:
        return Loaded(None, problem=problem)
    if record.deadline > now and record.created_at >= before:
        return Loaded(record, Stored(record, row[_BUCKET_AT], row[_FACTS_AT]))
    return Loaded(ending_of(record, await epoch(ask), now))


async def create(ask: Ask, record: Record, now: float) -> CreateResult:
    """See `Port.create`. An ending is in the way until cleanup has forgotten it."""
    inserted = await ask(_INSERT, (*_row_of(record), now))
    return CREATED if inserted.changed else EXISTS


async def swap(ask: Ask, before: Stored, after: Record, now: float) -> Stored | None:
    """Put *after* in the place of *before*; None where that is no longer what is there."""
    bucket = min(before.bucket, bucket_of(after.deadline))
    row = _row_of(after, bucket)
    tell = _TELL if after.floor > before.record.floor else ""
    answer = await ask(_SWAP + tell, (*row, after.id, before.record.version, before.facts, now))
    return Stored(after, bucket, row[_EVERY.index("facts")]) if answer.changed else None


async def commit(
    ask: Ask, id_: SessionId, delta: Delta, now: float
) -> tuple[Committed | Refused, Stored | None]:
    """See `Port.commit`; in a transaction: the row is locked first."""
    rows = (await ask(f"{_SELECT} WHERE s.id=%s AND {_LIVE} FOR UPDATE", (id_, now))).rows
    if not rows:
        return GONE, None
    before = Stored(record_of(rows[0]), rows[0][_BUCKET_AT], rows[0][_FACTS_AT])
    applied = apply(before.record, delta, now)
    if isinstance(applied, Refused):
        return applied, before
    after, committed = applied
    stored = await swap(ask, before, after, now)
    return (committed, stored) if stored is not None else (GONE, None)  # an epoch came between


async def delete(ask: Ask, id_: SessionId, now: float, reason: str, by: str | None) -> bool:
    """See `Port.delete`. Needs no readable row."""
    ended = await ask(f"{_END} WHERE s.id=%s AND {_LIVE}{_TELL}", (reason, now, by, now, id_, now))
    return bool(ended.changed)


def _row_of(record: Record, bucket: int | None = None) -> tuple[Any, ...]:
    """The values of `_EVERY`."""
    row = Hidden(row_of(record))
    if bucket is not None:
        row = Hidden((*row[:-2], bucket, row[-1]))
    return Hidden((*row, record.priority))


# --- cleanup ---------------------------------------------------------------------------------------------


async def delete_expired(ask: Ask, now: float, most: int) -> tuple[list[EndedRecord], int]:
    """Up to *most* ended records, and how many rows were seen; in a transaction. Skips what others hold."""
    said = await epoch(ask)
    over, seen = await _due(ask, now, most)
    if seen < most and said.before > -math.inf:
        swept = await _locked(ask, "s.created_at<%s ORDER BY s.created_at", said.before, most - seen)
        known = {row[_ID_AT] for row in over}
        over += [row for row in swept if row[_ID_AT] not in known]
        seen += len(swept)
    return [await end_ended(ask, row, said, now) for row in over], seen


async def _due(ask: Ask, now: float, most: int) -> tuple[list[Sequence[Any]], int]:
    """Rows whose deadline has passed, and how many were looked at; those renewed since are filed again."""
    bucket = bucket_of(now) - 1
    due = await _locked(ask, "s.bucket<=%s ORDER BY s.bucket", bucket, most)
    over: list[Sequence[Any]] = []
    for row in due:
        if row[_DEADLINE_AT] <= now:
            over.append(row)
        else:
            again = max(bucket + 1, bucket_of(row[_DEADLINE_AT]))
            await ask(f"UPDATE {_TABLE} SET bucket=%s WHERE id=%s", (again, row[_ID_AT]))  # noqa: S608  (names)
    return over, len(due)


async def _locked(ask: Ask, which: str, value: float, most: int) -> Sequence[Sequence[Any]]:
    statement = f"{_SELECT} WHERE s.noted_at IS NULL AND {which} LIMIT %s FOR UPDATE SKIP LOCKED"
    return (await ask(statement, (value, most))).rows


async def forget_endings(ask: Ask, now: float, most: int) -> None:
    """Drop endings that are past their time."""
    await ask(
        f"DELETE FROM {_TABLE} WHERE id IN (SELECT id FROM {_TABLE} WHERE noted_at<%s"  # noqa: S608  (names)
        " ORDER BY noted_at LIMIT %s FOR UPDATE SKIP LOCKED)",
        (now - ENDINGS_KEPT, most),
    )


async def end_ended(ask: Ask, row: Sequence[Any], said: Epoch, now: float) -> EndedRecord:
    """End a row that is locked, and whose time has come."""
    times = dict(zip(_HEADER, row, strict=False))
    created_at = moment(times["created_at"], now)
    known = Record(
        id=times["id"],
        secret="",
        generation=0,
        created_at=created_at,
        deadline=times["deadline"],
        limit=times["absolute_deadline"],
        last_seen_at=created_at,
        retained_until=times["retained_until"],
        user_id=times["user_id"],
    )
    ended = ending_of(known, said, now)
    if ended is None:
        raise RuntimeError("a live session was about to be removed")  # the transaction is rolled back
    await ask(f"{_END} WHERE s.id=%s", (ended.reason, ended.at, ended.by, now, known.id))
    return EndedRecord(known.id, known.user_id, ended.reason, created_at)


# --- every session created before a moment ---------------------------------------------------------------


async def epoch(ask: Ask) -> Epoch:
    """The moment that is kept."""
    [row] = (await ask("SELECT before, said_at, reason, said_by FROM session_middleware_epoch", ())).rows
    return Epoch(*row)


async def end_all_before(ask: Ask, t: float, now: float, reason: str, by: str | None) -> bool:
    """See `Epochal.end_all_before`."""
    moved = await ask(
        "UPDATE session_middleware_epoch SET before=%s, said_at=%s, reason=%s, said_by=%s WHERE before<%s",
        (t, now, reason, by, t),
    )
    if moved.changed:
        await ask("SELECT pg_notify(%s, '')", (CHANNEL,))
    return moved.changed > 0


# --- by user, counting -----------------------------------------------------------------------------------


async def list_user(ask: Ask, user_id: str, now: float) -> list[Record]:
    """See `ByUser.list_user`. A row that cannot be read is left out here; `load` tells of it."""
    statement = f"{_SELECT} WHERE s.user_id=%s AND {_LIVE} ORDER BY s.created_at DESC, s.id DESC"
    rows = (await ask(statement, (user_id, now))).rows
    return [record for row in rows if (record := _readable(row)) is not None]


async def delete_user(
    ask: Ask, user_id: str, now: float, reason: str, keep: Sequence[SessionId], by: str | None
) -> list[SessionId]:
    """See `ByUser.delete_user`. All of them at one moment."""
    rows = (
        await ask(
            f"{_END} FROM (SELECT s.id, s.created_at FROM {_TABLE} s WHERE s.user_id=%s AND {_LIVE}"  # noqa: S608  (names)
            " AND NOT s.id=ANY(%s) ORDER BY s.id FOR UPDATE) d WHERE s.id=d.id"
            f" RETURNING d.created_at, d.id, pg_notify('{CHANNEL}', d.id)",
            (reason, now, by, now, user_id, now, list(keep)),
        )
    ).rows
    return [SessionId(id_) for _, id_, _ in sorted(tuple(row) for row in rows)]


async def count(ask: Ask, now: float) -> int:
    """See `Counting.count`."""
    [[live]] = (await ask(f"SELECT count(*) FROM {_TABLE} s WHERE {_LIVE}", (now,))).rows  # noqa: S608  (names)
    return int(live)


async def summary(ask: Ask, now: float, ages: Sequence[float]) -> Summary:
    """See `Summarizing.summary`. One statement: whoever reads in PostgreSQL is in nobody's way."""
    younger = "".join(",count(*) FILTER (WHERE s.created_at>%s)" for _ in ages)
    rows = (
        await ask(
            "SELECT s.status,count(*),sum(s.created_at),min(s.created_at),max(s.created_at)"  # noqa: S608  (names)
            f"{younger} FROM {_TABLE} s WHERE {_LIVE} GROUP BY s.status",
            (*(now - age for age in ages), now),
        )
    ).rows
    if not rows:
        return Summary(Usage(0, None, {}), None, None, tuple(0 for _ in ages))
    number = sum(row[1] for row in rows)
    average = now - sum(row[2] for row in rows) / number
    by_status = {row[0]: row[1] for row in rows if row[0] is not None}
    sums = tuple(sum(column) for column in zip(*(row[5:] for row in rows), strict=True)) if ages else ()
    oldest, newest = min(row[3] for row in rows), max(row[4] for row in rows)
    return Summary(Usage(number, average, by_status), now - oldest, now - newest, sums)


def _readable(row: Sequence[Any]) -> Record | None:
    try:
        return record_of(row)
    except SessionDataError:
        return None


# --- by conditions ---------------------------------------------------------------------------------------

_TOP: Final = Position(math.inf, SessionId(""))


async def find(ask: Ask, where: Where, now: float, limit: int, after: Position | None) -> Page:
    """See `Iterating.find`."""
    top = _TOP if after is None else after
    terms, parameters = _terms(where)
    rows = (
        await ask(
            f"{_SELECT} WHERE {_LIVE} AND (s.created_at,s.id)<(%s,%s){terms}"
            " ORDER BY s.created_at DESC, s.id DESC LIMIT %s",
            (now, *top, *parameters, limit),
        )
    ).rows
    records = [_readable(row) for row in rows]
    damaged = [row[_ID_AT] for row, record in zip(rows, records, strict=True) if record is None]
    more = Position(rows[-1][_CREATED_AT], rows[-1][_ID_AT]) if len(rows) == limit else None
    return Page([one for one in records if one is not None and where.matches(one)], more, damaged)


def _terms(where: Where) -> tuple[str, list[Any]]:
    """What the columns tell of these conditions, so that fewer rows have to be decoded."""
    wanted = [
        ("s.user_id=%s", where.user_id),
        ("s.status=%s", where.status),
        ("s.created_at<%s", where.created_before),
        ("s.created_at>=%s", where.created_after),
        ("s.last_seen_at<%s", where.seen_before),
        ("s.last_seen_at>=%s", where.seen_after),
        ("s.id=ANY(%s)", None if where.ids is None else list(where.ids)),
    ]
    asked = [(term, value) for term, value in wanted if value is not None]
    return "".join(f" AND {term}" for term, _ in asked), [value for _, value in asked]


async def end_found(
    ask: Ask, ids: Sequence[SessionId], where: Where, now: float, reason: str, by: str | None
) -> list[EndedRecord]:
    """See `Iterating.end_found`; in a transaction."""
    statement = f"{_SELECT} WHERE s.id=ANY(%s) AND {_LIVE} ORDER BY s.id FOR UPDATE"
    rows = (await ask(statement, (list(ids), now))).rows
    chosen = [row for row in rows if where.is_empty or _matches(row, where)]
    await end_rows(ask, [row[_ID_AT] for row in chosen], now, reason, by)
    return [_ended_row(row, reason, now) for row in chosen]


def _matches(row: Sequence[Any], where: Where) -> bool:
    record = _readable(row)
    return record is not None and where.matches(record)


def _ended_row(row: Sequence[Any], reason: str, now: float) -> EndedRecord:
    return EndedRecord(row[_ID_AT], row[_USER_AT], reason, moment(row[_CREATED_AT], now))


async def end_rows(ask: Ask, ids: Sequence[str], now: float, reason: str, by: str | None = None) -> None:
    """End these rows, which are locked."""
    if ids:
        await ask(f"{_END} WHERE s.id=ANY(%s){_TELL}", (reason, now, by, now, list(ids)))


# --- leases ----------------------------------------------------------------------------------------------


async def acquire_lease(ask: Ask, name: str, holder: str, seconds: float, now: float) -> bool:
    """See `Leases.acquire_lease`. Drops what holders that died have left."""
    taken = await ask(
        "WITH gone AS (DELETE FROM session_middleware_lease WHERE name IN (SELECT name FROM"
        " session_middleware_lease WHERE until<=%s AND name<>%s LIMIT 64 FOR UPDATE SKIP LOCKED))"
        " INSERT INTO session_middleware_lease AS l(name, holder, until) VALUES(%s,%s,%s)"
        " ON CONFLICT(name) DO UPDATE SET holder=excluded.holder, until=excluded.until"
        " WHERE l.holder=excluded.holder OR l.until<=%s",
        (now, name, name, holder, now + seconds, now),
    )
    return taken.changed > 0


async def renew_lease(ask: Ask, name: str, holder: str, seconds: float, now: float) -> bool:
    """See `Leases.renew_lease`."""
    kept = await ask(
        "UPDATE session_middleware_lease SET until=%s WHERE name=%s AND holder=%s",
        (now + seconds, name, holder),
    )
    return kept.changed > 0


async def release_lease(ask: Ask, name: str, holder: str) -> bool:
    """See `Leases.release_lease`."""
    gone = await ask("DELETE FROM session_middleware_lease WHERE name=%s AND holder=%s", (name, holder))
    return gone.changed > 0


# --- damaged sessions ------------------------------------------------------------------------------------


async def salvage(ask: Ask, id_: SessionId, now: float) -> Salvaged | None:
    """See `Salvaging.salvage`. Columns have types here: only `facts` and the values can be damaged."""
    rows = (await ask(f"{_SELECT} WHERE s.id=%s AND {_LIVE}", (id_, now))).rows
    if not rows:
        return None
    stored = dict(zip(_HEADER, rows[0], strict=False))
    fields = {name: value for name, value in stored.items() if name != "facts"}
    fields["limit"] = fields.pop("absolute_deadline")
    fields |= facts_of(stored["facts"])
    return Salvaged(fields, bytes(rows[0][len(_HEADER)]), (stored["version"], stored["facts"]))


async def mend(ask: Ask, record: Record, salvaged: Salvaged) -> bool:
    """See `Salvaging.mend`."""
    mark = salvaged.mark
    if not isinstance(mark, tuple):
        raise TypeError("salvaged: it was not read by this backend")
    names = ",".join(f"{name}=%s" for name in _EVERY)
    changed = await ask(
        f"UPDATE {_TABLE} s SET {names} WHERE s.id=%s AND s.noted_at IS NULL AND s.version=%s AND s.facts=%s"  # noqa: S608  (names)
        " AND s.data=%s",
        (*_row_of(record), record.id, *mark, salvaged.packed),
    )
    return changed.changed > 0
