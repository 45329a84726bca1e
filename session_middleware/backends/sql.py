"""Sessions as rows: the schema, every statement, and what each operation does inside a transaction.

Reading order: `MIGRATIONS` (the tables), `record_of` / `row_of` (row ↔ Record), then the operations. Each is
a plain function of `execute` and is atomic because its caller runs it in one transaction; so many of them can
share one. Nothing here opens, begins, commits or waits: ports do.

Which rows may be due is told by `bucket`, a minute that is never later than the deadline's. A renewal leaves
it where it is, so it writes no index; a cleanup that meets a row before its time files it again. Exactness
comes from the deadline, which every statement compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Protocol, TypeAlias, TypeVar, get_type_hints

import msgspec

from session_middleware.backends.base import (
    ENDINGS_KEPT,
    ENDINGS_KEPT_AT_LEAST,
    EndedRecord,
    Epoch,
    LoadAnswer,
    ending_of,
)
from session_middleware.errors import BackendCorrupt, SessionDataError
from session_middleware.record import (
    CREATED,
    EXISTS,
    GONE,
    Committed,
    CreateResult,
    Delta,
    Ended,
    Grace,
    Record,
    Refused,
    SessionId,
    apply,
)
from session_middleware.values import NO_VALUES, Values

__all__ = [
    "APPLICATION_ID",
    "COLUMNS",
    "ENDINGS_MOST",
    "HEADER_TYPES",
    "LAST_BUCKET",
    "MIGRATIONS",
    "Execute",
    "Operation",
    "Rows",
    "acquire_lease",
    "bucket_of",
    "commit",
    "count",
    "create",
    "delete",
    "delete_expired",
    "delete_user",
    "end_all_before",
    "epoch",
    "expire_rows",
    "facts_of",
    "first_bucket",
    "list_user",
    "load",
    "moment",
    "record_of",
    "release_lease",
    "remove",
    "renew_lease",
    "row_of",
    "sessions_of",
]

T = TypeVar("T")


class Rows(Protocol):
    """What a statement answers."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchall(self) -> list[Any]:
        """All rows. Always asked for at once: an unfinished statement pins a snapshot, or blocks writers."""


Execute: TypeAlias = Callable[[str, Sequence[Any]], Rows]
Operation: TypeAlias = Callable[[Execute], T]

APPLICATION_ID = 0x73657373
"""`PRAGMA application_id` of our files ("sess"), so that nobody else's is ever migrated."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # Few columns, because reading one costs more than its bytes: what no statement looks at is packed
        # in `facts`. Data comes last, so that the rest is read and changed without touching overflow pages.
        """CREATE TABLE session(
             n INTEGER PRIMARY KEY,
             id TEXT NOT NULL UNIQUE,
             version INTEGER NOT NULL,
             created_at REAL NOT NULL,
             last_seen_at REAL NOT NULL,
             deadline REAL NOT NULL,
             absolute_deadline REAL NOT NULL,
             retained_until REAL,
             idle_timeout REAL,
             user_id TEXT,
             status TEXT,
             facts TEXT NOT NULL,
             bucket INTEGER NOT NULL,
             data BLOB NOT NULL
           )""",
        # Begins with what a cleanup asks for; the rest lets `usage` do without the table.
        "CREATE INDEX session_bucket ON session(bucket, status, created_at)",
        "CREATE INDEX session_user ON session(user_id, created_at) WHERE user_id IS NOT NULL",
        # `n` grows with each ending, so the oldest and the number of them are known without a scan.
        """CREATE TABLE ending(
             n INTEGER PRIMARY KEY,
             id TEXT NOT NULL UNIQUE,
             reason TEXT NOT NULL,
             ended_at REAL NOT NULL,
             ended_by TEXT,
             noted_at REAL NOT NULL
           )""",
    ),
    (
        "CREATE INDEX session_created ON session(created_at, id)",
        # Few sessions of a web app have a status; those of jobs are asked for by it.
        "CREATE INDEX session_status ON session(status, created_at) WHERE status IS NOT NULL",
        """CREATE TABLE lease(
             n INTEGER PRIMARY KEY,
             name TEXT NOT NULL UNIQUE,
             holder TEXT NOT NULL,
             until REAL NOT NULL
           )""",
    ),
    (
        # One row. What was created before is ended, whatever its own row says, until a cleanup removes it.
        """CREATE TABLE epoch(
             n INTEGER PRIMARY KEY CHECK(n=1),
             before REAL NOT NULL,
             said_at REAL NOT NULL,
             reason TEXT NOT NULL,
             said_by TEXT
           )""",
        "INSERT INTO epoch VALUES(1, -9e999, -9e999, '', NULL)",
    ),
)
"""What brings a file from each version to the next; `PRAGMA user_version` tells how many were applied."""

LAST_BUCKET: Final = 2**62
"""Of deadlines that never come."""

ENDINGS_MOST = 100_000
"""How many endings are kept, those younger than `ENDINGS_KEPT_AT_LEAST` not counted."""

_BUCKET = 60.0  # seconds
_TRIMMED_AT_ONCE = 64
_SQLITE_PARAMETERS = 500  # below the 999 of old builds


class _Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The first columns of a row that was asked for. Read through it, they are checked in one go."""

    id: SessionId
    version: int
    created_at: float
    last_seen_at: float
    deadline: float
    absolute_deadline: float
    retained_until: float | None
    idle_timeout: float | None
    user_id: str | None
    status: str | None
    facts: str


class _Facts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the column `facts` holds, as JSON."""

    secret: str
    generation: int
    authenticated_at: float | None
    cycle_due: float | None
    priority: int
    accepted: Mapping[int, Grace]
    floors: tuple[int, ...]
    metadata: Mapping[str, Any]


HEADER_TYPES: Final[Mapping[str, Any]] = get_type_hints(_Header)
"""The first columns that are asked for, and what is in them."""
_HEADER = _Header.__struct_fields__
_DATA_AT = len(_HEADER)
COLUMNS: Final = (*_HEADER, "bucket", "data")
"""Those of the table but `n`."""

# Only names of columns are put into these texts; values are always parameters.
# Read in the same statement as the row, once per statement. The plus keeps the planner on the index at hand.
_EPOCH = "(SELECT before FROM epoch WHERE n=1)"
_LIVE = f"deadline>? AND +created_at>={_EPOCH}"
# A row is looked up in an index, then read from the table, what the index is made of as well: so a damaged
# index that leads to the row of another session is found out (`_own`, `_led_right`). Without the second name
# SQLite would take those columns from the index. It costs no page more.
_JOINED = "CROSS JOIN session ON session.n=found.n"
_FOUND = f"FROM session AS found {_JOINED}"
_BY_ID = f"{_FOUND} WHERE found.id=?"
_OF_ROW = ",".join(f"session.{name}" for name in _HEADER)
_ROW_AND_VALUES = f"{_OF_ROW},session.data"
_SELECT_ONE = f"SELECT {_ROW_AND_VALUES},{_EPOCH} {_BY_ID}"
_LIVE_ROW = f"session.deadline>? AND session.created_at>={_EPOCH}"
_OF_USER = f"{_FOUND} WHERE found.user_id=? AND {_LIVE_ROW}"
_IS_OF_USER = "(session.user_id, session.created_at) IS (found.user_id, found.created_at)"
_TO_CHANGE = f"session.bucket,session.n {_BY_ID} AND {_LIVE_ROW}"
_SELECT_TO_CHANGE = f"SELECT {_ROW_AND_VALUES},{_TO_CHANGE}"
_SELECT_HEADER_TO_CHANGE = f"SELECT {_OF_ROW},NULL,{_TO_CHANGE}"
_INSERT = (
    f"INSERT INTO session({','.join(COLUMNS)}) VALUES({','.join('?' * len(COLUMNS))})"
    f" ON CONFLICT(id) DO UPDATE SET {','.join(f'{name}=excluded.{name}' for name in COLUMNS)}"
    f" WHERE session.deadline<=? OR session.created_at<{_EPOCH}"
)

# A commit writes the columns that each commit changes, and of the other two groups those in which one did.
# Most commits are one statement, which SQLite has prepared, and touch no index.
_UPDATE_TIMES = "UPDATE session SET version=?, last_seen_at=?, deadline=? WHERE n=?"
_UPDATE_VALUES = "UPDATE session SET version=?, last_seen_at=?, deadline=?, data=? WHERE n=?"
_UPDATE_STATE = "UPDATE session SET absolute_deadline=?, retained_until=?, idle_timeout=?, facts=? WHERE n=?"
_UPDATE_FILING = "UPDATE session SET user_id=?, status=?, bucket=? WHERE n=?"  # what indexes are made of

_facts_in = attrgetter(*_Facts.__struct_fields__)
_limits_of = attrgetter("limit", "retained_until", "idle_timeout")
_encode = msgspec.json.Encoder().encode
_decode_facts = msgspec.json.Decoder(_Facts).decode


# --- row ↔ record --------------------------------------------------------------------------------------


def record_of(row: Sequence[Any]) -> Record:
    """The record in a row: the columns of `_HEADER`, then the values or None, then whatever else.

    Raises `SessionDataError` if the row cannot be one; the values stay as they are and are not looked at.
    """
    try:
        header = msgspec.convert(row, _Header)
        return _record_of(header, _decode_facts(header.facts), _values_of(row[_DATA_AT]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise _unreadable() from problem


def _record_of(header: _Header, facts: _Facts, data: Values) -> Record:
    return Record(
        id=header.id,
        secret=facts.secret,
        generation=facts.generation,
        version=header.version,
        created_at=header.created_at,
        last_seen_at=header.last_seen_at,
        deadline=header.deadline,
        limit=header.absolute_deadline,
        retained_until=header.retained_until,
        idle_timeout=header.idle_timeout,
        authenticated_at=facts.authenticated_at,
        cycle_due=facts.cycle_due,
        user_id=header.user_id,
        status=header.status,
        priority=facts.priority,
        accepted=facts.accepted,
        floors=facts.floors,
        metadata=facts.metadata,
        data=data,
    )


def _values_of(packed: object) -> Values:
    if packed is None:  # the column is never NULL: they were not asked for
        return NO_VALUES
    if type(packed) is not bytes:
        raise _unreadable()
    return Values(packed)


def _unreadable() -> SessionDataError:
    return SessionDataError("the stored record cannot be read; its row was left as it is")


def row_of(record: Record) -> tuple[Any, ...]:
    """The values of `COLUMNS`."""
    return (
        record.id,
        record.version,
        record.created_at,
        record.last_seen_at,
        record.deadline,
        record.limit,
        record.retained_until,
        record.idle_timeout,
        record.user_id,
        record.status,
        _packed(record),
        bucket_of(record.deadline),
        record.data.packed,
    )


def facts_of(text: str) -> dict[str, Any]:
    """The fields of a record that are in a column `facts`; none if it cannot be read."""
    try:
        facts = _decode_facts(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
    return {name: getattr(facts, name) for name in _Facts.__struct_fields__}


def _packed(record: Record) -> str:
    """The record's `facts`."""
    try:
        return _encode(_facts_in(record)).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as problem:
        raise SessionDataError("metadata must be JSON: text keys, and plain values") from problem


def first_bucket(now: float) -> int:
    """The only rows that may have expired are in this one, and in those before it."""
    return int(now // _BUCKET) + 1


def bucket_of(deadline: float) -> int:
    """The first minute at whose beginning this deadline has passed."""
    return int(deadline // _BUCKET) + 1 if deadline < math.inf else LAST_BUCKET


# --- one session ---------------------------------------------------------------------------------------


def load(execute: Execute, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
    """See `Port.load`."""
    rows = execute(_SELECT_ONE, (id,)).fetchall()
    if not rows:
        return _ending(execute, id)
    record, before = record_of(_own(rows[0], id)), rows[0][-1]
    if not isinstance(before, float):
        raise _lost_epoch()
    if record.deadline > now and record.created_at >= before:
        return record
    return ending_of(record, epoch(execute), now)


def create(execute: Execute, record: Record, now: float) -> CreateResult:
    """See `Port.create`."""
    if _ending(execute, record.id) is not None:
        return EXISTS
    return CREATED if execute(_INSERT, (*row_of(record), now)).rowcount else EXISTS


def commit(execute: Execute, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
    """See `Port.commit`. Reads the values only if the delta changes some, and writes only what changed."""
    changes_values = delta.set or delta.unset or delta.increments
    rows = execute(_SELECT_TO_CHANGE if changes_values else _SELECT_HEADER_TO_CHANGE, (id, now)).fetchall()
    if not rows:
        return GONE
    before = record_of(_own(rows[0], id))
    applied = apply(before, delta, now)
    if isinstance(applied, Refused):
        return applied
    after, committed = applied
    bucket, n = rows[0][-2:]
    _update(execute, n, before, after)
    _file(execute, n, bucket, before, after)
    return committed


def _own(row: Sequence[Any], id_: SessionId) -> Sequence[Any]:
    """The row, if it names this session. `BackendCorrupt` if it is another's."""
    if row[0] != id_:
        raise _misled()
    return row


def _led_right(rows: list[Any]) -> list[Any]:
    """The rows, each of which tells last whether it is the one that its index said. Else `BackendCorrupt`."""
    if not all(row[-1] for row in rows):
        raise _misled()
    return rows


def _misled() -> BackendCorrupt:
    return BackendCorrupt(
        "an index of the database is damaged: it led to the row of another session, or to none; stop the app "
        "and run REINDEX on the file"
    )


def remove(execute: Execute, ids: Sequence[SessionId]) -> None:
    """Remove the rows of these sessions, which were there just now. `BackendCorrupt` if others would go."""
    for start in range(0, len(ids), _SQLITE_PARAMETERS):
        some = ids[start : start + _SQLITE_PARAMETERS]
        rows = execute(
            f"DELETE FROM session WHERE id IN ({','.join('?' * len(some))}) RETURNING id",  # noqa: S608  (question marks)
            some,
        ).fetchall()
        if {id_ for (id_,) in rows} != set(some):
            raise _misled()


def _update(execute: Execute, n: int, before: Record, after: Record) -> None:
    times = (after.version, after.last_seen_at, after.deadline)
    if after.data is before.data:
        execute(_UPDATE_TIMES, (*times, n))
    else:
        execute(_UPDATE_VALUES, (*times, after.data.packed, n))
    limits = _limits_of(after)
    if limits != _limits_of(before) or _facts_in(after) != _facts_in(before):
        execute(_UPDATE_STATE, (*limits, _packed(after), n))


def _file(execute: Execute, n: int, bucket: object, before: Record, after: Record) -> None:
    """Note what indexes are made of, if it changed. A later deadline leaves the bucket where it is."""
    earliest = bucket_of(after.deadline)
    if isinstance(bucket, int):  # others may have written anything there
        earliest = min(bucket, earliest)
    if earliest != bucket or after.user_id != before.user_id or after.status != before.status:
        execute(_UPDATE_FILING, (after.user_id, after.status, earliest, n))


def delete(execute: Execute, id: SessionId, now: float, reason: str, by: str | None) -> bool:  # noqa: A002  (the contract's word)
    """See `Port.delete`. Needs no readable row."""
    alive = execute(f"DELETE FROM session WHERE id=? AND {_LIVE} RETURNING id", (id, now)).fetchall()  # noqa: S608  (names)
    if alive:
        _own(alive[0], id)
        _note(execute, [(id, Ended(reason, now, by))], now)
    return bool(alive)


# --- cleanup -------------------------------------------------------------------------------------------


def delete_expired(execute: Execute, now: float, most: int) -> tuple[list[EndedRecord], int]:
    """Up to *most* ended records, removed; and how many rows were seen (fewer than *most*: no more)."""
    ended, seen = _delete_due(execute, now, most)
    if seen < most:
        swept = _delete_created_before_epoch(execute, now, most - seen)
        ended, seen = ended + swept, seen + len(swept)
    return ended, seen


def _delete_due(execute: Execute, now: float, most: int) -> tuple[list[EndedRecord], int]:
    bucket = int(now // _BUCKET)
    due = execute("SELECT n FROM session WHERE bucket<=? ORDER BY bucket LIMIT ?", (bucket, most)).fetchall()
    if not due:
        return [], 0
    numbers = [n for (n,) in due]
    ended = expire_rows(execute, numbers, now)
    if len(ended) < len(due):
        marks = ",".join("?" * len(due))
        execute(
            "UPDATE session SET bucket=max(?, min(CAST(deadline/? AS INTEGER), ?) + 1)"  # noqa: S608  (as above)
            f" WHERE n IN ({marks})",
            (bucket + 1, _BUCKET, LAST_BUCKET, *numbers),
        )
    return ended, len(due)


_LAST_WORDS: Final = "id, user_id, created_at, deadline, absolute_deadline, retained_until"


def expire_rows(execute: Execute, numbers: Sequence[int], now: float) -> list[EndedRecord]:
    """Remove those of these rows that have expired."""
    rows = execute(
        f"DELETE FROM session WHERE n IN ({','.join('?' * len(numbers))}) AND deadline<=?"  # noqa: S608  (question marks)
        f" RETURNING {_LAST_WORDS}",
        (*numbers, now),
    ).fetchall()
    return _noted(execute, rows, epoch(execute), now)


def _delete_created_before_epoch(execute: Execute, now: float, most: int) -> list[EndedRecord]:
    said = epoch(execute)
    rows = execute(
        "DELETE FROM session WHERE n IN (SELECT n FROM session INDEXED BY session_created"  # noqa: S608  (names)
        f" WHERE created_at<? ORDER BY created_at, id LIMIT ?) RETURNING {_LAST_WORDS}",
        (said.before, most),
    ).fetchall()
    return _noted(execute, rows, said, now)


def _noted(execute: Execute, rows: Sequence[Sequence[Any]], said: Epoch, now: float) -> list[EndedRecord]:
    """What these rows, already deleted, are reported as; their endings are remembered."""
    removed = [_removed(row, said, now) for row in rows]
    _note(execute, [(record.id, ended) for record, ended in removed], now)
    return [EndedRecord(one.id, one.user_id, ended.reason, one.created_at) for one, ended in removed]


def _removed(row: Sequence[Any], said: Epoch, now: float) -> tuple[Record, Ended]:
    id_, user_id, created_at, deadline, limit, retained_until = row
    created_at = moment(created_at, now)  # a damaged row goes in its time as well
    times = Record(
        id=id_,
        secret="",
        generation=0,
        created_at=created_at,
        deadline=moment(deadline, math.inf),
        limit=moment(limit, math.inf),
        last_seen_at=created_at,
        retained_until=None if retained_until is None else moment(retained_until, math.inf),
        user_id=user_id if isinstance(user_id, str) else None,
    )
    ended = ending_of(times, said, now)
    if ended is None:
        raise _misled()  # a live session was about to be removed: the transaction is rolled back
    return times, ended


def moment(stored: object, otherwise: float) -> float:
    """A time as it is stored, or *otherwise* where that is none."""
    return stored if isinstance(stored, float) else otherwise


# --- every session created before a moment -----------------------------------------------------------


def epoch(execute: Execute) -> Epoch:
    """The moment that is kept."""
    rows = execute("SELECT before, said_at, reason, said_by FROM epoch", ()).fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], float):
        raise _lost_epoch()
    return Epoch(*rows[0])


def _lost_epoch() -> BackendCorrupt:
    """Whether a session was ended with all others cannot be told any more: so none is served."""
    return BackendCorrupt(
        "the database has lost its table epoch: restore it from a copy, or begin a new file"
    )


def end_all_before(execute: Execute, t: float, now: float, reason: str, by: str | None) -> bool:
    """See `Epochal.end_all_before`."""
    moved = execute(
        "UPDATE epoch SET before=?, said_at=?, reason=?, said_by=? WHERE before<?", (t, now, reason, by, t)
    )
    return moved.rowcount > 0


# --- why sessions ended --------------------------------------------------------------------------------


def _ending(execute: Execute, id_: SessionId) -> Ended | None:
    rows = execute(
        "SELECT ending.id, ending.reason, ending.ended_at, ending.ended_by"
        " FROM ending AS found CROSS JOIN ending ON ending.n=found.n WHERE found.id=?",
        (id_,),
    ).fetchall()
    return Ended(*_own(rows[0], id_)[1:]) if rows else None


def _note(execute: Execute, endings: Sequence[tuple[SessionId, Ended]], now: float) -> None:
    for id_, ended in endings:
        execute(
            "INSERT OR REPLACE INTO ending(id, reason, ended_at, ended_by, noted_at) VALUES(?,?,?,?,?)",
            (id_, ended.reason, ended.at, ended.by, now),
        )
    _trim(execute, now, _TRIMMED_AT_ONCE + 2 * len(endings))


def _trim(execute: Execute, now: float, most: int) -> None:
    """Drop those of the *most* oldest endings that are past their time, or too many."""
    execute(
        "DELETE FROM ending WHERE n < (SELECT min(n) FROM ending) + ?"
        " AND (noted_at < ? OR (noted_at <= ? AND n <= (SELECT max(n) FROM ending) - ?))",
        (most, now - ENDINGS_KEPT, now - ENDINGS_KEPT_AT_LEAST, ENDINGS_MOST),
    )


# --- by user, counting ---------------------------------------------------------------------------------


def list_user(execute: Execute, user_id: str, now: float) -> list[Record]:
    """See `ByUser.list_user`. A row that cannot be read is left out here; `load` tells of it."""
    rows = execute(
        f"SELECT {_ROW_AND_VALUES},{_IS_OF_USER} {_OF_USER} ORDER BY found.created_at DESC, session.id DESC",
        (user_id, now),
    ).fetchall()
    return [record for row in _led_right(rows) if (record := _readable(row)) is not None]


def _readable(row: Sequence[Any]) -> Record | None:
    try:
        return record_of(row)
    except SessionDataError:
        return None


def delete_user(
    execute: Execute, user_id: str, now: float, reason: str, keep: Sequence[SessionId], by: str | None
) -> list[SessionId]:
    """See `ByUser.delete_user`. All of them at one moment."""
    kept = frozenset(keep)
    ids = [id_ for id_, _ in sessions_of(execute, user_id, now) if id_ not in kept]
    remove(execute, ids)
    if ids:
        _note(execute, [(id_, Ended(reason, now, by)) for id_ in ids], now)
    return ids


def sessions_of(execute: Execute, user_id: str, now: float) -> list[tuple[SessionId, float]]:
    """The live sessions of this user and when each was created, the oldest first."""
    rows = execute(
        f"SELECT session.id, session.created_at, {_IS_OF_USER} {_OF_USER}"
        " ORDER BY found.created_at, session.id",
        (user_id, now),
    ).fetchall()
    return [(id_, created_at) for id_, created_at, _ in _led_right(rows)]


def count(execute: Execute, now: float) -> int:
    """See `Counting.count`. Rows that cannot be due yet are counted from the index alone."""
    bucket = first_bucket(now)
    [(live,)] = execute(
        f"SELECT (SELECT count(*) FROM session WHERE bucket>? AND +created_at>={_EPOCH})"  # noqa: S608  (names)
        f" + (SELECT count(*) FROM session WHERE bucket<=? AND {_LIVE})",
        (bucket, bucket, now),
    ).fetchall()
    return int(live)


# --- leases --------------------------------------------------------------------------------------------


def acquire_lease(execute: Execute, name: str, holder: str, seconds: float, now: float) -> bool:
    """See `Leases.acquire_lease`. Drops what holders that died have left, the oldest first."""
    execute(
        "DELETE FROM lease WHERE until<=? AND name<>? AND n < (SELECT min(n) FROM lease) + ?",
        (now, name, _TRIMMED_AT_ONCE),
    )
    taken = execute(
        "INSERT INTO lease(name, holder, until) VALUES(?,?,?)"
        " ON CONFLICT(name) DO UPDATE SET holder=excluded.holder, until=excluded.until"
        " WHERE lease.holder=excluded.holder OR lease.until<=?",
        (name, holder, now + seconds, now),
    )
    return taken.rowcount > 0


def renew_lease(execute: Execute, name: str, holder: str, seconds: float, now: float) -> bool:
    """See `Leases.renew_lease`."""
    kept = execute("UPDATE lease SET until=? WHERE name=? AND holder=?", (now + seconds, name, holder))
    return kept.rowcount > 0


def release_lease(execute: Execute, name: str, holder: str) -> bool:
    """See `Leases.release_lease`."""
    return execute("DELETE FROM lease WHERE name=? AND holder=?", (name, holder)).rowcount > 0
