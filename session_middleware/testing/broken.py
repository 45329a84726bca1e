"""Backends that are wrong on purpose: a suite that accepts one of them proves nothing.

`HesitantBackend` is right, only slow: it lets others run before and after each operation. The rest each make
one mistake that real session stores make, and say in their docstring which. All of them wrap `MemoryBackend`,
suspend by `Pause` and nothing else (so they run in an event loop and in `record_interleaved`), and have an
async port only.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress

from msgspec.structs import replace

from session_middleware.backends.base import (
    NO_EPOCH,
    Colour,
    EndedRecord,
    Epoch,
    LoadAnswer,
    Port,
    ending_of,
    wrong_colour,
)
from session_middleware.backends.capabilities import Admitted, Caps, Page, Position, Salvaged, Summary
from session_middleware.backends.memory import MemoryBackend
from session_middleware.errors import SessionDataError
from session_middleware.record import (
    GONE,
    MAX_COUNTER,
    Committed,
    CreateResult,
    Delta,
    Ended,
    Record,
    Refused,
    SessionId,
    apply,
)
from session_middleware.testing.histories import Pause
from session_middleware.values import Values
from session_middleware.where import Where

__all__ = [
    "BROKEN",
    "BackwardRenewal",
    "CountsBeforeItCreates",
    "CountsTheDead",
    "CycleWithTwoWinners",
    "DroppedNul",
    "EndsWhatItFound",
    "EpochForReadersOnly",
    "EpochOfWhatIsThere",
    "ForgetfulDelete",
    "HalfCommit",
    "HesitantBackend",
    "IgnoredAbsoluteDeadline",
    "LastWriteWins",
    "LateExpiry",
    "LeaseForTwo",
    "MendsWhateverIsThere",
    "OverwritingCreate",
    "ReadModifyWriteCounters",
    "RepeatedCleanup",
    "ShiftingPages",
    "StaleReads",
    "UpsertSave",
    "WatchesForever",
]


class HesitantBackend:
    """Right: everything is atomic, but before and after it others may run."""

    url = "hesitant://"
    colours: frozenset[Colour] = frozenset({"async"})
    immediate = False

    def __init__(self) -> None:
        self.inner = MemoryBackend()

    def port(self, colour: Colour) -> Port:
        if colour not in self.colours:
            raise wrong_colour(self, colour)
        return self

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        await Pause()
        answer = await self.inner.load(id, now)
        await Pause()
        return answer

    async def create(self, record: Record, now: float) -> CreateResult:
        await Pause()
        result = await self.inner.create(record, now)
        await Pause()
        return result

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        await Pause()
        answer = await self.inner.commit(id, delta, now)
        await Pause()
        return answer

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        await Pause()
        was_alive = await self.inner.delete(id, now, reason, by)
        await Pause()
        return was_alive

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        await Pause()
        return await self.inner.delete_expired(now, limit)

    async def wait(self, seconds: float) -> None:
        await self.inner.wait(seconds)

    async def overwrite(self, record: Record, now: float) -> None:
        """Put this record in the place of whatever is there. No right backend has such an operation."""
        await self.inner.delete(record.id, now, "overwritten")
        await self.inner.create(record, now)


class LastWriteWins(HesitantBackend):
    """Saves the whole session as it was read: what others changed meanwhile is lost."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        record = await self.inner.load(id, now)
        if not isinstance(record, Record):
            return GONE
        await Pause()
        applied = apply(record, delta, now)
        if isinstance(applied, Refused):
            return applied
        if not isinstance(await self.inner.load(id, now), Record):
            return GONE
        await self.overwrite(applied[0], now)
        return applied[1]


class UpsertSave(HesitantBackend):
    """Saves whether or not the session is still there: a slow request brings back what a logout ended."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        await Pause()
        if not isinstance(await self.inner.load(id, now), Record):
            self.inner._put(_revived(id, now))  # noqa: SLF001  (what an upsert does: no question asked)
        return await self.inner.commit(id, delta, now)


def _revived(id_: SessionId, now: float) -> Record:
    generation = int(now * 1000)
    return Record(
        id=id_,
        secret="",
        generation=generation,
        floors=(generation,),
        created_at=now,
        last_seen_at=now,
        deadline=now + 100,
        limit=now + 1000,
    )


class StaleReads(HesitantBackend):
    """Reads from a replica that catches up only after it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._replica: dict[SessionId, LoadAnswer] = {}

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        await Pause()
        fresh = await self.inner.load(id, now)
        answer = self._replica.get(id, fresh)
        self._replica[id] = fresh
        return answer


class ReadModifyWriteCounters(HesitantBackend):
    """Adds up in the caller: of two increments at the same time one is lost."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        record = await self.inner.load(id, now)
        if not (delta.increments and isinstance(record, Record)):
            return await super().commit(id, delta, now)
        pairs = {k: v for k, v in record.data.pairs.items() if k not in delta.unset} | dict(delta.set)
        counters = {name: _sum(name, pairs, by) for name, by in delta.increments.items()}
        await Pause()
        total = {**delta.set, **{name: b"%d" % value for name, value in counters.items()}}
        answer = await self.inner.commit(id, replace(delta, set=total, increments={}), now)
        return replace(answer, counters=counters) if isinstance(answer, Committed) else answer


def _sum(name: str, pairs: Mapping[str, bytes], by: int) -> int:
    try:
        total = int(pairs.get(name, b"0")) + by
    except ValueError:
        raise SessionDataError("no integer", name) from None
    if abs(total) > MAX_COUNTER:
        raise SessionDataError("too large", name)
    return total


class IgnoredAbsoluteDeadline(HesitantBackend):
    """Renews past the limit: a session that is used never ends."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        if delta.renew_to is not None and delta.limit is None:
            delta = replace(delta, limit=delta.renew_to)
        return await super().commit(id, delta, now)


class ForgetfulDelete(HesitantBackend):
    """Keeps no reason: nobody can tell a logout from an unknown session."""

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        answer = await super().load(id, now)
        return None if isinstance(answer, Ended) else answer


class BackwardRenewal(HesitantBackend):
    """Takes the last renewal for the latest: one that arrives late shortens the session."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        if delta.renew_to is not None and delta.expire_at is None:
            delta = replace(delta, renew_to=None, expire_at=delta.renew_to)
        return await super().commit(id, delta, now)


class CycleWithTwoWinners(HesitantBackend):
    """Looks at the generation before it cycles, not while: of two requests at once both make a new one."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        record = await self.inner.load(id, now)
        wins = isinstance(record, Record) and delta.cycle and delta.admitted == record.generation
        await Pause()
        record = await self.inner.load(id, now)
        if wins and isinstance(record, Record):
            delta = replace(delta, admitted=record.generation)
        return await self.inner.commit(id, delta, now)


class HalfCommit(HesitantBackend):
    """Writes a change in two steps: others see the half, and who is cancelled in between leaves it."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        if not (delta.set and delta.increments):
            return await super().commit(id, delta, now)
        answer = await self.inner.commit(id, replace(delta, increments={}), now)
        if isinstance(answer, Refused):
            return answer
        await Pause()
        return await self.inner.commit(id, Delta(increments=delta.increments), now)


class LateExpiry(HesitantBackend):
    """Still answers at the very deadline (and so, somewhere, a second after it)."""

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        return await super().load(id, math.nextafter(now, 0.0))


class OverwritingCreate(HesitantBackend):
    """Creates over whoever has the id already."""

    async def create(self, record: Record, now: float) -> CreateResult:
        await self.inner.delete(record.id, now, "overwritten")
        return await super().create(record, now)


class RepeatedCleanup(HesitantBackend):
    """Looks for expired sessions first and removes them later: two cleanups report the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self._in_hand: list[EndedRecord] = []

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        self._in_hand += await self.inner.delete_expired(now, limit)
        seen = self._in_hand[:limit]
        await Pause()
        self._in_hand = [ended for ended in self._in_hand if ended not in seen]
        return seen


class DroppedNul(HesitantBackend):
    """Keeps text as its database likes it: without NUL."""

    async def create(self, record: Record, now: float) -> CreateResult:
        pairs = {name: value.replace(rb'"\u0000"', b'""') for name, value in record.data.pairs.items()}
        return await super().create(replace(record, data=Values.of(pairs)), now)


class LeaseForTwo(HesitantBackend):
    """Looks whether a lease is free before it takes it, not while: two holders may both have it."""

    async def acquire_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        has, until = self.inner._leases.get(name, (holder, now))  # noqa: SLF001  (what another store would be asked)
        await Pause()
        if has != holder and until > now:
            return False
        self.inner._leases[name] = (holder, now + seconds)  # noqa: SLF001  (no question asked any more)
        return True

    async def renew_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        return await self.inner.renew_lease(name, holder, seconds, now)

    async def release_lease(self, name: str, holder: str) -> bool:
        return await self.inner.release_lease(name, holder)


class ShiftingPages(HesitantBackend):
    """Counts from the top where a page goes on: what ends meanwhile makes it skip as many sessions."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[Position, int] = {}

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        offset = 0 if after is None else self._pages.pop(after)
        all_there_is = await self.inner.find(where, now, limit=10_000)
        some = all_there_is.records[offset : offset + limit]
        if len(some) < limit:
            return Page(some, None)
        place = Position(some[-1].created_at, some[-1].id)
        self._pages[place] = offset + limit
        return Page(some, place)

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        return await self.inner.end_found(ids, where, now, reason, by=by)


class EndsWhatItFound(ShiftingPages):
    """Ends by id alone, and does not look again: also what no longer is what was looked for."""

    async def end_found(
        self, ids: Sequence[SessionId], _: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        return await super().end_found(ids, Where(), now, reason, by=by)


class MendsWhateverIsThere(HesitantBackend):
    """Puts a mended session in the place of what is there by then, were it whole again or gone."""

    async def salvage(self, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
        return await self.inner.salvage(id, now)

    async def mend(self, record: Record, _: Salvaged) -> bool:
        await self.overwrite(record, record.created_at)
        self.inner._put(record)  # noqa: SLF001  (no question asked)
        return True


class CountsBeforeItCreates(HesitantBackend):
    """Looks how many there are, then creates: of two at once both find room for one."""

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        there = await self.inner.count(now)
        own = 0 if record.user_id is None else len(await self.inner.list_user(record.user_id, now))
        await Pause()
        if (caps.total or 99) > there and (caps.per_user or 99) > own:
            return Admitted(await self.inner.create(record, now))
        return await self.inner.create_within(record, now, caps)

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        return await self.inner.commit_within(id, delta, now, caps)

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        return await self.inner.shrink(now, caps, limit)


class CountsTheDead(HesitantBackend):
    """Sums up what is stored, expired or not: figures that only a cleanup puts right."""

    async def summary(self, now: float, ages: Sequence[float]) -> Summary:
        found = await self.inner.summary(now - 3600, [age - 3600 for age in ages])
        usage = found.usage._replace(average_age=_older(found.usage.average_age))
        return Summary(usage, _older(found.oldest), _older(found.newest), found.younger)


def _older(age: float | None) -> float | None:
    return None if age is None else age + 3600


class EpochForReadersOnly(HesitantBackend):
    """Looks at the epoch where sessions are loaded and nowhere else: a slow request goes on writing."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = NO_EPOCH

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        answer = await super().load(id, now)
        return (ending_of(answer, self._epoch, now) or answer) if isinstance(answer, Record) else answer

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        self._epoch = Epoch(t, now, reason, by)
        return True


class EpochOfWhatIsThere(HesitantBackend):
    """Ends the sessions it finds, one by one: others see the half, and what is stored later lives."""

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        page = await self.inner.find(Where(created_before=t), now, limit=10_000)
        for record in page.records:
            await Pause()
            await self.inner.delete(record.id, now, reason, by)
        return True


class WatchesForever(HesitantBackend):
    """Who watches cannot stop while it connects: a library beneath swallows the cancellation."""

    async def watch(self) -> AsyncGenerator[SessionId | None, None]:
        for _ in range(4):
            with suppress(asyncio.CancelledError):
                await Pause()
        yield None
        while True:
            await Pause()


BROKEN: tuple[type[HesitantBackend], ...] = (
    LastWriteWins,
    UpsertSave,
    StaleReads,
    ReadModifyWriteCounters,
    IgnoredAbsoluteDeadline,
    ForgetfulDelete,
    BackwardRenewal,
    CycleWithTwoWinners,
    HalfCommit,
    LateExpiry,
    OverwritingCreate,
    RepeatedCleanup,
    DroppedNul,
    LeaseForTwo,
    ShiftingPages,
    EndsWhatItFound,
    MendsWhateverIsThere,
    CountsTheDead,
    EpochForReadersOnly,
    EpochOfWhatIsThere,
    CountsBeforeItCreates,
    WatchesForever,
)
"""Every wrong backend of this module."""
