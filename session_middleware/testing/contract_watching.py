"""The cases of `Watching`: who watches hears at once of what ended, through whichever port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import ByUser, Epochal, Watching
from session_middleware.record import Delta, SessionId
from session_middleware.testing.contract import (
    NOW,
    MakePort,
    Skipped,
    _by_user,
    _case,
    _commit,
    _created,
    _id,
    _same,
)

__all__: list[str] = []

_PATIENCE = 10.0  # seconds for news to come
_MOMENTS = 24  # turns of the event loop: to connect and to subscribe takes about ten


def _watched(port: Port) -> AsyncGenerator[SessionId | None, None]:
    if not isinstance(port, Watching):
        raise Skipped("this backend does not tell of endings at once (Watching)")
    return port.watch()


async def _told(make: MakePort, end: Callable[[Port], Awaitable[object]]) -> list[SessionId | None]:
    """What is heard through one port while another does this; the end of session 9 comes last."""
    port, other = make(), make()
    for number in range(4):
        await _created(port, number, user_id="ada")
    await _created(port, 9)
    heard: list[SessionId | None] = []
    async with aclosing(_watched(port)) as told, asyncio.timeout(_PATIENCE):
        async for id_ in told:
            if not heard:
                _same(id_, None, "the first answer")
                await end(other)
                await other.delete(_id(9), NOW, "logout")
            heard.append(id_)
            if id_ == _id(9):
                return heard
    raise AssertionError("nothing more was told")


@_case("async")
async def _who_watches_hears_of_each_session_that_is_ended(make: MakePort) -> None:
    async def end(port: Port) -> None:
        await port.delete(_id(2), NOW, "logout")
        await port.delete(_id(2), NOW, "logout")
        await port.delete(_id(7), NOW, "logout")

    _same(await _told(make, end), [None, _id(2), _id(9)])


@_case("async")
async def _who_watches_hears_of_all_sessions_of_a_user_that_are_ended(make: MakePort) -> None:
    if not isinstance(make(), ByUser):
        raise Skipped("this backend does not find sessions by user (ByUser)")

    async def end(port: Port) -> None:
        await _by_user(port).delete_user("ada", NOW, "revoked", keep=[_id(1)])

    heard = await _told(make, end)
    _same((heard[0], heard[-1]), (None, _id(9)))
    _same(sorted(str(id_) for id_ in heard[1:-1]), [_id(n) for n in (0, 2, 3)])


@_case("async")
async def _who_watches_hears_of_a_cycle_without_grace_and_of_no_other_commit(make: MakePort) -> None:
    async def end(port: Port) -> None:
        await _commit(port, Delta(set={"a": b"1"}, renew_to=NOW + 2000), 1)
        await _commit(port, Delta(cycle=30.0), 2)
        await _commit(port, Delta(cycle=0.0), 3)

    _same(await _told(make, end), [None, _id(3), _id(9)])


@_case("async")
async def _who_watches_hears_that_an_epoch_may_have_ended_any(make: MakePort) -> None:
    async def end(port: Port) -> None:
        if not isinstance(port, Epochal):
            raise Skipped("this backend cannot end every session of before in one write (Epochal)")
        await port.end_all_before(NOW - 5, NOW, "key leaked")

    _same(await _told(make, end), [None, None, _id(9)])


@_case("async")
async def _who_watches_can_stop_at_any_moment(make: MakePort) -> None:
    port = make()
    await port.open()
    for turns in range(_MOMENTS):
        watching = asyncio.ensure_future(_listening(port))
        for _ in range(turns):
            await asyncio.sleep(0)
        watching.cancel()
        _, late = await asyncio.wait({watching}, timeout=_PATIENCE / 10)
        _same(len(late), 0, f"who watches on, cancelled after {turns} turns of the event loop")


async def _listening(port: Port) -> None:
    async with aclosing(_watched(port)) as told:
        async for _ in told:
            pass
