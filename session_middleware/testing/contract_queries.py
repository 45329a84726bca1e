"""The cases of `Iterating`: sessions found and ended by conditions, in pages that do not shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Iterating, Position
from session_middleware.record import Delta, Ended, Record, SessionId
from session_middleware.testing.contract import (
    NOW,
    MakePort,
    Skipped,
    _case,
    _commit,
    _created,
    _id,
    _is_true,
    _same,
)
from session_middleware.where import Where

__all__: list[str] = []

_CLIENT = {"network": "192.0.2.0/24", "user_agent": "Firefox/130"}


def _iterating(port: Port) -> Iterating:
    if not isinstance(port, Iterating):
        raise Skipped("this backend does not find sessions by conditions (Iterating)")
    return port


async def _walk(
    port: Port, where: Where, now: float = NOW, limit: int = 3, after: Position | None = None
) -> list[Record]:
    """Every page to the end, each within its limit."""
    found: list[Record] = []
    for _ in range(10_000):
        page = await _iterating(port).find(where, now, limit=limit, after=after)
        _is_true(len(page.records) <= limit, f"a page of {len(page.records)} where {limit} were asked for")
        found += page.records
        after = page.after
        if after is None:
            return found
    raise AssertionError("ten thousand pages, and still no last one")


async def _numbers(port: Port, where: Where, now: float = NOW, limit: int = 3) -> list[int]:
    return [int(record.id[-14:]) for record in await _walk(port, where, now, limit)]


async def _family(port: Port) -> None:
    """Six sessions, the higher number the newer; 4 and 5 of one moment."""
    await _created(port, 0, created_at=NOW - 50, user_id="ada", status="failed")
    await _created(port, 1, created_at=NOW - 40, user_id="bob", authenticated_at=NOW - 15)
    await _created(port, 2, created_at=NOW - 30, user_id="ada", metadata={"client": _CLIENT})
    await _created(port, 3, created_at=NOW - 20, status="processing", last_seen_at=NOW - 12)
    await _created(port, 4, created_at=NOW - 10, status="processing", authenticated_at=NOW - 10)
    await _created(port, 5, created_at=NOW - 10, user_id="ada", authenticated_at=NOW - 5)


@_case()
async def _sessions_are_found_newest_first(make: MakePort) -> None:
    port = make()
    await _family(port)
    for limit in (1, 2, 3, 100):
        _same(await _numbers(port, Where(), limit=limit), [5, 4, 3, 2, 1, 0], f"pages of {limit}")


@_case()
async def _nothing_is_found_where_nothing_is(make: MakePort) -> None:
    _same(await _numbers(make(), Where()), [])


@_case()
async def _each_condition_selects_what_it_says(make: MakePort) -> None:
    port = make()
    await _family(port)
    expected: Sequence[tuple[Where, list[int]]] = [
        (Where(user_id="ada"), [5, 2, 0]),
        (Where(user_id="nobody"), []),
        (Where(status="processing"), [4, 3]),
        (Where(user_id="ada", status="failed"), [0]),
        (Where(created_before=NOW - 30), [1, 0]),
        (Where(created_after=NOW - 30), [5, 4, 3, 2]),
        (Where(created_after=NOW - 40, created_before=NOW - 10), [3, 2, 1]),
        (Where(created_after=NOW - 10, created_before=NOW - 10), []),
        (Where(authenticated_before=NOW - 5), [4, 1]),
        (Where(authenticated_after=NOW - 10), [5, 4]),
        (Where(seen_before=NOW), [3]),
        (Where(seen_after=NOW), [5, 4, 2, 1, 0]),
        (Where(network="192.0.0.0/16"), [2]),
        (Where(network="198.51.100.0/24"), []),
        (Where(user_agent="firefox"), [2]),
        (Where(ids=[_id(1), _id(4), _id(99), "odd"]), [4, 1]),
        (Where(ids=[_id(number) for number in range(6)], user_id="ada"), [5, 2, 0]),
        (Where(ids=[]), []),
        (Where(user_id="ada", created_before=NOW - 10, seen_after=NOW), [2, 0]),
    ]
    for where, numbers in expected:
        for limit in (1, 100):
            _same(await _numbers(port, where, limit=limit), numbers, f"{where} by {limit}")


@_case()
async def _what_is_found_is_the_whole_record(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"a": b"1"}, user_id="ada", metadata={"client": _CLIENT})
    _same(await _walk(port, Where()), [record])
    _same(await _walk(port, Where(user_id="ada")), [record])


@_case()
async def _what_has_expired_is_not_found(make: MakePort) -> None:
    port = make()
    await _created(port, 1, deadline=NOW + 10, user_id="ada", status="failed")
    await _created(port, 2, user_id="ada", status="failed")
    for where in (Where(), Where(user_id="ada"), Where(status="failed"), Where(ids=[_id(1), _id(2)])):
        _same(await _numbers(port, where, NOW + 10), [2], str(where))


@_case()
async def _a_session_is_found_by_what_it_has_become(make: MakePort) -> None:
    port = make()
    await _created(port, 1, user_id="ada", status="pending")
    await _commit(port, Delta(user_id="bob", status="failed", seen_at=NOW + 5), 1)
    for gone in (Where(user_id="ada"), Where(status="pending"), Where(seen_before=NOW + 5)):
        _same(await _numbers(port, gone), [], str(gone))
    for met in (Where(user_id="bob"), Where(status="failed"), Where(seen_after=NOW + 5)):
        _same(await _numbers(port, met), [1], str(met))


@_case()
async def _pages_do_not_shift_when_sessions_begin_and_end(make: MakePort) -> None:
    port = make()
    for number in range(10):
        await _created(port, number, created_at=NOW - 100 + number)
    first = await _iterating(port).find(Where(), NOW, limit=4)
    _same([record.id for record in first.records], [_id(9), _id(8), _id(7), _id(6)], "the first page")
    await port.delete(_id(6), NOW, "logout")  # the very place to go on from
    await port.delete(_id(7), NOW, "logout")  # one more than begin above it: they must not even out
    await port.delete(_id(4), NOW, "logout")
    await _created(port, 20, created_at=NOW)
    await _created(port, 21, created_at=NOW - 97.5)
    rest = await _walk(port, Where(), after=first.after)
    _same([int(record.id[-14:]) for record in rest], [5, 3, 21, 2, 1, 0], "the rest")


@_case()
async def _many_sessions_of_one_moment_are_each_found_once(make: MakePort) -> None:
    port = make()
    for number in range(25):
        await _created(port, number, user_id="ada", status="failed")
    for where in (Where(), Where(user_id="ada"), Where(status="failed")):
        _same(await _numbers(port, where, limit=4), list(range(24, -1, -1)), str(where))


@_case()
async def _the_one_that_matches_is_found_among_thousands(make: MakePort) -> None:
    port = make()
    await _created(port, 0, created_at=NOW - 9000, metadata={"client": _CLIENT})
    for number in range(1, 2500):
        await _created(port, number, created_at=NOW - 8000 + number)
    _same(await _numbers(port, Where(user_agent="firefox")), [0])


@_case()
async def _those_found_are_ended_with_reason_and_name(make: MakePort) -> None:
    port = make()
    await _family(port)
    where = Where(user_id="ada")
    some = [_id(number) for number in (0, 2, 5)]
    ended = await _iterating(port).end_found(some, where, NOW, "revoked", by="eve")
    _same(
        sorted((one.id, one.user_id, one.reason, one.created_at) for one in ended),
        [(_id(n), "ada", "revoked", at) for n, at in ((0, NOW - 50), (2, NOW - 30), (5, NOW - 10))],
    )
    for id_ in some:
        _same(await port.load(id_, NOW), Ended("revoked", NOW, "eve"))
    _same(await _numbers(port, Where()), [4, 3, 1], "the others")


@_case()
async def _what_matches_no_longer_is_not_ended(make: MakePort) -> None:
    port = make()
    await _created(port, 1, user_id="ada")
    await _created(port, 2, deadline=NOW + 5, user_id="ada")
    await _commit(port, Delta(user_id="bob"), 1)
    ids = [_id(1), _id(2), _id(3)]
    _same(list(await _iterating(port).end_found(ids, Where(user_id="ada"), NOW + 5, "revoked")), [])
    _same(await _numbers(port, Where(), NOW + 5), [1])


@_case()
async def _of_two_that_end_the_same_session_one_does(make: MakePort) -> None:
    port = _iterating(make())
    other = _iterating(make())
    for number in range(20):
        await _created(make(), number)
    ids = [_id(number) for number in range(20)]
    ended: list[Any] = await make.together(
        one.end_found([id_], Where(), NOW, "revoked") for id_ in ids for one in (port, other)
    )
    _same(sorted(one.id for some in ended for one in some), ids)


@_case()
async def _very_many_can_be_named(make: MakePort) -> None:
    port = make()
    for number in range(5):
        await _created(port, number, created_at=NOW - 10 + number)
    ids = [SessionId(f"nobody-{number:015d}") for number in range(3000)] + [_id(1), _id(3)]
    _same(await _numbers(port, Where(ids=ids), limit=1), [3, 1])
    ended = await _iterating(port).end_found(ids, Where(ids=ids), NOW, "revoked")
    _same(sorted(one.id for one in ended), [_id(1), _id(3)])
