"""What Redis does for many sessions: by user, by conditions, in figures, and cleanup.

Reading order: cleanup, by user, `find` and `end_found`, the figures.

An index names candidates; whether a session lives, and whose it is, its own hash tells. Entries that turn
out to be wrong are taken out on the way, each only as it was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from session_middleware.backends.base import EndedRecord, Epoch, ending_of
from session_middleware.backends.capabilities import Page, Position, Summary, Usage
from session_middleware.backends.redis_records import end_as_known, end_live, look, unindex
from session_middleware.backends.redis_store import (
    PAGE,
    REFILE,
    UNFILE,
    Command,
    Hash,
    Store,
    ids_of,
    is_session,
    lives,
    readable,
    salvaged_of,
    scored,
)
from session_middleware.record import Ended, Record, SessionId
from session_middleware.where import Where

__all__ = [
    "count",
    "delete_expired",
    "delete_user",
    "end_found",
    "ended_records",
    "expire",
    "find",
    "list_user",
    "live_of",
    "summary",
]

_CLEANED_AT_ONCE: Final = 64  # sessions; between batches others have their turn
_SEEN_AT_ONCE: Final = 500  # sessions of one page
_SORTED_AT_MOST: Final = 4000  # candidates that one page sorts; where there are more, all sessions are walked
_SAMPLES: Final = 1000  # of a mean over more sessions than that
_LISTED_AT_ONCE: Final = 1000
_TRIES: Final = 100  # of ending what changes meanwhile


# --- cleanup ---------------------------------------------------------------------------------------------


async def delete_expired(store: Store, now: float, limit: int) -> list[EndedRecord]:
    """See `Port.delete_expired`. Whoever ends a session reports it; any number may clean up at once."""
    [], epoch = await look(store, [], slow=True)
    return await expire(store, epoch, now, limit)


async def expire(store: Store, epoch: Epoch, now: float, limit: int) -> list[EndedRecord]:
    """End up to *limit* of what is over, by its deadline or by the epoch."""
    gone: list[EndedRecord] = []
    for key, bound in ((store.keys.due, repr(now)), (store.keys.created, f"({epoch.before!r}")):
        met: list[tuple[SessionId, float]] = []
        while len(gone) < limit:
            most = min(_CLEANED_AT_ONCE, limit - len(gone))
            wanted: Command = ("ZRANGE", key, "-inf", bound, "BYSCORE", "LIMIT", 0, most, "WITHSCORES")
            [answer] = await store.ask([wanted], again=True, slow=True)
            entries = scored(answer)
            if not entries or entries == met:  # the same again: what changes just now is for another time
                break
            gone += await _settle(store, key, entries, now)
            met = entries
    return gone


async def _settle(
    store: Store, key: str, entries: Sequence[tuple[SessionId, float]], now: float
) -> list[EndedRecord]:
    """End those that are over, file the others where they belong, forget those that are gone."""
    hashes, epoch = await look(store, [id_ for id_, _ in entries], slow=True)
    over: list[tuple[SessionId, Hash, Ended]] = []
    gone: list[tuple[SessionId, Hash]] = []
    misfiled: list[tuple[SessionId, float]] = []
    for (id_, score), found in zip(entries, hashes, strict=True):
        facts = _facts(found)
        ending = None if facts is None else ending_of(facts, epoch, now)
        if facts is None:
            gone.append((id_, found))
        elif ending is None:
            misfiled.append((id_, score))
        else:
            over.append((id_, found, ending))
    await unindex(store, gone)
    await _refile(store, key, misfiled)
    reasons = {id_: ending.reason for id_, _, ending in over}
    return [
        EndedRecord(id_, _user_of(found), reasons[id_], float(found[b"c"]))
        for id_, found in await end_as_known(store, over)
    ]


async def _refile(store: Store, key: str, entries: Sequence[tuple[SessionId, float]]) -> None:
    """File live sessions under what they have become; then look again, for it may have changed meanwhile."""
    due = store.keys.due
    for _ in range(2):
        hashes, _ = await look(store, [id_ for id_, _ in entries], slow=True) if entries else ([], None)
        moves: list[Command] = []
        again: list[tuple[SessionId, float]] = []
        for (id_, score), found in zip(entries, hashes, strict=True):
            facts = _facts(found)
            place = None if facts is None else facts.deadline if key == due else facts.created_at
            if place is not None and place != score:
                moves.append(REFILE(key, id_, repr(score), repr(place)))
                again.append((id_, place))
        await store.ask(moves, slow=True)
        entries = again


def _facts(found: Hash) -> Record | None:
    """As much of a record as tells how it ended; None: nothing is there, or its times cannot be read."""
    if not is_session(found):
        return None
    known = salvaged_of(found)
    if not {"created_at", "deadline"} <= known.keys():
        return None
    plain = {"id": "", "secret": "", "generation": 0, "limit": math.inf, "last_seen_at": known["created_at"]}
    return Record(**{**plain, **known})


def _user_of(found: Hash) -> str | None:
    user = found.get(b"u")
    return None if user is None else user.decode(errors="replace")


# --- by user ---------------------------------------------------------------------------------------------


async def live_of(store: Store, user_id: str, now: float) -> tuple[list[tuple[SessionId, Hash]], Epoch]:
    """The live sessions of a user, and the epoch by which that was judged."""
    return await _members(store, store.keys.user(user_id), b"u", user_id, now)


async def _members(
    store: Store, key: str, field: bytes, value: str, now: float
) -> tuple[list[tuple[SessionId, Hash]], Epoch]:
    """The live sessions that this index names rightly. Wrong entries are taken out as they were seen."""
    [answer] = await store.ask([("ZRANGE", key, 0, -1, "WITHSCORES")], again=True, slow=True)
    entries = scored(answer)
    hashes, epoch = await look(store, [id_ for id_, _ in entries], slow=True)
    live, wrong = [], []
    for (id_, version), found in zip(entries, hashes, strict=True):
        is_here = is_session(found) and found.get(field) == value.encode()
        if is_here and lives(found, epoch, now):
            live.append((id_, found))
        elif not is_here and _is_settled(found, version):
            wrong.append(UNFILE(key, id_, int(version)))
    await store.ask(wrong, slow=True)
    return live, epoch


def _is_settled(found: Hash, version: float) -> bool:
    """Whether the change that an entry was made for is over: it may be on its way."""
    if not is_session(found):
        return b"x" in found
    known: int = salvaged_of(found).get("version", 0)
    return known >= version


async def list_user(store: Store, user_id: str, now: float) -> list[Record]:
    """See `ByUser.list_user`. One that cannot be read is left out here; `load` tells of it."""
    live, _ = await live_of(store, user_id, now)
    records = [record for _, found in live if (record := readable(found)) is not None]
    return sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)


async def delete_user(
    store: Store, user_id: str, now: float, reason: str, keep: Sequence[SessionId], by: str | None
) -> list[SessionId]:
    """See `ByUser.delete_user`. Each of them at a moment of its own."""
    live, epoch = await live_of(store, user_id, now)
    kept = frozenset(keep)
    chosen = [one for one in live if one[0] not in kept]
    over = await end_live(store, chosen, epoch, now, Ended(reason, now, by), known=[b"u"])
    return [id_ for id_, _ in sorted(over, key=_birth)]


def _birth(one: tuple[SessionId, Hash]) -> tuple[float, SessionId]:
    return float(one[1][b"c"]), one[0]


# --- by conditions ---------------------------------------------------------------------------------------

_TOP: Final = Position(math.inf, SessionId(""))


class _Candidates(NamedTuple):
    """Some sessions at their places, newest first. `more`: whether others follow."""

    places: Sequence[tuple[Position, Hash]]
    epoch: Epoch
    more: bool


async def find(store: Store, where: Where, now: float, limit: int, after: Position | None) -> Page:
    """See `Iterating.find`."""
    below = _TOP if after is None else after
    if where.created_before is not None:
        below = min(below, Position(where.created_before, SessionId("")))
    some = await _candidates(store, where, now, below, limit)
    found: list[Record] = []
    damaged: list[SessionId] = []
    for place, stored in some.places:
        if where.created_after is not None and place.created_at < where.created_after:
            return Page(found, None, damaged)
        if lives(stored, some.epoch, now):
            record = readable(stored)
            if record is None:
                damaged.append(place.id)
            elif where.matches(record):
                found.append(record)
        if len(found) >= limit:
            return Page(found, place, damaged)
    last = some.places[-1][0] if some.places else None
    return Page(found, last if some.more else None, damaged)


async def _candidates(store: Store, where: Where, now: float, below: Position, limit: int) -> _Candidates:
    named = await _named(store, where, now)
    if named is None:
        return await _walked(store, below, max(limit, _SEEN_AT_ONCE) if not where.is_empty else limit)
    hashes, epoch = named
    places = [(Position(float(found[b"c"]), SessionId(found[b"i"].decode())), found) for found in hashes]
    return _Candidates(
        sorted((one for one in places if one[0] < below), key=_place, reverse=True), epoch, False
    )


def _place(one: tuple[Position, Hash]) -> Position:
    return one[0]


async def _named(store: Store, where: Where, now: float) -> tuple[list[Hash], Epoch] | None:
    """The sessions that an index names, or None where it names too many, or there is none."""
    if where.ids is not None:
        hashes, epoch = await look(store, [str(id_) for id_ in where.ids], slow=True)
        return [found for found in hashes if lives(found, epoch, now)], epoch
    asked: list[tuple[str, bytes, str]] = []
    if where.user_id is not None:
        asked.append((store.keys.user(str(where.user_id)), b"u", str(where.user_id)))
    if where.status is not None:
        asked.append((store.keys.status(where.status), b"t", where.status))
    if not asked:
        return None
    sizes = await store.ask([("ZCARD", key) for key, _, _ in asked], again=True, slow=True)
    size, (key, field, value) = min(zip(sizes, asked, strict=True))
    if size > _SORTED_AT_MOST:
        return None
    members, epoch = await _members(store, key, field, value, now)
    return [found for _, found in members], epoch


async def _walked(store: Store, below: Position, most: int) -> _Candidates:
    """The next sessions in the order of creation. A stray entry, of another creation, is put right."""
    most = min(most, _SEEN_AT_ONCE)
    created = store.keys.created
    [answer] = await store.ask([PAGE(created, repr(below.created_at), below.id, most)], again=True, slow=True)
    entries = scored(answer)
    hashes, epoch = await look(store, [id_ for id_, _ in entries], slow=True)
    places: list[tuple[Position, Hash]] = []
    for (id_, at), found in zip(entries, hashes, strict=True):
        facts = _facts(found)
        if facts is not None and facts.created_at != at:
            await store.ask([REFILE(created, id_, repr(at), repr(facts.created_at))], slow=True)
            found = {}  # noqa: PLW2901  (its place is another one)
        places.append((Position(at, id_), found))
    return _Candidates(places, epoch, len(entries) == most)


async def end_found(
    store: Store, ids: Sequence[SessionId], where: Where, now: float, reason: str, by: str | None
) -> list[EndedRecord]:
    """See `Iterating.end_found`. Each at its own moment; one that changes meanwhile is looked at again."""
    left, gone = list(ids), list[EndedRecord]()
    for _ in range(_TRIES):
        hashes, epoch = await look(store, left, slow=True)
        chosen = [
            (id_, found)
            for id_, found in zip(left, hashes, strict=True)
            if lives(found, epoch, now) and (where.is_empty or _matches(found, where))
        ]
        if not chosen:
            break
        known = () if where.is_empty else (b"v", b"k")
        over = await end_live(store, chosen, epoch, now, Ended(reason, now, by), known=known)
        gone += ended_records(over, reason)
        done = {id_ for id_, _ in over}
        left = [id_ for id_, _ in chosen if id_ not in done]
        if not left:
            break
    return gone


def ended_records(over: Sequence[tuple[SessionId, Hash]], reason: str) -> list[EndedRecord]:
    """What is told of sessions that were ended."""
    return [EndedRecord(id_, _user_of(found), reason, float(found[b"c"])) for id_, found in over]


def _matches(found: Hash, where: Where) -> bool:
    record = readable(found)
    return record is not None and where.matches(record)


# --- figures ---------------------------------------------------------------------------------------------


async def count(store: Store, now: float) -> int:
    """See `Counting.count`."""
    over = await _over(store, now)
    [stored] = await store.ask([("ZCARD", store.keys.created)], again=True, slow=True)
    return int(stored) - len(over)


async def summary(store: Store, now: float, ages: Sequence[float]) -> Summary:
    """See `Summarizing.summary`. The mean age over more than a thousand sessions is that of a thousand."""
    over = await _over(store, now)
    born = list(over.values())
    created, bounds = store.keys.created, [now - age for age in ages]
    wanted: list[Command] = [
        ("ZCARD", created),
        *(("ZCOUNT", created, f"({bound!r}", "+inf") for bound in bounds),
    ]
    stored, *after = await store.ask(wanted, again=True, slow=True)
    number = int(stored) - len(over)
    if number <= 0:
        return Summary(Usage(0, None, {}), None, None, tuple(0 for _ in ages))
    younger = [some - sum(at > bound for at, _ in born) for some, bound in zip(after, bounds, strict=True)]
    mean = (await _mean(store, int(stored)) * stored - sum(at for at, _ in born)) / number
    by_status = await _by_status(store, [status for _, status in born])
    oldest, newest = [await _extreme(store, over, reverse=reverse) for reverse in (False, True)]
    return Summary(Usage(number, now - mean, by_status), now - oldest, now - newest, tuple(younger))


async def _over(store: Store, now: float) -> dict[SessionId, tuple[float, bytes | None]]:
    """What has ended and was not cleaned up yet: when it was created, by the index, and its status."""
    [], epoch = await look(store, [], slow=True)
    keys = store.keys
    over: dict[SessionId, tuple[float, bytes | None]] = {}
    for key, bound in ((keys.due, repr(now)), (keys.created, f"({epoch.before!r}")):
        [answer] = await store.ask([("ZRANGE", key, "-inf", bound, "BYSCORE")], again=True, slow=True)
        ids = [id_ for id_ in ids_of(answer) if id_ not in over]
        for start in range(0, len(ids), _LISTED_AT_ONCE):
            over |= await _dead_of(store, ids[start : start + _LISTED_AT_ONCE], epoch, now)
    return over


async def _dead_of(
    store: Store, ids: Sequence[SessionId], epoch: Epoch, now: float
) -> dict[SessionId, tuple[float, bytes | None]]:
    keys = store.keys
    wanted: list[Command] = [("HMGET", keys.session(id_), "x", "i", "d", "c", "t") for id_ in ids]
    *rows, scores = await store.ask([*wanted, ("ZMSCORE", keys.created, *ids)], again=True, slow=True)
    dead: dict[SessionId, tuple[float, bytes | None]] = {}
    for id_, row, score in zip(ids, rows, scores, strict=True):
        found = {
            name: part
            for name, part in zip((b"x", b"i", b"d", b"c", b"t"), row, strict=True)
            if part is not None
        }
        if score is not None and not lives(found, epoch, now):
            dead[id_] = float(score), found.get(b"t")
    return dead


async def _mean(store: Store, stored: int) -> float:
    """When sessions were created, on average."""
    created = store.keys.created
    if stored <= _SAMPLES:
        [answer] = await store.ask([("ZRANGE", created, 0, -1, "WITHSCORES")], again=True, slow=True)
        scores = [score for _, score in scored(answer)]
    else:
        ranks = [(2 * n + 1) * stored // (2 * _SAMPLES) for n in range(_SAMPLES)]
        wanted: list[Command] = [("ZRANGE", created, rank, rank, "WITHSCORES") for rank in ranks]
        answers = await store.ask(wanted, again=True, slow=True)
        scores = [score for answer in answers for _, score in scored(answer)]
    return sum(scores) / max(1, len(scores))


async def _by_status(store: Store, over: Sequence[bytes | None]) -> dict[str, int]:
    [statuses] = await store.ask([("SMEMBERS", store.keys.statuses)], again=True, slow=True)
    names = sorted(name.decode() for name in statuses)
    sizes = await store.ask([("ZCARD", store.keys.status(name)) for name in names], again=True, slow=True)
    live = {name: size - over.count(name.encode()) for name, size in zip(names, sizes, strict=True)}
    return {name: number for name, number in live.items() if number > 0}


async def _extreme(
    store: Store, over: dict[SessionId, tuple[float, bytes | None]], *, reverse: bool
) -> float:
    """When the oldest, or the newest, of those that live was created."""
    order = ("REV",) if reverse else ()
    start = 0
    while True:
        stop = start + _LISTED_AT_ONCE - 1
        wanted: Command = ("ZRANGE", store.keys.created, start, stop, *order, "WITHSCORES")
        [answer] = await store.ask([wanted], again=True, slow=True)
        entries = scored(answer)
        for id_, score in entries:
            if id_ not in over:
                return score
        if not entries:
            return math.nan  # all that lived has ended meanwhile
        start = stop + 1
