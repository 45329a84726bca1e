"""When a request's changes are saved: before the response leaves, at the end, or not at all."""

import asyncio
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from session_middleware import ResponseStartedError, Session, SessionDataError
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import FaultyBackend, FaultyPort, Site, answer, chat, page, put

pytestmark = pytest.mark.anyio


def lost(site: Site) -> list[tuple[object, object]]:
    """Reason and keys of what was not saved."""
    return [
        (event.fields["reason"], event.fields["keys"]) for event in site.named("session_data_save_failed")
    ]


async def test_the_commit_is_done_before_the_response_leaves(
    make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort
) -> None:
    site = make_site(page(put(n=1)), backend=faulty)
    order: list[str] = faults.log

    async def send(message: dict[str, Any]) -> None:
        order.append(message["type"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    await site.middleware(site.client.scope(), receive, send)
    assert order == ["create", "http.response.start", "http.response.body"]


async def test_a_reader_never_writes(faulty_site: Site, faults: FaultyPort) -> None:
    await faulty_site.visit(page(put(n=1)))
    faults.log.clear()
    read = await faulty_site.visit(page(lambda session: session.get("n")))
    assert (faults.log, read.set_cookie) == (["load"], None)


async def test_a_visitor_without_a_cookie_costs_no_backend_call(
    faulty_site: Site, faults: FaultyPort
) -> None:
    await faulty_site.visit(page(lambda session: session.get("n")))
    assert faults.log == []


async def test_a_request_that_does_not_look_does_not_renew(
    make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort
) -> None:
    for options in ({}, {"max_requests_per_session": 9}):
        site = make_site(backend=faulty, entrance={"eager": not options}, idle_timeout=100, **options)
        await site.visit(page(put(n=1)))
        site.clock.advance(50)
        faults.log.clear()
        await site.visit(page(), accept="application/json")
        assert faults.log == ["load"]
        await site.visit(page(lambda session: session.mark_accessed()), accept="application/json")
        assert faults.log == ["load", "load", "commit"]


def streaming(action: Any) -> Any:
    """Changes the session when the response has left and its body has not."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        action(scope["session"])
        await send({"type": "http.response.body", "body": b"two"})

    return app


async def test_a_change_made_while_streaming_is_saved(site: Site) -> None:
    await site.visit(page(put(n=1)))
    await site.visit(streaming(put(n=2)))
    assert await site.value("n") == 2


async def test_a_nested_change_made_while_streaming_is_saved(site: Site) -> None:
    await site.visit(page(put(cart=[1])))
    await site.visit(streaming(lambda session: session["cart"].append(2)))
    assert await site.value("cart") == [1, 2]


async def test_what_a_new_visitor_streams_is_lost_by_name(site: Site) -> None:
    await site.visit(streaming(put(n=2)))
    assert lost(site) == [("response_started", ["n"])]


async def test_a_late_login_raises(site: Site) -> None:
    await site.visit(page(put(n=1)))
    with pytest.raises(ResponseStartedError):
        await site.visit(streaming(lambda session: session.login("ada")))


async def test_a_late_logout_ends_the_session(site: Site) -> None:
    await site.visit(page(put(n=1)))
    await site.visit(streaming(lambda session: session.logout()))
    assert await site.stored() == []


async def test_a_background_tasks_changes_are_saved(site: Site) -> None:
    def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok", background=BackgroundTask(request.session.update, n=2))

    await site.visit(page(put(n=1)))
    await site.visit(Starlette(routes=[Route("/", endpoint)]))
    assert await site.value("n") == 2


async def test_a_streaming_response_of_starlette_may_change_the_session(site: Site) -> None:
    async def endpoint(request: Request) -> StreamingResponse:
        async def body() -> Any:
            yield b"one"
            request.session["n"] = 2
            yield b"two"

        return StreamingResponse(body())

    await site.visit(page(put(n=1)))
    answered = await site.visit(Starlette(routes=[Route("/", endpoint)]))
    assert (answered.body, await site.value("n")) == (b"onetwo", 2)


async def test_a_dependency_with_yield_may_change_the_session(site: Site) -> None:
    app = FastAPI()

    async def counted(request: Request) -> Any:
        yield
        request.session["n"] = 2

    @app.get("/", dependencies=[Depends(counted)])
    async def endpoint() -> str:
        return "ok"

    await site.visit(page(put(n=1)))
    await site.visit(app)
    assert await site.value("n") == 2


async def test_sync_endpoints_use_the_session_from_their_threads(site: Site) -> None:
    def endpoint(request: Request) -> PlainTextResponse:
        request.session["n"] = request.session.get("n", 0) + 1
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", endpoint)])
    await site.visit(app)
    await site.visit(app)
    assert await site.value("n") == 2


async def test_base_http_middleware_in_between_changes_nothing(site: Site) -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        request.session["inner"] = 1
        return PlainTextResponse("ok", background=BackgroundTask(request.session.update, late=3))

    async def between(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        request.session["outer"] = 2
        return response

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=between)
    await site.visit(page(put(n=1)))
    answered = await site.visit(app)
    assert (answered.status, await site.stored()) == (200, [{"n": 1, "inner": 1, "outer": 2, "late": 3}])


async def test_a_mounted_app_shares_the_session(site: Site) -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        request.session["path"] = request.url.path
        return PlainTextResponse("ok")

    inner = Starlette(routes=[Route("/cart", endpoint)])
    await site.visit(Starlette(routes=[Mount("/shop", inner)]), path="/shop/cart")
    assert await site.value("path") == "/shop/cart"


# --- errors ---


@pytest.mark.parametrize("status", [500, 503, 599])
async def test_a_failed_response_saves_nothing_not_even_at_its_end(site: Site, status: int) -> None:
    await site.visit(page(put(n=1)))
    failed = await site.visit(page(put(n=2), status=status))
    assert (failed.status, failed.set_cookie, await site.value("n")) == (status, None, 1)


@pytest.mark.parametrize("status", [200, 302, 404, 499])
async def test_any_other_response_saves(site: Site, status: int) -> None:
    await site.visit(page(put(n=2), status=status))
    assert await site.value("n") == 2


def crashing(action: Any, after_start: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if after_start:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        action(scope["session"])
        raise ZeroDivisionError

    return app


@pytest.mark.parametrize("after_start", [False, True])
async def test_an_exception_saves_nothing_and_goes_on(site: Site, after_start: bool) -> None:
    await site.visit(page(put(n=1)))
    with pytest.raises(ZeroDivisionError):
        await site.visit(crashing(put(n=2), after_start))
    assert await site.value("n") == 1


@pytest.mark.parametrize("app", [page(lambda session: session.logout(), status=500), None])
async def test_a_logout_is_done_whatever_the_response(site: Site, app: Any) -> None:
    await site.visit(page(put(n=1)))
    if app is None:
        with pytest.raises(ZeroDivisionError):
            await site.visit(crashing(lambda session: session.logout()))
    else:
        answered = await site.visit(app)
        assert "1970" in (answered.set_cookie or "")
    assert await site.stored() == []


async def test_save_on_error_saves(make_site: MakeSite) -> None:
    site = make_site(save_on_error=True)
    await site.visit(page(put(n=1), status=500))
    assert await site.value("n") == 1
    with pytest.raises(ZeroDivisionError):
        await site.visit(crashing(put(n=2)))
    assert await site.value("n") == 2


async def test_a_value_that_cannot_be_held_raises_and_half_saves_nothing(site: Site) -> None:
    await site.visit(page(put(n=1)))
    with pytest.raises(SessionDataError, match="bad"):
        await site.visit(page(put(n=2, bad=object())))
    assert (await site.value("n"), lost(site)) == (1, [("serialization_error", ["bad"])])


async def test_a_cookie_made_by_an_early_save_is_sent_with_an_error_too(site: Site) -> None:
    async def save_then_fail(session: Session) -> int:
        session["n"] = 1
        await session.manager.save(session)
        session["n"] = 2
        return 500

    answered = await site.visit(page(save_then_fail))
    assert (answered.status, answered.set_cookie is not None, await site.value("n")) == (500, True, 1)


# --- WebSockets ---


async def test_a_change_before_accept_gets_its_cookie_in_the_accept(site: Site) -> None:
    site.middleware.app = chat(lambda session, text: None, first=put(n=1))
    socket = await site.client.connect()
    accept = socket.sent[0]
    assert [name for name, _ in accept["headers"]] == [b"set-cookie", b"cache-control", b"vary"]
    assert (await site.value("n"), accept["type"]) == (1, "websocket.accept")
    site.middleware.app = page()
    await socket.leave()


async def test_changes_of_an_open_socket_are_saved_when_it_ends(site: Site) -> None:
    await site.visit(page(put(n=1)))
    site.middleware.app = chat(lambda session, text: session.update(said=text))
    socket = await site.client.connect()
    socket.say("hello")
    await socket.next()
    assert await site.value("said") is None
    await socket.leave()
    assert await site.value("said") == "hello"


async def test_an_open_socket_saves_when_it_asks_to(site: Site) -> None:
    async def save(session: Session, text: str) -> None:
        session["said"] = text
        await session.manager.save(session)

    await site.visit(page(put(n=1)))
    site.middleware.app = chat(save)
    socket = await site.client.connect()
    socket.say("hello")
    await socket.next()
    assert await site.value("said") == "hello"
    await socket.leave()


async def test_what_a_new_visitors_socket_wrote_too_late_is_lost_by_name(site: Site) -> None:
    site.middleware.app = chat(lambda session, text: session.update(said=text))
    socket = await site.client.connect()
    socket.say("hello")
    await socket.next()
    await socket.leave()
    assert lost(site) == [("response_started", ["said"])]


async def test_a_denial_response_carries_the_cookie(site: Site) -> None:
    async def deny(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["tries"] = 1
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    site.middleware.app = deny
    socket = await site.client.connect()
    await socket.task
    assert b"set-cookie" in dict(socket.sent[0]["headers"])
    assert await site.value("tries") == 1


# --- several middlewares ---


async def test_the_inner_of_two_with_one_name_passes_through(make_site: MakeSite) -> None:
    inner = make_site(page(put(n=1)))
    outer = make_site(inner.middleware)
    answered = await outer.client.get()
    assert len(answered.all("set-cookie")) == 1
    assert (inner.events, len(outer.named("session_created"))) == ([], 1)


async def test_two_with_two_names_keep_two_sessions(make_site: MakeSite) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for name, session in scope["session_middleware"].items():
            session["mine"] = name
        assert scope["session"] is scope["session_middleware"]["b"]
        await answer(send)

    inner = make_site(app, session_cookie="b")
    outer = make_site(inner.middleware, session_cookie="a")
    answered = await outer.client.get()
    assert sorted(cookie[:2] for cookie in answered.all("set-cookie")) == ["a=", "b="]
    assert (await outer.stored(), await inner.stored()) == ([{"mine": "a"}], [{"mine": "b"}])


async def test_our_state_survives_whoever_overwrites_the_scope(site: Site) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session_middleware"]["session"]["n"] = 1
        scope["session"] = {"somebody": "else"}
        await answer(send)

    await site.visit(app)
    assert await site.stored() == [{"n": 1}]


@pytest.mark.parametrize("ours_is", ["outside", "inside"])
async def test_starlettes_own_sessions_live_beside_ours(make_site: MakeSite, ours_is: str) -> None:
    from starlette.middleware.sessions import SessionMiddleware as Starlettes

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["n"] = 1
        scope["session_middleware"]["session"]["mine"] = 2
        await answer(send)

    if ours_is == "outside":
        site = make_site(Starlettes(app, "key", session_cookie="theirs"))
        client = site.client
    else:
        site = make_site(app)
        client = site.new_client()
        client.app = Starlettes(site.middleware, "key", session_cookie="theirs")
    await client.get()
    assert (await site.stored())[0]["mine"] == 2
    assert ("theirs" in client.cookies) is (ours_is == "outside")


# --- routes ---


async def test_a_skipped_route_has_no_session(make_site: MakeSite) -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("session"))
        await answer(send)

    for skip in (["/static/*"], lambda scope: scope["path"].startswith("/static/")):
        site = make_site(app, entrance={"skip": skip})
        await site.client.get("/static/a.css")
        assert seen.pop() is None
        await site.client.get("/static")
        assert isinstance(seen.pop(), Session)


async def test_a_passive_route_is_no_activity(make_site: MakeSite) -> None:
    site = make_site(entrance={"passive": ["/poll"]}, idle_timeout=100)
    await site.visit(page(put(n=1)))
    site.clock.advance(90)
    await site.visit(page(lambda session: session.get("n")), path="/poll")
    site.clock.advance(20)
    assert await site.value("n") is None


async def test_the_same_route_when_not_passive_is_activity(make_site: MakeSite) -> None:
    site = make_site(idle_timeout=100)
    await site.visit(page(put(n=1)))
    site.clock.advance(90)
    await site.visit(page(lambda session: session.get("n")), path="/poll")
    site.clock.advance(20)
    assert await site.value("n") == 1


# --- bad cookies ---


@pytest.mark.parametrize("cookie", ["x", "", "A" * 22 + "." + "A" * 22 + ".1." + "A" * 43, "é"])
async def test_a_bad_cookie_is_an_event_and_no_backend_call(
    faulty_site: Site, faults: FaultyPort, cookie: str
) -> None:
    faulty_site.client.cookies["session"] = cookie
    answered = await faulty_site.visit(page(lambda session: session.get("n")))
    assert (answered.status, faults.log) == (200, [])
    assert faulty_site.suspicions() == ["bad_signature"]


async def test_a_header_full_of_bad_cookies_costs_a_bounded_number_of_events(site: Site) -> None:
    site.client.cookies["other"] = "1; " + "session=x; " * 5000
    await site.visit(page(lambda session: session.get("n")))
    assert len(site.suspicions()) == 16


async def test_many_bad_cookies_are_counted_and_leave_nothing_behind(site: Site) -> None:
    site.middleware.app = page(lambda session: session.get("n"))
    for number in range(2000):
        site.client.cookies["session"] = f"{number:022}.{'A' * 22}.1.{'A' * 43}"
        await site.client.get()
    assert site.manager.reporter.suspicious["bad_signature"] == 2000
    assert len(site.manager.codec._known) == 0
    assert len(site.manager.activity) == 0
    await asyncio.sleep(0)
