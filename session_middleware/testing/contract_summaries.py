"""The cases of `Summarizing`: sums over the live sessions that agree with looking at each."""

from __future__ import annotations

from typing import Any

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Summarizing, Summary, Usage
from session_middleware.record import Delta
from session_middleware.testing.contract import NOW, MakePort, Skipped, _case, _commit, _created, _id, _same

__all__: list[str] = []

_HOUR = 3600.0


def _summarizing(port: Port) -> Summarizing:
    if not isinstance(port, Summarizing):
        raise Skipped("this backend does not sum up its sessions (Summarizing)")
    return port


async def _aged(port: Port, number: int, age: float, **fields: Any) -> None:
    await _created(port, number, created_at=NOW - age, **fields)


@_case()
async def _of_no_sessions_there_is_no_age(make: MakePort) -> None:
    _same(
        await _summarizing(make()).summary(NOW, (1.0, 2.0)), Summary(Usage(0, None, {}), None, None, (0, 0))
    )


@_case()
async def _sessions_are_summed_up_by_age_and_status(make: MakePort) -> None:
    port = make()
    ages = (10.0, 30.0, _HOUR - 0.5, _HOUR, _HOUR + 0.5, 2 * _HOUR, 90.0 * _HOUR)
    statuses = ("failed", None, "failed", "pending", None, None, "done")
    for number, (age, status) in enumerate(zip(ages, statuses, strict=True)):
        await _aged(port, number, age, status=status)
    summary = await _summarizing(port).summary(NOW, (20.0, _HOUR, 24 * _HOUR, 100 * _HOUR))
    _same(tuple(summary.younger), (1, 3, 6, 7), "younger")
    _same((summary.oldest, summary.newest), (90.0 * _HOUR, 10.0), "oldest and newest")
    _same(summary.usage.sessions, 7, "sessions")
    _same(dict(summary.usage.by_status), {"failed": 2, "pending": 1, "done": 1}, "by status")
    average = summary.usage.average_age or 0.0
    _same(round(average, 2), round(sum(ages) / 7, 2), "average age")


@_case()
async def _what_has_expired_is_in_no_sum(make: MakePort) -> None:
    port = make()
    await _aged(port, 0, 500.0, deadline=NOW + 10, status="failed")
    await _aged(port, 1, 50.0, status="failed")
    await _aged(port, 2, 5.0, deadline=NOW + 10)
    summary = await _summarizing(port).summary(NOW + 10, (100.0, 1000.0))
    _same(summary, Summary(Usage(1, 60.0, {"failed": 1}), 60.0, 60.0, (1, 1)))


@_case()
async def _sums_follow_what_becomes_of_sessions(make: MakePort) -> None:
    port = make()
    for number in range(4):
        await _aged(port, number, 100.0 * (number + 1), status="pending")
    await _commit(port, Delta(status="done"), 0)
    await _commit(port, Delta(status=None), 1)
    await port.delete(_id(3), NOW, "logout")
    summary = await _summarizing(port).summary(NOW, (250.0,))
    _same(summary, Summary(Usage(3, 200.0, {"done": 1, "pending": 1}), 300.0, 100.0, (2,)))


@_case()
async def _a_renewed_session_is_summed_up_once(make: MakePort) -> None:
    port = make()
    await _aged(port, 0, 100.0)
    for later in (1100, 1500, 2000):
        await _commit(port, Delta(renew_to=NOW + later))
    await _commit(port, Delta(expire_at=NOW + 30))
    _same((await _summarizing(port).summary(NOW, ())).usage.sessions, 1, "live")
    _same((await _summarizing(port).summary(NOW + 30, ())).usage.sessions, 0, "expired")


@_case()
async def _many_sessions_are_summed_up_to_the_last(make: MakePort) -> None:
    port = make()
    for number in range(300):
        await _created(port, number, created_at=NOW - number, deadline=NOW + 60 * number)
    summary = await _summarizing(port).summary(NOW + 60, (160.0,))
    _same((summary.usage.sessions, tuple(summary.younger)), (298, (98,)))
