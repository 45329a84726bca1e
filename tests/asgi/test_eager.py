"""`eager=True`: a page hands out a promise and stores nothing; the first write makes the session."""

from typing import Any

import pytest

from session_middleware.cookies import Credential
from session_middleware.sockets import HEADER, socket_of
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import ALL, Client, FaultyBackend, FaultyPort, Site, chat, page, put

pytestmark = pytest.mark.anyio
HTML = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def eager(make_site: MakeSite) -> Site:
    return make_site(entrance={"eager": True})


async def promised(site: Site, client: Client | None = None) -> str:
    """The client has visited a page; the id that its promise names."""
    answered = await site.visit(page(), client, **HTML)
    assert answered.set_cookie is not None
    return (client or site.client).cookies["session"].partition(".")[0]


def created(site: Site) -> list[str | None]:
    return [event.session_id for event in site.named("session_created")]


async def test_a_page_gets_a_promise_and_stores_nothing(
    make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort
) -> None:
    site = make_site(backend=faulty, entrance={"eager": True})
    answered = await site.visit(page(), **HTML)
    assert answered.set_cookie is not None
    assert (answered.header("vary"), answered.header("cache-control")) == ("Cookie", "no-store")
    assert "max-age" not in answered.set_cookie.lower()
    assert [operation for operation in faults.log if operation in ALL] == []


@pytest.mark.parametrize(
    "request_of", [{"accept": "application/json"}, {**HTML, "method": "POST"}, {**HTML, "method": "HEAD"}]
)
async def test_what_is_no_page_gets_none(eager: Site, request_of: dict[str, Any]) -> None:
    answered = await eager.visit(page(), **request_of)
    assert (answered.set_cookie, answered.all("vary")) == (None, [])


async def test_without_eager_there_are_none(site: Site) -> None:
    assert (await site.visit(page(), **HTML)).set_cookie is None


async def test_a_page_never_replaces_a_promise_or_a_session(eager: Site) -> None:
    await promised(eager)
    assert (await eager.visit(page(), **HTML)).set_cookie is None
    await eager.visit(page(put(n=1)), **HTML)
    assert (await eager.visit(page(), **HTML)).set_cookie is None


async def test_the_next_requests_write_creates_the_session_of_that_id(eager: Site) -> None:
    id_ = await promised(eager)
    before = eager.client.cookies["session"]
    await eager.visit(page(put(n=1)))
    assert created(eager) == [id_]
    assert eager.client.cookies["session"] != before
    assert await eager.value("n") == 1


async def test_the_same_requests_late_write_creates_it_too(eager: Site) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["session"]["n"] = 1
        await send({"type": "http.response.body", "body": b""})

    await eager.visit(app, **HTML)
    assert created(eager) == [eager.client.cookies["session"].partition(".")[0]]
    assert await eager.value("n") == 1


async def test_a_sockets_write_creates_it_too(eager: Site) -> None:
    id_ = await promised(eager)
    eager.middleware.app = chat(lambda session, text: session.update(said=text))
    socket = await eager.client.connect()
    socket.say("hello")
    await socket.next()
    await socket.leave()
    assert (created(eager), await eager.value("said")) == ([id_], "hello")


async def test_parallel_first_writes_make_one_session(eager: Site) -> None:
    id_ = await promised(eager)
    first, second = eager.client.copy(), eager.client.copy()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["outer"] = 1
        inner = page(put(inner=2))
        await inner_request(inner)
        await page()(scope, receive, send)

    async def inner_request(inner: Any) -> None:
        eager.middleware.app = inner
        await second.get()

    await eager.visit(app, first)
    assert created(eager) == [id_]
    assert await eager.stored() == [{"outer": 1, "inner": 2}]


async def test_the_next_response_replaces_the_promise_although_nobody_looks(eager: Site) -> None:
    await promised(eager)
    stale = eager.client.copy()
    await eager.visit(page(put(n=1)))
    answered = await eager.visit(page(), stale, **HTML)
    assert answered.set_cookie is not None
    assert stale.cookies["session"].partition(".")[0] == created(eager)[0]
    assert eager.middleware.codec.verify(stale.cookies["session"].encode()) is not None
    assert (await eager.visit(page(), stale, **HTML)).set_cookie is None


async def test_a_promise_opens_nothing_after_a_login(eager: Site) -> None:
    await promised(eager)
    planted = eager.client.copy()
    await eager.visit(page(put(n=1)))
    eager.clock.advance(60)
    await eager.visit(page(lambda session: session.login("ada")))
    seen: list[object] = []
    await eager.visit(page(lambda session: seen.append((session.user_id, dict(session)))), planted)
    assert seen == [(None, {})]


async def test_a_promise_is_no_session_cookie(make_site: MakeSite) -> None:
    eager, plain = make_site(entrance={"eager": True}), make_site()
    await promised(eager)
    value = eager.client.cookies["session"].encode()
    assert plain.manager.codec.verify(value) is None
    assert plain.manager.codec.verify_promise(value) is not None


async def test_a_forged_promise_is_a_bad_signature(eager: Site, make_site: MakeSite) -> None:
    stranger = make_site(secret_key="another key of more than thirty-two bytes")
    forged = stranger.manager.codec.sign_promise(Credential(*eager.manager.mint(), 1))
    eager.client.cookies["session"] = forged
    await eager.visit(page(put(n=1)))
    assert eager.suspicions() == ["bad_signature"]
    assert created(eager)[0] != forged.partition(".")[0]


async def test_thousands_of_pages_store_nothing(eager: Site) -> None:
    eager.middleware.app = page()
    for _ in range(3000):
        await eager.new_client().get(**HTML)
    assert await eager.manager.count() == 0
    assert len(eager.manager.activity) == 0


async def test_why_the_former_session_ended_survives_the_promise(eager: Site) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        told.append(scope["session"].ended_because)
        await send({"type": "http.response.body", "body": b""})

    told: list[object] = []
    await eager.visit(page(put(n=1)))
    await eager.manager.delete_session(str(created(eager)[0]), "revoked")
    await eager.visit(app, **HTML)
    assert told == ["revoked"]


async def test_a_page_is_a_look_its_app_has_later_so_it_renews_and_cycles(make_site: MakeSite) -> None:
    site = make_site(entrance={"eager": True}, idle_timeout=100)
    await site.visit(page(put(n=1)))
    site.clock.advance(50)
    assert (await site.visit(page(), accept="*/*")).set_cookie is None
    renewed = await site.visit(page(), **HTML)
    assert renewed.set_cookie is not None
    before = site.client.cookies["session"]
    await site.manager.cycle_session(str(created(site)[0]), grace=0)
    await site.visit(page(), **HTML)
    assert site.client.cookies["session"] != before
    assert await site.value("n") == 1


async def test_a_page_that_has_nothing_to_renew_writes_nothing(
    make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort
) -> None:
    site = make_site(backend=faulty, entrance={"eager": True})
    await site.visit(page(put(n=1)))
    faults.log.clear()
    await site.visit(page(), **HTML)
    assert faults.log == ["load"]


async def test_an_eager_socket_is_found_by_a_header_that_no_client_can_bring(eager: Site) -> None:
    await promised(eager)
    names: list[str] = []
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        names.extend(value.decode() for name, value in scope["headers"] if name.decode() == HEADER)
        socket: Any = socket_of(names[0])
        found.append(socket.scope["session_middleware"]["session"].id)
        await send({"type": "websocket.accept"})

    eager.middleware.app = app
    brought = [*eager.client.scope()["headers"], (HEADER.encode(), b"brought")]
    socket = await eager.client.connect(headers=brought)
    await socket.task
    assert found == [socket_id(eager)]
    assert (len(names), "brought" in names) == (1, False)
    assert [socket_of(name) for name in (*names, "brought", None)] == [None, None, None]


async def test_without_eager_no_socket_is_found(site: Site) -> None:
    names: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        names.extend(name for name, _ in scope["headers"])
        await send({"type": "websocket.accept"})

    site.middleware.app = app
    await (await site.client.connect()).task
    assert HEADER.encode() not in names


def socket_id(site: Site) -> str:
    return site.client.cookies["session"].partition(".")[0]
