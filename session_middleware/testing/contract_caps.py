"""The cases of `Capped`: never more sessions than allowed, and the right ones go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Admitted, Capped, Caps, Full
from session_middleware.record import (
    CONFLICT,
    CREATED,
    EXISTS,
    GONE,
    Committed,
    Delta,
    Ended,
    Record,
    SessionId,
    replace,
)
from session_middleware.testing.contract import (
    LONG_AFTER,
    NOW,
    MakePort,
    Skipped,
    _case,
    _created,
    _id,
    _loaded,
    _record,
    _same,
)

__all__: list[str] = []


def _capped(port: Port) -> Capped:
    if not isinstance(port, Capped):
        raise Skipped("this backend cannot limit how many sessions there are (Capped)")
    return port


async def _made(port: Port, number: int, caps: Caps, now: float = NOW, **fields: Any) -> Admitted[Any]:
    return await _capped(port).create_within(_record(number, **fields), now, caps)


async def _live(port: Port, numbers: Sequence[int], now: float = NOW) -> list[int]:
    """Which of these are live."""
    return [number for number in numbers if isinstance(await port.load(_id(number), now), Record)]


def _same_alone(found: Admitted[Any], answer: object, about: str = "") -> None:
    """This answer, and nobody's end."""
    _same((found.answer, *found.of_user, *found.others), (answer,), about)


def _ids(ended: Sequence[Any]) -> list[SessionId]:
    return [one.id for one in ended]


@_case()
async def _without_limits_a_create_is_a_create(make: MakePort) -> None:
    port = make()
    _same_alone(await _made(port, 1, Caps(), user_id="ada"), CREATED)
    _same_alone(await _made(port, 1, Caps(total=1)), EXISTS, "again")
    await port.delete(_id(1), NOW, "logout")
    _same_alone(await _made(port, 1, Caps(total=1)), EXISTS, "an ended one")


@_case()
async def _one_more_of_a_user_ends_the_one_created_first(make: MakePort) -> None:
    port, caps = make(), Caps(per_user=2)
    for number, age in enumerate((30, 50, 40)):
        await _created(port, number, user_id=("ada", "ada", "bob")[number], created_at=NOW - age)
    admitted = await _made(port, 3, caps, user_id="ada")
    _same((admitted.answer, _ids(admitted.of_user), _ids(admitted.others)), (CREATED, [_id(1)], []))
    _same(await port.load(_id(1), NOW), Ended("evicted", NOW))
    _same(await _live(port, range(4)), [0, 2, 3], "live")


@_case()
async def _one_more_of_a_user_can_be_refused(make: MakePort) -> None:
    port, caps = make(), Caps(per_user=1, reject=True)
    await _created(port, 0, user_id="ada", deadline=NOW + 10)
    _same_alone(await _made(port, 1, caps, user_id="ada"), Full.OF_USER)
    _same(await _live(port, range(2)), [0], "live")
    _same_alone(await _made(port, 2, caps, user_id="bob"), CREATED, "of another")
    _same_alone(await _made(port, 3, caps), CREATED, "of nobody")
    _same_alone(await _made(port, 4, caps, now=NOW + 10, user_id="ada"), CREATED, "once it expired")


@_case()
async def _a_session_that_becomes_a_users_counts(make: MakePort) -> None:
    port, caps = make(), Caps(per_user=1)
    await _created(port, 0, user_id="ada", created_at=NOW - 5)
    await _created(port, 1, created_at=NOW - 50)
    bound = await _capped(port).commit_within(_id(1), Delta(user_id="ada", set={"a": b"1"}), NOW, caps)
    _same(isinstance(bound.answer, Committed), True, "committed")
    _same(_ids(bound.of_user), [_id(0)], "ended")
    _same((await _loaded(port, 1)).user_id, "ada", "user")
    again = await _capped(port).commit_within(_id(1), Delta(user_id="ada"), NOW, caps)
    _same(_ids(again.of_user), [], "ended by the same login again")
    _same(await _live(port, range(2)), [1], "live")


@_case()
async def _a_binding_that_is_refused_ends_nobody(make: MakePort) -> None:
    port, caps = make(), Caps(per_user=1)
    await _created(port, 0, user_id="ada")
    await _created(port, 1)
    login = Delta(user_id="ada", admitted=1)
    _same_alone(await _capped(port).commit_within(_id(1), login, NOW, caps), CONFLICT, "overtaken")
    _same_alone(await _capped(port).commit_within(_id(9), login, NOW, caps), GONE, "unknown")
    full = await _capped(port).commit_within(_id(1), Delta(user_id="ada"), NOW, caps._replace(reject=True))
    _same_alone(full, Full.OF_USER)
    _same((await _loaded(port, 1)).user_id, None, "user")
    _same(await _live(port, range(2)), [0, 1], "live")


@_case()
async def _what_has_expired_goes_first(make: MakePort) -> None:
    port, caps = make(), Caps(total=2)
    await _created(port, 0, deadline=NOW + 10, priority=9, user_id="ada")
    await _created(port, 1, last_seen_at=NOW - 500)
    admitted = await _made(port, 2, caps, now=NOW + 10)
    _same([(one.id, one.reason) for one in admitted.others], [(_id(0), "idle_timeout")])
    _same(await _live(port, range(3), NOW + 10), [1, 2], "live")


@_case()
async def _priority_then_nobodys_then_longest_unseen_is_the_order(make: MakePort) -> None:
    port, caps = make(), Caps(total=6)
    facts: Sequence[dict[str, Any]] = (
        {"priority": 1, "last_seen_at": NOW - 900},
        {"user_id": "ada", "last_seen_at": NOW - 800},
        {"last_seen_at": NOW - 5},
        {"last_seen_at": NOW - 6},
        {"priority": -1, "user_id": "bob"},
        {"user_id": "ada", "last_seen_at": NOW - 700},
    )
    for number, fields in enumerate(facts):
        await _created(port, number, **fields)
    gone: list[SessionId] = []
    for number in range(10, 16):
        admitted = await _made(port, number, caps, user_id="eve", priority=5)
        gone += _ids(admitted.others)
    _same(gone, [_id(number) for number in (4, 3, 2, 1, 5, 0)])


@_case()
async def _none_goes_for_one_of_lower_priority(make: MakePort) -> None:
    port, caps = make(), Caps(total=2)
    await _created(port, 0, priority=2)
    await _created(port, 1, priority=1)
    _same_alone(await _made(port, 2, caps), Full.SESSIONS)
    _same(await _live(port, range(3)), [0, 1], "live")
    _same(_ids((await _made(port, 3, caps, priority=1)).others), [_id(1)], "of equal priority")


@_case()
async def _what_is_held_stays(make: MakePort) -> None:
    port = make()
    for number in range(2):
        await _created(port, number, last_seen_at=NOW - 100 + number)
    admitted = await _made(port, 2, Caps(total=2, held=[_id(0)]))
    _same(_ids(admitted.others), [_id(1)])
    _same_alone(await _made(port, 3, Caps(total=2, held=[_id(0), _id(2)])), Full.SESSIONS, "all held")


@_case()
async def _the_order_follows_what_becomes_of_sessions(make: MakePort) -> None:
    port, caps = make(), Caps(total=3)
    for number in range(3):
        await _created(port, number, last_seen_at=NOW - 100 + number)
    await _made(port, 3, caps)  # 0 goes: the order is known from here on
    await port.commit(_id(1), Delta(seen_at=NOW + 50), NOW)
    await port.commit(_id(3), Delta(priority=7), NOW)
    await port.commit(_id(3), Delta(priority=0), NOW)
    _same(_ids((await _made(port, 4, caps)).others), [_id(2)], "next")
    await port.delete(_id(3), NOW, "logout")
    _same(_ids((await _made(port, 5, caps)).others), [], "room by a logout")
    _same(_ids((await _made(port, 6, caps, last_seen_at=NOW + 99)).others), [_id(4)], "next but one")


@_case()
async def _a_user_with_too_many_makes_the_room(make: MakePort) -> None:
    port, caps = make(), Caps(total=2, per_user=1)
    await _created(port, 0, user_id="ada")
    await _created(port, 1, last_seen_at=NOW - 100)
    admitted = await _made(port, 2, caps, user_id="ada")
    _same((_ids(admitted.of_user), _ids(admitted.others)), ([_id(0)], []))


@_case()
async def _limits_that_shrink_are_made_good_in_steps(make: MakePort) -> None:
    port = make()
    for number, user in enumerate(["ada"] * 5 + [None] * 5):
        await _created(port, number, created_at=NOW - 100 + number, user_id=user, last_seen_at=NOW - number)
    caps = Caps(total=4, per_user=2)
    steps = [await _capped(port).shrink(NOW, caps, 2) for _ in range(5)]
    _same(sum(len(one.of_user) for one in steps), 3, "of the user")
    _same(await _live(port, range(5)), [3, 4], "of the user, live")
    _same(len(await _live(port, range(10))), 4, "live")
    _same_alone(await _capped(port).shrink(NOW, caps, 2), None, "nothing more to do")


@_case()
async def _sessions_that_may_not_be_refused_shrink_nobody(make: MakePort) -> None:
    port = make()
    for number in range(3):
        await _created(port, number, user_id="ada")
    _same_alone(await _capped(port).shrink(NOW, Caps(per_user=1, reject=True), 10), None)
    _same(await _live(port, range(3)), [0, 1, 2], "live")


@_case()
async def _however_many_are_created_at_once_there_are_never_too_many(make: MakePort) -> None:
    ports, caps = [make(), make()], Caps(total=5)
    answers: list[Admitted[Any]] = await make.together(
        _made(ports[number % 2], number, caps) for number in range(20)
    )
    _same([one.answer for one in answers], [CREATED] * 20)
    _same(len(await _live(ports[0], range(20))), 5, "live")
    gone = [one.id for answer in answers for one in answer.others]
    _same(len(gone), len(set(gone)), "ended twice")


@_case()
async def _however_many_logins_there_are_at_once_a_user_never_has_too_many(make: MakePort) -> None:
    for reject in (False, True):
        ports, caps = [make(), make()], Caps(per_user=3, reject=reject)
        first = 100 * reject
        answers: list[Admitted[Any]] = await make.together(
            _made(ports[number % 2], number, caps, user_id=f"ada{reject}")
            for number in range(first, first + 20)
        )
        created = [one.answer for one in answers].count(CREATED)
        _same(created, 3 if reject else 20, f"created, reject={reject}")
        _same(len(await _live(ports[0], range(first, first + 20))), 3, f"live, reject={reject}")


@_case()
async def _a_cleanup_makes_room_as_well(make: MakePort) -> None:
    port, caps = make(), Caps(total=2)
    for number in range(2):
        await _made(port, number, caps, deadline=NOW + 10)
    _same(len(await port.delete_expired(NOW + LONG_AFTER, 10)), 2, "cleaned up")
    later = NOW + LONG_AFTER
    for number in range(2, 4):
        record = replace(_record(number), deadline=later + 10, limit=later + 10, created_at=later)
        _same_alone(await _capped(port).create_within(record, later, caps), CREATED, "created")
