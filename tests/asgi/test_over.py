"""What is left of a request that is over: nothing held, nothing that waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from session_middleware import Session, SessionMiddleware
from session_middleware.activity import ActiveRequest
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import App, Site, page, put
from tests.benchmarks.traffic import Browser

pytestmark = pytest.mark.anyio


@pytest.fixture
def no_collection() -> Iterator[None]:
    """References alone decide what goes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def noting(into: list[weakref.ref[ActiveRequest]], site: Site, action: Callable[[Session], Any]) -> App:
    """A page that notes the request that serves it."""

    def note_and_act(session: Session) -> None:
        [request] = site.manager.activity._open
        into.append(weakref.ref(request))
        action(session)

    return page(note_and_act)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "action",
    [lambda _: None, lambda session: session.get("n"), put(n=2), lambda session: session.login("ada")],
    ids=["untouched", "read", "written", "signed in"],
)
async def test_a_request_that_is_over_waits_for_no_garbage_collector(
    site: Site, action: Callable[[Session], Any]
) -> None:
    seen: list[weakref.ref[ActiveRequest]] = []
    await site.visit(page(put(n=1)))
    await site.visit(noting(seen, site, action))
    await asyncio.sleep(0)  # the event loop lets go of what it has just run
    assert [request() for request in seen] == [None]


class Served:
    """A request as uvicorn keeps it: its methods are `receive` and `send`, and it holds the scope."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.scope = Browser().scope("/")

    async def receive(self) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "action",
    [None, lambda session: session.get("n"), put(n=2), lambda session: session.login("ada")],
    ids=["untouched", "read", "written", "signed in"],
)
async def test_what_a_server_keeps_of_a_request_waits_for_no_garbage_collector(
    action: Callable[[Session], Any] | None,
) -> None:
    async def app(scope: Any, _: Any, send: Any) -> None:
        if action is not None:
            action(scope["session"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware = SessionMiddleware(app, "a key for tests, with more than 32 bytes in it")
    served = Served()
    await middleware(served.scope, served.receive, served.send)
    assert [message["type"] for message in served.sent] == ["http.response.start", "http.response.body"]
    kept = weakref.ref(served)
    del served
    assert kept() is None


async def test_a_first_look_after_the_end_is_answered_and_holds_nothing(site: Site) -> None:
    await site.visit(page(put(n=1)))
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(scope["session"])
        await page()({"session": None}, receive, send)

    await site.visit(app)
    assert kept[0]["n"] == 1
    assert (len(site.manager.activity), site.manager.active_requests()) == (0, [])


async def test_a_loop_that_has_stopped_is_not_taken_for_one_that_beats(make_site: MakeSite) -> None:
    site = make_site()
    heartbeat = site.manager.heartbeat
    stopped = asyncio.new_event_loop()

    async def begin() -> None:
        heartbeat.ensure()

    await asyncio.to_thread(stopped.run_until_complete, begin())
    assert not stopped.is_closed()
    await site.visit(page())
    assert asyncio.get_running_loop() in heartbeat._timers
    stopped.close()
