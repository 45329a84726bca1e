"""Options that change while the manager runs, awaited and as plain calls, on every backend."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from session_middleware import (
    BackendUnavailable,
    ConfigurationError,
    Policy,
    SessionCapacityError,
    SessionManager,
)
from session_middleware.configuration import options_of
from session_middleware.housekeeping import Housekeeper
from session_middleware.policy import PolicyOptions
from session_middleware.testing.clock import ManualClock
from tests.test_manager import Driven

HOUR, DAY = 3600.0, 24 * 3600.0
FIXED = {
    *("backend", "secret_key", "fallback_keys", "import_from", "clock", "monotonic", "session_cookie"),
    *("max_age", "path", "same_site", "https_only", "domain", "partitioned"),
}


def _facts(_: Any) -> dict[str, Any]:
    return {}


LIVE: dict[str, tuple[Any, Callable[[SessionManager], Any]]] = {
    "cleanup_interval": (7.0, lambda made: made.cleaner.interval),
    "backend_timeout": (2.0, lambda made: made.finisher.timeout),
    "check_interval": (9.0, lambda made: made.heartbeat.interval),
    "stuck_after": (60.0, lambda made: made._core.stuck_after),
    "max_concurrent_requests": (3, lambda made: made.max_concurrent_requests),
    "max_requests_per_session": (2, lambda made: made.max_requests_per_session),
    "max_sessions": (50, lambda made: made._core.max_sessions),
    "max_sessions_per_user": (5, lambda made: made._core.caps and made._core.caps.per_user),
    "on_too_many": ("reject", lambda made: "reject" if made._caps.reject else "evict_oldest"),
    "rate_limit": ("5/minute", lambda made: made.rate_limit and made.rate_limit.text),
    "client_facts": (_facts, lambda made: made.client_facts),
    "log": (True, lambda made: made.reporter._is_on.__name__ != "_never"),
    "log_context": (False, lambda made: made.log_context),
    "policy": (Policy.aal2(), lambda made: made.policy),
    "idle_timeout": (60.0, lambda made: made.policy.idle_timeout),
    "absolute_timeout": (120.0, lambda made: made.policy.absolute_timeout),
    "renew_after": (0.5, lambda made: made.policy.renew_after),
    "grace": (5.0, lambda made: made.policy.grace),
    "privilege_keys": (frozenset({"role"}), lambda made: made.policy.privilege_keys),
    "user_keys": (("uid",), lambda made: made.policy.user_keys),
    "save_on_error": (True, lambda made: made.policy.save_on_error),
    "open_requests_renew": (False, lambda made: made.policy.open_requests_renew),
    "max_bytes": (1000, lambda made: made.policy.max_bytes),
    "max_keys": (10, lambda made: made.policy.max_keys),
    "retention": ({"failed": 60.0}, lambda made: made.policy.retention),
}


def test_every_option_either_changes_live_or_is_refused() -> None:
    assert set(options_of(SessionManager)) == FIXED | set(LIVE)
    assert set(PolicyOptions.__annotations__) <= set(LIVE)


@pytest.mark.parametrize("option", LIVE)
def test_each_live_option_changes(driven: Driven, option: str) -> None:
    value, shown = LIVE[option]
    assert shown(driven.manager) != value
    driven.reconfigure(**{option: value})
    assert shown(driven.manager) == value


@pytest.mark.parametrize("option", sorted(FIXED))
def test_what_cannot_change_is_refused_by_name_with_the_remedy(driven: Driven, option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}: cannot change while the manager runs; .+"):
        driven.reconfigure(**{option: None})


@pytest.mark.parametrize(
    "bad", [{"idle_timeout": -1}, {"log": "yes"}, {"check_interval": 0}, {"nonsense": 1}]
)
def test_either_all_options_change_or_none(driven: Driven, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        driven.reconfigure(**{"grace": 5, "max_concurrent_requests": 1, **bad})
    assert driven.manager.policy.grace == 30
    assert driven.manager.max_concurrent_requests is None


def test_what_is_not_given_stays(driven: Driven) -> None:
    driven.reconfigure(idle_timeout=60)
    driven.reconfigure(grace=5, idle_timeout=None)
    assert (driven.manager.policy.idle_timeout, driven.manager.policy.grace) == (60, 5)


def test_a_shorter_idle_timeout_ends_who_surely_was_idle_and_spares_the_others(driven: Driven) -> None:
    idle = driven.create_session()
    driven.clock.advance(3 * DAY)  # 2.8 days go unnoted at most: by then it surely was idle for over an hour
    active = driven.create_session()
    own = driven.create_session()
    own.set_expiry(5 * DAY)
    driven.save(own)
    driven.reconfigure(idle_timeout=HOUR)
    assert driven.get_session(idle.id) is None
    assert driven.why_ended(idle.id).reason == "idle_timeout"
    assert driven.record(active.id).deadline == driven.clock.now + HOUR
    assert driven.record(own.id).deadline == driven.clock.now + 5 * DAY


def test_a_session_that_may_have_been_used_lately_gets_the_new_timeout_from_now(driven: Driven) -> None:
    read_only = driven.create_session()
    driven.clock.advance(2 * DAY)  # requests that only read are not noted for 2.8 days
    driven.reconfigure(idle_timeout=HOUR)
    assert driven.record(read_only.id).deadline == driven.clock.now + HOUR


def test_a_shorter_absolute_timeout_counts_from_creation_and_from_login(driven: Driven) -> None:
    old = driven.create_session()
    own = driven.create_session()
    own.set_expiry(9 * DAY)
    driven.save(own)
    driven.clock.advance(2 * DAY)
    signed_in = driven.create_session(user_id="ada")
    driven.reconfigure(absolute_timeout=DAY)
    assert driven.get_session(old.id) is driven.get_session(own.id) is None
    assert driven.why_ended(old.id).reason == "absolute_timeout"
    assert driven.record(signed_in.id).limit == driven.clock.now + DAY
    driven.renew_session(signed_in.id)
    assert driven.record(signed_in.id).deadline == driven.clock.now + DAY


def test_longer_timeouts_touch_no_record(driven: Driven) -> None:
    made = driven.create_session()
    before = driven.record(made.id)
    driven.reconfigure(idle_timeout=20 * DAY, absolute_timeout=90 * DAY)
    assert driven.record(made.id) == before
    driven.renew_session(made.id)
    assert driven.record(made.id).deadline == driven.clock.now + 20 * DAY


def test_a_record_that_changes_meanwhile_is_shortened_all_the_same(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driven.create_session()
    operations = driven.manager if driven.colour == "async" else driven.manager.blocking._operations
    port, commit, raced = operations._port, operations._port.commit, []

    async def overtaken(id_: Any, delta: Any, now: float) -> Any:
        if delta.if_version is not None and not raced:
            raced.append(id_)
            await commit(id_, type(delta)(set={"n": b"1"}), now)
        return await commit(id_, delta, now)

    monkeypatch.setattr(port, "commit", overtaken)
    driven.reconfigure(idle_timeout=HOUR)
    assert raced == [made.id]
    assert driven.record(made.id).deadline == driven.clock.now + HOUR
    assert driven.get_session(made.id)["n"] == 1


def test_a_backend_that_fails_leaves_the_options_as_they_were(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven.create_session()
    operations = driven.manager if driven.colour == "async" else driven.manager.blocking._operations

    async def fail(*_: Any) -> Any:
        raise BackendUnavailable("down")

    monkeypatch.setattr(operations._port, "commit", fail)
    before = driven.manager.policy
    with pytest.raises(BackendUnavailable):
        driven.reconfigure(idle_timeout=HOUR, max_concurrent_requests=5)
    assert driven.manager.policy is before
    assert driven.manager.max_concurrent_requests is None


def test_a_running_cleanup_picks_up_the_new_interval() -> None:
    async def life() -> bool:
        async with SessionManager(cleanup_interval=DAY, log=False) as manager:
            await asyncio.sleep(0)  # its pause of a day begins
            cleaned = asyncio.Event()
            manager.subscribe("session_usage", lambda _: cleaned.set())
            await manager.reconfigure(cleanup_interval=0.001)
            return await asyncio.wait_for(cleaned.wait(), 10)

    assert asyncio.run(life()) is True


def test_the_thread_without_an_event_loop_picks_up_the_new_interval() -> None:
    clock = ManualClock()
    manager = SessionManager(cleanup_interval=DAY, clock=clock, monotonic=clock, log=False)
    runs: list[object] = []
    manager.subscribe("session_usage", runs.append)
    keeper = Housekeeper(manager)
    keeper._plan_cleanup(manager)
    clock.advance(50)
    manager.blocking.reconfigure(cleanup_interval=10)
    keeper._look_after()
    assert not runs
    clock.advance(12)
    keeper._look_after()
    assert len(runs) == 1


def test_limits_that_shrink_take_effect_at_once(driven: Driven) -> None:
    made = []
    for number in range(200):
        made.append(driven.create_session("ann" if number % 2 else None))
        driven.clock.advance(1)
    driven.reconfigure(max_sessions_per_user=3)
    kept = [session.id for session in driven.get_user_sessions("ann")]
    assert kept == [session.id for session in made[199::-2]][:3]
    driven.reconfigure(max_sessions=50)
    assert driven.count() == 50
    assert {event.fields["reason"] for event in driven.heard("session_evicted")} == {
        "max_sessions",
        "max_sessions_per_user",
    }
    driven.reconfigure(max_sessions=None, max_sessions_per_user=None)
    for _ in range(5):
        driven.create_session("ann")
    assert driven.count() == 55


def test_users_over_a_limit_that_rejects_keep_what_they_have(driven: Driven) -> None:
    for _ in range(4):
        driven.create_session("ann")
    driven.reconfigure(max_sessions_per_user=2, on_too_many="reject")
    assert len(driven.get_user_sessions("ann")) == 4
    with pytest.raises(SessionCapacityError):
        driven.create_session("ann")


@pytest.mark.parametrize(
    "options",
    [{"max_sessions": 0}, {"on_too_many": "drop"}, {"rate_limit": "often"}, {"client_facts": 5}],
    ids=str,
)
def test_a_wrong_limit_changes_nothing(driven: Driven, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        driven.reconfigure(max_concurrent_requests=7, **options)
    assert driven.manager.max_concurrent_requests is None
