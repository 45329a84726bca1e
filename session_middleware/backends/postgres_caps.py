"""How many sessions PostgreSQL holds at most, and which go first. In a transaction, after `lock` in it.

A lock is a statement of its own: one that counts in the same statement would count as of before the lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from session_middleware.backends.base import EVICTED, EndedRecord
from session_middleware.backends.capabilities import Admitted, Caps, Full
from session_middleware.backends.postgres_sql import (
    _LIVE,
    _LOCK,
    _SELECT,
    _TABLE,
    Ask,
    Stored,
    commit,
    create,
    end_ended,
    end_rows,
    epoch,
)
from session_middleware.backends.sql import bucket_of, record_of
from session_middleware.record import (
    EXISTS,
    GONE,
    Committed,
    CreateResult,
    Delta,
    Record,
    Refused,
    SessionId,
    apply,
    replace,
)

__all__ = ["commit_within", "create_within", "shrink"]

_RANK: Final = "s.priority, (s.user_id IS NOT NULL), s.last_seen_at, s.id"
_HIGHEST: Final = 2**63 - 1


async def create_within(ask: Ask, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
    """See `Capped.create_within`."""
    await _lock(ask, record.user_id, caps)
    if await _is_taken(ask, record.id, now):
        return Admitted(EXISTS)
    too_many = await _too_many_of(ask, record.user_id, record.id, now, caps)
    if too_many and caps.reject:
        return Admitted(Full.OF_USER)
    short = 0 if caps.total is None else await _total(ask) + 1 - len(too_many) - caps.total
    expired = await _expired_first(ask, short, now)
    short -= len(expired)
    spared = {*caps.held, *(one.id for one in too_many)}
    others = await _lowest(ask, short, record.priority, spared)
    if len(others) < short:
        return Admitted(Full.SESSIONS, others=expired)
    await end_rows(ask, [one.id for one in [*too_many, *others]], now, EVICTED)
    return Admitted(await create(ask, record, now), too_many, [*expired, *others])


async def commit_within(
    ask: Ask, id_: SessionId, delta: Delta, now: float, caps: Caps
) -> tuple[Admitted[Committed | Refused], Stored | None]:
    """See `Capped.commit_within`."""
    user = delta.user_id if isinstance(delta.user_id, str) else None
    await _lock(ask, user, caps)
    rows = (await ask(f"{_SELECT} WHERE s.id=%s AND {_LIVE} FOR UPDATE", (id_, now))).rows
    if not rows:
        return Admitted(GONE), None
    before = record_of(rows[0])
    applied = apply(before, replace(delta, set={}, unset=(), increments={}), now)
    if isinstance(applied, Refused):
        return Admitted(applied), None
    newly = applied[0].user_id if applied[0].user_id != before.user_id else None
    too_many = await _too_many_of(ask, newly, id_, now, caps)
    if too_many and caps.reject:
        return Admitted(Full.OF_USER), None
    await end_rows(ask, [one.id for one in too_many], now, EVICTED)
    answer, stored = await commit(ask, id_, delta, now)
    return Admitted(answer, too_many), stored


async def shrink(ask: Ask, now: float, caps: Caps, limit: int) -> Admitted[None]:
    """See `Capped.shrink`."""
    await _lock(ask, None, caps)
    of_user = [] if caps.per_user is None or caps.reject else await _beyond(ask, caps.per_user, now, limit)
    await end_rows(ask, [one.id for one in of_user], now, EVICTED)
    short = 0 if caps.total is None else min(limit, await _total(ask) - caps.total)
    expired = await _expired_first(ask, short, now)
    lowest = await _lowest(ask, short - len(expired), _HIGHEST, set(caps.held))
    await end_rows(ask, [one.id for one in lowest], now, EVICTED)
    return Admitted(None, of_user, [*expired, *lowest])


async def _lock(ask: Ask, user: str | None, caps: Caps) -> None:
    """Let nobody else make or end sessions for the same room until the transaction ends."""
    if caps.total is not None:
        await ask("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    if caps.per_user is not None and user is not None:
        await ask("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, user))


async def _is_taken(ask: Ask, id_: SessionId, now: float) -> bool:
    taken = f"SELECT 1 FROM {_TABLE} s WHERE s.id=%s AND (s.noted_at IS NOT NULL OR ({_LIVE}))"  # noqa: S608  (names)
    return bool((await ask(taken, (id_, now))).rows)


async def _total(ask: Ask) -> int:
    [[total]] = (await ask(f"SELECT count(*) FROM {_TABLE} WHERE noted_at IS NULL", ())).rows  # noqa: S608  (names)
    return int(total)


async def _too_many_of(
    ask: Ask, user: str | None, own: SessionId, now: float, caps: Caps
) -> list[EndedRecord]:
    """The oldest sessions of the user that must go for one more."""
    if user is None or caps.per_user is None:
        return []
    rows = (
        await ask(
            f"SELECT s.id, s.created_at FROM {_TABLE} s WHERE s.user_id=%s AND {_LIVE} AND s.id<>%s"  # noqa: S608  (names)
            " ORDER BY s.created_at, s.id FOR UPDATE",
            (user, now, own),
        )
    ).rows
    most = max(0, len(rows) + 1 - caps.per_user)
    return [EndedRecord(id_, user, EVICTED, created_at) for id_, created_at in rows[:most]]


async def _beyond(ask: Ask, most: int, now: float, limit: int) -> list[EndedRecord]:
    rows = (
        await ask(
            "SELECT id, user_id, created_at FROM (SELECT s.id, s.user_id, s.created_at, row_number() OVER"  # noqa: S608  (names)
            " (PARTITION BY s.user_id ORDER BY s.created_at DESC, s.id DESC) AS place"
            f" FROM {_TABLE} s WHERE s.user_id IS NOT NULL AND {_LIVE}) ranked WHERE place>%s"
            " ORDER BY user_id, created_at, id LIMIT %s",
            (now, most, limit),
        )
    ).rows
    return [EndedRecord(id_, user, EVICTED, at) for id_, user, at in rows]


async def _expired_first(ask: Ask, number: int, now: float) -> list[EndedRecord]:
    """What has expired, or was ended by an epoch, and was not cleaned up yet."""
    if number <= 0:
        return []
    said = await epoch(ask)
    over = "(s.bucket<=%s AND s.deadline<=%s) OR s.created_at<%s"
    rows = (
        await ask(
            f"{_SELECT} WHERE s.noted_at IS NULL AND ({over}) LIMIT %s FOR UPDATE",
            (bucket_of(now), now, said.before, number),
        )
    ).rows
    return [await end_ended(ask, row, said, now) for row in rows]


async def _lowest(ask: Ask, number: int, priority: int, spared: Collection[str]) -> list[EndedRecord]:
    """So many of the lowest rank, but none above this priority; fewer where there are not as many."""
    if number <= 0:
        return []
    rows: Sequence[Sequence[Any]] = (
        await ask(
            f"SELECT s.id, s.user_id, s.created_at FROM {_TABLE} s WHERE s.noted_at IS NULL"  # noqa: S608  (names)
            f" AND s.priority<=%s AND NOT s.id=ANY(%s) ORDER BY {_RANK} LIMIT %s FOR UPDATE",
            (priority, list(spared), number),
        )
    ).rows
    return [EndedRecord(id_, user, EVICTED, at) for id_, user, at in rows]
