"""The cases of `Epochal`: sessions created before a moment are ended by one write, whoever asks for them."""

from __future__ import annotations

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import (
    ByUser,
    Capped,
    Caps,
    Counting,
    Epochal,
    Full,
    Iterating,
    Salvaging,
    Summarizing,
)
from session_middleware.record import CREATED, GONE, Committed, Delta, Ended, SessionId
from session_middleware.testing.contract import (
    LONG_AFTER,
    MANY,
    NOW,
    MakePort,
    Skipped,
    _case,
    _commit,
    _created,
    _id,
    _is_true,
    _loaded,
    _record,
    _same,
)
from session_middleware.where import Where

__all__: list[str] = []

_THEN = NOW - 100  # the moment before which all is ended


def _epochal(port: Port) -> Epochal:
    if not isinstance(port, Epochal):
        raise Skipped("this backend cannot end every session of before in one write (Epochal)")
    return port


async def _swept(port: Port, t: float = _THEN, reason: str = "key leaked") -> None:
    _is_true(await _epochal(port).end_all_before(t, NOW, reason, by="eve"), "the epoch is said to be kept")


async def _old_and_new(port: Port) -> None:
    """0 and 1 lie before the moment, 2 at it, 3 after it."""
    await _created(port, 0, created_at=_THEN - 5000, user_id="ada", status="failed")
    await _created(port, 1, created_at=_THEN - 0.001, user_id="ada", status="failed")
    await _created(port, 2, created_at=_THEN, user_id="ada", status="failed")
    await _created(port, 3, created_at=_THEN + 50, user_id="ada", status="failed")


async def _cleaned(port: Port, now: float = NOW, limit: int = 3) -> list[tuple[SessionId, str]]:
    """What cleanup reports, batch by batch to the end."""
    reported: list[tuple[SessionId, str]] = []
    for _ in range(1000):
        some = await port.delete_expired(now, limit)
        _is_true(len(some) <= limit, f"{len(some)} in one batch of {limit}")
        reported += [(one.id, one.reason) for one in some]
        if len(some) < limit:
            return sorted(reported)
    raise AssertionError("a thousand batches, and still not the last one")


@_case()
async def _what_was_created_before_the_epoch_is_ended(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _swept(port)
    for number in (0, 1):
        _same(await port.load(_id(number), NOW), Ended("key leaked", NOW, "eve"), f"load of {number}")
        _same(await port.commit(_id(number), Delta(set={"a": b"1"}), NOW), GONE, f"commit of {number}")
        _same(await port.commit(_id(number), Delta(renew_to=NOW + 9), NOW), GONE, f"renewal of {number}")
        _same(await port.delete(_id(number), NOW, "logout"), False, f"delete of {number}")
        _same(await port.load(_id(number), NOW + 1), Ended("key leaked", NOW, "eve"), "still the same")


@_case()
async def _what_was_created_at_the_epoch_or_later_lives_on(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _swept(port)
    for number in (2, 3):
        await _commit(port, Delta(set={"a": b"1"}, renew_to=NOW + 2000), number)
        _same((await _loaded(port, number)).data["a"], b"1", "what was saved")
    _same(await port.delete(_id(3), NOW, "logout"), True, "delete")


@_case()
async def _an_epoch_is_seen_at_once_through_any_port(make: MakePort) -> None:
    port, other = make(), make()
    await _created(port, created_at=_THEN - 1)
    await _loaded(other)
    await _swept(port)
    _same(await other.load(_id(0), NOW), Ended("key leaked", NOW, "eve"))
    _same(await other.commit(_id(0), Delta(set={"a": b"1"}), NOW), GONE)


@_case()
async def _the_id_of_a_session_that_an_epoch_ended_is_no_obstacle(make: MakePort) -> None:
    port = make()
    await _created(port, created_at=_THEN - 1, data={"old": b"1"})
    await _swept(port)
    _same(await port.create(_record(data={"new": b"2"}), NOW), CREATED, "create")
    _same(dict((await _loaded(port)).data), {"new": b"2"})
    _same(await _cleaned(port), [], "cleanup")


@_case()
async def _no_session_is_exempt_from_an_epoch_for_being_stored_later(make: MakePort) -> None:
    port = make()
    await _swept(port)
    await _created(port, created_at=_THEN - 1)
    _same(await port.load(_id(0), NOW), Ended("key leaked", NOW, "eve"))
    _same(await _cleaned(port), [(_id(0), "key leaked")], "cleanup")


@_case()
async def _an_epoch_goes_forward_only(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _swept(port)
    for earlier in (_THEN - 1000, _THEN):
        _same(await _epochal(port).end_all_before(earlier, NOW + 5, "again"), False, "an earlier one")
        _same(await port.load(_id(1), NOW + 5), Ended("key leaked", NOW, "eve"))
    await _swept(port, _THEN + 1, "once more")
    _same(await port.load(_id(2), NOW), Ended("once more", NOW, "eve"), "a later one")
    await _loaded(port, 3)


@_case()
async def _cleanup_removes_what_an_epoch_ended_and_reports_it_once(make: MakePort) -> None:
    port = make()
    for number in range(10):
        await _created(port, number, created_at=_THEN - number, deadline=NOW + 60 * number + 900)
    await _created(port, 20, created_at=NOW)
    await _swept(port)
    _same(await _cleaned(port), [(_id(number), "key leaked") for number in range(1, 10)], "reported")
    _same(await _cleaned(port), [], "reported again")
    _same(await port.load(_id(5), NOW), Ended("key leaked", NOW, "eve"), "load after cleanup")
    await _loaded(port, 0)
    await _loaded(port, 20)


@_case()
async def _many_cleanups_at_once_report_what_an_epoch_ended_once(make: MakePort) -> None:
    port = make()
    for number in range(40):
        await _created(port, number, created_at=_THEN - 1 - number)
    await _swept(port)
    answers = await make.together(make().delete_expired(NOW, 10) for _ in range(MANY))
    reported = sorted(one.id for some in answers for one in some)
    _same(reported, [_id(number) for number in range(40)])


@_case()
async def _a_deadline_that_came_first_remains_the_reason(make: MakePort) -> None:
    port = make()
    await _created(port, 0, created_at=_THEN - 50, deadline=NOW - 10)
    await _created(port, 1, created_at=_THEN - 50, deadline=NOW + 10)
    await _swept(port)
    later = NOW + LONG_AFTER
    _same(await port.load(_id(0), later), Ended("idle_timeout", NOW - 10), "load of what had expired")
    _same(await port.load(_id(1), later), Ended("key leaked", NOW, "eve"), "load of what had not")
    _same(await _cleaned(port, later), [(_id(0), "idle_timeout"), (_id(1), "key leaked")], "cleanup")


@_case()
async def _no_commit_outlives_an_epoch(make: MakePort) -> None:
    port = make()
    for number in range(MANY):
        await _created(port, number, created_at=_THEN - 1)

    async def write(number: int) -> None:
        for step in range(20):
            answer = await make().commit(_id(number), Delta(set={"n": b"%d" % step}), NOW)
            if not isinstance(answer, Committed):
                return

    await make.together([*(write(number) for number in range(MANY)), _swept(port)])
    for number in range(MANY):
        _same(await port.commit(_id(number), Delta(set={"late": b"1"}), NOW), GONE, "a commit after it")
        _same(await port.load(_id(number), NOW), Ended("key leaked", NOW, "eve"))


@_case()
async def _what_an_epoch_ended_is_not_counted(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _created(port, 4, created_at=_THEN - 7, deadline=NOW + 5, status="pending")
    await _swept(port)
    if not isinstance(port, Counting):
        raise Skipped("this backend does not count sessions (Counting)")
    for now, number in ((NOW, 2), (NOW + 5, 2), (NOW + 1000, 0)):
        _same(await port.count(now), number, "count")
    usage = await port.usage(NOW)
    _same((usage.sessions, usage.average_age, dict(usage.by_status)), (2, 75.0, {"failed": 2}), "usage")
    if isinstance(port, Summarizing):
        summary = await port.summary(NOW, (75.0, 100.5, 9000.0))
        _same((summary.usage.sessions, dict(summary.usage.by_status)), (2, {"failed": 2}), "summary")
        _same((summary.oldest, summary.newest, tuple(summary.younger)), (100.0, 50.0, (1, 2, 2)), "ages")


@_case()
async def _what_an_epoch_ended_is_not_listed_and_not_ended_again(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _swept(port)
    if not isinstance(port, ByUser):
        raise Skipped("this backend does not find sessions by user (ByUser)")
    _same([record.id for record in await port.list_user("ada", NOW)], [_id(3), _id(2)], "list_user")
    ended = await port.delete_user("ada", NOW, "revoked", keep=[_id(3)])
    _same(list(ended), [_id(2)], "delete_user")


@_case()
async def _what_an_epoch_ended_is_not_found_and_not_ended_again(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _swept(port)
    if not isinstance(port, Iterating):
        raise Skipped("this backend does not find sessions by conditions (Iterating)")
    ids = [_id(number) for number in range(4)]
    for where in (Where(), Where(user_id="ada"), Where(status="failed"), Where(ids=ids)):
        page = await port.find(where, NOW, limit=100)
        _same([record.id for record in page.records], [_id(3), _id(2)], str(where))
    ended = await port.end_found(ids, Where(), NOW, "revoked")
    _same(sorted(one.id for one in ended), [_id(2), _id(3)], "end_found")


@_case()
async def _what_an_epoch_ended_is_not_salvaged(make: MakePort) -> None:
    port = make()
    record = await _created(port, created_at=_THEN - 1)
    await _created(port, 1, created_at=_THEN)
    await _swept(port)
    if not isinstance(port, Salvaging):
        raise Skipped("this backend cannot read parts of a damaged session (Salvaging)")
    _same(await port.salvage(record.id, NOW), None)
    _is_true(await port.salvage(_id(1), NOW) is not None, "a later session is salvaged")


@_case()
async def _what_an_epoch_ended_takes_nobodys_room(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _swept(port)
    if not isinstance(port, Capped):
        raise Skipped("this backend cannot limit sessions (Capped)")
    _same((await port.commit_within(_id(0), Delta(user_id="bob"), NOW, Caps(per_user=1))).answer, GONE)
    caps = Caps(total=4, per_user=3, reject=True)
    admitted = await port.create_within(_record(5, user_id="ada"), NOW, caps)
    _same((admitted.answer, list(admitted.of_user)), (CREATED, []), "one more of the user")
    _same([(one.id, one.reason) for one in admitted.others], [(_id(0), "key leaked")], "what made room")
    admitted = await port.create_within(_record(6, user_id="ada"), NOW, caps)
    _same(admitted.answer, Full.OF_USER, "one too many of the user")
    _same((await port.create_within(_record(1), NOW, Caps(total=9))).answer, CREATED, "its id")


@_case()
async def _what_an_epoch_ended_goes_before_any_live_session(make: MakePort) -> None:
    port = make()
    await _old_and_new(port)
    await _swept(port)
    if not isinstance(port, Capped):
        raise Skipped("this backend cannot limit sessions (Capped)")
    shrunk = await port.shrink(NOW, Caps(total=2), 10)
    _same(sorted((one.id, one.reason) for one in shrunk.others), [(_id(n), "key leaked") for n in (0, 1)])
    for number in (2, 3):
        await _loaded(port, number)
