"""An ending always counts; what a failing request drops is named; a stopped app can go on."""

import asyncio
import sys
import threading
from typing import Any

import pytest

from session_middleware import Session, SessionDataError, SessionManager
from session_middleware.activity import ActiveRequest, Activity
from session_middleware.backends.memory import MemoryBackend
from session_middleware.session import Fresh
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import App, FaultyBackend, FaultyPort, Site, chat, page, put

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("unfit", [{1, 2}, "x" * 100_000], ids=["a set", "too large"])
async def test_a_logout_counts_although_what_was_written_after_it_cannot_be_held(
    site: Site, unfit: Any
) -> None:
    await site.visit(page(lambda session: session.login("ada")))

    def leave(session: Session) -> None:
        session.logout()
        session["bad"] = unfit

    with pytest.raises(SessionDataError):
        await site.visit(page(leave))
    assert await site.manager.get_user_sessions("ada") == []
    assert [event.fields["reason"] for event in site.named("session_deleted")] == ["logout"]
    [failed] = site.named("session_data_save_failed")
    assert (failed.fields["reason"], failed.fields["keys"]) == ("serialization_error", ["bad"])


async def test_an_app_that_was_stopped_opens_again_at_its_next_request(site: Site) -> None:
    await site.visit(page(put(n=1)))
    await site.manager.start()
    assert await site.manager.stop() is True
    assert await site.value("n") == 1
    assert (await site.visit(page(put(n=2)))).status == 200


async def test_a_stopped_app_whose_backend_is_down_answers_503_until_it_is_up(
    make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort
) -> None:
    site = make_site(backend=faulty)
    await site.visit(page(put(n=1)))
    await site.manager.stop()
    faults.fail("open")
    assert (await site.visit(page(put(n=2)))).status == 503
    faults.fail()
    assert await site.value("n") == 1


async def test_a_manager_that_was_never_started_can_be_stopped(site: Site) -> None:
    await site.visit(page(put(n=1)))
    assert await site.manager.stop() is True
    assert site.manager.lifetime.is_closed


async def test_what_a_response_changed_before_it_broke_off_is_named(site: Site) -> None:
    await site.visit(page(put(n=1)))

    async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["session"]["late"] = 1
        raise OSError("the client went away")

    with pytest.raises(OSError, match="went away"):
        await site.visit(breaks_off)
    [failed] = site.named("session_data_save_failed")
    assert (failed.fields["reason"], failed.fields["keys"]) == ("response_started", ["late"])
    assert await site.value("late") is None


async def test_a_login_that_an_exception_left_without_a_response_is_named(make_site: MakeSite) -> None:
    site = make_site(save_on_error=True)
    await site.visit(page(put(n=1)))

    async def logs_in_and_fails(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].login("bob")
        scope["session"]["kept"] = 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await site.visit(logs_in_and_fails)
    assert await site.value("kept") == 1
    assert await site.manager.get_user_sessions("bob") == []
    [failed] = site.named("session_data_save_failed")
    assert (failed.fields["reason"], failed.fields["keys"]) == ("response_started", ["user_id"])


async def test_a_tracked_session_does_not_idle_out_while_it_is_held(make_site: MakeSite) -> None:
    site = make_site(idle_timeout=60)
    made = await site.manager.create_session()
    async with site.manager.track_request(str(made.id)) as held:
        for _ in range(10):
            site.clock.advance(25)
            await site.manager.heartbeat.round()
        held["done"] = True
    again = await site.manager.get_session(str(made.id))
    assert again is not None
    assert again["done"] is True


async def test_tracking_a_session_sets_the_heartbeat_going(site: Site) -> None:
    made = await site.manager.create_session()
    assert not site.manager.heartbeat._timers
    async with site.manager.track_request(str(made.id)):
        assert site.manager.heartbeat._timers


async def test_one_socket_that_cannot_be_closed_does_not_keep_others_open(site: Site) -> None:
    class Broken(Exception):
        """What a server may raise that is neither an OSError nor a RuntimeError."""

    async def refuse(message: Any) -> None:
        raise Broken

    def app() -> App:
        return chat(lambda session, text: None, first=lambda session: session.get("n"))

    await site.visit(page(put(n=1)))
    site.middleware.app = app()
    first, second = await site.client.connect(), await site.client.connect()
    for request in site.manager.active_requests():
        request.send = refuse  # type: ignore[attr-defined]
        break
    for request in site.manager.active_requests():
        await site.manager.delete_session(str(request.session_id))
    await site.manager.heartbeat.round()
    assert sorted(len(socket.sent) for socket in (first, second)) == [1, 2]
    for socket in (first, second):
        await socket.leave()


async def test_a_renewal_that_answers_late_does_not_undo_what_the_request_committed(
    make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort
) -> None:
    site = make_site(backend=faulty, idle_timeout=60)
    await site.visit(page(put(n=1)))

    async def is_overtaken(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        session.get("n")
        site.clock.advance(30)
        release = faults.hang("commit")
        renewal = asyncio.ensure_future(site.manager.heartbeat.round())
        await asyncio.sleep(0)
        del faults.slow["commit"]
        session["role"] = "editor"  # a privilege: it cycles without grace
        await site.manager.save(session)
        release.set()
        await renewal
        session["more"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert (await site.visit(is_overtaken)).status == 200
    assert await site.value("more") == 1


async def test_metadata_is_held_to_the_same_rules_as_values(site: Site) -> None:
    def spoil(session: Session) -> None:
        session["n"] = 1
        session.metadata["bad"] = object()

    with pytest.raises(SessionDataError, match="bad"):
        await site.visit(page(spoil))
    with pytest.raises(SessionDataError, match="limit"):
        await site.manager.create_session(metadata={"big": "x" * 100_000})
    kept: list[dict[str, Any]] = []

    def note(session: Session) -> None:
        session["n"] = 1
        session.metadata["list"] = [1]
        kept.append(session.metadata)

    await site.visit(page(note))
    kept[0]["list"].append(2)
    [stored] = await site.stored()
    assert stored == {"n": 1}
    [event] = site.named("session_created")
    again = await site.manager.get_session(str(event.session_id))
    assert again is not None
    assert again.metadata == {"list": [1], "client": {"network": "127.0.0.0/24"}}


async def test_a_session_made_by_itself_is_never_saved(site: Site) -> None:
    with pytest.raises(ValueError, match="create_session"):
        await site.manager.save(Session({"a": 1}))
    assert site.named("session_created") == []


async def test_save_goes_on_answering_false_for_a_session_that_is_gone(site: Site) -> None:
    made = await site.manager.create_session()
    held = await site.manager.get_session(str(made.id))
    assert held is not None
    await site.manager.delete_session(str(made.id))
    for n in range(2):
        held["n"] = n
        assert await site.manager.save(held) is False


async def test_the_user_of_a_created_session_may_stand_in_its_data(site: Site) -> None:
    await site.manager.create_session(data={"user_id": "bob"})
    assert len(await site.manager.get_user_sessions("bob")) == 1


async def test_a_promise_shows_no_secret() -> None:
    assert "secret" not in repr(Fresh(promised=("id", "secret", 1)))  # type: ignore[arg-type]


async def test_ended_sessions_do_not_fill_the_memory_backend() -> None:
    backend = MemoryBackend()
    manager = SessionManager(backend, log=False)
    for _ in range(15_000):
        made = await manager.create_session()
        await manager.delete_session(str(made.id))
    assert backend._expiry.filed < 12_000


async def test_many_threads_hold_and_leave_without_losing_count() -> None:
    activity, session = Activity(), Session()
    session.life.opening = Fresh(promised=("one-session", "", 1))  # type: ignore[arg-type]
    lost: list[int] = []

    def work() -> None:
        for _ in range(3_000):
            request = ActiveRequest()
            activity.enter(request)
            activity.hold(request, session, 0.0)
            lost.append(request not in activity.holding("one-session"))  # type: ignore[arg-type]
            activity.leave(request)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert sum(lost) == 0
    assert (len(activity), list(activity)) == (0, [])
