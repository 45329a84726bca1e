"""When the backend fails: the table of the design, row by row, and what operators hear of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from session_middleware import BackendUnavailable, MemoryBackend, Session
from session_middleware.outage import Outage
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import ALL, Answer, FaultyBackend, FaultyPort, Site, chat, page, put

pytestmark = pytest.mark.anyio
LOOK = page(lambda session: session.get("n"))


def is_refusal(answered: Answer) -> bool:
    """503 with Retry-After, and the cookie untouched."""
    untouched = answered.set_cookie is None
    return answered.status == 503 and answered.header("retry-after") == "2" and untouched


@pytest.fixture
async def visited(faulty_site: Site) -> Site:
    """A site whose visitor has a session with n=1."""
    await faulty_site.visit(page(put(n=1)))
    return faulty_site


@pytest.fixture
async def hasty(make_site: MakeSite, faulty: FaultyBackend) -> Site:
    """The same, with no patience for the backend."""
    site = make_site(backend=faulty, backend_timeout=0.001)
    site.manager.finisher.timeout = 5
    await site.visit(page(put(n=1)))
    site.manager.finisher.timeout = 0.001
    return site


async def test_without_a_cookie_the_page_is_normal(visited: Site, faults: FaultyPort) -> None:
    faults.fail(*ALL)
    answered = await visited.visit(LOOK, visited.new_client())
    assert answered.status == 200


async def test_a_failed_load_is_503_and_the_handler_does_not_run(visited: Site, faults: FaultyPort) -> None:
    faults.fail("load")
    ran: list[Session] = []
    assert is_refusal(await visited.visit(page(ran.append)))
    assert ran == []


async def test_a_load_that_hangs_is_503(hasty: Site, faults: FaultyPort) -> None:
    held = faults.hang("load")
    assert is_refusal(await hasty.visit(LOOK))
    held.set()


async def test_a_load_that_fails_closes_a_socket_with_1013(visited: Site, faults: FaultyPort) -> None:
    faults.fail("load")
    visited.middleware.app = chat(lambda session, text: None)
    socket = await visited.client.connect()
    assert (socket.sent[0]["type"], socket.sent[0]["code"]) == ("websocket.close", 1013)
    await socket.task


async def test_the_session_is_there_again_when_the_backend_is(visited: Site, faults: FaultyPort) -> None:
    faults.fail(*ALL)
    assert is_refusal(await visited.visit(LOOK))
    faults.fail()
    assert await visited.value("n") == 1


# --- routes that work without ---


@pytest.fixture
async def lenient(make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort) -> Site:
    """Every route is optional, pages are eager, the visitor has a session, and the backend is down."""
    site = make_site(backend=faulty, entrance={"optional": ["*"], "eager": True})
    await site.visit(page(put(n=1)))
    faults.fail(*ALL)
    return site


async def test_an_optional_route_sees_a_degraded_anonymous_session(lenient: Site) -> None:
    seen: list[object] = []
    answered = await lenient.visit(
        page(lambda session: seen.extend([session.degraded, dict(session), session.id]))
    )
    assert (answered.status, answered.set_cookie, seen) == (200, None, [True, {}, None])


async def test_a_degraded_page_promises_nothing_over_the_visitors_cookie(lenient: Site) -> None:
    answered = await lenient.visit(page(), accept="text/html")
    assert answered.set_cookie is None


WRITES: list[Callable[[Session], Any]] = [
    put(n=2),
    Session.logout,
    Session.clear,
    Session.cycle,
    Session.renew,
    lambda session: session.login("ada"),
    lambda session: session.setdefault("n", 1),
    lambda session: session.increment("n"),
    lambda session: session.set_expiry(60),
]


@pytest.mark.parametrize("write", WRITES)
async def test_a_degraded_session_refuses_changes(lenient: Site, write: Any) -> None:
    def attempt(session: Session) -> None:
        with pytest.raises(BackendUnavailable, match="read-only"):
            write(session)

    assert (await lenient.visit(page(attempt))).status == 200


async def test_a_refused_change_that_nobody_catches_is_503(lenient: Site) -> None:
    assert is_refusal(await lenient.visit(page(put(n=2))))


async def test_other_routes_stay_503(make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort) -> None:
    site = make_site(backend=faulty, entrance={"optional": ["/about"]})
    await site.visit(page(put(n=1)))
    faults.fail("load")
    assert (await site.visit(LOOK, path="/about")).status == 200
    assert is_refusal(await site.visit(LOOK, path="/account"))


# --- commits ---


@pytest.mark.parametrize("fault", ["fails", "hangs", "loses the answer"])
async def test_a_failed_commit_is_503_instead_of_the_handlers_response(
    hasty: Site, faults: FaultyPort, fault: str
) -> None:
    hasty.manager.finisher.timeout = 0.001 if fault == "hangs" else 5
    held = asyncio.Event()
    match fault:
        case "fails":
            faults.fail("commit")
        case "hangs":
            held = faults.hang("commit")
            hasty.manager.finisher.timeout = 0.2
        case _:
            faults.lost_answers = frozenset({"commit"})
    answered = await hasty.visit(page(put(n=2)))
    assert is_refusal(answered)
    assert b"page" not in answered.body
    assert faults.log.count("commit") == 1  # never tried again
    held.set()


async def test_a_new_session_that_cannot_be_stored_is_503(faulty_site: Site, faults: FaultyPort) -> None:
    faults.fail("create")
    assert is_refusal(await faulty_site.visit(page(put(n=1))))
    assert len(faulty_site.named("session_creation_failed")) == 1


async def test_a_logout_that_fails_is_503_and_keeps_the_cookie(visited: Site, faults: FaultyPort) -> None:
    faults.fail("delete")
    assert is_refusal(await visited.visit(page(lambda session: session.logout())))
    assert [event.fields["reason"] for event in visited.named("session_deletion_failed")] == ["backend_error"]
    assert "session" in visited.client.cookies
    faults.fail()
    assert await visited.value("n") == 1


async def test_after_503_nothing_of_the_app_goes_out_and_its_background_task_does_not_run(
    visited: Site, faults: FaultyPort
) -> None:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    ran: list[int] = []

    def endpoint(request: Request) -> PlainTextResponse:
        request.session["n"] = 2
        return PlainTextResponse("paid", background=BackgroundTask(ran.append, 1))

    faults.fail("commit")
    assert is_refusal(await visited.visit(Starlette(routes=[Route("/", endpoint)])))
    assert ran == []


async def test_an_early_saves_cookie_is_not_sent_where_it_cannot_be_confirmed(
    faulty_site: Site, faults: FaultyPort
) -> None:
    async def save_then_fail(session: Session) -> None:
        session["n"] = 1
        await session.manager.save(session)
        session["n"] = 2
        faults.fail("commit")

    answered = await faulty_site.visit(page(save_then_fail))
    faults.fail()
    assert (answered.status, answered.set_cookie) == (503, None)
    assert await faulty_site.stored() == [{"n": 1}]


async def test_a_late_commit_that_fails_is_an_event_and_no_exception(
    visited: Site, faults: FaultyPort
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["session"]["n"] = 2
        await send({"type": "http.response.body", "body": b""})

    faults.fail("commit")
    assert (await visited.visit(app)).status == 200
    [event] = visited.named("session_data_save_failed")
    assert (event.fields["reason"], event.fields["keys"]) == ("backend_error", ["n"])


async def test_an_outage_that_the_app_meets_itself_is_503(visited: Site, faults: FaultyPort) -> None:
    async def ask(session: Session) -> None:
        faults.fail("load")
        await session.manager.get_session("A" * 22)

    assert is_refusal(await visited.visit(page(ask)))


async def test_a_full_backend_is_503(make_site: MakeSite) -> None:
    site = make_site(page(put(n=1)), backend=MemoryBackend(max_records=1))
    assert (await site.client.get()).status == 200
    assert is_refusal(await site.new_client().get())


# --- what operators hear ---


def turns(site: Site) -> list[tuple[str, object]]:
    told = site.named("backend_unavailable", "backend_recovered")
    return [(event.name, event.fields.get("operation", event.fields.get("down_for"))) for event in told]


async def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(
    visited: Site, faults: FaultyPort
) -> None:
    faults.fail(*ALL)
    for _ in range(5):
        await visited.visit(LOOK)
        await visited.visit(page(put(n=1)), visited.new_client())
        visited.clock.advance(10)
    assert turns(visited) == [("backend_unavailable", "load")]
    assert isinstance(visited.named("backend_unavailable")[0].fields["exception"], BackendUnavailable)
    faults.fail()
    for _ in range(3):
        await visited.visit(LOOK)
    assert turns(visited)[1:] == [("backend_recovered", 50.0)]


async def test_writes_that_fail_while_loads_work_are_one_outage(visited: Site, faults: FaultyPort) -> None:
    faults.fail("commit")
    for number in range(2, 6):
        await visited.visit(page(put(n=number)))
        await visited.visit(LOOK)
        visited.clock.advance(1)
    assert turns(visited) == [("backend_unavailable", "commit")]
    faults.fail()
    await visited.visit(LOOK)
    assert len(turns(visited)) == 1  # a read proves nothing about writes
    await visited.visit(page(put(n=9)))
    assert turns(visited)[1:] == [("backend_recovered", 4.0)]


async def test_an_outage_on_optional_routes_is_told_too(lenient: Site) -> None:
    await lenient.visit(LOOK)
    await lenient.visit(LOOK)
    assert turns(lenient) == [("backend_unavailable", "load")]
    reasons = [event.fields["reason"] for event in lenient.named("session_data_retrieval_failed")]
    assert reasons == ["unavailable", "unavailable"]


def test_a_failed_load_outweighs_a_failed_commit() -> None:
    outage = Outage()
    assert outage.begin("commit", 1.0)
    assert not outage.begin("load", 2.0)
    assert outage.end("load", 5.0) == 4.0
    assert outage.end("load", 6.0) is None
