"""Two backends as one, while an app moves from the first to the second and goes on serving.

    backend=MovingBackend("sqlite:////var/lib/shop/sessions.db", "redis://cache:6379/0", moves=False)

Reading order: `MovingBackend` (the phases), `MovingPort`: what each operation does with a session that may be
on either side, then what is asked of both.

A session is on one side at a time. Whoever changes it in the source, and whoever moves it, first takes a
lease of its name; the target is looked at first, and once a session is there nobody touches the source again.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, cast

from session_middleware.backends.base import Backend, Colour, EndedRecord, LoadAnswer, Port, wrong_colour
from session_middleware.backends.capabilities import (
    Bounded,
    ByUser,
    Counting,
    Epochal,
    Iterating,
    Leases,
    Page,
    Position,
    Salvaged,
    Salvaging,
    Summarizing,
    Summary,
    Usage,
)
from session_middleware.backends.urls import backend_from
from session_middleware.errors import BackendUnavailable, ConfigurationError
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
)
from session_middleware.where import Where

__all__ = ["MOVED", "MovingBackend", "MovingPort"]

MOVED: Final = "moved"
"""Why a session ended in the source that lives on in the target."""

_HELD: Final = 30.0  # seconds; a process that stands still for longer within a change may lose it
_PAUSE: Final = 0.002  # seconds between two attempts to get a lease
_PATIENCE: Final = 10.0  # seconds


class MovingBackend:
    """*source* and *target* as one backend. For the time of a move only.

    1. Start every process of the app with `moves=False`: new sessions still begin in the source.
    2. Then start every process with `moves=True`: new ones begin in the target, and a session of the source
       moves as soon as somebody comes with it. `session-middleware migrate --move` moves the others.
    3. When that says that the source is empty, start every process with the target alone.

    Both must find sessions by user and by conditions, count them, give out leases, know an epoch and mend
    (as all of this package do). `max_sessions` and `max_sessions_per_user` cannot be kept meanwhile. Raises
    `ConfigurationError`.
    """

    def __init__(self, source: Backend | str, target: Backend | str, *, moves: bool = True) -> None:
        self.source, self.target = backend_from(source), backend_from(target)
        self.moves = moves
        self.url = f"{self.source.url} to {self.target.url}"
        self.colours: frozenset[Colour] = self.source.colours & self.target.colours
        self._ports: dict[Colour, MovingPort] = {}

    def __repr__(self) -> str:
        return f"<MovingBackend {self.url} moves={self.moves}>"

    def port(self, colour: Colour) -> MovingPort:
        """The one port of this colour of this backend object."""
        if colour not in self.colours:
            raise wrong_colour(self, colour)
        if colour not in self._ports:
            sides = self.source.port(colour), self.target.port(colour)
            self._ports[colour] = MovingPort(*sides, moves=self.moves)
        return self._ports[colour]


class _Able(Port, ByUser, Counting, Summarizing, Iterating, Leases, Epochal, Salvaging, Protocol):
    """What each side must be able to do."""


_NEEDED: Final = (ByUser, Counting, Summarizing, Iterating, Leases, Epochal, Salvaging)


def _able(name: str, port: Any) -> _Able:
    missing = [kind.__name__ for kind in _NEEDED if not isinstance(port, kind)]
    if missing:
        raise ConfigurationError(
            f"{name}: sessions move between backends that can do all of it; this one lacks "
            f"{', '.join(missing)}"
        )
    return cast("_Able", port)


class MovingPort:
    """The contract over two ports."""

    immediate = False

    def __init__(self, source: Port, target: Port, *, moves: bool) -> None:
        self._source = _able("source", source)
        self._target = _able("target", target)
        self._moves = moves
        self._holder = secrets.token_hex(8)

    async def open(self) -> None:
        """Open both."""
        await self._source.open()
        await self._target.open()

    async def close(self) -> None:
        """Close both."""
        try:
            await self._source.close()
        finally:
            await self._target.close()

    async def wait(self, seconds: float) -> None:
        """See `Port.wait`."""
        await self._source.wait(seconds)

    def bound(self, seconds: float) -> None:
        """See `Bounded.bound`."""
        for port in (self._source, self._target):
            if isinstance(port, Bounded):
                port.bound(seconds)

    # --- one session ---

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        """See `Port.load`. One that is found in the source moves."""
        there = await self._target.load(id, now)
        if there is not None:
            return there
        found = await self._source.load(id, now)
        if isinstance(found, Record) and self._moves:
            await self.move(id, now)
            return await self._target.load(id, now) or await self._source.load(id, now)
        return await self._target.load(id, now) if _has_moved(found) else found

    async def move(self, id_: SessionId, now: float) -> bool:
        """Take it to the target; False: it was not in the source any more.

        A half that was cut short is completed: what is in the target counts.
        """
        async with self._alone(id_, now):
            found = await self._source.load(id_, now)
            if not isinstance(found, Record):
                return False
            there: LoadAnswer = found
            if await self._target.create(found, now) is EXISTS:
                there = await self._target.load(id_, now)
            if isinstance(there, Ended):
                await self._source.delete(id_, now, there.reason, there.by)
                return False
            return await self._source.delete(id_, now, MOVED)

    async def create(self, record: Record, now: float) -> CreateResult:
        """See `Port.create`."""
        first, other = (self._target, self._source) if self._moves else (self._source, self._target)
        async with self._alone(record.id, now):
            if await other.load(record.id, now) is None:
                return await first.create(record, now)
            answer = await other.create(record, now)  # what has expired is no obstacle
        if self._moves and answer is CREATED:
            await self.move(record.id, now)
        return answer

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        """See `Port.commit`."""
        answer = await self._target.commit(id, delta, now)
        if answer is not GONE:
            return answer
        async with self._alone(id, now):
            answer = await self._target.commit(id, delta, now)  # it may have moved meanwhile
            return await self._source.commit(id, delta, now) if answer is GONE else answer

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        """See `Port.delete`."""
        async with self._alone(id, now):
            there = await self._target.delete(id, now, reason, by)
            here = await self._source.delete(id, now, reason, by)
            return there or here

    async def salvage(self, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
        """See `Salvaging.salvage`."""
        for port in (self._target, self._source):
            found = await port.salvage(id, now)
            if found is not None:
                return found._replace(mark=(port, found))
        return None

    async def mend(self, record: Record, salvaged: Salvaged) -> bool:
        """See `Salvaging.mend`."""
        port, found = cast("tuple[_Able, Salvaged]", salvaged.mark)
        return await port.mend(record, found)

    @asynccontextmanager
    async def _alone(self, id_: SessionId, now: float) -> AsyncIterator[None]:
        """Nobody else, in any process, changes this session in the source or moves it meanwhile."""
        name, holder = f"move:{id_}", f"{self._holder}:{secrets.token_hex(4)}"
        waited = 0.0
        try:
            while not await self._source.acquire_lease(name, holder, _HELD, now + waited):
                if waited >= _PATIENCE:
                    raise BackendUnavailable(f"others moved or changed the session for {_PATIENCE} s")
                await self._source.wait(_PAUSE)
                waited += _PAUSE
            yield
        finally:  # also where the caller was cut short before he heard that he has it
            await self._source.release_lease(name, holder)

    # --- of both sides ---

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        """See `Port.delete_expired`."""
        gone = list(await self._target.delete_expired(now, limit))
        if len(gone) < limit:
            gone += await self._source.delete_expired(now, limit - len(gone))
        return gone

    async def list_user(self, user_id: str, now: float) -> Sequence[Record]:
        """See `ByUser.list_user`. The source first: what moves meanwhile is then seen in the target."""
        here = await self._source.list_user(user_id, now)
        there = await self._target.list_user(user_id, now)
        return _merged(here, there)

    async def delete_user(
        self, user_id: str, now: float, reason: str, *, keep: Sequence[SessionId] = (), by: str | None = None
    ) -> Sequence[SessionId]:
        """See `ByUser.delete_user`."""
        ended: list[SessionId] = []
        for record in await self._source.list_user(user_id, now):
            if record.id not in keep:
                ended += await self._end_one(record.id, Where(user_id=user_id), now, reason, by)
        there = await self._target.delete_user(user_id, now, reason, keep=keep, by=by)
        return [*ended, *there]

    async def _end_one(
        self, id_: SessionId, where: Where, now: float, reason: str, by: str | None
    ) -> list[SessionId]:
        return [one.id for one in await self._end_either(id_, where, now, reason, by)]

    async def _end_either(
        self, id_: SessionId, where: Where, now: float, reason: str, by: str | None
    ) -> list[EndedRecord]:
        async with self._alone(id_, now):
            there = await self._target.end_found([id_], where, now, reason, by=by)
            here = await self._source.end_found([id_], where, now, reason, by=by)
            return list({one.id: one for one in (*here, *there)}.values())

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        """See `Iterating.end_found`. Those of the source one by one."""
        ended = list(await self._target.end_found(ids, where, now, reason, by=by))
        done = {one.id for one in ended}
        for id_ in ids:
            if id_ not in done and await self._source.load(id_, now) is not None:
                ended += await self._end_either(id_, where, now, reason, by)
        return ended

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        """See `Iterating.find`. As far as both sides were looked at."""
        here = await self._source.find(where, now, limit=limit, after=after)
        there = await self._target.find(where, now, limit=limit, after=after)
        records = _merged(here.records, there.records)
        ends = [page.after for page in (here, there) if page.after is not None]
        if len(records) > limit:
            ends.append(_place(records[limit - 1]))
        last = max(ends, default=None)
        if last is not None:
            records = [record for record in records if _place(record) >= last]
        return Page(records, last, [*here.unreadable, *there.unreadable])

    async def count(self, now: float) -> int:
        """See `Counting.count`."""
        return await self._source.count(now) + await self._target.count(now)

    async def usage(self, now: float) -> Usage:
        """See `Counting.usage`."""
        return (await self.summary(now, ())).usage

    async def summary(self, now: float, ages: Sequence[float]) -> Summary:
        """See `Summarizing.summary`."""
        both = [await port.summary(now, ages) for port in (self._source, self._target)]
        usages = [one.usage for one in both]
        number = sum(usage.sessions for usage in usages)
        total = sum((usage.average_age or 0.0) * usage.sessions for usage in usages)
        by_status: dict[str, int] = {}
        for usage in usages:
            for status, sessions in usage.by_status.items():
                by_status[status] = by_status.get(status, 0) + sessions
        return Summary(
            Usage(number, total / number if number else None, by_status),
            max((one.oldest for one in both if one.oldest is not None), default=None),
            min((one.newest for one in both if one.newest is not None), default=None),
            tuple(sum(column) for column in zip(*(one.younger for one in both), strict=True)),
        )

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        """See `Epochal.end_all_before`. What moves meanwhile takes its moment of creation along."""
        there = await self._target.end_all_before(t, now, reason, by=by)
        here = await self._source.end_all_before(t, now, reason, by=by)
        return there or here

    # --- leases: the source's, until the end ---

    async def acquire_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.acquire_lease`."""
        return await self._source.acquire_lease(name, holder, seconds, now)

    async def renew_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """See `Leases.renew_lease`."""
        return await self._source.renew_lease(name, holder, seconds, now)

    async def release_lease(self, name: str, holder: str) -> bool:
        """See `Leases.release_lease`."""
        return await self._source.release_lease(name, holder)


def _has_moved(answer: LoadAnswer) -> bool:
    return isinstance(answer, Ended) and answer.reason == MOVED


def _place(record: Record) -> Position:
    return Position(record.created_at, record.id)


def _merged(here: Iterable[Record], there: Iterable[Record]) -> list[Record]:
    """Newest first. Of one that is just being moved, the target's."""
    known = {record.id: record for record in (*here, *there)}
    return sorted(known.values(), key=_place, reverse=True)
