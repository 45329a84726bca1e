"""The cases of `Salvaging`: a damaged session is read as far as it can be, and replaced at one moment."""

from __future__ import annotations

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Salvaging
from session_middleware.record import Delta, Ended, Record, replace
from session_middleware.testing.contract import (
    NOW,
    MakePort,
    Skipped,
    _case,
    _commit,
    _created,
    _id,
    _loaded,
    _same,
)
from session_middleware.values import Values

__all__: list[str] = []

_DAMAGED = Values(b'{"a":1,"b":[2,')


def _salvaging(port: Port) -> Salvaging:
    if not isinstance(port, Salvaging):
        raise Skipped("this backend cannot read parts of a damaged session (Salvaging)")
    return port


def _whole(record: Record) -> Record:
    return replace(record, data=Values.of({"a": b"1"}), version=record.version + 1)


@_case()
async def _a_damaged_session_can_be_read_in_part(make: MakePort) -> None:
    port = make()
    record = replace(await _created(port, 1, user_id="ada"), id=_id(2), data=_DAMAGED)
    await port.create(record, NOW)
    salvaged = await _salvaging(port).salvage(record.id, NOW)
    if salvaged is None:
        raise AssertionError("found nothing, expected what is stored")
    _same(salvaged.packed, _DAMAGED.packed, "the values")
    for name, value in salvaged.fields.items():
        _same(value, getattr(record, name), name)
    _same({"user_id", "deadline", "secret"} - salvaged.fields.keys(), set(), "missing facts")


@_case()
async def _nothing_is_salvaged_of_what_is_not_there(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    _same(await _salvaging(port).salvage(_id(7), NOW), None, "unknown")
    _same(await _salvaging(port).salvage(record.id, record.deadline), None, "expired")
    await port.delete(record.id, NOW, "logout")
    _same(await _salvaging(port).salvage(record.id, NOW), None, "ended")


@_case()
async def _a_mended_session_is_there_as_any_other(make: MakePort) -> None:
    port = make()
    record = await _created(port, user_id="ada")
    salvaged = await _salvaging(port).salvage(record.id, NOW)
    if salvaged is None:
        raise AssertionError("found nothing, expected what is stored")
    mended = replace(_whole(record), deadline=NOW + 500, user_id="bob", status="failed")
    _same(await _salvaging(port).mend(mended, salvaged), True)
    _same(await _loaded(port), mended)
    await _commit(port, Delta(set={"b": b"2"}))
    _same(await port.load(record.id, NOW + 500), Ended("idle_timeout", NOW + 500))


@_case()
async def _a_session_is_mended_only_while_it_is_as_it_was_salvaged(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"n": b"1"})
    salvaged = await _salvaging(port).salvage(record.id, NOW)
    if salvaged is None:
        raise AssertionError("found nothing, expected what is stored")
    await _commit(port, Delta(set={"n": b"2"}))
    committed = await _loaded(port)
    _same(await _salvaging(port).mend(_whole(record), salvaged), False)
    _same(await _loaded(port), committed)


@_case()
async def _what_ended_meanwhile_is_not_mended(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    salvaged = await _salvaging(port).salvage(record.id, NOW)
    if salvaged is None:
        raise AssertionError("found nothing, expected what is stored")
    await port.delete(record.id, NOW, "logout")
    _same(await _salvaging(port).mend(_whole(record), salvaged), False)
    _same(await port.load(record.id, NOW), Ended("logout", NOW))
