"""Debounced persistence, on every backend and in both colours; the clock and the timers move when told."""

from collections.abc import Callable
from typing import Any

import pytest

from session_middleware import BackendUnavailable
from session_middleware.state import BlockingPersistenceEngine, PersistenceEngine, UserSession
from tests.test_manager import Driven


class ManualTimers:
    """Timers that ring when the test says so."""

    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], Any]]] = []

    def after(self, seconds: float, work: Any, ended: Any) -> Callable[[], None]:
        one = (seconds, work)
        self.set.append(one)
        return lambda: self.set.remove(one) if one in self.set else None


class Engine:
    """An engine under the driver's colour."""

    def __init__(self, driven: Driven, **options: Any) -> None:
        self.driven = driven
        self.timers = ManualTimers()
        kind = PersistenceEngine if driven.runner else BlockingPersistenceEngine
        self.engine: Any = kind(driven.manager, timers=self.timers, on_sigterm=False, **options)

    def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.of(lambda: getattr(self.engine, name)(*args, **kwargs))

    def of(self, call: Callable[[], Any]) -> Any:
        if self.driven.runner is None:
            return call()

        async def awaited() -> Any:
            return await call()

        return self.driven.runner.run(awaited())

    def ring(self) -> None:
        """The timer that is set rings, at its time."""
        seconds, work = self.timers.set.pop(0)
        self.driven.clock.advance(seconds)
        if self.driven.runner is not None:
            self.driven.runner.run(work())
        else:
            coroutine = work()
            with pytest.raises(StopIteration):
                coroutine.send(None)


@pytest.fixture
def engine(driven: Driven) -> Engine:
    return Engine(driven, debounce_delay=2.0)


def stored(driven: Driven, id_: Any) -> dict[str, Any]:
    return dict(driven.get_session(id_))


def test_a_burst_is_one_write_at_most_the_delay_after_its_first_change(
    driven: Driven, engine: Engine
) -> None:
    session = driven.get_session(driven.create_session().id)
    for number in range(5):
        session["n"] = number
        engine.run("persist", session)
    assert stored(driven, session.id) == {}
    assert [seconds for seconds, _ in engine.timers.set] == [2.0]
    engine.ring()
    assert stored(driven, session.id) == {"n": 4}
    assert len(driven.heard("session_data_saved")) == 1
    assert (engine.engine.pending, engine.timers.set) == (0, [])


def test_what_changes_after_persist_is_not_written_with_it(driven: Driven, engine: Engine) -> None:
    session = driven.get_session(driven.create_session().id)
    session["a"] = 1
    engine.run("persist", session)
    session["b"] = 2
    engine.run("flush_all")
    assert stored(driven, session.id) == {"a": 1}
    engine.run("persist", session, immediate=True)
    assert stored(driven, session.id) == {"a": 1, "b": 2}


def test_increments_add_up_and_other_keys_of_others_stay(driven: Driven, engine: Engine) -> None:
    session = driven.get_session(driven.create_session(data={"n": 1}).id)
    session.increment("n", 2)
    engine.run("persist", session)
    other = driven.get_session(session.id)
    other.increment("n", 10)
    other["theirs"] = True
    driven.save(other)
    session.increment("n")
    engine.run("persist", session)
    engine.run("flush_all")
    assert stored(driven, session.id) == {"n": 14, "theirs": True}


def test_a_role_never_waits(driven: Driven, engine: Engine) -> None:
    view = UserSession(driven.get_session(driven.create_session().id))
    view.add_role("admin")
    engine.run("persist", view)
    assert driven.record(view.session_id).cycle_due == 0  # type: ignore[union-attr]
    assert UserSession(driven.get_session(view.session_id)).has_role("admin")


def test_one_of_its_own_is_stored_and_recovered_with_what_waits(driven: Driven, engine: Engine) -> None:
    view = UserSession(user_id="user123")
    engine.run("persist", view)
    view.navigate_to("profile")
    engine.run("persist", view)
    found = engine.run("recover_session", view.session_id)
    assert (found.user_id, found.current_page) == ("user123", "profile")
    assert [one.session_id for one in engine.run("recover_user_sessions", "user123")] == [view.session_id]
    assert engine.run("recover_session", "nobody") is None


def test_an_ended_session_is_not_brought_back(driven: Driven, engine: Engine) -> None:
    session = driven.get_session(driven.create_session().id)
    session["a"] = 1
    engine.run("persist", session)
    driven.delete_session(session.id)
    assert engine.run("flush_all") is None
    assert driven.get_session(session.id) is None
    assert [event.fields["keys"] for event in driven.heard("session_data_save_failed")] == [["a"]]


def test_stop_writes_what_waits(driven: Driven, engine: Engine) -> None:
    session = driven.get_session(driven.create_session().id)
    session["a"] = 1
    engine.run("persist", session)
    (driven.stop if driven.runner else driven.manager.blocking.stop)()
    (driven.open if driven.runner else driven.manager.blocking.open)()
    assert stored(driven, session.id) == {"a": 1}


@pytest.mark.parametrize(("unknown", "counted"), [(False, 1), (True, None)])
def test_what_failed_waits_on_and_increments_are_never_repeated_blindly(
    driven: Driven, engine: Engine, monkeypatch: pytest.MonkeyPatch, unknown: bool, counted: int | None
) -> None:
    session = driven.get_session(driven.create_session().id)
    session["a"] = 1
    session.increment("n")
    engine.run("persist", session)

    async def fails(_: object) -> bool:
        raise BackendUnavailable("away", unknown=unknown)

    calls = engine.engine._engine._calls
    with monkeypatch.context() as patched:
        patched.setattr(calls, "save", fails)
        with pytest.raises(BackendUnavailable):
            engine.run("flush_all")
    assert engine.engine.pending == 1
    engine.ring()
    assert stored(driven, session.id).get("a") == 1
    assert stored(driven, session.id).get("n") == counted
