"""Limits on how many sessions there are, by the manager's own operations."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from session_middleware import (
    ConfigurationError,
    MemoryBackend,
    SessionCapacityError,
    SessionManager,
    SQLiteBackend,
)
from session_middleware.testing import broken
from session_middleware.testing.clock import ManualClock
from tests.test_manager import Driven

ROOT = Path(__file__).parents[2]
MakeDriven = Callable[..., Driven]


@pytest.fixture(params=["memory-async", "memory-blocking", "sqlite-async", "sqlite-blocking"])
def make_driven(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeDriven]:
    where, colour = request.param.split("-")
    made: list[Driven] = []

    def make(**options: Any) -> Driven:
        clock = ManualClock()
        backend = MemoryBackend() if where == "memory" else SQLiteBackend(tmp_path / "sessions.db")
        manager = SessionManager(backend, clock=clock, monotonic=clock, log=False, **options)
        made.append(Driven(manager, colour, clock))
        return made[-1]

    yield make
    for driven in made:
        driven.close()


def test_one_more_login_ends_the_users_oldest_session(make_driven: MakeDriven) -> None:
    driven = make_driven(max_sessions_per_user=2)
    first, other = driven.create_session("ann"), driven.create_session("bob")
    driven.clock.advance(1)
    second, third = driven.create_session("ann"), driven.create_session("ann")
    kept = sorted([second.id, third.id], reverse=True)
    assert [session.id for session in driven.get_user_sessions("ann")] == kept
    assert driven.get_session(other.id) is not None
    assert driven.why_ended(first.id).reason == "evicted"
    [event] = driven.heard("session_evicted")
    assert (event.session_id, event.user_id) == (first.id, "ann")
    assert event.fields["reason"] == "max_sessions_per_user"


def test_one_more_login_can_be_refused(make_driven: MakeDriven) -> None:
    driven = make_driven(max_sessions_per_user=1, on_too_many="reject")
    first = driven.create_session("ann")
    with pytest.raises(SessionCapacityError, match="max_sessions_per_user=1"):
        driven.create_session("ann", {"n": 1})
    assert [session.id for session in driven.get_user_sessions("ann")] == [first.id]
    assert driven.heard("session_evicted") == []
    assert isinstance(driven.heard("session_creation_failed")[0].fields["exception"], SessionCapacityError)
    driven.delete_session(first.id)
    driven.create_session("ann")


def test_a_full_manager_makes_room_by_rank(make_driven: MakeDriven) -> None:
    driven = make_driven(max_sessions=3)
    users, valued = driven.create_session("ann"), driven.create_session(priority=5)
    nobodys = driven.create_session()
    gone = [nobodys.id, users.id]
    for _ in gone:
        driven.clock.advance(1)
        driven.create_session("bob", priority=1)
    assert [event.session_id for event in driven.heard("session_evicted")] == gone
    assert {event.fields["reason"] for event in driven.heard("session_evicted")} == {"max_sessions"}
    assert driven.get_session(valued.id) is not None
    with pytest.raises(SessionCapacityError, match="max_sessions=3"):
        driven.create_session("eve", priority=0)
    assert driven.count() == 3


def test_what_expired_makes_room_and_is_told_as_expired(make_driven: MakeDriven) -> None:
    driven = make_driven(max_sessions=2, idle_timeout=100)
    old = driven.create_session("ann", priority=9)
    driven.clock.advance(50)
    driven.create_session()
    driven.clock.advance(50)
    driven.create_session()
    [event] = driven.heard("session_expired")
    assert (event.session_id, event.fields["reason"]) == (old.id, "idle_timeout")
    assert driven.heard("session_evicted") == []
    assert driven.cleanup_expired() == 0


def test_a_session_that_a_request_holds_is_not_evicted_by_the_total(make_driven: MakeDriven) -> None:
    driven = make_driven(max_sessions=2)
    held, other = driven.create_session(), driven.create_session(priority=1)
    with driven.tracking(held.id):
        driven.create_session(priority=1)
        assert driven.get_session(held.id) is not None
        assert driven.get_session(other.id) is None
    driven.create_session(priority=1)
    assert driven.get_session(held.id) is None


def test_a_users_own_limit_ends_also_what_is_held(make_driven: MakeDriven) -> None:
    driven = make_driven(max_sessions_per_user=1)
    held = driven.create_session("ann")
    with driven.tracking(held.id):
        driven.create_session("ann")
        assert driven.get_session(held.id) is None


def test_health_and_usage_know_the_capacity(make_driven: MakeDriven) -> None:
    driven = make_driven(max_sessions=10)
    for _ in range(8):
        driven.create_session()
    assert driven.get_health()["overall_health"] == "warning"
    assert driven.get_statistics()["utilization_percent"] == 80.0
    driven.cleanup_expired()
    assert driven.heard("session_usage")[-1].fields["capacity"] == 10


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_sessions": 0}, "max_sessions"),
        ({"max_sessions": True}, "max_sessions"),
        ({"max_sessions_per_user": "5"}, "max_sessions_per_user"),
        ({"on_too_many": "drop"}, "on_too_many"),
        ({"backend": broken.HesitantBackend(), "max_sessions": 5}, "hesitant"),
        ({"backend": broken.HesitantBackend(), "max_sessions_per_user": 5}, "hesitant"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(map(str, value)),
)
def test_an_illegal_limit_is_named_at_construction(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        SessionManager(**options)


@pytest.mark.parametrize("where", ["memory", "sqlite"])
@pytest.mark.parametrize("policy", ["evict_oldest", "reject"])
def test_twenty_logins_at_once_leave_exactly_as_many_as_allowed(
    where: str, policy: Any, tmp_path: Path
) -> None:
    async def live() -> tuple[int, int]:
        backend = MemoryBackend() if where == "memory" else SQLiteBackend(tmp_path / "s.db")
        manager = SessionManager(backend, max_sessions_per_user=3, on_too_many=policy, log=False)
        made = await asyncio.gather(
            *(manager.create_session("ann") for _ in range(20)), return_exceptions=True
        )
        refused = sum(isinstance(one, SessionCapacityError) for one in made)
        left = len(await manager.get_user_sessions("ann"))
        await manager.stop()
        return refused, left

    assert asyncio.run(live()) == (0 if policy == "evict_oldest" else 17, 3)


def test_twenty_threads_at_once_leave_exactly_as_many_as_allowed(tmp_path: Path) -> None:
    manager = SessionManager(
        SQLiteBackend(tmp_path / "s.db"), max_sessions_per_user=3, max_sessions=5, log=False
    )
    gate = threading.Barrier(20)

    def login(number: int) -> None:
        gate.wait()
        manager.blocking.create_session("ann" if number % 2 else None)

    threads = [threading.Thread(target=login, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager.blocking.count() == 5
    assert len(manager.blocking.get_user_sessions("ann")) <= 3
    manager.blocking.stop()


LOGINS = """
import sys
from session_middleware import SessionManager
manager = SessionManager(f"sqlite:///{sys.argv[1]}", max_sessions_per_user=3, max_sessions=50, log=False)
most = 0
for _ in range(25):
    manager.blocking.create_session("ann")
    most = max(most, len(manager.blocking.get_user_sessions("ann")))
print(most)
"""


def test_processes_share_the_limit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOGINS, str(tmp_path / "s.db")]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate(timeout=120)[0].strip() for process in running]
    assert told == ["3", "3", "3"]
