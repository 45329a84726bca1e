"""The cases of `Leases`, and of commits for one version: what transactions stand on."""

from __future__ import annotations

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Leases
from session_middleware.record import CONFLICT, Delta
from session_middleware.testing.contract import (
    MANY,
    NOW,
    MakePort,
    Skipped,
    _case,
    _commit,
    _created,
    _id,
    _loaded,
    _pairs,
    _same,
)

__all__: list[str] = []


def _leases(port: Port) -> Leases:
    if not isinstance(port, Leases):
        raise Skipped("this backend gives out no leases (Leases)")
    return port


@_case()
async def _a_lease_has_one_holder_until_it_is_released(make: MakePort) -> None:
    leases = _leases(make())
    _same(await leases.acquire_lease("a", "one", 30, NOW), True, "the first")
    _same(await leases.acquire_lease("a", "two", 30, NOW + 1), False, "the second")
    _same(await leases.acquire_lease("b", "two", 30, NOW + 1), True, "another name")
    _same(await leases.release_lease("a", "one"), True, "release")
    _same(await leases.acquire_lease("a", "two", 30, NOW + 1), True, "after the release")


@_case()
async def _a_lease_is_seen_through_every_port(make: MakePort) -> None:
    one, two = _leases(make()), _leases(make())
    _same(await one.acquire_lease("a", "one", 30, NOW), True, "the first")
    _same(await two.acquire_lease("a", "two", 30, NOW), False, "through another port")
    _same(await two.release_lease("a", "one"), True, "release through another port")
    _same(await one.acquire_lease("a", "two", 30, NOW), True, "after the release")


@_case()
async def _a_lease_is_over_exactly_when_its_time_is(make: MakePort) -> None:
    leases = _leases(make())
    await leases.acquire_lease("a", "one", 30, NOW)
    _same(await leases.acquire_lease("a", "two", 30, NOW + 29.999), False, "before")
    _same(await leases.acquire_lease("a", "two", 30, NOW + 30), True, "at that moment")
    _same(await leases.acquire_lease("a", "one", 30, NOW + 59.999), False, "for the former holder")


@_case()
async def _a_lease_lasts_from_its_last_renewal(make: MakePort) -> None:
    leases = _leases(make())
    await leases.acquire_lease("a", "one", 30, NOW)
    _same(await leases.renew_lease("a", "one", 30, NOW + 20), True, "renewal")
    _same(await leases.acquire_lease("a", "two", 30, NOW + 49), False, "before it is over")
    _same(await leases.acquire_lease("a", "two", 30, NOW + 50), True, "when it is over")


@_case()
async def _acquiring_again_is_a_renewal(make: MakePort) -> None:
    leases = _leases(make())
    await leases.acquire_lease("a", "one", 30, NOW)
    _same(await leases.acquire_lease("a", "one", 30, NOW + 20), True, "again")
    _same(await leases.acquire_lease("a", "two", 30, NOW + 49), False, "another holder")


@_case()
async def _who_lost_a_lease_can_neither_renew_nor_release_it(make: MakePort) -> None:
    leases = _leases(make())
    await leases.acquire_lease("a", "one", 30, NOW)
    await leases.acquire_lease("a", "two", 30, NOW + 30)
    _same(await leases.renew_lease("a", "one", 30, NOW + 31), False, "renewal")
    _same(await leases.release_lease("a", "one"), False, "release")
    _same(await leases.acquire_lease("a", "three", 30, NOW + 31), False, "it is the second one's")
    _same(await leases.release_lease("a", "two"), True, "release by the second")
    _same(await leases.renew_lease("a", "one", 30, NOW + 32), False, "renewal of what was given back")
    _same(await leases.release_lease("a", "two"), False, "release of what was given back")


@_case()
async def _of_many_who_want_a_lease_one_gets_it(make: MakePort) -> None:
    ports = [_leases(make()), _leases(make())]
    wanting = (ports[n % 2].acquire_lease("a", f"holder {n}", 30, NOW) for n in range(MANY))
    _same((await make.together(wanting)).count(True), 1, "holders")
    again = (ports[n % 2].acquire_lease("a", f"next {n}", 30, NOW + 30) for n in range(MANY))
    _same((await make.together(again)).count(True), 1, "holders once it is over")


@_case()
async def _leases_that_nobody_gave_back_harm_no_other(make: MakePort) -> None:
    leases = _leases(make())
    await leases.acquire_lease("kept", "one", 1000, NOW)
    for number in range(200):
        await leases.acquire_lease(f"dead {number}", "one", 1, NOW)
    for number in range(200):
        _same(await leases.acquire_lease(f"dead {number}", "two", 30, NOW + 500), True, "one that is over")
    _same(await leases.acquire_lease("kept", "two", 30, NOW + 999), False, "one that is not")


@_case()
async def _a_lease_and_the_session_of_its_name_know_nothing_of_each_other(make: MakePort) -> None:
    port = make()
    leases = _leases(port)
    record = await _created(port)
    _same(await leases.acquire_lease(record.id, "one", 30, NOW), True, "lease")
    _same(await _loaded(port), record, "load")
    await port.delete(record.id, NOW, "logout")
    _same(await leases.acquire_lease(record.id, "two", 30, NOW), False, "lease of an ended session")


@_case()
async def _a_commit_for_another_version_changes_nothing(make: MakePort) -> None:
    port = make()
    await _created(port, data={"n": b"1"})
    await _commit(port, Delta(if_version=1, set={"n": b"2"}))
    before = await _loaded(port)
    for version in (0, 1, 3):
        delta = Delta(if_version=version, set={"n": b"9"}, renew_to=NOW + 3000, status="late")
        _same(await port.commit(_id(), delta, NOW), CONFLICT, f"commit for version {version}")
    _same(await _loaded(port), before, "load")
    await _commit(port, Delta(if_version=2, unset=("n",)))
    _same(await _pairs(port), {})


@_case()
async def _every_kind_of_commit_makes_another_version(make: MakePort) -> None:
    port = make()
    await _created(port)
    deltas = (
        Delta(),
        Delta(seen_at=NOW),
        Delta(renew_to=NOW + 2000),
        Delta(status="x"),
        Delta(set={"a": b"1"}),
    )
    for version, delta in enumerate(deltas, start=1):
        _same((await _commit(port, delta)).version, version + 1, "version")
        _same(await port.commit(_id(), Delta(if_version=version), NOW), CONFLICT, "commit for the former one")
