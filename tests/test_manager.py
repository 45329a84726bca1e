"""The manager without any web framework, on every backend, awaited and as plain calls."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from session_middleware import (
    BackendClosed,
    ConfigurationError,
    MemoryBackend,
    Policy,
    ResponseStartedError,
    Session,
    SessionDataError,
    SessionEvent,
    SessionManager,
    SessionNotFoundError,
    SQLiteBackend,
    get_session_manager,
    initialize_session_manager,
)
from session_middleware.backends.base import Colour
from session_middleware.backends.urls import backend_from
from session_middleware.blocking import run_blocking
from session_middleware.record import Record
from session_middleware.testing.clock import ManualClock

NOBODY = "A" * 22
ODD_IDS = [NOBODY, "", "../etc/passwd", "x" * 10_000, "a b", "é" * 22]


class Driven:
    """A manager under one driver: the same calls, awaited in a loop of their own or made plainly."""

    def __init__(self, manager: SessionManager, colour: Colour, clock: ManualClock) -> None:
        self.manager = manager
        self.colour = colour
        self.clock = clock
        self.events: list[SessionEvent] = []
        manager.subscribe(None, self.events.append)
        self.runner = asyncio.Runner() if colour == "async" else None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self.runner is None:
            plain: Callable[..., Any] = getattr(self.manager.blocking, name)
            return plain
        awaited, runner = getattr(self.manager, name), self.runner
        return lambda *args, **kwargs: runner.run(awaited(*args, **kwargs))

    def tracking(self, session: str | Session) -> AbstractContextManager[Session]:
        """`track_request`, entered and left by this driver."""
        if self.runner is None:
            return self.manager.blocking.track_request(session)
        return self._tracked(self.runner, self.manager.track_request(session))

    def transaction(self, session_id: str, **options: Any) -> AbstractContextManager[Session]:
        """The same for a transaction."""
        if self.runner is None:
            return self.manager.blocking.transaction(session_id, **options)
        return self._tracked(self.runner, self.manager.transaction(session_id, **options))

    @contextmanager
    def _tracked(self, runner: asyncio.Runner, held: Any) -> Iterator[Session]:
        async def enter() -> Session:
            entered: Session = await held.__aenter__()
            return entered

        async def leave(problem: BaseException | None) -> bool | None:
            left: bool | None = await held.__aexit__(
                type(problem) if problem else None, problem, problem.__traceback__ if problem else None
            )
            return left

        session = runner.run(enter())
        try:
            yield session
        except BaseException as problem:
            runner.run(leave(problem))
            raise
        runner.run(leave(None))

    def heard(self, name: str) -> list[SessionEvent]:
        return [event for event in self.events if event.name == name]

    def record(self, session_id: str | None) -> Record | None:
        port = self.manager.backend.port(self.colour)
        coroutine: Awaitable[Any] = port.load(session_id or "", self.clock())  # type: ignore[arg-type]
        run: Callable[[Any], Any] = run_blocking if self.runner is None else self.runner.run
        found = run(coroutine)
        return found if isinstance(found, Record) else None

    def close(self) -> None:
        if self.runner is not None:
            self.runner.run(self.manager.backend.port("async").close())
            self.runner.close()
        else:
            self.manager.blocking.stop()
        if "blocking" in self.manager.backend.colours:
            run_blocking(self.manager.backend.port("blocking").close())  # a test may have looked into it


def backend_named(where: str, request: pytest.FixtureRequest, folder: Path) -> Any:
    """One that is empty, of those that ours are tested with."""
    if where == "memory":
        return MemoryBackend()
    if where == "sqlite":
        return SQLiteBackend(folder / "sessions.db")
    server = request.getfixturevalue(where)
    return backend_from(server.new_store())


@pytest.fixture(
    params=[
        f"{where}-{colour}"
        for where in ("memory", "sqlite", "postgres", "redis")
        for colour in ("async", "blocking")
    ]
)
def driven(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driven]:
    where, colour = request.param.split("-")
    clock = ManualClock()
    backend = backend_named(where, request, tmp_path)
    made = Driven(SessionManager(backend, clock=clock, monotonic=clock, log=False), colour, clock)
    yield made
    made.close()


def test_a_created_session_can_be_got_by_its_id(driven: Driven) -> None:
    made = driven.create_session(user_id=7, data={"n": 1}, metadata={"client": "cli"}, conversation_id="c-1")
    got = driven.get_session(made.id)
    assert dict(got) == {"n": 1}
    assert got.user_id == "7"
    assert got.session_id == made.id
    assert got.authenticated_at == driven.clock.now
    assert got.metadata == {"client": "cli", "conversation_id": "c-1"}
    assert got.manager is driven.manager
    assert [event.user_id for event in driven.heard("session_created")] == ["7"]
    assert [event.session_id for event in driven.heard("session_user_bound")] == [made.id]


def test_an_id_is_never_taken_for_an_option_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    dashed, plain = b"\xfb" * 16, b"\x00" * 16
    made = iter([dashed + plain, dashed + dashed, plain + dashed])
    monkeypatch.setattr("secrets.token_bytes", lambda _: next(made))

    id_, secret = SessionManager().mint()

    assert (id_, secret[0]) == ("A" * 22, "-")


def test_an_empty_session_is_stored_too(driven: Driven) -> None:
    made = driven.create_session()
    assert dict(driven.get_session(made.id)) == {}
    assert driven.get_session(made.id).user_id is None
    assert not driven.heard("session_user_bound")


def test_priority_is_kept(driven: Driven) -> None:
    assert driven.get_session(driven.create_session(priority=5).id).priority == 5


@pytest.mark.parametrize("odd", ODD_IDS)
def test_a_malformed_id_is_an_unknown_one(driven: Driven, odd: str) -> None:
    assert driven.get_session(odd) is None
    assert driven.delete_session(odd) is False
    for operation in ("update_session", "renew_session", "cycle_session"):
        with pytest.raises(SessionNotFoundError):
            getattr(driven, operation)(odd)
    with pytest.raises(SessionNotFoundError), driven.tracking(odd):
        raise AssertionError("entered")
    assert driven.heard("session_data_retrieval_failed")[0].fields["reason"] == "not_found_or_expired"
    assert driven.heard("session_deletion_failed")[0].fields["reason"] == "not_found"
    assert driven.heard("session_renewal_failed")[0].fields["reason"] == "not_found"
    assert all(event.session_id in {None, NOBODY} for event in driven.events)


def test_not_found_is_a_value_error_as_older_systems_had_it(driven: Driven) -> None:
    with pytest.raises(ValueError, match="no live session has this id"):
        driven.update_session(NOBODY, {"a": 1})


def test_getting_a_session_does_not_renew_it_unless_touched(driven: Driven) -> None:
    made = driven.create_session()
    first = driven.record(made.id)
    driven.clock.advance(1000)
    driven.get_session(made.id)
    assert driven.record(made.id) == first
    touched = driven.get_session(made.id, touch=True)
    stored = driven.record(made.id)
    assert stored is not None
    assert first is not None
    assert stored.deadline == first.deadline + 1000 == touched.expires_at
    assert stored.last_seen_at == driven.clock.now == touched.last_activity


def test_changes_are_saved_by_save_only(driven: Driven) -> None:
    session = driven.get_session(driven.create_session(data={"cart": []}).id)
    session["cart"].append("tea")
    assert driven.get_session(session.id)["cart"] == []
    assert driven.save(session) is True
    assert driven.get_session(session.id)["cart"] == ["tea"]


def test_saving_what_did_not_change_writes_nothing(driven: Driven) -> None:
    session = driven.get_session(driven.create_session(data={"n": 1}).id)
    before = driven.record(session.id)
    assert driven.save(session) is True
    assert driven.record(session.id) == before


def test_save_answers_false_for_a_session_that_was_ended_and_brings_nothing_back(driven: Driven) -> None:
    session = driven.get_session(driven.create_session().id)
    driven.delete_session(session.id)
    session["late"] = 1
    assert driven.save(session) is False
    assert driven.record(session.id) is None
    failed = driven.heard("session_data_save_failed")[-1]
    assert (failed.fields["reason"], failed.fields["keys"]) == ("gone", ["late"])


def test_two_holders_changing_different_keys_both_survive(driven: Driven) -> None:
    id_ = driven.create_session().id
    one, other = driven.get_session(id_), driven.get_session(id_)
    one["a"], other["b"] = 1, 2
    one.increment("hits")
    other.increment("hits")
    driven.save(one)
    driven.save(other)
    assert dict(driven.get_session(id_)) == {"a": 1, "b": 2, "hits": 2}


def test_update_session_sets_several_values_in_one_commit(driven: Driven) -> None:
    made = driven.create_session(data={"a": 1, "old": 1})
    driven.update_session(made.id, {"b": [2]}, unset=["old", "never"], metadata={"m": 1}, c="3")
    stored = driven.record(made.id)
    assert stored is not None
    assert stored.version == 2
    assert dict(driven.get_session(made.id)) == {"a": 1, "b": [2], "c": "3"}
    assert driven.get_session(made.id).metadata == {"m": 1}


def test_a_value_that_cannot_be_held_names_its_key_and_saves_nothing(driven: Driven) -> None:
    made = driven.create_session(data={"a": 1})
    with pytest.raises(SessionDataError, match=r"session\['bad'\]"):
        driven.update_session(made.id, {"a": 2, "bad": object()})
    assert dict(driven.get_session(made.id)) == {"a": 1}
    failed = driven.heard("session_data_save_failed")[-1]
    assert (failed.fields["reason"], failed.fields["keys"]) == ("serialization_error", ["bad"])


def test_logging_in_without_a_response_is_refused(driven: Driven) -> None:
    session = driven.get_session(driven.create_session().id)
    with pytest.raises(ResponseStartedError):
        session.login("ada")
    with pytest.raises(ResponseStartedError):
        session["user_id"] = "ada"


def test_renew_session_always_renews_and_reports_it(driven: Driven) -> None:
    made = driven.create_session()
    driven.clock.advance(1)
    assert driven.renew_session(made.id) == driven.record(made.id).deadline  # type: ignore[union-attr]
    [event] = driven.heard("session_renewed")
    assert event.fields["expires_at"] == driven.clock.now + driven.manager.policy.idle_timeout


def test_no_renewal_passes_the_absolute_deadline(driven: Driven) -> None:
    made = driven.create_session()
    for _ in range(40):
        driven.clock.advance(24 * 3600)
        if driven.get_session(made.id, touch=True) is None:
            break
    assert driven.clock.now == pytest.approx(made.created_at + 30 * 24 * 3600)


def test_cycle_session_orders_a_cycle_for_the_next_response(driven: Driven) -> None:
    made = driven.create_session()
    driven.cycle_session(made.id)
    assert driven.record(made.id).cycle_due == 30.0  # type: ignore[union-attr]
    driven.cycle_session(made.id, grace=0)
    driven.cycle_session(made.id, grace=10)
    assert driven.record(made.id).cycle_due == 0.0  # type: ignore[union-attr]


def test_delete_session_tells_whether_it_was_alive(driven: Driven) -> None:
    made = driven.create_session(user_id="ada")
    assert driven.delete_session(made.id, "cheating") is True
    assert driven.delete_session(made.id) is False
    assert [event.fields["reason"] for event in driven.heard("session_deleted")] == ["cheating"]


def test_delete_session_with_a_user_ends_only_that_users(driven: Driven) -> None:
    made = driven.create_session(user_id="ada")
    assert driven.delete_session(made.id, user_id="eve") is False
    assert driven.get_session(made.id) is not None
    assert driven.delete_session(made.id, user_id="ada") is True


def test_sessions_of_a_user_are_listed_newest_first(driven: Driven) -> None:
    ids = []
    for _ in range(3):
        driven.clock.advance(10)
        ids.append(driven.create_session(user_id="ada").id)
    driven.create_session(user_id="eve")
    assert [session.id for session in driven.get_user_sessions("ada")] == ids[::-1]
    assert driven.get_session_by_user("ada").id == ids[-1]
    assert driven.get_session_by_user("nobody") is None


def test_all_sessions_of_a_user_but_one_can_be_ended(driven: Driven) -> None:
    kept, *others = [driven.create_session(user_id=3) for _ in range(4)]
    foreign = driven.create_session(user_id=33)
    assert driven.delete_user_sessions(3, keep=[kept]) == 3
    assert [session.id for session in driven.get_user_sessions(3)] == [kept.id]
    assert all(driven.get_session(session.id) is None for session in others)
    assert driven.get_session(foreign.id) is not None
    assert driven.delete_user_sessions(3, keep=(kept.id,)) == 0
    assert driven.delete_user_sessions(3, keep=kept.id) == 0
    assert {event.fields["reason"] for event in driven.heard("session_deleted")} == {"revoked"}


def test_a_session_to_keep_stands_for_itself_not_for_its_keys(driven: Driven) -> None:
    kept, other = [driven.create_session(user_id=3, data={"n": 1}) for _ in range(2)]
    assert driven.delete_user_sessions(3, keep=kept) == 1
    assert driven.get_session(kept.id) is not None
    assert driven.get_session(other.id) is None
    with pytest.raises(ConfigurationError, match="keep: found int"):
        driven.delete_user_sessions(3, keep=[kept, 5])
    assert driven.get_session(kept.id) is not None


def test_count_leaves_out_what_has_expired(driven: Driven) -> None:
    driven.create_session()
    driven.clock.advance(driven.manager.policy.idle_timeout - 1)
    driven.create_session()
    assert driven.count() == 2
    driven.clock.advance(1)
    assert driven.count() == 1


def test_cleanup_deletes_what_expired_and_reports_each_once(driven: Driven) -> None:
    ended = [driven.create_session(user_id="ada").id for _ in range(150)]
    driven.clock.advance(driven.manager.policy.idle_timeout)
    fresh = driven.create_session().id
    driven.clock.advance(2 * 3600)  # whatever slots or buckets a backend keeps have passed
    assert driven.cleanup_expired() == 150
    assert driven.cleanup_expired() == 0
    assert driven.get_session(fresh) is not None
    assert sorted(event.session_id or "" for event in driven.heard("session_expired")) == sorted(ended)
    assert {event.fields["reason"] for event in driven.heard("session_expired")} == {"idle_timeout"}
    first, second = driven.heard("sessions_cleaned_up")
    assert (first.fields["count"], first.fields["by_reason"]) == (150, {"idle_timeout": 150})
    assert (second.fields["count"], second.fields["by_reason"]) == (0, {})
    usage = driven.heard("session_usage")[-1]
    assert (usage.fields["count"], usage.fields["average_age"]) == (1, 2 * 3600)


def test_a_tracked_session_is_listed_and_its_changes_are_saved(driven: Driven) -> None:
    id_ = driven.create_session().id
    with driven.tracking(id_) as session:
        assert session.connection_count == 1
        [request] = driven.manager.active_requests(id_)
        assert request.session_id == id_
        assert driven.manager.active_requests() == [request]
        session["done"] = True
    assert driven.manager.active_requests() == []
    assert driven.manager.get_metrics()["active_requests"] == 0
    assert dict(driven.get_session(id_)) == {"done": True}


def test_after_an_exception_a_tracked_session_is_free_and_unchanged(driven: Driven) -> None:
    def spoil(session: Session) -> None:
        session["done"] = True
        raise KeyError

    id_ = driven.create_session().id
    with pytest.raises(KeyError), driven.tracking(id_) as session:
        spoil(session)
    assert driven.manager.active_requests(id_) == []
    assert dict(driven.get_session(id_)) == {}


def test_metrics_can_be_read_after_the_manager_was_stopped() -> None:
    manager = SessionManager(MemoryBackend(), log=False)
    with manager.blocking:
        manager.blocking.create_session()
        assert manager.get_metrics()["active_sessions"] == 1
    metrics = manager.get_metrics()
    assert (metrics["total_sessions_created"], metrics["active_sessions"]) == (1, None)


def test_metrics_count_what_happened(driven: Driven) -> None:
    made = driven.create_session()
    driven.delete_session(made.id)
    driven.create_session()
    driven.clock.advance(driven.manager.policy.idle_timeout + 2 * 3600)
    driven.cleanup_expired()
    metrics = driven.manager.get_metrics()
    assert metrics["total_sessions_created"] == 2
    assert metrics["total_sessions_deleted"] == 1
    assert metrics["total_sessions_expired"] == 1
    assert metrics["total_sessions_cleaned"] == 1
    assert metrics["active_sessions"] == 0
    assert metrics["session_timeout_minutes"] == 14 * 24 * 60


def test_the_user_of_a_session_is_refused_when_it_is_no_id(driven: Driven) -> None:
    for wrong in (True, 1.5, "", ["ada"]):
        with pytest.raises(ConfigurationError, match="user_id"):
            driven.create_session(user_id=wrong)


def test_start_and_stop_open_and_close_the_backend(tmp_path: Path) -> None:
    events: list[str] = []

    async def live() -> bool:
        manager = SessionManager(f"sqlite:///{tmp_path}/s.db", log=False)
        manager.subscribe(None, lambda event: events.append(event.name))
        async with manager:
            assert manager.is_started
            assert manager.cleaner.is_active
            await manager.create_session()
            await manager.start()
            await manager.stop()
            assert manager.is_started
        return manager.is_started or manager.cleaner.is_active

    assert asyncio.run(live()) is False
    assert events == ["session_manager_initialized", "session_created", "session_manager_stopped"]


def test_stop_waits_for_requests_in_flight_and_reports_those_still_open() -> None:
    clock = ManualClock()

    class Backend(MemoryBackend):
        async def wait(self, seconds: float) -> None:
            clock.advance(seconds)

    async def live() -> tuple[bool, list[object]]:
        manager = SessionManager(Backend(), log=False, clock=clock, monotonic=clock)
        stopped: list[object] = []
        manager.subscribe(
            "session_manager_stopped", lambda event: stopped.append(event.fields["active_requests"])
        )
        await manager.start()
        session = await manager.create_session()
        async with manager.track_request(session):
            drained = await manager.stop(timeout=5)
        return drained, stopped

    before = clock.now
    assert asyncio.run(live()) == (False, [1])
    assert clock.now - before == pytest.approx(5, abs=0.2)


def test_plain_code_starts_and_stops_as_async_code_does(tmp_path: Path) -> None:
    events: list[str] = []
    manager = SessionManager(f"sqlite:///{tmp_path}/s.db", log=False)
    manager.subscribe(None, lambda event: events.append(event.name))
    with manager.blocking as blocking:
        blocking.create_session()
        blocking.start()
        assert blocking.stop() is True
        assert blocking.count() == 1
    assert events == ["session_manager_initialized", "session_created", "session_manager_stopped"]
    with pytest.raises(BackendClosed, match="start"):
        blocking.count()


def test_a_plain_stop_waits_for_requests_in_flight_and_reports_those_still_open() -> None:
    clock = ManualClock()

    class Backend(MemoryBackend):
        def port(self, colour: Colour) -> Any:
            return self

        async def wait(self, seconds: float) -> None:
            clock.advance(seconds)

    manager = SessionManager(Backend(), log=False, clock=clock, monotonic=clock)
    stopped: list[object] = []
    manager.subscribe(
        "session_manager_stopped", lambda event: stopped.append(event.fields["active_requests"])
    )
    before = clock.now
    session = manager.blocking.create_session()
    with manager.blocking.track_request(session):
        assert manager.blocking.stop(timeout=5) is False
        manager.blocking.open()  # for what the request has to save
    assert stopped == [1]
    assert clock.now - before == pytest.approx(5, abs=0.2)


def test_a_process_wide_manager_is_made_once() -> None:
    manager = initialize_session_manager(session_timeout_minutes=30, cleanup_interval_seconds=60, log=False)
    assert get_session_manager() is manager
    assert manager.policy.idle_timeout == 1800
    assert manager.max_concurrent_requests == 100
    assert manager.cleaner.interval == 60


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"idle_timeout": 0}, "idle_timeout"),
        ({"absolute_timeout": "1h"}, "absolute_timeout"),
        ({"cleanup_interval": -1}, "cleanup_interval"),
        ({"backend_timeout": float("nan")}, "backend_timeout"),
        ({"check_interval": True}, "check_interval"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests"),
        ({"max_requests_per_session": 1.5}, "max_requests_per_session"),
        ({"renew_after": 2}, "renew_after"),
        ({"privilege_keys": "user"}, "privilege_keys"),
        ({"user_keys": [1]}, "user_keys"),
        ({"save_on_error": 1}, "save_on_error"),
        ({"secret_key": ""}, "secret_key"),
        ({"idle_timeot": 5}, "idle_timeot"),
        ({"backend": "mysql://x"}, "mysql"),
        ({"backend": "sqlite://x.db"}, "three slashes"),
        ({"backend": 5}, "backend"),
        ({"path": "no-slash"}, "path"),
    ],
)
def test_an_illegal_option_is_named_at_construction(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        SessionManager(**options)


def test_a_preset_can_be_overridden_option_by_option() -> None:
    manager = SessionManager(policy=Policy.aal2(), absolute_timeout=3600)
    assert (manager.policy.idle_timeout, manager.policy.absolute_timeout) == (3600, 3600)
    assert manager.policy.open_requests_renew is False


def test_a_manager_without_a_key_says_so_where_cookies_are_needed() -> None:
    with pytest.raises(ConfigurationError, match="secret_key"):
        _ = SessionManager().codec
