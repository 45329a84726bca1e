"""Long jobs: what they say of themselves, who sees it, how long their sessions stay."""

import asyncio
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from session_middleware import (
    ConfigurationError,
    MemoryBackend,
    SessionDataError,
    SessionManager,
    SessionNotFoundError,
    SQLiteBackend,
)
from session_middleware.jobs import is_stuck, progress_of, results_of, state_of
from session_middleware.record import Delta, Record
from session_middleware.testing.clock import ManualClock
from tests.test_manager import NOBODY, ODD_IDS, Driven, driven

__all__ = ["driven"]  # a fixture

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture(params=["memory-async", "memory-blocking", "sqlite-async", "sqlite-blocking"])
def retaining(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driven]:
    """Failed sessions stay an hour, completed ones six."""
    where, colour = request.param.split("-")
    clock = ManualClock()
    backend = MemoryBackend() if where == "memory" else SQLiteBackend(tmp_path / "sessions.db")
    manager = SessionManager(
        backend,
        clock=clock,
        monotonic=clock,
        log=False,
        retention={"failed": HOUR, "completed": 6 * HOUR},
        idle_timeout=DAY,
    )
    made = Driven(manager, colour, clock)
    yield made
    made.close()


def stored(driven: Driven, session_id: str) -> Record:
    record = driven.record(session_id)
    assert record is not None
    return record


# --- what is said ---


def test_a_status_is_stored_and_its_change_reported(driven: Driven) -> None:
    made = driven.create_session()
    driven.set_status(made.id, "pending")
    driven.set_status(made.id, "processing")
    assert driven.get_session(made.id).status == stored(driven, made.id).status == "processing"
    changes = [(event.fields["old"], event.fields["new"]) for event in driven.heard("session_status_changed")]
    assert changes == [(None, "pending"), ("pending", "processing")]


def test_a_status_may_be_an_enum_of_text(driven: Driven) -> None:
    class Status(str, Enum):  # noqa: UP042  (as older systems wrote it)
        DONE = "done"

    made = driven.create_session()
    driven.set_status(made.id, Status.DONE)
    assert driven.get_session(made.id).status == "done"


def test_why_a_job_failed_is_kept_until_its_next_status(driven: Driven) -> None:
    made = driven.create_session(data={"mine": 1})
    driven.fail(made.id, "no more paper")
    failed = driven.get_session(made.id)
    assert (failed.status, failed.error_message) == ("failed", "no more paper")
    driven.set_status(made.id, "processing")
    again = driven.get_session(made.id)
    assert (again.status, again.error_message, again["mine"]) == ("processing", None, 1)


def test_complete_sets_that_status_and_leaves_the_results(driven: Driven) -> None:
    made = driven.create_session()
    driven.put_item(made.id, 1, "one")
    driven.complete(made.id)
    done = driven.get_session(made.id)
    assert (done.status, done.results) == ("completed", {1: "one"})


def test_progress_has_steps_a_percentage_and_a_description(driven: Driven) -> None:
    made = driven.create_session()
    assert driven.get_session(made.id).progress is None
    driven.set_progress(made.id, 1, 3, "drawing")
    expected = {"current_step": 1, "total_steps": 3, "percentage": 33.3, "description": "drawing"}
    assert driven.get_session(made.id).progress == expected
    assert progress_of(stored(driven, made.id)) == expected
    [event] = driven.heard("session_progress")
    assert (event.session_id, event.fields) == (made.id, expected)


@pytest.mark.parametrize(("current", "total", "percentage"), [(0, 0, 0.0), (5, 4, 100.0), (4, 4, 100.0)])
def test_a_percentage_is_from_0_to_100(driven: Driven, current: int, total: int, percentage: float) -> None:
    made = driven.create_session()
    driven.set_progress(made.id, current, total, "")
    assert driven.get_session(made.id).progress["percentage"] == percentage


def test_an_item_is_added_or_replaced_by_its_number(driven: Driven) -> None:
    made = driven.create_session()
    for number, item in ((10, "ten"), (2, {"scene": "two"}), (10, "TEN")):
        driven.put_item(made.id, number, item)
    results = driven.get_session(made.id).results
    assert list(results.items()) == [(2, {"scene": "two"}), (10, "TEN")]
    assert results_of(stored(driven, made.id)) == results


def test_all_items_are_set_in_one_commit(driven: Driven) -> None:
    made = driven.create_session(data={"mine": 1})
    driven.put_item(made.id, 7, "old")
    before = stored(driven, made.id).version
    driven.set_items(made.id, ["a", "b"])
    assert stored(driven, made.id).version == before + 1
    assert driven.get_session(made.id).results == {1: "a", 2: "b"}
    driven.set_items(made.id, {5: "e"})
    assert driven.get_session(made.id).results == {5: "e"}
    driven.set_items(made.id, [])
    assert driven.get_session(made.id).results == {}
    assert driven.get_session(made.id)["mine"] == 1
    saved = driven.heard("session_data_saved")[-2]
    assert (saved.fields["saved_keys"], saved.fields["deleted_keys"]) == (
        ["job:item:5"],
        ["job:item:1", "job:item:2"],
    )


def test_the_state_of_a_job_is_read_at_one_moment(driven: Driven) -> None:
    made = driven.create_session()
    driven.set_progress(made.id, 1, 2, "half")
    driven.put_item(made.id, 1, "x")
    driven.fail(made.id, "why")
    state = driven.get_job(made.id)
    assert (state.status, state.num_items, state.error_message, state.is_over) == ("failed", 1, "why", True)
    assert state == state_of(stored(driven, made.id))
    assert driven.get_job(NOBODY) is None


@pytest.mark.parametrize("odd", ODD_IDS)
def test_a_job_of_no_live_session_is_refused(driven: Driven, odd: str) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("set_status", ("x",)),
        ("set_progress", (1, 2, "")),
        ("put_item", (1, "x")),
        ("set_items", (["x"],)),
        ("fail", ("x",)),
        ("complete", ()),
    ]
    for name, arguments in calls:
        with pytest.raises(SessionNotFoundError):
            getattr(driven, name)(odd, *arguments)
    assert not driven.heard("session_status_changed")
    assert not driven.heard("session_progress")


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("set_status", ("",), "status"),
        ("set_status", (None,), "status"),
        ("set_status", ("failed", 5), "error_message"),
        ("set_progress", (-1, 2, ""), "current_step"),
        ("set_progress", (1, True, ""), "total_steps"),
        ("set_progress", (1, 2.5, ""), "total_steps"),
        ("set_progress", (1, 2, None), "description"),
        ("put_item", ("1", "x"), "number"),
        ("set_items", ({-1: "x"},), "number"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(
    driven: Driven, name: str, arguments: tuple[Any, ...], named: str
) -> None:
    made = driven.create_session()
    before = stored(driven, made.id)
    with pytest.raises(ConfigurationError, match=named):
        getattr(driven, name)(made.id, *arguments)
    assert stored(driven, made.id) == before


def test_an_item_that_cannot_be_held_or_is_too_large_changes_nothing(driven: Driven) -> None:
    made = driven.create_session()
    driven.put_item(made.id, 1, "x" * 40_000)
    before = stored(driven, made.id)
    for wrong in (object(), "x" * 40_000):
        with pytest.raises(SessionDataError, match="item"):
            driven.put_item(made.id, 2, wrong)
    assert stored(driven, made.id) == before


# --- beside others ---


def test_a_handler_that_saves_later_takes_nothing_back(driven: Driven) -> None:
    made = driven.create_session(data={"n": 1})
    loaded_before = driven.get_session(made.id)
    driven.put_item(made.id, 1, "one")
    driven.set_progress(made.id, 1, 2, "half")
    loaded_before["n"] = 2
    driven.save(loaded_before)
    after = driven.get_session(made.id)
    assert (after["n"], after.results, after.progress["percentage"]) == (2, {1: "one"}, 50.0)


def test_workers_of_one_job_in_parallel_all_leave_their_results() -> None:
    async def work() -> tuple[dict[int, Any], Any]:
        manager = SessionManager(log=False)
        made = await manager.create_session()
        assert made.id is not None
        puts = (manager.put_item(made.id, number, number * number) for number in range(50))
        steps = (manager.set_progress(made.id, number, 50, "squares") for number in range(50))
        await asyncio.gather(*puts, *steps)
        found = await manager.get_session(made.id)
        assert found is not None
        return found.results, found.progress

    results, progress = asyncio.run(work())
    assert results == {number: number * number for number in range(50)}
    assert progress["total_steps"] == 50


def test_what_a_job_says_is_seen_through_another_backend_object_while_it_runs(tmp_path: Path) -> None:
    writing, reading = (SessionManager(SQLiteBackend(tmp_path / "s.db"), log=False) for _ in range(2))
    with writing.blocking, reading.blocking:
        made = writing.blocking.create_session()
        for step in range(1, 4):
            writing.blocking.set_progress(made.id, step, 3, "rows")
            assert reading.blocking.get_session(made.id).progress["current_step"] == step
        writing.blocking.complete(made.id)
        assert reading.blocking.get_job(made.id).is_over


# --- how long its session stays ---


def test_a_job_that_says_something_keeps_its_session(driven: Driven) -> None:
    made = driven.create_session()
    idle = driven.manager.policy.idle_timeout
    for _ in range(2):
        driven.clock.advance(idle * 0.9)
        driven.set_progress(made.id, 1, 2, "still at it")
    assert stored(driven, made.id).deadline == pytest.approx(
        min(driven.clock.now + idle, stored(driven, made.id).limit)
    )
    assert stored(driven, made.id).last_seen_at == driven.clock.now


def test_where_only_the_visitor_counts_a_job_keeps_nothing() -> None:
    clock = ManualClock()
    manager = SessionManager(log=False, clock=clock, open_requests_renew=False, idle_timeout=100)
    made = manager.blocking.create_session()
    clock.advance(90)
    manager.blocking.set_progress(made.id, 1, 2, "")
    clock.advance(10)
    assert manager.blocking.get_session(made.id) is None


def test_retention_ends_a_session_that_long_after_its_status(retaining: Driven) -> None:
    made = retaining.create_session()
    retaining.clock.advance(2 * HOUR)
    retaining.fail(made.id, "why")
    assert stored(retaining, made.id).deadline == retaining.clock.now + HOUR
    retaining.clock.advance(HOUR - 1)
    assert retaining.get_session(made.id) is not None
    retaining.clock.advance(1)
    assert retaining.get_session(made.id) is None
    retaining.clock.advance(2 * HOUR)
    assert retaining.cleanup_expired() == 1
    assert [event.fields["reason"] for event in retaining.heard("session_expired")] == ["retention"]


def test_no_visit_prolongs_a_retained_session_nor_writes(retaining: Driven) -> None:
    made = retaining.create_session()
    retaining.fail(made.id, "why")
    until = retaining.clock.now + HOUR
    retaining.clock.advance(HOUR / 2)
    before = stored(retaining, made.id)
    visited = retaining.get_session(made.id)
    assert retaining.save(visited) is True
    assert stored(retaining, made.id) == before
    assert retaining.renew_session(made.id) == until
    assert retaining.get_session(made.id, touch=True).expires_at == until
    assert stored(retaining, made.id).deadline == until
    assert {event.fields["expires_at"] for event in retaining.heard("session_renewed")} == {until}


def test_the_next_status_lifts_retention_and_the_idle_timeout_begins_anew(retaining: Driven) -> None:
    made = retaining.create_session()
    retaining.fail(made.id, "why")
    retaining.clock.advance(HOUR / 2)
    retaining.get_session(made.id, touch=True)  # a renewal meanwhile, which the retention hides
    retaining.set_status(made.id, "processing")
    after = stored(retaining, made.id)
    assert (after.retained_until, after.deadline) == (None, retaining.clock.now + DAY)


def test_another_retention_replaces_the_former_one_be_it_longer_or_shorter(retaining: Driven) -> None:
    made = retaining.create_session()
    retaining.fail(made.id, "why")
    retaining.complete(made.id)
    assert stored(retaining, made.id).deadline == retaining.clock.now + 6 * HOUR
    retaining.fail(made.id, "why")
    assert stored(retaining, made.id).deadline == retaining.clock.now + HOUR


def test_lifting_retention_never_passes_the_absolute_deadline(retaining: Driven) -> None:
    made = retaining.create_session()
    limit = stored(retaining, made.id).limit
    retaining.set_status(made.id, "processing")
    while retaining.clock.now < limit - 2 * HOUR:
        retaining.clock.advance(min(DAY / 2, limit - 2 * HOUR - retaining.clock.now))
        retaining.get_session(made.id, touch=True)
    retaining.fail(made.id, "why")
    retaining.set_status(made.id, "processing")
    assert stored(retaining, made.id).deadline == limit


def test_the_sessions_own_idle_timeout_is_what_begins_anew(retaining: Driven) -> None:
    made = retaining.create_session()
    visited = retaining.get_session(made.id)
    visited.set_expiry(2 * HOUR)
    retaining.save(visited)
    retaining.fail(made.id, "why")
    retaining.set_status(made.id, "processing")
    assert stored(retaining, made.id).deadline == retaining.clock.now + 2 * HOUR


def test_retention_lengthens_no_life(retaining: Driven) -> None:
    made = retaining.create_session()
    visited = retaining.get_session(made.id)
    visited.set_expiry(60)
    retaining.save(visited)
    retaining.complete(made.id)
    assert stored(retaining, made.id).deadline == retaining.clock.now + 60


@pytest.mark.parametrize("wrong", [5, {"failed": 0}, {"": 5}, {1: 5}, {"failed": "1h"}])
def test_an_illegal_retention_is_named_at_construction(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="retention"):
        SessionManager(retention=wrong)


# --- stuck ---


def test_a_processing_session_is_stuck_once_its_job_is_silent_for_too_long(driven: Driven) -> None:
    made = driven.create_session()
    driven.set_status(made.id, "processing")
    driven.clock.advance(1000)
    driven.put_item(made.id, 1, "x")
    moved = driven.clock.now
    driven.clock.advance(500)
    driven.renew_session(made.id)  # a visitor who looks at the page does not move the job
    record = stored(driven, made.id)
    assert not is_stuck(record, moved + 1799, 1800)
    assert is_stuck(record, moved + 1800, 1800)


def test_a_session_of_another_status_is_never_stuck(driven: Driven) -> None:
    made = driven.create_session()
    assert not is_stuck(stored(driven, made.id), driven.clock.now + DAY, 1800)
    driven.complete(made.id)
    assert not is_stuck(stored(driven, made.id), driven.clock.now + DAY, 1800)


def test_a_job_that_never_said_anything_moved_when_its_visitor_was_seen(driven: Driven) -> None:
    made = driven.create_session()
    record = stored(driven, made.id)
    processing = Delta(status="processing")
    from session_middleware.record import apply_to_header

    silent = apply_to_header(record, processing, driven.clock.now)
    assert is_stuck(silent, record.last_seen_at + 1800, 1800)
