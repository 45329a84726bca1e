"""The checker on histories written by hand, on backends that are right, and on those wrong on purpose.

`tests/campaigns/histories.py` runs the same for as long as you like and prints figures.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace as with_
from functools import partial
from pathlib import Path

import pytest

from session_middleware.backends.base import Backend, LoadAnswer
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.postgres import PostgresBackend
from session_middleware.backends.redis import RedisBackend
from session_middleware.backends.sqlite import SQLiteBackend
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
    apply,
    replace,
)
from session_middleware.testing import broken
from session_middleware.testing.histories import (
    START,
    Answer,
    Call,
    Commit,
    Create,
    Delete,
    Load,
    Operation,
    Outcome,
    Shape,
    describe,
    is_linearizable,
    record_async,
    record_interleaved,
    record_processes,
    record_threads,
)

S = SessionId("s")
NEW = Record(
    id=S,
    secret="secret",
    generation=1,
    created_at=START,
    last_seen_at=START,
    deadline=START + 10,
    limit=START + 10,
)


def op(call: Call, begin: int, end: int | None, answer: Answer = Outcome.UNKNOWN) -> Operation:
    return Operation(0, call, begin, end, answer)


def after(*deltas: Delta) -> Record:
    record = NEW
    for delta in deltas:
        applied = apply(record, delta, START)
        assert isinstance(applied, tuple)
        record = applied[0]
    return record


A, B = Delta(set={"a": b"1"}), Delta(set={"b": b"1"})
CREATION = op(Create(S, NEW), 0, 1, CREATED)
RIGHT = {
    "nothing happened": [],
    "one after another": [CREATION, op(Commit(S, A), 2, 3, Committed(2, 1)), op(Load(S), 4, 5, after(A))],
    "a load beside a commit sees it": [
        CREATION,
        op(Commit(S, A), 2, 5, Committed(2, 1)),
        op(Load(S), 3, 4, after(A)),
    ],
    "a load beside a commit misses it": [
        CREATION,
        op(Commit(S, A), 2, 5, Committed(2, 1)),
        op(Load(S), 3, 4, NEW),
    ],
    "two at once, in the order of their versions": [
        CREATION,
        op(Commit(S, A), 2, 9, Committed(3, 1)),
        op(Commit(S, B), 3, 8, Committed(2, 1)),
        op(Load(S), 10, 11, after(B, A)),
    ],
    "an unknown commit that never happened": [CREATION, op(Commit(S, A), 2, None), op(Load(S), 4, 5, NEW)],
    "an unknown commit that happened": [CREATION, op(Commit(S, A), 2, None), op(Load(S), 4, 5, after(A))],
    "an unknown commit that happened long after": [
        CREATION,
        op(Commit(S, A), 2, None),
        op(Load(S), 4, 5, NEW),
        op(Load(S), 6, 7, after(A)),
    ],
    "sessions are judged one by one": [
        CREATION,
        op(Create(SessionId("t"), NEW), 0, 1, CREATED),
        op(Delete(S, "logout", None), 2, 3, True),
        op(Load(SessionId("t")), 4, 5, NEW),
    ],
    "an expired record": [
        CREATION,
        op(Commit(S, Delta(expire_at=START)), 2, 3, Committed(2, 1)),
        op(Load(S), 4, 5, Ended("idle_timeout", START)),
        op(Delete(S, "logout", None), 6, 7, False),
        op(Create(S, NEW), 8, 9, CREATED),
    ],
}
WRONG = {
    "a load from before an acknowledged commit": [
        CREATION,
        op(Commit(S, A), 2, 3, Committed(2, 1)),
        op(Load(S), 4, 5, NEW),
    ],
    "a load that saw what had not begun": [
        CREATION,
        op(Load(S), 2, 3, after(A)),
        op(Commit(S, A), 4, 5, Committed(2, 1)),
    ],
    "a lost update": [
        CREATION,
        op(Commit(S, A), 2, 9, Committed(2, 1)),
        op(Commit(S, B), 3, 8, Committed(2, 1)),
        op(Load(S), 10, 11, after(B)),
    ],
    "a session that came back": [
        CREATION,
        op(Delete(S, "logout", None), 2, 3, True),
        op(Commit(S, A), 4, 5, Committed(2, 1)),
    ],
    "two creates that both won": [CREATION, op(Create(S, NEW), 0, 1, CREATED)],
    "a create refused where nothing was": [op(Create(S, NEW), 0, 1, EXISTS)],
    "a commit gone while the session lived": [CREATION, op(Commit(S, A), 2, 3, GONE)],
    "an ending with the reason of another": [
        CREATION,
        op(Delete(S, "logout", None), 2, 3, True),
        op(Load(S), 4, 5, Ended("revoked", START)),
    ],
    "an unknown commit that happened and was undone": [
        CREATION,
        op(Commit(S, A), 2, None),
        op(Load(S), 4, 5, after(A)),
        op(Load(S), 6, 7, NEW),
    ],
    "an unknown commit that happened twice": [
        CREATION,
        op(Commit(S, Delta(increments={"n": 1})), 2, None),
        op(Load(S), 4, 5, after(Delta(increments={"n": 1}), Delta(increments={"n": 1}))),
    ],
    "an unknown commit that happened before it began": [
        CREATION,
        op(Load(S), 2, 3, after(A)),
        op(Commit(S, A), 4, None),
    ],
    "a refusal that changed something": [
        CREATION,
        op(Commit(S, Delta(set={"a": b'"x"'}, increments={"a": 1})), 2, 3, Outcome.DATA_REFUSED),
        op(Load(S), 4, 5, after(Delta(set={"a": b'"x"'}))),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_checker_accepts(name: str) -> None:
    assert is_linearizable(RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_the_checker_rejects(name: str) -> None:
    assert not is_linearizable(WRONG[name])


def test_the_order_in_which_operations_were_noted_does_not_matter() -> None:
    assert all(is_linearizable(history[::-1]) for history in RIGHT.values())
    assert not any(is_linearizable(history[::-1]) for history in WRONG.values())


def hesitant(seed: int) -> list[Operation]:
    return record_interleaved(broken.HesitantBackend().port("async"), seed)


def test_one_seed_is_one_history() -> None:
    assert describe(hesitant(3)) == describe(hesitant(3)) != describe(hesitant(4))


def test_a_description_names_every_operation_and_no_secret() -> None:
    history = hesitant(3)
    text = describe(history)
    assert text.count("\n") + 1 == len(history)
    assert "secret-" not in text


def test_histories_make_operations_meet_and_commits_count() -> None:
    history = [operation for seed in range(20) for operation in hesitant(seed)]
    answers = [operation.answer for operation in history]
    kinds = {type(answer) for answer in answers}
    assert kinds >= {Record, Ended, Committed, bool, type(GONE), type(CREATED), Outcome}
    assert sum(isinstance(answer, Committed) for answer in answers) > len(answers) / 6
    assert any(isinstance(answer, Committed) and answer.cycled for answer in answers)


@pytest.mark.parametrize("seed", range(10))
def test_one_wrong_answer_in_a_right_history_is_found(seed: int) -> None:
    """The last load of a session, with another version than it had."""
    history = hesitant(seed)
    places = [place for place, each in enumerate(history) if isinstance(each.answer, Record)]
    place, last = places[-1], history[places[-1]]
    assert isinstance(last.answer, Record)
    history[place] = with_(last, answer=replace(last.answer, version=last.answer.version + 100))
    assert is_linearizable(hesitant(seed))
    assert not is_linearizable(history)


# How many of 50 histories must give each away. (Cleanup and odd text are no part of histories.)
GIVEN_AWAY = {
    broken.LastWriteWins: 25,
    broken.UpsertSave: 25,
    broken.StaleReads: 25,
    broken.ForgetfulDelete: 25,
    broken.OverwritingCreate: 25,
    broken.IgnoredAbsoluteDeadline: 3,
    broken.ReadModifyWriteCounters: 3,
    broken.BackwardRenewal: 3,
    broken.CycleWithTwoWinners: 3,
    broken.HalfCommit: 3,
    broken.LateExpiry: 3,
}


@pytest.mark.parametrize("wrong", GIVEN_AWAY)
def test_histories_give_a_wrong_backend_away(wrong: type[broken.HesitantBackend]) -> None:
    histories = [record_interleaved(wrong().port("async"), seed) for seed in range(50)]
    assert sum(not is_linearizable(history) for history in histories) >= GIVEN_AWAY[wrong]


def test_histories_find_no_fault_in_a_right_one() -> None:
    assert all(is_linearizable(hesitant(seed)) for seed in range(100))


# Backends of this package


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backend]:
    """Makes one that looks into the same store each time, but for memory."""
    if request.param == "memory":
        return MemoryBackend
    if request.param == "sqlite":
        return partial(SQLiteBackend, tmp_path / "sessions.db")
    kind = RedisBackend if request.param == "redis" else PostgresBackend
    return partial(kind, request.getfixturevalue(request.param).new_store())


async def in_one_loop(backend: Backend, seeds: range, shape: Shape) -> list[list[Operation]]:
    port = backend.port("async")
    try:
        return [await record_async(port, seed, shape) for seed in seeds]
    finally:
        await port.close()


def assert_linearizable(histories: list[list[Operation]]) -> None:
    for history in histories:
        assert is_linearizable(history), describe(history)


@pytest.mark.parametrize("shape", [Shape(), Shape(cancel=0.15)], ids=["heard", "cancelled"])
def test_tasks_of_one_loop_are_linearizable(backend: Callable[[], Backend], shape: Shape) -> None:
    assert_linearizable(asyncio.run(in_one_loop(backend(), range(200, 220), shape)))


def test_threads_are_linearizable(backend: Callable[[], Backend]) -> None:
    port = backend().port("blocking")
    assert_linearizable([record_threads(port, seed) for seed in range(300, 320)])
    asyncio.run(port.close())


class EachThreadItsOwn(MemoryBackend):
    """A store per thread: what a backend must not be."""

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def _store(self) -> MemoryBackend:
        if not hasattr(self._here, "store"):
            self._here.store = MemoryBackend()
        store: MemoryBackend = self._here.store
        return store

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        return await self._store().load(id, now)

    async def create(self, record: Record, now: float) -> CreateResult:
        return await self._store().create(record, now)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        return await self._store().commit(id, delta, now)


def test_threads_that_share_nothing_are_found_out() -> None:
    assert not is_linearizable(record_threads(EachThreadItsOwn(), 300))


@pytest.mark.parametrize("backend", ["sqlite", "postgres", "redis"], indirect=True)
def test_processes_are_linearizable_and_survive_a_kill(backend: Callable[[], Backend]) -> None:
    shape = Shape(clients=4)
    assert_linearizable(record_processes(backend, 400, shape, histories=6, kill=True))


def test_processes_that_share_nothing_are_found_out() -> None:
    """The control of the one above: in each process the memory backend has a store of its own."""
    [history] = record_processes(MemoryBackend, 400, Shape(clients=2), histories=1)
    assert not is_linearizable(history)
    assert {operation.client for operation in history} == {0, 1, 2}


def test_a_killed_process_is_missing_from_the_histories_after_it() -> None:
    before, at, then = record_processes(MemoryBackend, 400, Shape(clients=2), histories=3, kill=True)
    assert {operation.client for operation in before} == {0, 1, 2}
    assert {operation.client for operation in at} == {0, 1, 2}
    assert {operation.client for operation in then} == {1, 2}
