"""Requests in flight: tracked, limited, kept alive, told of, and visible in the app's own log lines."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from session_middleware import Session
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import App, Client, FaultyBackend, FaultyPort, Site, Socket, chat, page, put

pytestmark = pytest.mark.anyio


class Held:
    """A request that stays inside its handler until `release`."""

    def __init__(
        self, site: Site, action: Callable[[Session], Any] = lambda session: session.get("n")
    ) -> None:
        self.inside = asyncio.Event()
        self.gate = asyncio.Event()
        self.site = site

        async def handler(session: Session) -> int | None:
            action(session)
            self.inside.set()
            await self.gate.wait()
            return None

        self.app = page(handler)

    async def begin(self, path: str = "/", client: Client | None = None) -> "Held":
        self.site.middleware.app = self.app
        self.task = asyncio.ensure_future((client or self.site.client).get(path))
        await self.inside.wait()
        return self

    async def release(self) -> Any:
        self.gate.set()
        return await self.task


async def open_socket(site: Site, app: App | None = None) -> Socket:
    """One that only rounds look after; what closes at once has tests of its own (`test_revocation`)."""
    site.manager.heartbeat.attend = lambda: None  # type: ignore[method-assign]
    site.middleware.app = app or chat(lambda session, text: None, first=lambda session: session.get("n"))
    return await site.client.connect("/chat")


# --- the registry ---


async def test_a_request_is_tracked_while_it_holds_its_session(site: Site) -> None:
    await site.visit(page(put(n=1)))
    held = await Held(site).begin("/slow")
    [request] = site.manager.active_requests()
    id_ = site.named("session_created")[0].session_id
    assert (request.path, request.session_id, request.since) == ("/slow", id_, site.clock.now)
    assert site.manager.active_requests(id_) == [request]
    assert request.held is not None
    assert request.held.connection_count == 1
    await held.release()
    assert (site.manager.active_requests(), len(site.manager.activity)) == ([], 0)


async def test_a_request_that_does_not_look_is_counted_and_holds_nothing(site: Site) -> None:
    await site.visit(page(put(n=1)))
    held = await Held(site, lambda session: None).begin()
    assert (site.manager.active_requests(), len(site.manager.activity)) == ([], 1)
    await held.release()


async def test_a_session_made_by_a_request_is_held_from_its_commit_on(site: Site) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["n"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert len(site.manager.active_requests()) == 1
        await send({"type": "http.response.body", "body": b""})

    await site.visit(app)
    assert len(site.manager.activity) == 0


async def test_after_a_login_over_another_user_the_new_session_is_held(site: Site) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].login("bob")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        held = [request.session_id for request in site.manager.active_requests()]
        assert held == [site.named("session_created")[-1].session_id]
        await send({"type": "http.response.body", "body": b""})

    await site.visit(page(lambda session: session.login("ada")))
    await site.visit(app)
    assert len(site.manager.activity) == 0


async def test_an_exception_frees_the_registry(site: Site) -> None:
    def fail(session: Session) -> None:
        session.get("n")
        raise ZeroDivisionError

    await site.visit(page(put(n=1)))
    with pytest.raises(ZeroDivisionError):
        await site.visit(page(fail))
    assert (site.manager.active_requests(), len(site.manager.activity)) == ([], 0)


# --- limits ---


async def test_too_many_requests_at_once_are_503(make_site: MakeSite) -> None:
    site = make_site(max_concurrent_requests=1)
    held = await Held(site).begin()
    refused = await site.new_client().get("/other")
    assert (refused.status, refused.header("retry-after")) == (503, "2")
    [event] = site.named("request_refused")
    assert dict(event.fields) == {"method": "GET", "path": "/other", "status": 503, "active": 1, "limit": 1}
    assert (await held.release()).status == 200
    assert (await site.visit(page())).status == 200


async def test_too_many_requests_of_one_session_are_429(make_site: MakeSite) -> None:
    site = make_site(max_requests_per_session=1)
    await site.visit(page(put(n=1)))
    other = site.new_client()
    await site.visit(page(put(n=1)), other)
    held = await Held(site, lambda session: None).begin()  # looked at or not
    refused = await site.client.get()
    assert (refused.status, refused.header("retry-after"), refused.set_cookie) == (429, "2", None)
    [event] = site.named("request_refused")
    assert (event.fields["status"], event.fields["active"], event.fields["limit"]) == (429, 1, 1)
    assert event.session_id == site.named("session_created")[0].session_id
    assert (await site.visit(page(), other)).status == 200
    await held.release()
    assert (await site.visit(page())).status == 200


async def test_a_request_that_is_only_counted_does_not_keep_its_session_alive(make_site: MakeSite) -> None:
    site = make_site(max_requests_per_session=2, idle_timeout=60)
    await site.visit(page(put(n=1)))
    held = await Held(site, lambda session: None).begin()
    await rounds(site, 120)
    await held.release()
    assert await site.value("n") is None


# --- kept alive ---


async def rounds(site: Site, seconds: float) -> None:
    """That much time passes, with the heartbeat as often as it wants to beat."""
    until = site.clock.now + seconds
    while site.clock.now < until:
        site.clock.advance(site.manager.heartbeat.pause())
        await site.manager.heartbeat.round()


async def test_a_held_session_does_not_idle_out(make_site: MakeSite) -> None:
    site = make_site(idle_timeout=60)
    await site.visit(page(put(n=1)))
    held = await Held(site).begin()
    await rounds(site, 600)
    await site.manager.cleanup_expired()
    await held.release()
    assert await site.value("n") == 1


async def test_a_session_that_nobody_holds_idles_out(make_site: MakeSite) -> None:
    site = make_site(idle_timeout=60)
    await site.visit(page(put(n=1)))
    await rounds(site, 600)
    assert await site.value("n") is None


async def test_the_absolute_deadline_holds_all_the_same(make_site: MakeSite) -> None:
    site = make_site(idle_timeout=60, absolute_timeout=300)
    await site.visit(page(put(n=1)))
    held = await Held(site).begin()
    await rounds(site, 600)
    await held.release()
    assert await site.value("n") is None


async def test_a_short_timeout_of_its_own_is_kept_too(make_site: MakeSite) -> None:
    site = make_site(idle_timeout=6000)

    def remember_briefly(session: Session) -> None:
        session["n"] = 1
        session.set_expiry(6)

    await site.visit(page(remember_briefly))
    loop = asyncio.get_running_loop()
    held = await Held(site).begin()
    await asyncio.sleep(0)
    timer = site.manager.heartbeat._timers[loop]
    assert timer is not None
    assert timer.when() < loop.time() + 2  # the interval is 30
    await rounds(site, 60)
    await held.release()
    assert await site.value("n") == 1


async def test_a_backend_that_fails_shuts_no_socket_out(faulty_site: Site, faults: FaultyPort) -> None:
    await faulty_site.visit(page(put(n=1)))
    socket = await open_socket(faulty_site)
    faults.fail("load", "commit")
    await faulty_site.manager.heartbeat.round()
    socket.say("still here")
    assert (await socket.next())["text"] == "still here"
    await socket.leave()


async def is_closed_by_the_next_round(site: Site, socket: Socket) -> bool:
    await site.manager.heartbeat.round()
    closed = [message for message in socket.sent if message["type"] == "websocket.close"]
    if closed:
        await socket.task
    return [message["code"] for message in closed] == [1008]


async def test_without_renewal_an_open_socket_closes_when_its_session_idles_out(make_site: MakeSite) -> None:
    site = make_site(idle_timeout=60, open_requests_renew=False)
    await site.visit(page(put(n=1)))
    socket = await open_socket(site)
    site.clock.advance(59)
    assert not await is_closed_by_the_next_round(site, socket)
    site.clock.advance(2)
    assert await is_closed_by_the_next_round(site, socket)


async def test_a_revoked_sessions_socket_is_closed(site: Site) -> None:
    await site.visit(page(put(n=1)))
    socket = await open_socket(site)
    await site.manager.delete_session(site.named("session_created")[0].session_id)
    assert await is_closed_by_the_next_round(site, socket)
    assert len(site.manager.activity) == 0


async def test_a_socket_from_before_a_login_is_closed(site: Site) -> None:
    await site.visit(page(put(n=1)))
    socket = await open_socket(site)
    site.clock.advance(60)
    await site.visit(page(lambda session: session.login("ada")), site.client.copy())
    assert await is_closed_by_the_next_round(site, socket)


async def test_a_socket_whose_own_save_found_a_login_is_closed(site: Site) -> None:
    async def save(session: Session, text: str) -> None:
        session["said"] = text
        await session.manager.save(session)

    await site.visit(page(put(n=1)))
    socket = await open_socket(site, chat(save, first=lambda session: session.get("n")))
    site.clock.advance(60)
    await site.visit(page(lambda session: session.login("ada")), site.client.copy())
    socket.say("hello")
    await socket.next()
    assert await is_closed_by_the_next_round(site, socket)


async def test_an_open_socket_of_a_live_session_stays_open(site: Site) -> None:
    await site.visit(page(put(n=1)))
    socket = await open_socket(site)
    assert not await is_closed_by_the_next_round(site, socket)
    await socket.leave()


async def test_a_socket_that_only_sends_hears_of_its_end(site: Site) -> None:
    go_on = asyncio.Event()

    async def ticker(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].get("n")
        await send({"type": "websocket.accept"})
        await go_on.wait()
        await send({"type": "websocket.send", "text": "tick"})

    await site.visit(page(put(n=1)))
    socket = await open_socket(site, ticker)
    await site.manager.delete_session(site.named("session_created")[0].session_id)
    await site.manager.heartbeat.round()
    go_on.set()
    with pytest.raises(ConnectionResetError):
        await socket.task


async def test_one_broken_connection_does_not_end_the_round(site: Site) -> None:
    await site.visit(page(put(n=1)))
    first, second = await open_socket(site), await open_socket(site)
    await site.manager.delete_session(site.named("session_created")[0].session_id)

    async def gone(message: Any) -> None:
        raise ConnectionResetError

    [request, _] = site.manager.active_requests()
    request.send = gone  # type: ignore[attr-defined]
    await site.manager.heartbeat.round()
    assert [message["type"] for message in second.sent][-1] == "websocket.close"
    await second.task
    await first.leave()


async def test_a_closed_socket_is_not_closed_again(site: Site) -> None:
    ended = asyncio.Event()

    async def says_goodbye(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].get("n")
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        await ended.wait()

    await site.visit(page(put(n=1)))
    socket = await open_socket(site, says_goodbye)
    await socket.next()
    await site.manager.delete_session(site.named("session_created")[0].session_id)
    await site.manager.heartbeat.round()
    assert [message.get("code") for message in socket.sent] == [None, 1000]
    ended.set()
    await socket.task


async def test_rounds_never_spin_where_sessions_are_over_at_once(make_site: MakeSite) -> None:
    assert make_site(max_age=0).manager.heartbeat.pause() > 0


# --- shutdown ---


async def test_shutdown_waits_for_requests_in_flight(make_site: MakeSite) -> None:
    site = make_site()
    await site.manager.start()
    held = await Held(site, lambda session: session.update(n=1)).begin()
    stopping = asyncio.ensure_future(site.manager.stop(timeout=1e9))
    await asyncio.sleep(0)
    assert not stopping.done()
    await held.release()
    assert await stopping
    assert [event.fields["active_requests"] for event in site.named("session_manager_stopped")] == [0]


async def test_shutdown_reports_the_requests_that_stay_open(site: Site) -> None:
    await site.manager.start()
    held = await Held(site, lambda session: None).begin()
    assert not await site.manager.stop(timeout=0)
    assert [event.fields["active_requests"] for event in site.named("session_manager_stopped")] == [1]
    await held.release()


# --- events ---


async def test_started_and_finished_tell_what_they_promise(site: Site) -> None:
    await site.visit(page(put(n=1)))
    site.events.clear()
    held = await Held(site).begin("/slow")
    site.clock.advance(2.5)
    await held.release()
    started, finished = site.named("request_started", "request_finished")
    assert dict(started.fields) == {"method": "GET", "path": "/slow", "active": 1}
    wanted = {"method": "GET", "path": "/slow", "status": 200, "duration": 2.5, "active": 0}
    assert dict(finished.fields) == wanted
    assert finished.session_id is not None


async def test_a_socket_is_a_request_too(site: Site) -> None:
    socket = await open_socket(site)
    await socket.leave()
    methods = [event.fields["method"] for event in site.named("request_started", "request_finished")]
    assert methods == ["WEBSOCKET", "WEBSOCKET"]


@pytest.mark.parametrize("name", ["request_started", "request_finished"])
async def test_who_listens_to_one_of_them_gets_that_one(make_site: MakeSite, name: str) -> None:
    site = make_site()
    heard: list[str] = []
    site.manager.reporter._heard["request_started"].clear()
    site.manager.reporter._heard["request_finished"].clear()
    site.manager.subscribe(name, lambda event: heard.append(event.name))
    await site.visit(page())
    assert heard == [name]


async def test_an_unobserved_request_makes_no_events(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "session_middleware")
    site = make_site()
    site.manager.reporter._heard["request_started"].clear()
    site.manager.reporter._heard["request_finished"].clear()
    await site.visit(page())
    assert "request_started" not in site.manager.reporter.counts
    assert "request_finished" not in site.manager.reporter.counts


# --- the app's own log lines ---


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What the app logs through a structlog that it has configured."""
    written: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        written.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    yield written
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def log_after(action: Callable[[Session], Any]) -> Callable[[Session], None]:
    def handler(session: Session) -> None:
        action(session)
        structlog.get_logger().info("mine")

    return handler


def own(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == "mine"]


async def test_the_apps_lines_carry_session_user_and_request(
    make_site: MakeSite, lines: list[dict[str, Any]]
) -> None:
    site = make_site(log=False)
    await site.visit(page(lambda session: session.login("ada")))
    await site.visit(page(log_after(lambda session: session.get("n"))))
    [line] = own(lines)
    assert line["session_id"] == site.named("session_created")[0].session_id
    assert line["user_id"] == "ada"
    assert "-" in line["request_id"]
    assert set(line) == {"event", "session_id", "user_id", "request_id"}


async def test_after_the_request_nothing_of_it_is_left(
    make_site: MakeSite, lines: list[dict[str, Any]]
) -> None:
    site = make_site(log=False)
    await site.visit(page(lambda session: session.login("ada")))
    await site.visit(page(lambda session: session.get("n")))
    structlog.get_logger().info("mine")
    assert own(lines) == [{"event": "mine"}]


async def test_threads_and_tasks_of_the_app_carry_them_too(
    make_site: MakeSite, faulty: FaultyBackend, lines: list[dict[str, Any]]
) -> None:
    async def handler(session: Session) -> None:
        await asyncio.to_thread(log_after(lambda session: session.get("n")), session)
        await asyncio.create_task(as_task(lambda: structlog.get_logger().info("mine")))

    site = make_site(backend=faulty, log=False)
    await site.visit(page(put(n=1)))
    await site.visit(page(handler))
    id_ = site.named("session_created")[0].session_id
    assert [line["session_id"] for line in own(lines)] == [id_, id_]


async def as_task(call: Callable[[], Any]) -> None:
    call()


async def test_the_apps_own_request_id_stays(make_site: MakeSite, lines: list[dict[str, Any]]) -> None:
    site = make_site(log=False)
    await site.visit(page(put(n=1)))
    with structlog.contextvars.bound_contextvars(request_id="theirs"):
        await site.visit(page(log_after(lambda session: session.get("n"))))
        structlog.get_logger().info("mine")
    assert [line["request_id"] for line in own(lines)] == ["theirs", "theirs"]
    assert "session_id" not in own(lines)[1]


@pytest.mark.parametrize("off", ["option", "structlog"])
async def test_nothing_is_bound_where_that_is_not_wanted(
    make_site: MakeSite, lines: list[dict[str, Any]], off: str
) -> None:
    site = make_site(log=False, log_context=off != "option")
    await site.visit(page(put(n=1)))
    bound: list[dict[str, Any]] = []
    if off == "structlog":
        structlog.reset_defaults()

    def look(session: Session) -> None:
        session.get("n")
        bound.append(structlog.contextvars.get_contextvars())

    await site.visit(page(look))
    assert [{key: value for key, value in one.items() if value is not ...} for one in bound] == [{}]
