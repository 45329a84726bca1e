"""The suite that every backend passes: nearly a hundred cases of the contract in `backends/base.py`.

Run it on your backend with pytest:

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def make_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path / "sessions")

`make_backend` returns a callable. Each call of it gives a backend over the same store, which is empty when
the test begins: another object each time if yours can have several over one store, else always the same.

Reading order: `MakePort` (what a case is given), `Case`, `BackendContract`, the helpers, then the cases: a
case is a function whose name is the promise. What an optional capability (`ByUser`, `Counting`) promises is
skipped for a port that lacks it.
"""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Final, NoReturn, Protocol, TypeVar

from session_middleware.backends.base import Backend, Colour, EndedRecord, LoadAnswer, Port
from session_middleware.backends.capabilities import ByUser, Counting
from session_middleware.blocking import run_blocking
from session_middleware.errors import BackendClosed, SessionDataError
from session_middleware.record import (
    CONFLICT,
    CREATED,
    EXISTS,
    GONE,
    KEPT_FLOORS,
    KEPT_GENERATIONS,
    MAX_COUNTER,
    Committed,
    Delta,
    Ended,
    Grace,
    Record,
    SessionId,
    next_generation,
    replace,
)
from session_middleware.testing.histories import (
    Shape,
    describe,
    is_linearizable,
    record_async,
    record_threads,
)
from session_middleware.values import Values, decode_values, encode_value

__all__ = ["BackendContract", "Case", "MakePort", "Skipped", "contract_cases"]

T = TypeVar("T")


class Skipped(unittest.SkipTest):
    """The backend lacks the optional capability that a case is about. pytest takes it for its own."""


class MakePort:
    """What a case is given. Called, it makes a port of the case's colour over the case's one store."""

    def __init__(self, make_backend: Callable[[], Backend], colour: Colour) -> None:
        self.make_backend = make_backend
        self.colour = colour
        self._made: list[Port] = []

    def __call__(self) -> Port:
        port = self.make_backend().port(self.colour)
        self._made.append(port)
        return port

    async def together(self, works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """What these return, run at the same time: as tasks of the loop, or in threads."""
        if self.colour == "async":
            return list(await asyncio.gather(*works))
        with ThreadPoolExecutor(12) as threads:
            return list(threads.map(run_blocking, works))

    async def elsewhere(self, work: Coroutine[Any, Any, T]) -> T:
        """What this returns, run in another thread, and there in an event loop of its own."""
        if self.colour == "async":
            return await asyncio.to_thread(asyncio.run, work)
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(run_blocking, work).result()

    async def close(self) -> None:
        for port in self._made:
            await port.close()


Body = Callable[[MakePort], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One promise of the contract. `name` is a sentence, `colours` those in which it means something."""

    name: str
    body: Body
    colours: tuple[Colour, ...] = ("async", "blocking")

    async def run(self, make: MakePort) -> None:
        """Raises AssertionError where the promise is broken. Closes every port it made."""
        try:
            await self.body(make)
        finally:
            await make.close()

    def run_in(self, colour: Colour, make_backend: Callable[[], Backend]) -> None:
        """Run it to its end: in a new event loop, or without any."""
        work = self.run(MakePort(make_backend, colour))
        if colour == "async":
            asyncio.run(work)
        else:
            run_blocking(work)


_CASES: list[Case] = []


def contract_cases() -> list[Case]:
    """Every case, in the order of this file."""
    return list(_CASES)


class _Metafunc(Protocol):
    """As much of `pytest.Metafunc` as is used here."""

    fixturenames: list[str]

    def parametrize(self, argnames: str, argvalues: list[tuple[Case, Colour]], *, ids: list[str]) -> None: ...


class BackendContract:
    """Subclass this and give it a fixture `make_backend`; see the top of the module.

    `colours` are those of your backend; the first case compares them with what it says itself.
    """

    colours: ClassVar[tuple[Colour, ...]] = ("async", "blocking")

    def pytest_generate_tests(self, metafunc: _Metafunc) -> None:
        """One test per case and colour. pytest calls this; nothing else needs to."""
        if "case" in metafunc.fixturenames:
            pairs = [(case, colour) for case in _CASES for colour in self.colours if colour in case.colours]
            ids = [f"{colour}: {case.name}" for case, colour in pairs]
            metafunc.parametrize("case, colour", pairs, ids=ids)

    def test_the_backend_has_the_colours_that_are_tested(self, make_backend: Callable[[], Backend]) -> None:
        _same(make_backend().colours, frozenset(self.colours))

    def test_contract(self, make_backend: Callable[[], Backend], case: Case, colour: Colour) -> None:
        case.run_in(colour, make_backend)


# --- helpers ------------------------------------------------------------------------------------------------

NOW: Final = 1_760_000_000.0  # seconds since the epoch, as every time here
GENERATION: Final = int(NOW * 1000)
LONG_AFTER: Final = 4000.0  # seconds; backends may file expiries coarsely, up to an hour
_OTHER: Final = "another secret"
MANY: Final = 12  # how many race where the number does not matter


def _case(*colours: Colour) -> Callable[[Body], Body]:
    """Collect a case, for these colours; for both where none is named."""

    def collect(body: Body) -> Body:
        name = getattr(body, "__name__", "").strip("_").replace("_", " ")
        _CASES.append(Case(name, body, colours or ("async", "blocking")))
        return body

    return collect


def _fail(message: str) -> NoReturn:
    raise AssertionError(message)


def _same(found: object, expected: object, about: str = "") -> None:
    if found != expected:
        _fail(f"{about or 'answer'}: found {found!r}, expected {expected!r}")


def _is_true(statement: bool, about: str) -> None:
    if not statement:
        raise AssertionError(about)


def _same_record(found: LoadAnswer, expected: Record) -> None:
    """Field by field, so that a failure names the field."""
    if not isinstance(found, Record):
        _fail(f"load: found {found!r}, expected a record")
    for name in Record.__struct_fields__:
        _same(getattr(found, name), getattr(expected, name), f"record.{name}")


async def _raises(kind: type[Exception], work: Awaitable[object]) -> None:
    try:
        answer = await work
    except kind:
        return
    _fail(f"found the answer {answer!r}, expected {kind.__name__}")


def _id(number: int = 0) -> SessionId:
    return SessionId(f"session-{number:014d}")


def _record(number: int = 0, data: Mapping[str, bytes] | None = None, **fields: Any) -> Record:
    """A session of 1,000 seconds with a limit of 5,000."""
    facts: dict[str, Any] = {
        "id": _id(number),
        "secret": f"secret-{number:015d}",
        "generation": GENERATION,
        "floors": (GENERATION,),
        "created_at": NOW,
        "last_seen_at": NOW,
        "deadline": NOW + 1000,
        "limit": NOW + 5000,
        "data": Values.of(data or {}),
    }
    return Record(**{**facts, **fields})


async def _created(
    port: Port, number: int = 0, data: Mapping[str, bytes] | None = None, **fields: Any
) -> Record:
    record = _record(number, data, **fields)
    _same(await port.create(record, NOW), CREATED, "create")
    return record


async def _loaded(port: Port, number: int = 0, now: float = NOW) -> Record:
    found = await port.load(_id(number), now)
    if not isinstance(found, Record):
        _fail(f"load: found {found!r}, expected a record")
    return found


async def _commit(port: Port, delta: Delta, number: int = 0, now: float = NOW) -> Committed:
    answer = await port.commit(_id(number), delta, now)
    if not isinstance(answer, Committed):
        _fail(f"commit: found {answer!r}, expected it to be applied")
    return answer


async def _unchanged(port: Port, before: Record) -> None:
    _same_record(await port.load(before.id, NOW), before)


async def _pairs(port: Port, number: int = 0) -> dict[str, bytes]:
    return dict((await _loaded(port, number)).data)


def _by_user(port: Port) -> ByUser:
    if not isinstance(port, ByUser):
        raise Skipped("this backend does not find sessions by user (ByUser)")
    return port


def _counting(port: Port) -> Counting:
    if not isinstance(port, Counting):
        raise Skipped("this backend does not count sessions (Counting)")
    return port


async def _ids_of(port: Port, user: str, now: float = NOW) -> list[SessionId]:
    return [record.id for record in await _by_user(port).list_user(user, now)]


# --- records ------------------------------------------------------------------------------------------------


async def _comes_back(make: MakePort, record: Record) -> None:
    port = make()
    _same(await port.create(record, NOW), CREATED, "create")
    _same_record(await port.load(record.id, NOW), record)
    _same_record(await make().load(record.id, NOW), record)


@_case()
async def _an_unknown_session_loads_as_none(make: MakePort) -> None:
    _same(await make().load(_id(), NOW), None)


@_case()
async def _every_field_comes_back_as_it_went_in(make: MakePort) -> None:
    await _comes_back(make, _record(
        data={"cart": b'["book",{"n":2}]', "n": b"7"},
        generation=GENERATION + 4,
        version=7,
        accepted={GENERATION + 1: Grace(30.0), GENERATION + 2: Grace(12.5, NOW + 12.5)},
        floors=(GENERATION - 5, GENERATION),
        cycle_due=30.0,
        authenticated_at=NOW - 60,
        retained_until=NOW + 2000,
        idle_timeout=900.0,
        user_id="ada",
        status="processing",
        priority=-3,
        metadata={"ip": "192.0.2.1", "tags": ["a", None, 1.5, True], "deep": {"b": {"c": []}}},
    ))  # fmt: skip


@_case()
async def _absent_fields_come_back_absent(make: MakePort) -> None:
    await _comes_back(make, _record(floors=(), user_id=None))


@_case()
async def _zero_is_not_absent(make: MakePort) -> None:
    await _comes_back(
        make, _record(cycle_due=0.0, idle_timeout=0.0, authenticated_at=0.0, status="", priority=0)
    )


@_case()
async def _times_come_back_to_the_last_bit(make: MakePort) -> None:
    times: dict[str, Any] = {
        "created_at": NOW + 0.1,
        "last_seen_at": NOW + 1 / 3,
        "deadline": NOW + 1000.123456,
    }
    await _comes_back(make, _record(**times, limit=NOW + 5000 / 3, authenticated_at=NOW - 2**-22))


@_case()
async def _any_text_is_a_key(make: MakePort) -> None:
    odd = ["", " ", '"', "'", "\\", ".", "a.b", "$", "$set", "%s", "?", "[0]", "*", "\0", "\x1f", "\n", "~t"]
    odd += ["__proto__", "кошик", "カート", "👩‍👩‍👧", "\ufeff", "\u2028", "k" * 1000, "id", "data"]
    await _comes_back(make, _record(data={name: encode_value(name, i) for i, name in enumerate(odd)}))


@_case()
async def _any_text_is_a_value(make: MakePort) -> None:
    texts = [
        "",
        "\0",
        "a\0b",
        "".join(map(chr, range(0x250))),
        "💶 €",
        "\U0010ffff",
        "\ufffe\uffff",
        '"\\u0000',
    ]
    await _comes_back(make, _record(data={f"k{i}": encode_value("k", text) for i, text in enumerate(texts)}))


@_case()
async def _any_bytes_are_a_value(make: MakePort) -> None:
    value = {"all": bytes(range(256)), "pair": (1, [None])}
    port = make()
    await _created(port, data={"blob": encode_value("blob", value)})
    _same(decode_values((await _loaded(port)).data), {"blob": value})


@_case()
async def _integers_are_exact_to_64_bits(make: MakePort) -> None:
    numbers = [2**53 - 1, 2**53, 2**53 + 1, MAX_COUNTER, -MAX_COUNTER, -(2**63), 0]
    await _comes_back(make, _record(data={f"n{i}": b"%d" % number for i, number in enumerate(numbers)}))


@_case()
async def _a_value_of_60_kilobytes_comes_back(make: MakePort) -> None:
    await _comes_back(make, _record(data={"big": encode_value("big", "0123456789" * 6000)}))


@_case()
async def _a_thousand_keys_come_back(make: MakePort) -> None:
    await _comes_back(make, _record(data={f"key-{i}": b"%d" % i for i in range(1000)}))


@_case()
async def _any_text_names_a_user(make: MakePort) -> None:
    port = make()
    users = ["zoë", "Ω'; DROP TABLE sessions;--", "a b\n", "👤", "*", "%", "user:1"]
    for number, user in enumerate(users):
        await _created(port, number, user_id=user)
    for number, user in enumerate(users):
        _same((await _loaded(port, number)).user_id, user)
        if isinstance(port, ByUser):
            _same(await _ids_of(port, user), [_id(number)], "list_user")


@_case()
async def _sessions_do_not_mix(make: MakePort) -> None:
    port = make()
    for number in range(3):
        await _created(port, number, {"a": b"%d" % number})
    await _commit(port, Delta(set={"a": b'"x"'}), 1)
    await port.delete(_id(2), NOW, "logout")
    _same(await _pairs(port, 0), {"a": b"0"})
    _same(await _pairs(port, 1), {"a": b'"x"'})


@_case()
async def _a_load_never_writes(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"a": b"1"})
    for now in (NOW, NOW + 999, NOW + 2000, NOW + 9000, NOW - 50):
        await port.load(record.id, now)
    await _unchanged(port, record)


# --- create -------------------------------------------------------------------------------------------------


@_case()
async def _a_create_leaves_a_live_session_alone(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"a": b"1"}, user_id="ada")
    intruder = _record(data={"a": b"2"}, user_id="eve", secret=_OTHER, deadline=NOW + 4000)
    _same(await port.create(intruder, NOW), EXISTS)
    await _unchanged(port, record)
    if isinstance(port, ByUser):
        _same(await _ids_of(port, "eve"), [], "list_user")


@_case()
async def _a_create_replaces_an_expired_session(make: MakePort) -> None:
    port = make()
    old = await _created(port, data={"a": b"1"}, user_id="ada")
    new = _record(
        data={"b": b"2"}, secret=_OTHER, user_id="bob", created_at=old.deadline, deadline=NOW + 3000
    )
    _same(await port.create(new, old.deadline), CREATED)
    _same_record(await port.load(new.id, old.deadline), new)
    if isinstance(port, ByUser):
        _same(await _ids_of(port, "ada", old.deadline), [], "list_user")
        _same(await _ids_of(port, "bob", old.deadline), [new.id], "list_user")


@_case()
async def _an_id_whose_ending_is_remembered_is_not_created_again(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    await port.delete(record.id, NOW, "logout")
    _same(await port.create(_record(id=record.id), NOW + 1), EXISTS)
    _same(await make().load(record.id, NOW + 1), Ended("logout", NOW))


@_case()
async def _a_session_that_replaced_an_expired_one_is_not_cleaned_up_with_it(make: MakePort) -> None:
    port = make()
    old = await _created(port, deadline=NOW + 10, limit=NOW + 10)
    new = _record(deadline=NOW + 2 * LONG_AFTER, limit=NOW + 2 * LONG_AFTER)
    _same(await port.create(new, old.deadline), CREATED)
    _same(list(await port.delete_expired(NOW + LONG_AFTER, 10)), [])
    _same_record(await port.load(new.id, NOW + LONG_AFTER), new)


@_case()
async def _of_many_creates_at_once_one_wins(make: MakePort) -> None:
    ports = [make(), make()]
    records = [_record(secret=f"secret-{n}", data={"n": b"%d" % n}) for n in range(MANY)]
    answers = await make.together(ports[n % 2].create(record, NOW) for n, record in enumerate(records))
    _same(answers.count(CREATED), 1, "how many were created")
    _same(answers.count(EXISTS), MANY - 1, "how many were refused")
    await _unchanged(ports[0], records[answers.index(CREATED)])


# --- commit -------------------------------------------------------------------------------------------------


@_case()
async def _a_commit_sets_and_unsets_single_keys(make: MakePort) -> None:
    port = make()
    await _created(port, data={"a": b"1", "b": b"2", "c": b"3"})
    await _commit(port, Delta(set={"a": b'"x"', "d": b"4"}, unset=("b",)))
    _same(await _pairs(port), {"a": b'"x"', "c": b"3", "d": b"4"})


@_case()
async def _unset_comes_before_set_and_increments_come_last(make: MakePort) -> None:
    port = make()
    await _created(port, data={"a": b"1", "n": b"100", "m": b"100"})
    delta = Delta(unset=("a", "n", "m"), set={"a": b"2", "n": b"10"}, increments={"n": 1, "m": 1})
    _same((await _commit(port, delta)).counters, {"n": 11, "m": 1}, "counters")
    _same(await _pairs(port), {"a": b"2", "n": b"11", "m": b"1"})


@_case()
async def _unsetting_an_unknown_key_is_no_error(make: MakePort) -> None:
    port = make()
    await _created(port, data={"a": b"1"})
    await _commit(port, Delta(unset=("b", "")))
    _same(await _pairs(port), {"a": b"1"})


@_case()
async def _odd_keys_are_set_and_unset_like_others(make: MakePort) -> None:
    port = make()
    await _created(port)
    odd = ("", '"', "a.b", "$", "\0", "👩‍👩‍👧", "\u2028")
    await _commit(port, Delta(set=dict.fromkeys(odd, rb'"\u0000"'), increments={"n.\0": 1}))
    _same(await _pairs(port), {**dict.fromkeys(odd, rb'"\u0000"'), "n.\0": b"1"})
    await _commit(port, Delta(unset=odd))
    _same(await _pairs(port), {"n.\0": b"1"})


@_case()
async def _null_is_a_value_and_nested_objects_are_not_merged(make: MakePort) -> None:
    port = make()
    await _created(port, data={"a": b'{"x":1,"y":{"z":2}}', "b": b"1"})
    await _commit(port, Delta(set={"a": b'{"y":{"w":null}}', "b": b"null"}))
    _same(await _pairs(port), {"a": b'{"y":{"w":null}}', "b": b"null"})


@_case()
async def _increments_count_from_zero_and_up_and_down(make: MakePort) -> None:
    port = make()
    await _created(port, data={"n": b"5"})
    _same((await _commit(port, Delta(increments={"n": -7, "new": 2}))).counters, {"n": -2, "new": 2})
    _same((await _commit(port, Delta(increments={"n": 0}))).counters, {"n": -2})
    _same(await _pairs(port), {"n": b"-2", "new": b"2"})


@_case()
async def _counters_are_exact_to_64_bits(make: MakePort) -> None:
    port = make()
    await _created(port, data={"n": b"%d" % (2**53)})
    _same((await _commit(port, Delta(increments={"n": 1}))).counters, {"n": 2**53 + 1})
    _same(
        (await _commit(port, Delta(increments={"n": MAX_COUNTER - 2**53 - 1}))).counters, {"n": MAX_COUNTER}
    )
    _same(await _pairs(port), {"n": b"%d" % MAX_COUNTER})


@_case()
async def _a_counter_that_would_leave_64_bits_refuses_the_whole_delta(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"n": b"%d" % MAX_COUNTER, "a": b"1", "b": b"2"})
    for delta in (Delta(increments={"n": 1}), _everything(increments={"fine": 1, "n": 1})):
        await _raises(SessionDataError, port.commit(record.id, delta, NOW))
        await _unchanged(port, record)


@_case()
async def _incrementing_what_is_no_integer_refuses_the_whole_delta(make: MakePort) -> None:
    port = make()
    wrong = {
        "text": b'"7"',
        "float": b"1.0",
        "null": b"null",
        "true": b"true",
        "list": b"[1]",
        "power": b"1e3",
    }
    record = await _created(port, data=wrong)
    for name in wrong:
        await _raises(SessionDataError, port.commit(record.id, _everything(increments={name: 1}), NOW))
        await _unchanged(port, record)
    if isinstance(port, ByUser):
        _same(await _ids_of(port, "eve"), [], "list_user")


def _everything(**fields: Any) -> Delta:
    """A delta that changes whatever it can, so that a half of it would show."""
    changes: dict[str, Any] = {
        "set": {"a": b'"new"'},
        "unset": ("b",),
        "renew_to": NOW + 2000,
        "seen_at": NOW + 5,
        "user_id": "eve",
        "status": "failed",
        "metadata": {"by": "eve"},
        "cycle": 0.0,
    }
    return Delta(**{**changes, **fields})


@_case()
async def _a_commit_answers_with_version_and_generation(make: MakePort) -> None:
    port = make()
    record = await _created(port, version=3)
    _same(await _commit(port, Delta(set={"a": b"1"})), Committed(4, record.generation, {}, cycled=False))
    _same((await _loaded(port)).version, 4)


@_case()
async def _an_empty_commit_counts_as_a_version_and_changes_nothing_else(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"a": b"1"}, user_id="ada")
    await _commit(port, Delta())
    _same_record(await port.load(record.id, NOW), replace(record, version=2))


@_case()
async def _if_version_lets_only_the_version_it_names_pass(make: MakePort) -> None:
    port = make()
    await _created(port, data={"a": b"1", "b": b"1"})
    await _commit(port, Delta(set={"a": b"2"}, if_version=1))
    before = await _loaded(port)
    for version in (1, 3):
        _same(await port.commit(_id(), _everything(if_version=version), NOW), CONFLICT)
        await _unchanged(port, before)
    await _commit(port, Delta(set={"a": b"3"}, if_version=2))


@_case()
async def _no_kind_of_commit_creates_a_session(make: MakePort) -> None:
    port = make()
    for delta in _one_of_each():
        _same(await port.commit(_id(), delta, NOW), GONE, f"commit of {delta!r}")
        _same(await port.load(_id(), NOW), None, f"load after {delta!r}")
    if isinstance(port, ByUser):
        _same(await _ids_of(port, "eve"), [], "list_user")


def _one_of_each() -> list[Delta]:
    """A delta for every part that a delta has, and one with many."""
    parts: list[dict[str, Any]] = [
        {},
        {"set": {"a": b"1"}},
        {"unset": ("a",)},
        {"increments": {"n": 1}},
        {"renew_to": NOW + 2000},
        {"expire_at": NOW + 500},
        {"seen_at": NOW + 1},
        {"user_id": "eve"},
        {"user_id": None},
        {"authenticated_at": NOW},
        {"limit": NOW + 9000},
        {"idle_timeout": 60.0},
        {"retained_until": NOW + 100},
        {"status": "failed"},
        {"priority": 5},
        {"metadata": {"a": 1}},
        {"cycle": 30.0},
        {"cycle": 0.0},
        {"start_grace": True, "admitted": GENERATION},
        {"cycle_due": 0.0},
        {"if_version": 1},
        {"admitted": GENERATION - 1},
    ]
    return [*(Delta(**part) for part in parts), _everything()]


@_case()
async def _every_part_of_a_delta_changes_that_and_nothing_else(make: MakePort) -> None:
    port = make()
    await _created(port, data={"a": b"0", "b": b"0"})
    wanted: dict[str, Any] = {
        "user_id": "ada",
        "authenticated_at": NOW + 1,
        "limit": NOW + 9000,
        "idle_timeout": 60.0,
        "status": "pending",
        "priority": 5,
        "metadata": {"device": {"name": "Zoë's"}},
        "cycle_due": 30.0,
    }
    for name, value in wanted.items():
        before = await _loaded(port)
        await _commit(port, Delta(**{name: value}))
        _same_record(await _loaded(port), replace(before, version=before.version + 1, **{name: value}))


@_case()
async def _none_removes_what_a_missing_part_would_keep(make: MakePort) -> None:
    port = make()
    names = ("user_id", "authenticated_at", "idle_timeout", "retained_until", "status")
    nothing: dict[str, Any] = dict.fromkeys(names)
    record = await _created(
        port,
        user_id="ada",
        authenticated_at=NOW,
        idle_timeout=60.0,
        retained_until=NOW + 2000,
        status="pending",
    )
    await _commit(port, Delta(**nothing))
    _same_record(await _loaded(port), replace(record, version=2, **nothing))


@_case()
async def _a_commit_admitted_below_the_floor_changes_nothing(make: MakePort) -> None:
    port = make()
    record = await _created(
        port, data={"a": b"1", "b": b"2"}, generation=GENERATION + 9, floors=(1, GENERATION)
    )
    for admitted in (GENERATION - 1, 1, 0):
        _same(await port.commit(record.id, _everything(admitted=admitted), NOW), CONFLICT)
        await _unchanged(port, record)


@_case()
async def _a_commit_admitted_at_the_floor_or_by_no_request_is_applied(make: MakePort) -> None:
    port = make()
    await _created(port, generation=GENERATION + 9)
    for number, admitted in enumerate((GENERATION, GENERATION + 5, GENERATION + 9, None)):
        await _commit(port, Delta(set={f"k{number}": b"1"}, admitted=admitted))
    _same(len(await _pairs(port)), 4, "keys")


@_case()
async def _a_long_run_of_commits_means_what_apply_says(make: MakePort) -> None:
    port = make()
    for seed in range(1000, 1004):
        await _judged(make, port, seed, Shape(clients=1, operations=40, sessions=1))


# --- time ---------------------------------------------------------------------------------------------------


@_case()
async def _a_session_ends_exactly_at_its_deadline(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"a": b"1", "b": b"1"}, user_id="ada")
    just_before = record.deadline - 2**-20
    _same_record(await port.load(record.id, just_before), record)
    _same(await port.load(record.id, record.deadline), Ended("idle_timeout", record.deadline))
    _same(await port.commit(record.id, _everything(renew_to=NOW + 4000), record.deadline), GONE)
    _same(await port.delete(record.id, record.deadline, "logout"), False, "delete of an expired session")
    _same(isinstance(await port.load(record.id, record.deadline), Record), False, "alive after all that")


@_case()
async def _a_load_tells_which_timeout_ended_a_session(make: MakePort) -> None:
    port = make()
    await _created(port, 0)
    await _created(port, 1, deadline=NOW + 5000)
    await _created(port, 2, retained_until=NOW + 1000)
    for number, reason in enumerate(("idle_timeout", "absolute_timeout", "retention")):
        found = await port.load(_id(number), NOW + 6000)
        _same(found, Ended(reason, (_record().deadline, NOW + 5000, NOW + 1000)[number]))


@_case()
async def _a_renewal_goes_forward_only(make: MakePort) -> None:
    port = make()
    await _created(port)
    for wanted, becomes in ((3000, 3000), (2000, 3000), (-10, 3000), (3001, 3001)):
        await _commit(port, Delta(renew_to=NOW + wanted))
        _same((await _loaded(port)).deadline, NOW + becomes, "deadline")


@_case()
async def _a_renewal_leaves_the_data_alone(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"a": b"1"}, user_id="ada", metadata={"m": 1})
    await _commit(port, Delta(renew_to=NOW + 2000, seen_at=NOW + 7))
    _same_record(await _loaded(port), replace(record, deadline=NOW + 2000, last_seen_at=NOW + 7, version=2))


@_case()
async def _no_renewal_passes_the_limit(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    await _commit(port, Delta(renew_to=record.limit + 1000))
    _same((await _loaded(port)).deadline, record.limit, "deadline")
    _same(await port.load(record.id, record.limit), Ended("absolute_timeout", record.limit))


@_case()
async def _expire_at_is_exact_both_ways_but_never_passes_the_limit(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    for wanted, becomes in ((200.5, 200.5), (4000, 4000), (9000, 5000)):
        await _commit(port, Delta(expire_at=NOW + wanted))
        _same((await _loaded(port)).deadline, NOW + becomes, "deadline")
    await _commit(port, Delta(expire_at=NOW))
    _same(await port.load(record.id, NOW), Ended("idle_timeout", NOW))


@_case()
async def _a_login_moves_the_limit_and_a_lower_one_cuts_the_deadline(make: MakePort) -> None:
    port = make()
    await _created(port)
    await _commit(port, Delta(limit=NOW + 9000, renew_to=NOW + 8000))
    _same((await _loaded(port)).deadline, NOW + 8000, "deadline")
    await _commit(port, Delta(limit=NOW + 100))
    after = await _loaded(port)
    _same((after.limit, after.deadline), (NOW + 100, NOW + 100), "limit and deadline")


@_case()
async def _retention_shortens_the_life_until_it_is_lifted(make: MakePort) -> None:
    port = make()
    await _created(port)
    await _commit(port, Delta(retained_until=NOW + 60, renew_to=NOW + 2000))
    _same((await _loaded(port)).deadline, NOW + 60, "deadline")
    await _commit(port, Delta(renew_to=NOW + 2000))
    _same((await _loaded(port)).deadline, NOW + 60, "deadline")
    await _commit(port, Delta(retained_until=None, renew_to=NOW + 2000))
    _same((await _loaded(port)).deadline, NOW + 2000, "deadline")


@_case()
async def _retention_never_lengthens_a_life(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    await _commit(port, Delta(retained_until=NOW + 9000))
    _same((await _loaded(port)).deadline, record.deadline, "deadline")
    await _commit(port, Delta(renew_to=NOW + 9000))
    _same((await _loaded(port)).deadline, record.limit, "deadline")


@_case()
async def _a_clock_that_went_back_undoes_nothing(make: MakePort) -> None:
    port = make()
    await _created(port)
    await _commit(port, Delta(seen_at=NOW + 50, renew_to=NOW + 2000), now=NOW + 50)
    await _commit(port, Delta(seen_at=NOW - 3600, renew_to=NOW - 2600, set={"a": b"1"}), now=NOW - 3600)
    after = await _loaded(port)
    _same((after.last_seen_at, after.deadline), (NOW + 50, NOW + 2000), "last seen and deadline")
    _same(dict(after.data), {"a": b"1"})


# --- delete -------------------------------------------------------------------------------------------------


@_case()
async def _a_delete_tells_whether_the_session_was_alive(make: MakePort) -> None:
    port = make()
    _same(await port.delete(_id(), NOW, "logout"), False, "delete of an unknown session")
    _same(await port.load(_id(), NOW), None, "load of an unknown session")
    await _created(port)
    _same([await port.delete(_id(), NOW, "logout") for _ in range(2)], [True, False], "two deletes")


@_case()
async def _no_late_commit_brings_a_deleted_session_back(make: MakePort) -> None:
    port = make()
    await _created(port, user_id="eve")
    await port.delete(_id(), NOW, "logout")
    for delta in _one_of_each():
        _same(await port.commit(_id(), delta, NOW), GONE, f"commit of {delta!r}")
        _same(await port.load(_id(), NOW), Ended("logout", NOW), f"load after {delta!r}")
    if isinstance(port, ByUser):
        _same(await _ids_of(port, "eve"), [], "list_user")


@_case()
async def _a_load_tells_why_when_and_by_whom_a_session_was_ended(make: MakePort) -> None:
    port = make()
    await _created(port, 0)
    await _created(port, 1)
    await port.delete(_id(0), NOW + 0.25, "revoked", "admin Zoë")
    await port.delete(_id(1), NOW + 0.5, "any text 👋")
    for seen_by in (port, make()):
        _same(await seen_by.load(_id(0), NOW + 1), Ended("revoked", NOW + 0.25, "admin Zoë"))
        _same(await seen_by.load(_id(1), NOW + 1), Ended("any text 👋", NOW + 0.5))


@_case()
async def _a_second_delete_does_not_change_the_reason(make: MakePort) -> None:
    port = make()
    await _created(port)
    await port.delete(_id(), NOW, "revoked", "admin")
    await port.delete(_id(), NOW + 1, "logout")
    _same(await port.load(_id(), NOW + 1), Ended("revoked", NOW, "admin"))


@_case()
async def _an_ending_is_kept_for_30_seconds_whatever_else_ends(make: MakePort) -> None:
    port = make()
    await _created(port)
    await port.delete(_id(), NOW, "logout")
    for number in range(1, 40):
        await _created(port, number)
        await port.delete(_id(number), NOW + number / 2, "evicted")
    await port.delete_expired(NOW + 29, 100)
    _same(await port.load(_id(), NOW + 29.9), Ended("logout", NOW))


@_case()
async def _an_ending_may_be_forgotten_after_ten_minutes_but_never_changes(make: MakePort) -> None:
    port = make()
    await _created(port)
    await port.delete(_id(), NOW, "logout")
    for number, now in ((1, NOW + 601), (2, NOW + 9000)):
        await _created(port, number)
        await port.delete(_id(number), now, "evicted")
        await port.delete_expired(now, 100)
        found = await port.load(_id(), now)
        _is_true(found in (None, Ended("logout", NOW)), f"load: found {found!r}")
        _same(await port.commit(_id(), Delta(), now), GONE)


@_case()
async def _a_delete_wins_whatever_the_generation(make: MakePort) -> None:
    port = make()
    await _created(port)
    await _commit(port, Delta(cycle=0.0), now=NOW + 1)
    await _commit(port, Delta(cycle=30.0), now=NOW + 2)
    _same(await port.delete(_id(), NOW + 2, "logout"), True)


# --- cycle --------------------------------------------------------------------------------------------------


@_case()
async def _a_cycle_with_grace_keeps_the_old_generation_waiting(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    answer = await _commit(port, Delta(cycle=30.0, admitted=GENERATION), now=NOW + 5)
    _same(answer, Committed(2, GENERATION + 5000, {}, cycled=True))
    _same_record(
        await _loaded(port),
        replace(record, version=2, generation=GENERATION + 5000, accepted={GENERATION: Grace(30.0)}),
    )


@_case()
async def _a_cycle_without_grace_raises_the_floor_and_accepts_nothing_older(make: MakePort) -> None:
    port = make()
    record = await _created(port, accepted={GENERATION - 1: Grace(30.0)})
    answer = await _commit(port, Delta(cycle=0.0, admitted=GENERATION), now=NOW + 5)
    _same(answer, Committed(2, GENERATION + 5000, {}, cycled=True))
    floors = (GENERATION, GENERATION + 5000)
    _same_record(
        await _loaded(port), replace(record, version=2, generation=floors[1], floors=floors, accepted={})
    )
    _same(
        await port.commit(_id(), Delta(admitted=GENERATION), NOW + 5),
        CONFLICT,
        "commit from before the cycle",
    )


@_case()
async def _who_loses_a_cycle_with_grace_still_saves_its_data(make: MakePort) -> None:
    port = make()
    await _created(port)
    first = await _commit(port, Delta(cycle=30.0, admitted=GENERATION, set={"a": b"1"}))
    second = await _commit(port, Delta(cycle=30.0, admitted=GENERATION, set={"b": b"2"}))
    _same((second.generation, second.cycled), (first.generation, False), "generation and cycled")
    _same(await _pairs(port), {"a": b"1", "b": b"2"})


@_case()
async def _a_cycle_without_grace_is_never_lost_to_one_with_grace(make: MakePort) -> None:
    port = make()
    await _created(port)
    first = await _commit(port, Delta(cycle=30.0, admitted=GENERATION))
    second = await _commit(port, Delta(cycle=0.0, admitted=GENERATION))
    _is_true(second.cycled and second.generation > first.generation, "the cycle without grace was lost")
    _same((await _loaded(port)).floor, second.generation, "floor")


@_case()
async def _no_generation_ever_comes_twice(make: MakePort) -> None:
    port = make()
    generation = (await _created(port)).generation
    for now in (NOW + 5, NOW + 5, NOW - 100, NOW + 5.0004, NOW + 5.25):
        expected = next_generation(generation, now)
        generation = (await _commit(port, Delta(cycle=30.0), now=now)).generation
        _same(generation, expected, "generation")


@_case()
async def _the_last_floors_are_kept(make: MakePort) -> None:
    port = make()
    await _created(port)
    made = [(await _commit(port, Delta(cycle=0.0))).generation for _ in range(KEPT_FLOORS + 2)]
    _same((await _loaded(port)).floors, tuple(made[-KEPT_FLOORS:]), "floors")


@_case()
async def _the_last_superseded_generations_are_accepted(make: MakePort) -> None:
    port = make()
    await _created(port)
    made = [(await _commit(port, Delta(cycle=30.0))).generation for _ in range(KEPT_GENERATIONS + 3)]
    _same(sorted((await _loaded(port)).accepted), made[-KEPT_GENERATIONS - 1 : -1], "accepted")


@_case()
async def _grace_starts_for_waiting_generations_below_the_admitted_one_only(make: MakePort) -> None:
    port = make()
    running = Grace(30.0, NOW + 12)
    accepted = {GENERATION: running, GENERATION + 1: Grace(20.0), GENERATION + 2: Grace(10.0)}
    await _created(port, generation=GENERATION + 3, accepted=accepted)
    await _commit(port, Delta(start_grace=True, admitted=GENERATION + 2), now=NOW + 1)
    expected = {GENERATION: running, GENERATION + 1: Grace(20.0, NOW + 21), GENERATION + 2: Grace(10.0)}
    _same((await _loaded(port)).accepted, expected, "accepted")
    await _commit(port, Delta(start_grace=True, admitted=GENERATION + 3), now=NOW + 2)
    expected[GENERATION + 2] = Grace(10.0, NOW + 12)
    _same((await _loaded(port)).accepted, expected, "accepted")


@_case()
async def _a_commit_drops_generations_whose_grace_is_over(make: MakePort) -> None:
    port = make()
    over, waiting = Grace(30.0, NOW + 5), Grace(30.0)
    await _created(port, generation=GENERATION + 2, accepted={GENERATION: over, GENERATION + 1: waiting})
    await _commit(port, Delta(), now=NOW + 4)
    _same((await _loaded(port)).accepted, {GENERATION: over, GENERATION + 1: waiting}, "accepted")
    await _commit(port, Delta(), now=NOW + 5)
    _same((await _loaded(port)).accepted, {GENERATION + 1: waiting}, "accepted")


@_case()
async def _without_grace_wins_among_due_cycles(make: MakePort) -> None:
    port = make()
    await _created(port)
    for ordered, due in ((30.0, 30.0), (0.0, 0.0), (30.0, 0.0)):
        await _commit(port, Delta(cycle_due=ordered))
        _same((await _loaded(port)).cycle_due, due, "cycle_due")


@_case()
async def _a_due_cycle_is_cleared_by_one_that_is_as_strict(make: MakePort) -> None:
    port = make()
    for number, (due, cycle, left) in enumerate(((30.0, 30.0, None), (30.0, 0.0, None), (0.0, 0.0, None))):
        await _created(port, number, cycle_due=due)
        await _commit(port, Delta(cycle=cycle), number)
        _same((await _loaded(port, number)).cycle_due, left, "cycle_due")


@_case()
async def _a_cycle_with_grace_leaves_a_due_cycle_without_grace_standing(make: MakePort) -> None:
    port = make()
    await _created(port, cycle_due=0.0)
    _same((await _commit(port, Delta(cycle=30.0))).cycled, True, "cycled")
    _same((await _loaded(port)).cycle_due, 0.0, "cycle_due")


@_case()
async def _a_login_is_one_commit(make: MakePort) -> None:
    port = make()
    await _created(port, data={"cart": b"[1]"})
    login = Delta(
        set={"user": b'"ada"'}, user_id="ada", authenticated_at=NOW + 1, limit=NOW + 8000,
        renew_to=NOW + 6000, cycle=0.0, admitted=GENERATION,
    )  # fmt: skip
    answer = await _commit(port, login, now=NOW + 1)
    after = await _loaded(port)
    _same(
        (after.user_id, after.limit, after.deadline), ("ada", NOW + 8000, NOW + 6000), "user, limit, deadline"
    )
    _same(after.floors, (GENERATION, answer.generation), "floors")
    _same(dict(after.data), {"cart": b"[1]", "user": b'"ada"'})


# --- by user (optional) -------------------------------------------------------------------------------------


@_case()
async def _the_sessions_of_a_user_are_listed_newest_first(make: MakePort) -> None:
    port = make()
    made = [await _created(port, n, {"n": b"%d" % n}, user_id="ada", created_at=NOW - age)
            for n, age in enumerate((30, 10, 20))]  # fmt: skip
    await _created(port, 3, user_id="bob")
    await _created(port, 4)
    listed = await _by_user(port).list_user("ada", NOW)
    for found, expected in zip(listed, (made[1], made[2], made[0]), strict=True):
        _same_record(found, expected)
    _same(list(await _by_user(port).list_user("nobody", NOW)), [])


@_case()
async def _a_listing_shows_live_sessions_only(make: MakePort) -> None:
    port = make()
    for number in range(3):
        await _created(port, number, user_id="ada", deadline=NOW + 100 * (number + 1))
    await port.delete(_id(2), NOW, "logout")
    _same(await _ids_of(port, "ada", NOW + 100), [_id(1)])
    _same(await _ids_of(port, "ada", NOW + 200), [])


@_case()
async def _a_session_is_listed_under_the_user_it_has_now(make: MakePort) -> None:
    port = make()
    await _created(port)
    for user in ("ada", "bob", "bob", None, "ada"):
        await _commit(port, Delta(user_id=user))
        for name in ("ada", "bob"):
            _same(await _ids_of(port, name), [_id()] if name == user else [], f"list_user of {name}")


@_case()
async def _delete_user_ends_the_live_sessions_but_those_to_keep(make: MakePort) -> None:
    port = make()
    for number in range(4):
        await _created(port, number, user_id="ada", deadline=NOW + (500, 500, 500, 5)[number])
    await _created(port, 4, user_id="bob")
    by_user = _by_user(port)
    ended = await by_user.delete_user("ada", NOW + 5, "password_changed", keep=[_id(1), _id(4)], by="ada")
    _same(sorted(ended), [_id(0), _id(2)], "delete_user")
    _same(await port.load(_id(0), NOW + 5), Ended("password_changed", NOW + 5, "ada"))
    _same(await port.load(_id(3), NOW + 5), Ended("idle_timeout", NOW + 5))
    _same(await _ids_of(port, "ada", NOW + 5), [_id(1)], "list_user")
    _same(await _ids_of(port, "bob", NOW + 5), [_id(4)], "list_user")
    _same(list(await by_user.delete_user("nobody", NOW, "logout")), [], "delete_user of nobody")


@_case()
async def _deleting_a_user_while_sessions_are_saved_leaves_none_alive(make: MakePort) -> None:
    port = make()
    by_user = _by_user(port)
    for number in range(MANY):
        await _created(port, number, user_id="ada")

    async def save(number: int) -> None:
        await port.commit(_id(number), Delta(set={"a": b"1"}, renew_to=NOW + 2000), NOW)

    async def end() -> None:
        _same(len(await by_user.delete_user("ada", NOW, "logout")), MANY, "ended")

    await make.together([*(save(n) for n in range(6)), end(), *(save(n) for n in range(6, MANY))])
    _same(await _ids_of(port, "ada"), [], "list_user")
    _same([await port.load(_id(n), NOW) for n in range(MANY)], [Ended("logout", NOW)] * MANY, "load")


# --- counting (optional) ------------------------------------------------------------------------------------


@_case()
async def _live_sessions_are_counted(make: MakePort) -> None:
    port = make()
    counting = _counting(port)
    _same(await counting.count(NOW), 0, "count")
    for number in range(4):
        await _created(port, number, deadline=NOW + 100 * (number + 1))
    await port.delete(_id(3), NOW, "logout")
    _same([await counting.count(NOW + after) for after in (0, 100, 250, 300)], [3, 2, 1, 0], "count")


# --- cleanup ------------------------------------------------------------------------------------------------


async def _swept(port: Port, now: float, limit: int) -> list[EndedRecord]:
    """What a cleanup finds in batches of *limit*, until it has all."""
    found: list[EndedRecord] = []
    while True:
        batch = list(await port.delete_expired(now, limit))
        _is_true(len(batch) <= limit, f"delete_expired: {len(batch)} records, the limit was {limit}")
        found += batch
        if len(batch) < limit:
            return found


@_case()
async def _cleanup_reports_what_expired_and_why(make: MakePort) -> None:
    port = make()
    await _created(port, 0, user_id="ada", created_at=NOW - 0.5)
    await _created(port, 1, deadline=NOW + 5000)
    await _created(port, 2, retained_until=NOW + 1000)
    await _created(port, 3, deadline=NOW + 5 * LONG_AFTER, limit=NOW + 5 * LONG_AFTER)
    found = sorted(await _swept(port, NOW + 5000 + LONG_AFTER, 100), key=lambda one: one.id)
    _same(found, [
        EndedRecord(_id(0), "ada", "idle_timeout", NOW - 0.5),
        EndedRecord(_id(1), None, "absolute_timeout", NOW),
        EndedRecord(_id(2), None, "retention", NOW),
    ], "delete_expired")  # fmt: skip
    await _loaded(port, 3, NOW + 5000 + LONG_AFTER)


@_case()
async def _cleanup_leaves_live_and_renewed_sessions_alone(make: MakePort) -> None:
    port = make()
    later = NOW + 4 * LONG_AFTER
    await _created(port, 0, limit=later)
    await _created(port, 1, limit=later)
    await _commit(port, Delta(renew_to=later), 0)
    _same([ended.id for ended in await _swept(port, NOW + 1000 + LONG_AFTER, 10)], [_id(1)], "delete_expired")
    await _loaded(port, 0, later - 1)
    _same([ended.id for ended in await _swept(port, later + LONG_AFTER, 10)], [_id(0)], "delete_expired")


@_case()
async def _cleanup_finds_a_session_whose_deadline_was_brought_forward(make: MakePort) -> None:
    port = make()
    await _created(port, deadline=NOW + 90_000, limit=NOW + 90_000)
    await _commit(port, Delta(expire_at=NOW + 10))
    _same([ended.id for ended in await _swept(port, NOW + 10 + LONG_AFTER, 10)], [_id()], "delete_expired")


@_case()
async def _fewer_than_the_limit_means_that_nothing_more_is_due(make: MakePort) -> None:
    port = make()
    for number in range(10):
        await _created(port, number, deadline=NOW + 10 + number)
    sizes = [len(await port.delete_expired(NOW + LONG_AFTER, 4)) for _ in range(4)]
    _same(sizes, [4, 4, 2, 0], "batches")


@_case()
async def _each_expiry_is_reported_once(make: MakePort) -> None:
    ports = [make(), make()]
    for number in range(30):
        await _created(ports[0], number, deadline=NOW + 10)
    found = await make.together(_swept(ports[n % 2], NOW + LONG_AFTER, 7) for n in range(4))
    found += [await _swept(port, NOW + 2 * LONG_AFTER, 7) for port in ports]
    _same(
        sorted(ended.id for batch in found for ended in batch), [_id(n) for n in range(30)], "delete_expired"
    )


@_case()
async def _a_deleted_session_is_not_reported_as_expired(make: MakePort) -> None:
    port = make()
    await _created(port)
    await port.delete(_id(), NOW, "logout")
    _same(await _swept(port, NOW + 1000 + LONG_AFTER, 10), [], "delete_expired")


@_case()
async def _why_a_session_expired_is_known_after_its_cleanup(make: MakePort) -> None:
    port = make()
    record = await _created(port, user_id="ada")
    now = record.deadline + LONG_AFTER
    _same(len(await _swept(port, now, 10)), 1, "how many were cleaned up")
    _same(await port.load(record.id, now + 1), Ended("idle_timeout", record.deadline))
    _same(await port.commit(record.id, Delta(), now), GONE)


# --- concurrency --------------------------------------------------------------------------------------------


@_case()
async def _a_hundred_parallel_commits_to_distinct_keys_all_survive(make: MakePort) -> None:
    ports = [make(), make()]
    await _created(ports[0])
    deltas = [Delta(set={f"k{n}": b"%d" % n}) for n in range(100)]
    answers = await make.together(_commit(ports[n % 2], delta) for n, delta in enumerate(deltas))
    _same(await _pairs(ports[0]), {f"k{n}": b"%d" % n for n in range(100)})
    _same(sorted(answer.version for answer in answers), list(range(2, 102)), "versions")


@_case()
async def _a_hundred_parallel_increments_add_up(make: MakePort) -> None:
    ports = [make(), make()]
    await _created(ports[0])
    answers = await make.together(_commit(ports[n % 2], Delta(increments={"n": 1})) for n in range(100))
    _same(sorted(answer.counters["n"] for answer in answers), list(range(1, 101)), "counters")
    _same(await _pairs(ports[0]), {"n": b"100"})


@_case()
async def _of_many_cycles_with_grace_exactly_one_makes_a_generation(make: MakePort) -> None:
    ports = [make(), make()]
    await _created(ports[0])
    deltas = [Delta(cycle=30.0, admitted=GENERATION, set={f"k{n}": b"1"}) for n in range(MANY)]
    answers = await make.together(_commit(ports[n % 2], delta, now=NOW + n) for n, delta in enumerate(deltas))
    _same(sum(answer.cycled for answer in answers), 1, "how many cycled")
    after = await _loaded(ports[0])
    _same({a.generation for a in answers}, {after.generation}, "generations")
    _same((sorted(after.accepted), len(after.data)), ([GENERATION], MANY), "accepted, and keys saved")


@_case()
async def _many_cycles_without_grace_each_make_a_generation(make: MakePort) -> None:
    ports = [make(), make()]
    await _created(ports[0])
    answers = await make.together(_commit(ports[n % 2], Delta(cycle=0.0)) for n in range(MANY))
    _same(sum(answer.cycled for answer in answers), MANY, "how many cycled")
    _same(sorted(a.generation for a in answers), [GENERATION + 1 + n for n in range(MANY)], "generations")


@_case()
async def _of_many_deletes_one_finds_the_session_alive(make: MakePort) -> None:
    ports = [make(), make()]
    await _created(ports[0])
    answers = await make.together(ports[n % 2].delete(_id(), NOW, f"reason-{n}") for n in range(MANY))
    _same(sum(answers), 1, "how many found it alive")
    _same(await ports[1].load(_id(), NOW), Ended(f"reason-{answers.index(True)}", NOW))


@_case()
async def _a_delete_among_commits_is_final(make: MakePort) -> None:
    ports = [make(), make()]
    for number in range(8):
        await _created(ports[0], number)
        works: list[Coroutine[Any, Any, object]] = [
            ports[n % 2].commit(_id(number), Delta(set={"a": b"1"}, renew_to=NOW + 2000), NOW)
            for n in range(6)
        ]
        works.insert(number % 6, ports[0].delete(_id(number), NOW, "logout"))
        await make.together(works)
        _same(await ports[1].load(_id(number), NOW), Ended("logout", NOW))


@_case()
async def _of_many_commits_for_one_version_one_is_applied(make: MakePort) -> None:
    ports = [make(), make()]
    await _created(ports[0])
    deltas = [Delta(if_version=1, set={f"k{n}": b"1"}) for n in range(MANY)]
    answers = await make.together(ports[n % 2].commit(_id(), delta, NOW) for n, delta in enumerate(deltas))
    _same(answers.count(CONFLICT), MANY - 1, "conflicts")
    _same(len(await _pairs(ports[0])), 1, "keys")


@_case()
async def _a_load_sees_every_acknowledged_commit_through_any_port(make: MakePort) -> None:
    ports = [make(), make()]
    await _created(ports[0])

    async def write_and_read(client: int) -> None:
        for turn in range(5):
            await _commit(ports[turn % 2], Delta(set={f"c{client}": b"%d" % turn}))
            _same((await _pairs(ports[1 - turn % 2]))[f"c{client}"], b"%d" % turn, "own write")

    await make.together(write_and_read(client) for client in range(6))


@_case()
async def _a_refused_commit_does_no_harm_to_those_beside_it(make: MakePort) -> None:
    port = make()
    await _created(port, data={"text": b'"a"'})

    async def commit(number: int) -> None:
        if number % 3:
            await _commit(port, Delta(set={f"k{number}": b"1"}, increments={"n": 1}))
        else:
            await _raises(SessionDataError, port.commit(_id(), Delta(increments={"n": 1, "text": 1}), NOW))

    await make.together(commit(number) for number in range(24))
    after = await _pairs(port)
    _same((after["n"], len(after)), (b"16", 18), "counter and keys")


async def _judged(make: MakePort, port: Port, seed: int, shape: Shape) -> None:
    if make.colour == "async":
        history = await record_async(port, seed, shape)
    else:
        history = record_threads(port, seed, shape)
    if not is_linearizable(history):
        _fail(f"no order of these operations explains the answers:\n{describe(history)}")


@_case()
async def _histories_of_concurrent_operations_are_linearizable(make: MakePort) -> None:
    port = make()
    for seed in range(10):
        await _judged(make, port, seed, Shape())


@_case("async")
async def _histories_with_cancelled_callers_are_linearizable(make: MakePort) -> None:
    port = make()
    for seed in range(100, 110):
        await _judged(make, port, seed, Shape(cancel=0.15))


# --- failure and life cycle ---------------------------------------------------------------------------------


@_case("async")
async def _a_storm_of_cancellations_leaves_every_commit_whole_and_the_port_usable(make: MakePort) -> None:
    port = make()
    await _created(port)
    chance = Random(7)  # noqa: S311  (repeatable, not secret)
    deltas = [Delta(increments={"n": 1}, set={f"k{n}": b"1"}) for n in range(80)]
    tasks = [asyncio.create_task(_commit(port, delta)) for delta in deltas]
    for _ in range(12):
        await asyncio.sleep(0)
        for task in chance.sample(tasks, 4):
            task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await _commit(port, Delta(set={"after": b"1"}))
    saved = await _pairs(port)
    heard = {f"k{n}" for n, answer in enumerate(answers) if isinstance(answer, Committed)}
    _is_true(heard <= saved.keys(), "a commit was acknowledged and is not there")
    _same(int(saved.get("n", b"0")), sum(name.startswith("k") for name in saved), "commits counted and found")


@_case("async")
async def _closing_finishes_what_was_begun(make: MakePort) -> None:
    port = make()
    await _created(port)
    tasks = [asyncio.create_task(_commit(port, Delta(set={f"k{n}": b"1"}))) for n in range(20)]
    await asyncio.sleep(0)
    await port.close()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await port.open()
    saved = await _pairs(port)
    for number, answer in enumerate(answers):
        _is_true(isinstance(answer, Committed | BackendClosed), f"commit while closing: found {answer!r}")
        _same(f"k{number}" in saved, isinstance(answer, Committed), f"k{number} saved")


@_case()
async def _opening_and_closing_twice_is_no_error(make: MakePort) -> None:
    port = make()
    await port.open()
    await port.open()
    record = await _created(port)
    await port.open()
    await _unchanged(port, record)
    await port.close()
    await port.close()


@_case()
async def _a_closed_port_refuses_everything(make: MakePort) -> None:
    port = make()
    record = await _created(port)
    await port.close()
    await _raises(BackendClosed, port.load(record.id, NOW))
    await _raises(BackendClosed, port.load(_id(99), NOW))
    await _raises(BackendClosed, port.create(_record(1), NOW))
    await _raises(BackendClosed, port.commit(record.id, Delta(), NOW))
    await _raises(BackendClosed, port.delete(record.id, NOW, "logout"))
    await _raises(BackendClosed, port.delete_expired(NOW, 10))
    if isinstance(port, ByUser):
        await _raises(BackendClosed, port.list_user("ada", NOW))
        await _raises(BackendClosed, port.delete_user("ada", NOW, "logout"))
    if isinstance(port, Counting):
        await _raises(BackendClosed, port.count(NOW))


@_case()
async def _a_port_that_was_closed_can_be_opened_again(make: MakePort) -> None:
    port = make()
    record = await _created(port, data={"a": b"1"})
    for _ in range(3):
        await port.close()
        await port.open()
        await _unchanged(port, record)


@_case()
async def _a_port_serves_each_call_from_another_loop_or_thread(make: MakePort) -> None:
    port = make()

    async def create() -> Record:
        return await _created(port, data={"a": b"1"})

    async def commit(turn: int) -> Committed:
        return await _commit(port, Delta(increments={"n": 1}, set={"turn": b"%d" % turn}))

    await make.elsewhere(create())
    for turn in range(3):
        await make.elsewhere(commit(turn))
    _same(await make.elsewhere(_pairs(port)), {"a": b"1", "n": b"3", "turn": b"2"})
