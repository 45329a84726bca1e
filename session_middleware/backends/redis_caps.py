"""How many sessions Redis holds at most, and which go first.

Who makes room does it under a lock, for all sessions or for those of one user; a process that stands still
for longer than the lock lasts may exceed a limit, which the next cleanup makes good. Which session goes first
is told by an index of lower bounds that is made when it is first needed: of those that come first in it, the
records are looked at, and filed again where they have moved up.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from random import random
from typing import Final

from session_middleware.backends.base import EVICTED, EndedRecord, Epoch
from session_middleware.backends.capabilities import Admitted, Caps, Full
from session_middleware.backends.redis_queries import ended_records, expire, live_of
from session_middleware.backends.redis_records import commit, create, end_live, look, unindex
from session_middleware.backends.redis_store import (
    UNLOCK,
    Command,
    Hash,
    Store,
    Stored,
    answer_of,
    is_session,
    lives,
    rank_of,
    readable,
    scored,
)
from session_middleware.backends.seen import Seen
from session_middleware.errors import BackendUnavailable
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

__all__ = ["Shrinking", "commit_within", "create_within"]

_LOCKED: Final = 10_000  # milliseconds after which a lock is over, whatever became of its holder
_PATIENCE: Final = 5.0  # seconds
_LOOKED_AT: Final = 64  # sessions more than are needed
_SLICE: Final = 1000  # sessions whose users one `shrink` looks at


async def create_within(store: Store, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
    """See `Capped.create_within`."""
    async with _locked(store, record.user_id, caps):
        [found], epoch = await look(store, [record.id])
        if found and (not is_session(found) or lives(found, epoch, now, unreadable=True)):
            return Admitted(EXISTS)
        too_many = await _too_many_of(store, record.user_id, record.id, now, caps)
        if too_many and caps.reject:
            return Admitted(Full.OF_USER)
        short = 0 if caps.total is None else await _total(store) + 1 - len(too_many) - caps.total
        expired = await expire(store, epoch, now, short) if short > 0 else []
        short -= len(expired)
        spared = {*caps.held, *(id_ for id_, _ in too_many)}
        others = await _lowest(store, short, rank_of(replace(record, user_id="", last_seen_at=2**32)), spared)
        if len(others) < short:
            return Admitted(Full.SESSIONS, others=expired)
        of_user = await _evict(store, too_many, epoch, now)
        evicted = await _evict(store, others, epoch, now)
        return Admitted(await create(store, record, now), of_user, [*expired, *evicted])


async def commit_within(
    store: Store, seen: Seen[Stored], id_: SessionId, delta: Delta, now: float, caps: Caps
) -> Admitted[Committed | Refused]:
    """See `Capped.commit_within`."""
    user = delta.user_id if isinstance(delta.user_id, str) else None
    async with _locked(store, user, caps._replace(total=None)):
        [found], epoch = await look(store, [id_])
        _, stored = answer_of(id_, found, epoch, now)
        if stored is None:
            return Admitted(GONE)
        applied = apply(stored.record, replace(delta, set={}, unset=(), increments={}), now)
        if isinstance(applied, Refused):
            return Admitted(applied)
        newly = applied[0].user_id if applied[0].user_id != stored.record.user_id else None
        too_many = await _too_many_of(store, newly, id_, now, caps)
        if too_many and caps.reject:
            return Admitted(Full.OF_USER)
        of_user = await _evict(store, too_many, epoch, now)
        return Admitted(await commit(store, seen, id_, delta, now), of_user)


class Shrinking:
    """Makes limits good that were exceeded or lowered. Of one process, which goes through users in turn."""

    def __init__(self) -> None:
        self._next = 0  # how far it has come, in the order of creation

    async def shrink(self, store: Store, now: float, caps: Caps, limit: int) -> Admitted[None]:
        """See `Capped.shrink`."""
        of_user: list[EndedRecord] = []
        if caps.per_user is not None and not caps.reject:
            of_user = await self._of_users(store, now, caps, limit)
        if caps.total is None:
            return Admitted(None, of_user)
        async with _locked(store, None, caps):
            [], epoch = await look(store, [])
            short = min(limit, await _total(store) - caps.total)
            expired = await expire(store, epoch, now, short) if short > 0 else []
            lowest = await _lowest(store, short - len(expired), float("inf"), set(caps.held))
            return Admitted(None, of_user, [*expired, *await _evict(store, lowest, epoch, now)])

    async def _of_users(self, store: Store, now: float, caps: Caps, limit: int) -> list[EndedRecord]:
        gone: list[EndedRecord] = []
        for user in await self._users(store):
            async with _locked(store, user, caps._replace(total=None)):
                [], epoch = await look(store, [])
                too_many = await _too_many_of(store, user, None, now, caps)
                gone += await _evict(store, too_many[: limit - len(gone)], epoch, now)
            if len(gone) >= limit:
                break
        return gone

    async def _users(self, store: Store) -> list[str]:
        """Users of the next sessions who seem to have too many; the next call goes on behind them."""
        stop = self._next + _SLICE - 1
        [answer] = await store.ask(
            [("ZRANGE", store.keys.created, self._next, stop, "WITHSCORES")], again=True, slow=True
        )
        entries = scored(answer)
        self._next = stop + 1 if len(entries) == _SLICE else 0
        wanted: list[Command] = [("HGET", store.keys.session(id_), "u") for id_, _ in entries]
        users = await store.ask(wanted, again=True, slow=True)
        return sorted({user.decode() for user in users if user is not None})


@asynccontextmanager
async def _locked(store: Store, user: str | None, caps: Caps) -> AsyncIterator[None]:
    """Let nobody else make room meanwhile, among all sessions and among those of this user."""
    names = [] if caps.total is None else ["all"]
    if caps.per_user is not None and user is not None:
        names.append(f"user:{user}")
    token = secrets.token_hex(8)
    taken: list[str] = []
    try:
        for name in names:
            await _take(store, store.keys.lock(name), token)
            taken.append(name)
        yield
    finally:
        for name in reversed(taken):
            await store.ask([UNLOCK(store.keys.lock(name), token)])


async def _take(store: Store, key: str, token: str) -> None:
    waited = 0.0
    while True:
        [answer] = await store.ask([("SET", key, token, "NX", "PX", _LOCKED)])
        if answer:
            return
        if waited >= _PATIENCE:
            raise BackendUnavailable(f"Redis: others made room for sessions for {_PATIENCE} s")
        pause = 0.001 + 0.004 * random()  # noqa: S311  (so that two do not ask in step)
        await store.pause(pause)
        waited += pause


async def _total(store: Store) -> int:
    [stored] = await store.ask([("ZCARD", store.keys.created)], again=True)
    return int(stored)


async def _too_many_of(
    store: Store, user: str | None, own: SessionId | None, now: float, caps: Caps
) -> list[tuple[SessionId, Hash]]:
    """The oldest sessions of the user that must go: for one more, or without *own* as there are too many."""
    if user is None or caps.per_user is None:
        return []
    live, _ = await live_of(store, user, now)
    others = sorted((one for one in live if one[0] != own), key=lambda one: (float(one[1][b"c"]), one[0]))
    return others[: max(0, len(others) + (own is not None) - caps.per_user)]


async def _evict(
    store: Store, chosen: Sequence[tuple[SessionId, Hash]], epoch: Epoch, now: float
) -> list[EndedRecord]:
    over = await end_live(store, chosen, epoch, now, Ended(EVICTED, now)) if chosen else []
    return ended_records(over, EVICTED)


async def _lowest(
    store: Store, number: int, most: float, spared: Collection[str]
) -> list[tuple[SessionId, Hash]]:
    """So many of the lowest rank, but none above *most*; fewer where there are not as many."""
    if number <= 0:
        return []
    keys = store.keys
    filed, stored = await store.ask([("ZCARD", keys.rank), ("ZCARD", keys.created)], again=True)
    if filed < stored:  # those that are not in it come first: nothing is known of them
        weights = ("WEIGHTS", 0, 1, "AGGREGATE", "MAX")
        await store.ask([("ZUNIONSTORE", keys.rank, 2, keys.created, keys.rank, *weights)], slow=True)
    while True:
        stop = number + len(spared) + _LOOKED_AT - 1
        [answer] = await store.ask([("ZRANGE", keys.rank, 0, stop, "WITHSCORES")], again=True)
        entries = scored(answer)
        ranked = await _ranked(store, entries)
        if ranked is not None:
            return [(id_, found) for rank, id_, found in ranked if id_ not in spared and rank <= most][
                :number
            ]


async def _ranked(
    store: Store, entries: Sequence[tuple[SessionId, float]]
) -> list[tuple[float, SessionId, Hash]] | None:
    """These in their order, with what is stored of them. None: some stood in the wrong place; look again."""
    hashes, _ = await look(store, [id_ for id_, _ in entries])
    ranked, gone, moved = [], list[tuple[SessionId, Hash]](), list[Command]()
    for (id_, filed), found in zip(entries, hashes, strict=True):
        record = readable(found)
        if not is_session(found):
            gone.append((id_, found))
            continue
        rank = filed if record is None else rank_of(record)
        ranked.append((rank, id_, found))
        if rank > filed:
            moved.append(("ZADD", store.keys.rank, "XX", repr(rank), id_))
    if gone:
        await unindex(store, gone)
    if moved:
        await store.ask(moved)
    return None if gone or moved else sorted(ranked, key=lambda one: one[:2])
