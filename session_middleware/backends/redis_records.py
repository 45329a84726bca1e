"""What Redis does for one session: coroutines over a `Store`.

Reading order: `load`, `create`, `swap` and `commit`, `delete`, then how a session is filed.

Every look at a session is followed, in the same pipeline, by a look at the epoch: a session that was created
before it is over, whatever its hash says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from session_middleware.backends.base import Epoch, LoadAnswer
from session_middleware.backends.capabilities import Salvaged
from session_middleware.backends.hiding import Hidden
from session_middleware.backends.redis_store import (
    CREATE,
    END,
    FILE,
    SWAP,
    UNFILE,
    Command,
    Hash,
    Store,
    Stored,
    answer_of,
    changing_of,
    end_arguments,
    epoch_of,
    fields_of,
    hash_of,
    is_session,
    lives,
    milliseconds_left,
    rank_of,
    salvaged_of,
)
from session_middleware.backends.seen import Seen
from session_middleware.errors import BackendError, BackendUnavailable
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

__all__ = [
    "Look",
    "Swapped",
    "announce_all",
    "commit",
    "create",
    "delete",
    "end_as_known",
    "end_live",
    "load",
    "look",
    "mend",
    "salvage",
    "swap",
    "swap_command",
    "unindex",
]

_TRIES: Final = 1000  # of a change: somebody else's goes through each time that one fails
_AT_ONCE: Final = 256  # sessions looked at in one pipeline
_INDEX_SLACK: Final = 86_400.0  # seconds for which an index outlives its last session


class Look(NamedTuple):
    """What lies under some keys, in their order, and the epoch after that."""

    hashes: Sequence[Hash]
    epoch: Epoch


async def look(store: Store, ids: Sequence[str], *, slow: bool = False) -> Look:
    """Read these sessions."""
    hashes: list[Hash] = []
    epoch = Epoch(0.0, 0.0, "")
    for start in range(0, max(1, len(ids)), _AT_ONCE):
        wanted: list[Command] = [
            ("HGETALL", store.keys.session(id_)) for id_ in ids[start : start + _AT_ONCE]
        ]
        *some, said = await store.ask([*wanted, store.keys.ask_epoch], again=True, slow=slow)
        hashes += some
        epoch = epoch_of(said)
    return Look(hashes, epoch)


async def load(store: Store, seen: Seen[Stored], id_: SessionId, now: float) -> LoadAnswer:
    """See `Port.load`."""
    [found], epoch = await look(store, [id_])
    answer, stored = answer_of(id_, found, epoch, now)
    seen.note(id_, stored)
    return answer


# --- create ----------------------------------------------------------------------------------------------


async def create(store: Store, record: Record, now: float) -> CreateResult:
    """See `Port.create`. Takes the epoch as this process knows it, and looks again where that may matter."""
    while True:
        before = store.epoch.before
        answer = await _created(store, record, now)
        if isinstance(answer, bytes) and float(answer) < store.epoch.before and before < store.epoch.before:
            continue
        break
    if answer == 0:  # its ending is remembered: the indexes were told of it in vain
        await _afterwards(store, _index_removals(store, record.id))
    elif answer == 2:  # in the place of an expired one, which was created earlier  # noqa: PLR2004
        await store.ask([("ZADD", store.keys.created, repr(record.created_at), record.id)])
    return EXISTS if answer == 0 or isinstance(answer, bytes) else CREATED


async def _created(store: Store, record: Record, now: float) -> int | bytes:
    keys, filings = store.keys, _filings(store, record, now)
    indexed: list[Command] = [
        ("ZADD", keys.created, "NX", repr(record.created_at), record.id),
        ("ZADD", keys.due, "LT", repr(record.deadline), record.id),
    ]
    ttl = milliseconds_left(record.deadline, now)
    parts = _parts(fields_of(record))
    made = CREATE(keys.session(record.id), repr(now), repr(store.epoch.before), ttl, *parts)
    # Filed before and after: whoever tidies an index may meet the id before the session is there.
    await store.ask(filings)
    *_, answer, said = await store.ask(indexed, [made, keys.ask_epoch])
    await store.ask(filings)
    store.epoch = epoch_of(said)
    return answer  # type: ignore[no-any-return]  # what the script says


# --- commit ----------------------------------------------------------------------------------------------


async def commit(
    store: Store, seen: Seen[Stored], id_: SessionId, delta: Delta, now: float
) -> Committed | Refused:
    """See `Port.commit`."""
    known = seen.applied(id_, delta, now)
    if known is None:
        [found], epoch = await look(store, [id_])
    else:
        before, (after, committed) = known
        done, found, epoch = await swap(store, before, after, now)
        if done:
            return _settled(seen, after, committed, epoch)
    for _ in range(_TRIES):
        _, stored = answer_of(id_, found, epoch, now)
        if stored is None:
            return GONE
        applied = apply(stored.record, delta, now)
        if isinstance(applied, Refused):
            seen.note(id_, stored)
            return applied
        after, committed = applied
        done, found, epoch = await swap(store, stored, after, now)
        if done:
            return _settled(seen, after, committed, epoch)
    raise BackendUnavailable("Redis: the session was changed by others again and again")


def _settled(seen: Seen[Stored], after: Record, committed: Committed, epoch: Epoch) -> Committed | Refused:
    """An epoch that came before the end of the change ended the session, and the change with it."""
    if after.created_at < epoch.before:
        return GONE
    seen.note(after.id, Stored(after))
    return committed


class Swapped(NamedTuple):
    """Whether it was done, else what was there instead; and the epoch right after it."""

    is_done: bool
    found: Hash
    epoch: Epoch


async def swap(store: Store, before: Stored, after: Record, now: float) -> Swapped:
    """Put *after* in the place of *before*, if that is what is there."""
    old, keys = before.record, store.keys
    moved = old.user_id != after.user_id or old.status != after.status
    filings = _filings(store, after, now) if moved or after.limit > old.limit else []
    ttl = "" if after.deadline == old.deadline else milliseconds_left(after.deadline, now)
    swapped = swap_command(store, old.id, before.mark, ttl, *_difference(old, after))
    await store.ask(filings)  # by itself: where that is refused, the session stays as it is
    answer, said, *_ = await store.ask([swapped, keys.ask_epoch], _lowered(store, old, after))
    store.epoch = epoch_of(said)
    if answer != 1:
        return Swapped(False, hash_of(answer), store.epoch)
    told = [_announcement(store, old.id)] if after.floor > old.floor else []
    await _afterwards(store, [*_unfilings(store, old, after), *told])
    return Swapped(True, {}, store.epoch)


def swap_command(
    store: Store,
    id_: str,
    mark: Sequence[Any],
    ttl: str | int,
    changed: Mapping[str, Any],
    removed: Sequence[str],
) -> Command:
    """The command that changes a session which is as *mark* says: names and values of fields in turn."""
    return SWAP(store.keys.session(id_), len(mark) // 2, *mark, ttl, len(changed), *_parts(changed), *removed)


def _parts(fields: Mapping[str, Any]) -> Hidden:
    """Names and values in turn."""
    return Hidden(part for pair in fields.items() for part in pair)


def _difference(old: Record, after: Record) -> tuple[dict[str, Any], list[str]]:
    """Which fields are to be set, and which to be removed."""
    changed = changing_of(after)
    removed = []
    if after.data is not old.data:
        changed["s"] = after.data.packed
    for name, was, becomes in (("u", old.user_id, after.user_id), ("t", old.status, after.status)):
        if becomes is not None:
            changed[name] = becomes
        elif was is not None:
            removed.append(name)
    return changed, removed


def _lowered(store: Store, old: Record, after: Record) -> list[Command]:
    """Entries of indexes that must not stand above what the session has become."""
    commands: list[Command] = []
    if after.deadline < old.deadline:
        commands.append(("ZADD", store.keys.due, "LT", repr(after.deadline), after.id))
    if rank_of(after) < rank_of(old):
        commands.append(("ZADD", store.keys.rank, "XX", "LT", repr(rank_of(after)), after.id))
    return commands


# --- end -------------------------------------------------------------------------------------------------


async def delete(store: Store, id_: SessionId, now: float, reason: str, by: str | None) -> bool:
    """See `Port.delete`. Needs no readable record."""
    [found], epoch = await look(store, [id_])
    if not lives(found, epoch, now):
        return False
    return bool(await end_live(store, [(id_, found)], epoch, now, Ended(reason, now, by)))


async def end_live(
    store: Store,
    chosen: Sequence[tuple[SessionId, Hash]],
    epoch: Epoch,
    now: float,
    ending: Ended,
    *,
    known: Sequence[bytes] = (),
) -> list[tuple[SessionId, Hash]]:
    """End those that live, and whose fields named in *known* are as they were read; which ones were ended."""
    commands = [
        END(store.keys.session(id_), *end_arguments(id_, ending, _marked(found, known), live=(now, epoch)))
        for id_, found in chosen
    ]
    return await _ended(store, chosen, commands)


async def end_as_known(
    store: Store, chosen: Sequence[tuple[SessionId, Hash, Ended]]
) -> list[tuple[SessionId, Hash]]:
    """End those that are still as they were read, each with its own ending; which ones were ended."""
    commands = [
        END(store.keys.session(id_), *end_arguments(id_, ending, _marked(found, (b"v", b"k"))))
        for id_, found, ending in chosen
    ]
    return await _ended(store, [(id_, found) for id_, found, _ in chosen], commands)


def _marked(found: Hash, names: Sequence[bytes]) -> list[bytes]:
    return [part for name in names for part in (name, found.get(name, b""))]


async def _ended(
    store: Store, chosen: Sequence[tuple[SessionId, Hash]], commands: Sequence[Command]
) -> list[tuple[SessionId, Hash]]:
    answers = await store.ask(commands)
    over = [one for one, answer in zip(chosen, answers, strict=True) if answer == 1]
    await unindex(store, over, [_announcement(store, id_) for id_, _ in over])
    return over


# --- indexes ---------------------------------------------------------------------------------------------


def _filings(store: Store, record: Record, now: float) -> list[Command]:
    """What names a session by user and by status."""
    ttl = milliseconds_left(record.limit, now, _INDEX_SLACK)
    filed: list[Command] = []
    if record.user_id is not None:
        filed.append(FILE(store.keys.user(record.user_id), record.id, record.version, ttl))
    if record.status is not None:
        filed.append(("SADD", store.keys.statuses, record.status))
        filed.append(FILE(store.keys.status(record.status), record.id, record.version, ttl))
    return filed


def _unfilings(store: Store, old: Record, after: Record) -> list[Command]:
    """Take it out where it no longer belongs, unless a later change has put it back meanwhile."""
    gone: list[Command] = []
    if old.user_id is not None and old.user_id != after.user_id:
        gone.append(UNFILE(store.keys.user(old.user_id), old.id, old.version))
    if old.status is not None and old.status != after.status:
        gone.append(UNFILE(store.keys.status(old.status), old.id, old.version))
    return gone


def _announcement(store: Store, id_: str = "") -> Command:
    """Tell all who watch that this session has ended; without an id: any may have."""
    return ("PUBLISH", store.keys.endings, id_)


async def announce_all(store: Store) -> None:
    """An epoch has ended many."""
    await _afterwards(store, [_announcement(store)])


async def unindex(
    store: Store, over: Sequence[tuple[SessionId, Hash]], announcements: Sequence[Command] = ()
) -> None:
    """Take sessions that have ended out of all indexes. Under their ids nothing can begin for ten minutes."""
    commands = list(announcements)
    for id_, found in over:
        commands += _index_removals(store, id_)
        for name, key in ((b"u", store.keys.user), (b"t", store.keys.status)):
            if name in found:
                commands.append(("ZREM", key(found[name].decode(errors="replace")), id_))
    await _afterwards(store, commands)


def _index_removals(store: Store, id_: str) -> list[Command]:
    return [("ZREM", key, id_) for key in (store.keys.created, store.keys.due, store.keys.rank)]


async def _afterwards(store: Store, commands: Sequence[Command]) -> None:
    """Tidy up. The operation is done already; an index may name too much, and who watches looks anyway."""
    with suppress(BackendError):
        await store.ask(commands)


# --- damaged sessions ------------------------------------------------------------------------------------

_WHOLE: Final = (b"v", b"k", b"d", b"c", b"h", b"s", b"u", b"t")


async def salvage(store: Store, id_: SessionId, now: float) -> Salvaged | None:
    """See `Salvaging.salvage`."""
    [found], epoch = await look(store, [id_])
    if not is_session(found) or not lives(found, epoch, now, unreadable=True):
        return None
    return Salvaged(salvaged_of(found), found.get(b"s", b""), tuple(_marked(found, _WHOLE)))


async def mend(store: Store, record: Record, salvaged: Salvaged, now: float | None = None) -> bool:
    """See `Salvaging.mend`."""
    mark = salvaged.mark
    if not isinstance(mark, tuple):
        raise TypeError("salvaged: it was not read by this backend")
    since = record.last_seen_at if now is None else now
    filings = _filings(store, record, since)
    fields = fields_of(record)
    removed = [name for name in ("u", "t") if name not in fields]
    ttl = milliseconds_left(record.deadline, since)
    due: list[Command] = [("ZADD", store.keys.due, "LT", repr(record.deadline), record.id)]
    await store.ask(filings)
    answer, *_ = await store.ask([swap_command(store, record.id, mark, ttl, fields, removed)], due)
    return bool(answer == 1)
