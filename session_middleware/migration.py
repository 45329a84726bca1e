"""Sessions go from one backend to another, record by record, while the app goes on.

`migrate` copies: run it, run it again shortly before the switch (it copies what is new or changed, and ends
what has ended), then start the app over the other backend. Nothing is changed in the source. `move_all` moves
what an app over `MovingBackend` has not moved yet: no session is ever on both sides, and nothing stops.

Reading order: `migrate`, `compare`, `move_all`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Counting, Iterating, Page, Position, Salvaging
from session_middleware.backends.moving import MovingPort
from session_middleware.errors import ConfigurationError, SessionDataError
from session_middleware.record import EXISTS, Ended, Record, SessionId
from session_middleware.where import Where

__all__ = ["Comparison", "Migrated", "Moved", "compare", "migrate", "missing", "move_all"]

_ENDED = "migrated"  # why a copy is ended whose session has gone
_HASHED = 16  # bytes of each record's hash


class Migrated(NamedTuple):
    """What one run did, in sessions."""

    copied: int = 0
    updated: int = 0
    unchanged: int = 0
    newer: int = 0  # changed in the target since: left as they are there
    ended: int = 0  # in the target, because they have ended in the source
    unreadable: int = 0  # in the source, and left there: `recover_session` them first


class Moved(NamedTuple):
    """What moving all came to, in sessions."""

    moved: int
    unreadable: int  # left in the source: `recover_session` them there


class Comparison(NamedTuple):
    """Both sides, by number and by a hash over every field of every record, whatever their order."""

    source: int
    target: int
    source_hash: str
    target_hash: str

    @property
    def are_equal(self) -> bool:
        """Every session is there, field by field, and no other."""
        return (self.source, self.source_hash) == (self.target, self.target_hash)


async def migrate(
    source: Port,
    target: Port,
    now: Callable[[], float],
    *,
    batch: int = 200,
    end_missing: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Migrated:
    """Copy what the target lacks, update what is older there, end there what has ended; what that came to.

    *end_missing*: end every session of the target that the source does not have, which is right as long as
    nobody else writes to the target. *progress* is told how many sessions of the source were seen so far.
    May be stopped at any moment and run again. Raises `ConfigurationError` where a backend cannot do this.
    """
    done, seen = dict.fromkeys(Migrated._fields, 0), 0
    async for page in _pages(source, now, batch):
        done["unreadable"] += len(page.unreadable)
        for record in page.records:
            done[await _carry(record, target, now())] += 1
            seen += 1
            progress(seen)
    if end_missing:
        async for record in missing(source, target, now, batch=batch):
            answer = await source.load(record.id, now())
            reason, by = (answer.reason, answer.by) if isinstance(answer, Ended) else (_ENDED, None)
            done["ended"] += await target.delete(record.id, now(), reason, by)
    return Migrated(**done)


async def missing(
    source: Port, target: Port, now: Callable[[], float], *, batch: int = 200
) -> AsyncIterator[Record]:
    """The sessions of the target that the source does not have, or not any more."""
    async for record in _all_of(target, now, batch):
        if not await _is_there(source, record.id, now()):
            yield record


async def _is_there(port: Port, id_: SessionId, now: float) -> bool:
    """Whether it is live; a damaged one may be."""
    try:
        return isinstance(await port.load(id_, now), Record)
    except SessionDataError:
        return True


async def compare(source: Port, target: Port, now: Callable[[], float], *, batch: int = 200) -> Comparison:
    """Both sides as they are now. An app that writes meanwhile makes them differ."""
    number, digest = await _sum_of(source, now, batch)
    other, other_digest = await _sum_of(target, now, batch)
    return Comparison(number, other, digest, other_digest)


async def move_all(
    port: MovingPort,
    source: Port,
    now: Callable[[], float],
    *,
    batch: int = 200,
    progress: Callable[[int], None] = lambda _: None,
) -> Moved:
    """Move every session that *source*, the one of *port*, still has, again and again until none is left.

    *progress* is told how many were moved so far. May be stopped at any moment and run again.
    """
    moved = 0
    while True:
        before, unreadable = moved, 0
        async for page in _pages(source, now, batch):
            unreadable += len(page.unreadable)
            for record in page.records:
                moved += await port.move(record.id, now())
                progress(moved)
        if moved == before:
            return Moved(moved, unreadable)


# --- one record ---


async def _carry(record: Record, target: Port, now: float) -> str:
    """What became of it: a field of `Migrated`."""
    try:
        there = await target.load(record.id, now)
    except SessionDataError:  # damaged there
        return "updated" if await _replace(record, target, now) else "newer"
    if isinstance(there, Ended):
        return "newer"  # ended there: a copy would bring it back
    if there is None:
        return "newer" if await target.create(record, now) is EXISTS else "copied"
    if _are_equal(there, record):
        return "unchanged"
    if there.version >= record.version:
        return "newer"
    return "updated" if await _replace(record, target, now) else "newer"


def _are_equal(one: Record, other: Record) -> bool:
    try:
        return one == other
    except SessionDataError:  # their values cannot be decoded: bytes are still bytes
        return _hash_of(one) == _hash_of(other)


async def _replace(record: Record, target: Port, now: float) -> bool:
    if not isinstance(target, Salvaging):
        raise ConfigurationError(
            "target: this backend cannot replace a record as a whole; begin with an empty one"
        )
    stored = await target.salvage(record.id, now)
    return stored is not None and await target.mend(record, stored)


# --- all of them ---


async def _all_of(port: Port, now: Callable[[], float], batch: int) -> AsyncIterator[Record]:
    async for page in _pages(port, now, batch):
        for record in page.records:
            yield record


async def _pages(port: Port, now: Callable[[], float], batch: int) -> AsyncIterator[Page]:
    if not isinstance(port, Iterating):
        raise ConfigurationError(
            "backend: it cannot list its sessions, so they cannot be moved; use one that can"
        )
    after: Position | None = None
    while True:
        page = await port.find(Where(), now(), limit=batch, after=after)
        yield page
        after = page.after
        if after is None:
            return


async def _sum_of(port: Port, now: Callable[[], float], batch: int) -> tuple[int, str]:
    total = 0
    async for record in _all_of(port, now, batch):
        total ^= int.from_bytes(_hash_of(record))
    # By the backend's own count, so that a record that cannot be read is missed, too.
    if not isinstance(port, Counting):
        raise ConfigurationError("backend: it cannot count its sessions; use one that can")
    return await port.count(now()), f"{total:0{2 * _HASHED}x}"


def _hash_of(record: Record) -> bytes:
    fields = [getattr(record, name) for name in Record.__struct_fields__ if name != "data"]
    try:
        values = sorted(record.data.pairs.items())
    except SessionDataError:
        values = [("", record.data.packed)]
    return hashlib.blake2b(
        msgspec.msgpack.encode((fields, values), order="sorted"), digest_size=_HASHED
    ).digest()
