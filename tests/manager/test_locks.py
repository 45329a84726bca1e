"""Transactions, compare-and-set and bulk updates: who has a session alone, and who hears of it if not."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from session_middleware import (
    ConfigurationError,
    MemoryBackend,
    Session,
    SessionConflictError,
    SessionDataError,
    SessionLockError,
    SessionManager,
    SessionNotFoundError,
    SQLiteBackend,
)
from session_middleware.backends.base import Port
from session_middleware.record import Delta
from session_middleware.testing import broken
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import FaultyBackend
from tests.security.interrupting import LAST, ended_loop
from tests.test_manager import NOBODY, ODD_IDS, Driven, driven

__all__ = ["driven"]  # a fixture

ROOT = Path(__file__).parents[2]
HOLDER = "somebody else"


def backend_of(where: str, folder: Path) -> MemoryBackend | SQLiteBackend:
    return MemoryBackend() if where == "memory" else SQLiteBackend(folder / "sessions.db")


both = pytest.mark.parametrize("where", ["memory", "sqlite"])


def changed_in(driven: Driven, session_id: str, *meanwhile: Callable[[], object], **options: Any) -> None:
    """A transaction that sets "n" and "m", while this happens."""
    with driven.transaction(session_id, **options) as session:
        session["n"] = session["m"] = "late"
        for happens in meanwhile:
            happens()


def lease_of(session_id: str | None) -> str:
    return f"session:{session_id}"


def taken_elsewhere(driven: Driven, session_id: str, seconds: float = 30.0) -> bool:
    """Whether another holder gets the lease now, as one in another process would."""
    return bool(ported(driven, "acquire_lease", lease_of(session_id), HOLDER, seconds, driven.clock()))


def ported(driven: Driven, name: str, *arguments: Any) -> Any:
    port = driven.manager.backend.port(driven.colour)
    work = getattr(port, name)(*arguments)
    if driven.runner is not None:
        return driven.runner.run(work)
    from session_middleware.blocking import run_blocking

    return run_blocking(work)


def passing(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting for a session moves the clock instead; the answer lists how long was waited each time."""
    waited: list[float] = []

    async def wait(_: object, seconds: float) -> None:
        if seconds > 1:  # what keeps a lease beside the body
            await asyncio.Event().wait()
        waited.append(seconds)
        driven.clock.advance(seconds)

    operations = driven.manager if driven.runner else driven.manager.blocking._operations
    monkeypatch.setattr(type(operations._port), "wait", wait)
    return waited


# --- transaction ---


def test_a_transaction_saves_at_its_end_and_gives_the_session_back(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})
    with driven.transaction(made.id) as session:
        session["n"] += 1
        assert not taken_elsewhere(driven, made.id)
        assert driven.get_session(made.id)["n"] == 1
    assert driven.get_session(made.id)["n"] == 2
    assert taken_elsewhere(driven, made.id)


def test_after_an_exception_nothing_is_saved_and_the_session_is_free(driven: Driven) -> None:
    def spoil(session: Session) -> None:
        session["n"] = 2
        raise KeyError

    made = driven.create_session(data={"n": 1})
    with pytest.raises(KeyError), driven.transaction(made.id) as session:
        spoil(session)
    assert driven.get_session(made.id)["n"] == 1
    assert taken_elsewhere(driven, made.id)
    assert not driven.manager._core.held


def test_a_transaction_that_only_reads_writes_nothing(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})
    before = driven.record(made.id)
    with driven.transaction(made.id) as session:
        assert session["n"] == 1
    assert driven.record(made.id) == before


@pytest.mark.parametrize("odd", ODD_IDS)
def test_there_is_no_transaction_on_no_session(driven: Driven, odd: str) -> None:
    with pytest.raises(SessionNotFoundError), driven.transaction(odd):
        raise AssertionError("entered")
    assert driven.heard("session_data_retrieval_failed")
    assert taken_elsewhere(driven, odd)


def test_a_value_that_cannot_be_held_saves_nothing_and_frees_the_session(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})
    with pytest.raises(SessionDataError, match="bad"), driven.transaction(made.id) as session:
        session["n"], session["bad"] = 2, object()
    assert dict(driven.get_session(made.id)) == {"n": 1}
    assert taken_elsewhere(driven, made.id)


def test_who_waits_too_long_for_another_holder_gets_a_lock_error(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driven.create_session()
    waited = passing(driven, monkeypatch)
    assert taken_elsewhere(driven, made.id)
    with pytest.raises(SessionLockError, match="timeout=2 s"), driven.transaction(made.id, timeout=2):
        raise AssertionError("entered")
    assert sum(waited) == pytest.approx(2)
    assert not driven.manager._core.turns._queues


def test_a_timeout_of_zero_tries_once(driven: Driven) -> None:
    made = driven.create_session()
    assert taken_elsewhere(driven, made.id)
    with pytest.raises(SessionLockError), driven.transaction(made.id, timeout=0):
        raise AssertionError("entered")


def test_a_holder_that_died_is_followed_once_its_lease_is_over(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driven.create_session()
    waited = passing(driven, monkeypatch)
    assert taken_elsewhere(driven, made.id, 5.0)
    with driven.transaction(made.id) as session:
        session["n"] = 1
    assert sum(waited) == pytest.approx(5, abs=0.06)
    assert driven.get_session(made.id)["n"] == 1


def test_a_holder_that_lost_its_lease_overwrites_nobody(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})
    taken: list[bool] = []

    def meanwhile() -> None:
        driven.clock.advance(5)
        taken.append(taken_elsewhere(driven, made.id))

    with pytest.raises(SessionLockError, match="lease"):
        changed_in(driven, made.id, meanwhile, lease=5)
    assert taken == [True]
    assert dict(driven.get_session(made.id)) == {"n": 1}
    [event] = driven.heard("session_data_save_failed")
    assert (event.fields["reason"], event.fields["keys"]) == ("lock_lost", ["m", "n"])
    assert not taken_by_yet_another(driven, made.id)  # its end did not free what is another's


def taken_by_yet_another(driven: Driven, session_id: str) -> bool:
    return bool(ported(driven, "acquire_lease", lease_of(session_id), "a third", 30.0, driven.clock()))


def test_a_holder_that_lost_its_lease_to_one_who_is_done_already_overwrites_nobody(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})

    def meanwhile() -> None:
        driven.clock.advance(5)
        taken_elsewhere(driven, made.id)
        ported(driven, "commit", made.id, Delta(set={"other": b"2"}), driven.clock())
        ported(driven, "release_lease", lease_of(made.id), HOLDER)

    with pytest.raises(SessionLockError):
        changed_in(driven, made.id, meanwhile, lease=5)
    assert dict(driven.get_session(made.id)) == {"n": 1, "other": 2}


def test_a_holder_whose_clock_is_ahead_is_caught_by_the_version(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})

    def meanwhile() -> None:
        ported(driven, "acquire_lease", lease_of(made.id), HOLDER, 30.0, driven.clock() + 5)
        ported(driven, "commit", made.id, Delta(set={"other": b"2"}), driven.clock())

    with pytest.raises(SessionLockError):
        changed_in(driven, made.id, meanwhile, lease=5)
    assert dict(driven.get_session(made.id)) == {"n": 1, "other": 2}


def test_a_lease_that_is_over_but_that_nobody_took_still_saves(driven: Driven) -> None:
    made = driven.create_session()
    with driven.transaction(made.id, lease=5) as session:
        session["n"] = 1
        driven.clock.advance(6)
    assert driven.get_session(made.id)["n"] == 1


def test_what_others_save_under_other_keys_merges(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1, "gone": 1, "hits": 0})
    with driven.transaction(made.id) as session:
        session["n"] = 2
        session.increment("hits")
        driven.update_session(made.id, {"other": 1}, unset=["gone"])
        driven.set_progress(made.id, 1, 2, "")
        other = driven.get_session(made.id)
        other.increment("hits")
        driven.save(other)
    after = driven.get_session(made.id)
    assert (after["n"], after["other"], after["hits"], "gone" in after) == (2, 1, 2, False)
    assert after.progress["percentage"] == 50.0


def test_what_others_save_under_the_same_keys_is_a_conflict_and_stays(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1, "m": 1})
    with pytest.raises(SessionConflictError):
        changed_in(driven, made.id, lambda: driven.update_session(made.id, {"n": 5}))
    assert dict(driven.get_session(made.id)) == {"n": 5, "m": 1}
    assert [event.fields["keys"] for event in driven.heard("session_conflict")] == [["n"]]
    [failed] = driven.heard("session_data_save_failed")
    assert (failed.fields["reason"], failed.fields["keys"]) == ("superseded", ["m", "n"])
    assert taken_elsewhere(driven, made.id)


def test_a_session_that_ended_meanwhile_is_not_brought_back(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})
    with pytest.raises(SessionNotFoundError):
        changed_in(driven, made.id, lambda: driven.delete_session(made.id))
    assert driven.record(made.id) is None
    assert driven.heard("session_data_save_failed")[-1].fields["reason"] == "gone"


def test_a_login_meanwhile_is_not_written_over(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})
    login = Delta(user_id="ada", cycle=0)
    with pytest.raises(SessionConflictError, match="signed in"):
        changed_in(driven, made.id, lambda: ported(driven, "commit", made.id, login, driven.clock()))
    assert dict(driven.get_session(made.id)) == {"n": 1}
    assert driven.heard("session_data_save_failed")[-1].fields["reason"] == "superseded"


def test_what_the_body_saves_itself_is_no_conflict(driven: Driven) -> None:
    made = driven.create_session(data={"n": (1, 2)})
    with driven.transaction(made.id) as session:
        session["n"] = (3, 4)
        assert driven.save(session)
        session["n"] = (5, 6)
    assert driven.get_session(made.id)["n"] == (5, 6)


def test_a_logout_in_the_body_ends_the_session(driven: Driven) -> None:
    made = driven.create_session()
    with driven.transaction(made.id) as session:
        session.logout()
    assert driven.record(made.id) is None


@pytest.mark.parametrize(("option", "value"), [("timeout", -1), ("lease", 0), ("lease", "long")])
def test_an_illegal_duration_is_named(driven: Driven, option: str, value: Any) -> None:
    made = driven.create_session()
    with pytest.raises(ConfigurationError, match=option), driven.transaction(made.id, **{option: value}):
        raise AssertionError("entered")


def test_a_backend_without_leases_is_named() -> None:
    manager = SessionManager(broken.HesitantBackend(), log=False)
    with pytest.raises(ConfigurationError, match="hesitant://"):
        asyncio.run(enter(manager, NOBODY))


async def enter(manager: SessionManager, session_id: str, **options: Any) -> None:
    async with manager.transaction(session_id, **options):
        pass


# --- several at once, in one process ---


@both
def test_bodies_of_tasks_run_one_after_the_other_in_the_order_they_came(where: str, tmp_path: Path) -> None:
    async def live() -> tuple[list[int], Any]:
        manager = SessionManager(backend_of(where, tmp_path), log=False)
        async with manager:
            made = await manager.create_session(data={"n": 0})
            inside: list[int] = []

            async def body(number: int) -> None:
                async with manager.transaction(made.id or "") as session:
                    inside.append(number)
                    seen = session["n"]
                    await asyncio.sleep(0.001)
                    session["n"] = seen + 1
                    inside.append(number)

            await asyncio.gather(*(body(number) for number in range(10)))
            found = await manager.get_session(made.id or "")
            assert found is not None
            return inside, found["n"]

    inside, total = asyncio.run(live())
    assert total == 10
    assert inside == [number for number in range(10) for _ in "io"]


@both
def test_bodies_of_threads_run_one_after_the_other(where: str, tmp_path: Path) -> None:
    manager = SessionManager(backend_of(where, tmp_path), log=False)
    made = manager.blocking.create_session(data={"n": 0})
    start = threading.Barrier(6)

    def work() -> None:
        start.wait()
        for _ in range(5):
            with manager.blocking.transaction(made.id) as session:
                session["n"] += 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager.blocking.get_session(made.id)["n"] == 30
    assert not manager._core.turns._queues
    manager.blocking.stop()


def test_two_managers_over_one_file_take_turns(tmp_path: Path) -> None:
    async def live() -> Any:
        managers = [SessionManager(SQLiteBackend(tmp_path / "s.db"), log=False) for _ in range(2)]
        made = await managers[0].create_session(data={"n": 0})

        async def work(manager: SessionManager) -> None:
            for _ in range(5):
                async with manager.transaction(made.id or "") as session:
                    seen = session["n"]
                    await asyncio.sleep(0.001)
                    session["n"] = seen + 1

        await asyncio.gather(*(work(manager) for manager in managers))
        found = await managers[0].get_session(made.id or "")
        for manager in managers:
            await manager.backend.port("async").close()
        assert found is not None
        return found["n"]

    assert asyncio.run(live()) == 10


@both
def test_a_task_joins_its_own_transaction_and_another_task_does_not(where: str, tmp_path: Path) -> None:
    async def live() -> tuple[Any, Any]:
        manager = SessionManager(backend_of(where, tmp_path), log=False)
        made = await manager.create_session(data={"n": 0})
        async with manager.transaction(made.id or "") as outer:
            async with manager.transaction(made.id or "") as inner:
                assert inner is outer
                inner["n"] = 1
            stored = await manager.get_session(made.id or "")
            assert stored is not None
            assert stored["n"] == 0  # the inner one's end is not the end
            with pytest.raises(SessionLockError):
                await asyncio.create_task(enter(manager, made.id or "", timeout=0))
        found = await manager.get_session(made.id or "")
        await manager.backend.port("async").close()
        assert found is not None
        return found["n"], manager._core.held

    assert asyncio.run(live()) == (1, {})


@both
def test_a_thread_joins_its_own_transaction_and_another_thread_does_not(where: str, tmp_path: Path) -> None:
    manager = SessionManager(backend_of(where, tmp_path), log=False)
    made = manager.blocking.create_session(data={"n": 0})
    refused: list[BaseException] = []

    def try_it() -> None:
        try:
            with manager.blocking.transaction(made.id, timeout=0):
                pass
        except SessionLockError as problem:
            refused.append(problem)

    with manager.blocking.transaction(made.id) as outer:
        with manager.blocking.transaction(made.id) as inner:
            assert inner is outer
            inner["n"] = 1
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        outer["m"] = 1
    assert len(refused) == 1
    assert dict(manager.blocking.get_session(made.id)) == {"n": 1, "m": 1}
    manager.blocking.stop()


@both
def test_two_tasks_that_take_two_sessions_in_opposite_orders_do_not_wait_for_each_other(
    where: str, tmp_path: Path
) -> None:
    async def live() -> tuple[list[Any], list[dict[str, Any]]]:
        manager = SessionManager(backend_of(where, tmp_path), log=False)
        a, b = [(await manager.create_session()).id or "" for _ in range(2)]
        have_one = [asyncio.Event(), asyncio.Event()]

        async def both_of(first: str, second: str, me: int) -> None:
            async with manager.transaction(first) as one:
                have_one[me].set()
                await have_one[1 - me].wait()
                one[f"t{me}"] = 1
                async with manager.transaction(second, timeout=60) as two:
                    two[f"t{me}"] = 1

        outcomes = await asyncio.gather(both_of(a, b, 0), both_of(b, a, 1), return_exceptions=True)
        found = [dict(await manager.get_session(id_) or {}) for id_ in (a, b)]
        await manager.backend.port("async").close()
        return outcomes, found

    outcomes, found = asyncio.run(asyncio.wait_for(live(), 20))
    assert [type(outcome) for outcome in outcomes].count(SessionLockError) == 1
    assert "same order" in str(next(one for one in outcomes if one is not None))
    [winner] = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert found == [{f"t{winner}": 1}] * 2


def test_two_threads_that_take_two_sessions_in_opposite_orders_do_not_wait_for_each_other() -> None:
    manager = SessionManager(log=False)
    a, b = (manager.blocking.create_session().id for _ in range(2))
    have_both = threading.Barrier(2)
    problems: list[BaseException] = []

    def both_of(first: str, second: str) -> None:
        try:
            with manager.blocking.transaction(first):
                have_both.wait()
                with manager.blocking.transaction(second, timeout=20):
                    pass
        except SessionLockError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=both_of, args=pair) for pair in ((a, b), (b, a))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems
    assert all("same order" in str(problem) for problem in problems)
    assert not manager._core.turns._queues
    assert not manager._core.turns._waiting


@both
def test_a_cancelled_wait_leaves_neither_a_lease_nor_a_place_in_the_queue(where: str, tmp_path: Path) -> None:
    async def live() -> None:
        manager = SessionManager(backend_of(where, tmp_path), log=False)
        made = await manager.create_session()
        async with manager.transaction(made.id or ""):
            waiting = [asyncio.create_task(enter(manager, made.id or "", timeout=60)) for _ in range(2)]
            await asyncio.sleep(0.01)
            waiting[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[0]
        await asyncio.wait_for(waiting[1], 5)  # whoever came after it is not held up
        await asyncio.wait_for(enter(manager, made.id or "", timeout=0), 5)
        assert not manager._core.turns._queues
        await manager.backend.port("async").close()

    asyncio.run(live())


@both
def test_a_wait_for_another_process_that_is_cancelled_at_any_step_leaves_no_lease(
    where: str, tmp_path: Path
) -> None:
    async def live() -> None:
        manager = SessionManager(backend_of(where, tmp_path), log=False)
        made = await manager.create_session()
        for steps in range(12):
            task = asyncio.create_task(enter(manager, made.id or "", timeout=60))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await manager.finisher.drain()
            await asyncio.wait_for(enter(manager, made.id or "", timeout=1), 5)
        assert not manager._core.turns._queues
        await manager.backend.port("async").close()

    asyncio.run(live())


def test_a_transaction_that_ended_with_its_event_loop_keeps_nobody_out_for_longer_than_its_lease() -> None:
    clock, backend = ManualClock(), FaultyBackend(MemoryBackend())
    backend.faults.pauses = 1
    manager = SessionManager(backend, clock=clock, log=False)

    async def change(session_id: str) -> None:
        async with manager.transaction(session_id, timeout=0) as session:
            await asyncio.sleep(0)
            session["n"] = 1

    for at in range(1, LAST):
        session_id = asyncio.run(manager.create_session("ada")).id or ""
        was_cut_short = ended_loop(partial(change, session_id), at)
        clock.advance(31)
        asyncio.run(change(session_id))
        if not was_cut_short:
            break
    assert at > 1
    asyncio.run(manager.stop())


@both
def test_a_body_that_is_cancelled_saves_nothing_and_frees_the_session(where: str, tmp_path: Path) -> None:
    async def live() -> Any:
        manager = SessionManager(backend_of(where, tmp_path), log=False)
        made = await manager.create_session(data={"n": 1})
        entered = asyncio.Event()

        async def body() -> None:
            async with manager.transaction(made.id or "") as session:
                session["n"] = 2
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with manager.transaction(made.id or "", timeout=0) as session:
            seen = session["n"]
        await manager.backend.port("async").close()
        return seen

    assert asyncio.run(live()) == 1


def test_the_lease_is_renewed_while_an_awaited_body_runs() -> None:
    clock = ManualClock()

    class Slow(MemoryBackend):
        """Waits by the manual clock, one turn of the loop at a time."""

        async def wait(self, seconds: float) -> None:
            until = clock.now + seconds
            while clock.now < until:  # noqa: ASYNC110  (nothing tells when the clock was moved)
                await asyncio.sleep(0)

    async def live() -> bool:
        backend = Slow()
        manager = SessionManager(backend, clock=clock, monotonic=clock, log=False)
        made = await manager.create_session()
        async with manager.transaction(made.id or "", lease=30):
            for _ in range(20):
                clock.advance(10)
                for _ in range(5):
                    await asyncio.sleep(0)
            held = not await backend.acquire_lease(lease_of(made.id), HOLDER, 30, clock.now)
        await asyncio.sleep(0)
        assert await backend.acquire_lease(lease_of(made.id), HOLDER, 30, clock.now)
        return held

    assert asyncio.run(live())


# --- with_session_lock ---


def test_an_operation_runs_once_in_a_transaction_and_answers(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})

    def operation(session: Session) -> str:
        assert made.id in driven.manager._core.turns._queues
        session["n"] += 1
        return "done"

    assert driven.with_session_lock(made.id, operation) == "done"
    assert driven.get_session(made.id)["n"] == 2
    with pytest.raises(SessionNotFoundError):
        driven.with_session_lock(NOBODY, operation)


def test_an_operation_may_be_async_where_it_is_awaited() -> None:
    async def live() -> Any:
        manager = SessionManager(log=False)
        made = await manager.create_session(data={"n": 1})

        async def operation(session: Session) -> int:
            await asyncio.sleep(0)
            session["n"] = 5
            return 5

        assert await manager.with_session_lock(made.id or "", operation) == 5
        assert await manager.transact(made.id or "", operation) == 5
        found = await manager.get_session(made.id or "")
        assert found is not None
        return found["n"]

    assert asyncio.run(live()) == 5


# --- transact ---


def once(driven: Driven, session_id: str, then: Callable[[], Any]) -> Callable[[Session], int]:
    """Adds one; the first time, *then* happens between the look and the save."""
    calls = [0]

    def add_one(session: Session) -> int:
        calls[0] += 1
        session["n"] += 1
        if calls[0] == 1:
            then()
        return calls[0]

    return add_one


def other_commit(driven: Driven, session_id: str, **values: Any) -> Callable[[], Any]:
    """What another process does meanwhile; directly on the port, as a loop cannot run inside a loop."""
    from session_middleware.blocking import run_blocking

    delta = Delta(set={name: str(value).encode() for name, value in values.items()})
    port: Port = driven.manager.backend.port("blocking")
    return lambda: run_blocking(port.commit(session_id, delta, driven.clock()))  # type: ignore[arg-type]


def test_a_function_runs_again_on_what_others_made_of_the_session(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driven.create_session(data={"n": 1})
    passing(driven, monkeypatch)
    calls = driven.transact(made.id, once(driven, made.id, other_commit(driven, made.id, n=10)))
    assert calls == 2
    assert driven.get_session(made.id)["n"] == 11
    [event] = driven.heard("session_conflict")
    assert (event.session_id, event.fields["keys"]) == (made.id, ["n"])
    assert not driven.heard("session_data_save_failed")


def test_any_change_meanwhile_counts_as_one(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    made = driven.create_session(data={"n": 1})
    passing(driven, monkeypatch)
    assert driven.transact(made.id, once(driven, made.id, other_commit(driven, made.id, m=1))) == 2
    assert dict(driven.get_session(made.id)) == {"n": 2, "m": 1}


def test_after_so_many_attempts_it_is_a_conflict_and_nothing_is_saved(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driven.create_session(data={"n": 1, "m": 0})
    waited = passing(driven, monkeypatch)
    change = other_commit(driven, made.id, m=7)

    def hopeless(session: Session) -> None:
        session["n"] = "mine"
        change()

    with pytest.raises(SessionConflictError, match="3 times"):
        driven.transact(made.id, hopeless, attempts=3)
    assert dict(driven.get_session(made.id)) == {"n": 1, "m": 7}
    assert len(driven.heard("session_conflict")) == len(waited) == 3


def test_what_the_function_raises_comes_out_and_nothing_is_saved(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})

    def spoil(session: Session) -> None:
        session["n"] = 2
        raise KeyError

    with pytest.raises(KeyError):
        driven.transact(made.id, spoil)
    assert driven.get_session(made.id)["n"] == 1


@pytest.mark.parametrize("odd", ODD_IDS)
def test_nothing_is_transacted_on_no_session(driven: Driven, odd: str) -> None:
    with pytest.raises(SessionNotFoundError):
        driven.transact(odd, lambda _: None)


def test_a_session_that_ended_under_the_function_is_not_found(driven: Driven) -> None:
    from session_middleware.blocking import run_blocking

    made = driven.create_session()

    def late(session: Session) -> None:
        session["n"] = 1
        run_blocking(driven.manager.backend.port("blocking").delete(made.id, driven.clock(), "revoked"))

    with pytest.raises(SessionNotFoundError):
        driven.transact(made.id, late)
    assert driven.record(made.id) is None


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, None])
def test_an_illegal_number_of_attempts_is_named(driven: Driven, wrong: Any) -> None:
    made = driven.create_session()
    with pytest.raises(ConfigurationError, match="attempts"):
        driven.transact(made.id, lambda _: None, attempts=wrong)


@both
def test_many_functions_in_parallel_all_count(where: str, tmp_path: Path) -> None:
    async def live() -> Any:
        manager = SessionManager(backend_of(where, tmp_path), log=False)
        made = await manager.create_session(data={"n": 0})

        async def add_one(session: Session) -> None:
            seen = session["n"]
            await asyncio.sleep(0)
            session["n"] = seen + 1

        adding = (manager.transact(made.id or "", add_one, attempts=200) for _ in range(8))
        await asyncio.gather(*adding)
        found = await manager.get_session(made.id or "")
        await manager.backend.port("async").close()
        assert found is not None
        return found["n"]

    assert asyncio.run(live()) == 8


# --- bulk_update ---


def test_a_bulk_update_counts_successes_reports_failures_and_harms_no_other(driven: Driven) -> None:
    ids = [driven.create_session(data={"n": number}).id for number in range(4)]

    def operation(session: Session) -> None:
        if session["n"] == 1:
            session["n"] = 100
            raise KeyError
        session["n"] = object() if session["n"] == 2 else session["n"] + 10

    assert driven.bulk_update([ids[0], NOBODY, *ids[1:], "../x"], operation) == 2
    assert [driven.get_session(id_)["n"] for id_ in ids] == [10, 1, 2, 13]
    failures = [
        (event.session_id, event.fields["reason"]) for event in driven.heard("session_data_save_failed")
    ]
    assert failures == [
        (NOBODY, "not_found"),
        (ids[1], "operation_failed"),
        (ids[2], "serialization_error"),
        (None, "not_found"),
    ]


def test_a_bulk_update_is_repeated_where_others_were_faster(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driven.create_session(data={"n": 1})
    passing(driven, monkeypatch)
    assert driven.bulk_update([made.id], once(driven, made.id, other_commit(driven, made.id, n=10))) == 1
    assert driven.get_session(made.id)["n"] == 11


def test_a_bulk_update_that_never_gets_through_is_reported(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driven.create_session(data={"n": 1})
    passing(driven, monkeypatch)
    change = other_commit(driven, made.id, n=7)

    def hopeless(session: Session) -> None:
        session["n"] = "mine"
        change()

    assert driven.bulk_update([made.id], hopeless, attempts=2) == 0
    [event] = driven.heard("session_data_save_failed")
    assert (event.session_id, event.fields["reason"]) == (made.id, "superseded")


# --- a holder that is killed ---

HOLD = """
import sys, time
from session_middleware import SessionManager, SQLiteBackend

manager = SessionManager(SQLiteBackend(sys.argv[1]), log=False)
with manager.blocking.transaction(sys.argv[2], lease=float(sys.argv[3])) as session:
    session["n"] = "never saved"
    print("inside", flush=True)
    time.sleep(60)
"""


def killed_inside(database: Path, session_id: str, lease: float) -> None:
    """A process takes the session and is killed, as by `kill -9`, while it has it."""
    command = [sys.executable, "-c", HOLD, str(database), session_id, str(lease)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "inside\n"
        finally:
            holder.kill()


def test_the_session_of_a_killed_holder_is_free_once_its_lease_is_over_and_not_before(tmp_path: Path) -> None:
    ahead = ManualClock()
    manager = SessionManager(
        SQLiteBackend(tmp_path / "s.db"), log=False, clock=lambda: time.time() + ahead.now
    )
    ahead.now = 0.0
    made = manager.blocking.create_session(data={"n": 1})
    killed_inside(tmp_path / "s.db", made.id, 3600)
    with pytest.raises(SessionLockError), manager.blocking.transaction(made.id, timeout=0):
        raise AssertionError("entered")
    ahead.advance(3601)
    with manager.blocking.transaction(made.id, timeout=0) as session:
        assert session["n"] == 1
        session["n"] = 2
    assert manager.blocking.get_session(made.id)["n"] == 2
    manager.blocking.stop()


WORK = """
import sys
from session_middleware import SessionManager, SQLiteBackend

manager = SessionManager(SQLiteBackend(sys.argv[1]), log=False)
for _ in range(15):
    with manager.blocking.transaction(sys.argv[2], timeout=60) as session:
        session["n"] += 1
"""


def test_bodies_in_several_processes_run_one_after_the_other(tmp_path: Path) -> None:
    manager = SessionManager(SQLiteBackend(tmp_path / "s.db"), log=False)
    made = manager.blocking.create_session(data={"n": 0})
    command = [sys.executable, "-c", WORK, str(tmp_path / "s.db"), made.id]
    workers = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert manager.blocking.get_session(made.id)["n"] == 45
    manager.blocking.stop()
