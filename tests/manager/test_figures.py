"""Statistics, health, stuck sessions; and the cleanups that somebody asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from session_middleware import BackendUnavailable, ConfigurationError, MemoryBackend, SessionManager
from session_middleware.backends.capabilities import Caps
from session_middleware.housekeeping import Housekeeper
from session_middleware.testing import broken
from session_middleware.testing.clock import ManualClock
from tests.test_manager import Driven

HOUR, DAY = 3600.0, 24 * 3600.0


def aged(driven: Driven, *hours: float) -> list[Any]:
    """A session for each of these ages, oldest first."""
    made = []
    for before, after in zip(hours, [*hours[1:], 0.0], strict=True):
        made.append(driven.create_session())
        driven.clock.advance((before - after) * HOUR)
    return made


def test_statistics_tell_how_many_how_old_and_in_which_state(driven: Driven) -> None:
    aged(driven, 30, 24, 23, 6, 5, 1, 0.5, 0.25)
    driven.set_status(driven.create_session().id, "processing")
    assert driven.get_statistics() == {
        "total_sessions": 9,
        "max_capacity": None,
        "utilization_percent": 0.0,
        "status_breakdown": {"processing": 1},
        "age_distribution": {"under_1h": 3, "1h_to_6h": 2, "6h_to_24h": 2, "over_24h": 2},
        "average_age_hours": pytest.approx(89.75 / 9, rel=1e-6),
        "oldest_session_hours": 30.0,
        "newest_session_hours": 0.0,
    }


def test_statistics_of_nothing_are_zeros(driven: Driven) -> None:
    found = driven.get_statistics()
    assert found["age_distribution"] == {"under_1h": 0, "1h_to_6h": 0, "6h_to_24h": 0, "over_24h": 0}
    assert (found["total_sessions"], found["average_age_hours"], found["oldest_session_hours"]) == (
        0,
        0.0,
        0.0,
    )


def test_what_has_expired_is_in_no_figure(driven: Driven) -> None:
    aged(driven, 14 * 24 + 1, 2)
    assert driven.get_statistics()["total_sessions"] == 1
    assert driven.get_health()["session_count"] == 1
    assert driven.count() == 1


@pytest.mark.parametrize(
    ("number", "percent", "health"),
    [(6, 60.0, "healthy"), (7, 70.0, "warning"), (8, 80.0, "warning"), (9, 90.0, "critical")],
)
def test_health_follows_how_full_it_is(driven: Driven, number: int, percent: float, health: str) -> None:
    driven.manager._core.caps = Caps(total=10)
    for _ in range(number):
        driven.create_session()
    assert driven.get_health() == {
        "overall_health": health,
        "session_count": number,
        "utilization_percent": percent,
        "stuck_sessions": 0,
        "cleanup_active": False,
    }
    assert driven.get_statistics()["max_capacity"] == 10


def test_a_job_that_was_silent_for_long_is_stuck(driven: Driven) -> None:
    silent, busy, done, other = (driven.create_session(data={"n": n}) for n in range(4))
    for job in (silent, busy, done):
        driven.set_status(job.id, "processing")
    driven.clock.advance(1799)
    assert driven.get_health()["stuck_sessions"] == 0
    driven.set_progress(busy.id, 1, 2)
    driven.complete(done.id)
    driven.clock.advance(1)
    assert driven.get_health()["stuck_sessions"] == 1
    assert [session["n"] for session in driven.get_stuck_sessions()] == [0]
    assert other.id not in {session.id for session in driven.get_stuck_sessions()}
    driven.set_progress(silent.id, 2, 2)
    assert driven.get_stuck_sessions() == []


def test_cleanup_is_active_while_a_manager_is_started() -> None:
    async def live() -> list[bool]:
        manager = SessionManager(log=False)
        found = [(await manager.get_health())["cleanup_active"]]
        async with manager:
            found.append((await manager.get_health())["cleanup_active"])
        await manager.open()
        return [*found, (await manager.get_health())["cleanup_active"]]

    assert asyncio.run(live()) == [False, True, False]


def test_cleanup_is_active_while_a_thread_does_it() -> None:
    manager = SessionManager(log=False)
    keeper = Housekeeper.of(manager)
    assert manager.blocking.get_health()["cleanup_active"] is False
    keeper.ensure()
    assert manager.blocking.get_health()["cleanup_active"] is True
    keeper.stop(5)
    assert manager.blocking.get_health()["cleanup_active"] is False


def test_a_backend_that_sums_nothing_up_says_so() -> None:
    clock = ManualClock()
    driven = Driven(SessionManager(broken.HesitantBackend(), clock=clock, log=False), "async", clock)
    for name in ("get_statistics", "get_health"):
        with pytest.raises(ConfigurationError, match="hesitant"):
            getattr(driven, name)()
    driven.close()


# --- cleanups ---


def left(driven: Driven) -> list[Any]:
    return sorted(session["n"] for session in driven.get_sessions())


def numbered(driven: Driven, *hours: float) -> list[Any]:
    made = []
    for number, (before, after) in enumerate(zip(hours, [*hours[1:], 0.0], strict=True)):
        made.append(driven.create_session(data={"n": number}))
        driven.clock.advance((before - after) * HOUR)
    return made


def test_sessions_are_cleaned_up_by_status(driven: Driven) -> None:
    made = numbered(driven, 3, 2, 1)
    driven.fail(made[0].id, "why")
    driven.complete(made[2].id)
    driven.events.clear()
    assert driven.cleanup(status="failed") == 1
    assert left(driven) == [1, 2]
    [told] = driven.heard("sessions_cleaned_up")
    assert (told.fields["count"], told.fields["by_reason"]) == (1, {"cleaned": 1})
    [ended] = driven.heard("session_deleted")
    assert (ended.session_id, ended.fields["reason"]) == (made[0].id, "cleaned")
    [usage] = driven.heard("session_usage")
    assert usage.fields["count"] == 2
    assert driven.why_ended(made[0].id).reason == "cleaned"
    assert driven.manager.get_metrics()["total_sessions_cleaned"] == 1


def test_sessions_are_cleaned_up_by_age_and_by_both(driven: Driven) -> None:
    made = numbered(driven, 30, 20, 10, 1)
    driven.complete(made[1].id)
    driven.complete(made[3].id)
    assert driven.cleanup(status="completed", older_than=15 * HOUR) == 1
    assert left(driven) == [0, 2, 3]
    assert driven.cleanup(older_than=10 * HOUR) == 1  # exactly so old is not older
    assert left(driven) == [2, 3]


def test_sessions_that_nobody_used_for_days_are_cleaned_up(driven: Driven) -> None:
    made = numbered(driven, 240, 240, 1)
    driven.renew_session(made[1].id)
    assert driven.cleanup_inactive(5) == 1
    assert left(driven) == [1, 2]
    assert driven.why_ended(made[0].id).reason == "inactive"


def test_a_visitor_who_came_between_two_renewals_is_not_taken_for_inactive(driven: Driven) -> None:
    """Of 14 days, 2.8 pass before a request that only reads is noted."""
    made = driven.create_session(data={"n": 0})
    driven.clock.advance(2.5 * DAY)
    driven.get_session(made.id)  # notes nothing
    assert driven.cleanup_inactive(1) == 0
    driven.clock.advance(1.4 * DAY)
    assert driven.cleanup_inactive(1) == 1


def test_a_job_that_moves_is_not_inactive(driven: Driven) -> None:
    made = driven.create_session(data={"n": 0})
    driven.clock.advance(10 * DAY)
    driven.set_progress(made.id, 1, 9)
    assert driven.cleanup_inactive(1) == 0


@pytest.mark.parametrize("options", [{}, {"status": None}, {"older_than": None, "inactive_for": None}])
def test_a_cleanup_of_everything_is_refused(driven: Driven, options: dict[str, Any]) -> None:
    driven.create_session(data={"n": 0})
    with pytest.raises(ConfigurationError, match="delete_all"):
        driven.cleanup(**options)
    assert left(driven) == [0]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda driven: driven.cleanup(older_than=0), "older_than"),
        (lambda driven: driven.cleanup(older_than="1h"), "older_than"),
        (lambda driven: driven.cleanup(inactive_for=-1), "inactive_for"),
        (lambda driven: driven.cleanup_inactive(True), "inactive_days"),
        (lambda driven: driven.cleanup(status=5), "status"),
        (lambda driven: driven.cleanup(status="failed", reason=""), "reason"),
    ],
)
def test_an_illegal_criterion_is_named(driven: Driven, call: Callable[[Driven], object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        call(driven)


def test_a_cleanup_that_fails_is_told() -> None:
    class Down(MemoryBackend):
        async def end_found(self, *_: Any, **__: Any) -> Any:
            raise BackendUnavailable("down for the test")

    clock = ManualClock()
    driven = Driven(SessionManager(Down(), clock=clock, log=False), "async", clock)
    driven.create_session()
    clock.advance(10)
    with pytest.raises(BackendUnavailable):
        driven.cleanup(older_than=5)
    assert len(driven.heard("sessions_cleanup_failed")) == 1
    driven.close()
