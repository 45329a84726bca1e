"""How often one session may come: refused before the app runs, by a clock that never jumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from session_middleware import ConfigurationError, SessionManager, SessionMiddleware
from session_middleware.rates import RateLimit
from session_middleware.testing.clock import ManualClock
from tests.life.harness import Browser, Site

MakeSite = Callable[..., Site]
in_requests = pytest.mark.parametrize("driver", ["async", "wsgi"])  # the plain driver has none


def known(site: Site) -> Browser:
    browser = site.browser()
    browser.visit(lambda session: session.update(n=0))
    return browser


def count(session: Any) -> None:
    session["n"] += 1


@in_requests
def test_more_requests_than_the_limit_are_429_until_the_window_ends(make_site: MakeSite) -> None:
    site = make_site(rate_limit="3/minute")
    browser = known(site)
    answers = []
    for _ in range(5):
        answers.append(browser.visit(count))
        site.steady.advance(10)
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert dict(answers[3].headers)[b"retry-after"] == b"30"
    refused = [event for event in site.events if event.name == "request_refused"]
    assert [(event.session_id, event.fields["limit"]) for event in refused] == [(browser.id, "3/minute")] * 2
    site.steady.advance(10)
    assert browser.visit(count).status == 200
    assert browser.sees == {"n": 4}


@in_requests
def test_each_session_is_counted_for_itself(make_site: MakeSite) -> None:
    site = make_site(rate_limit="1/minute")
    one, two = known(site), known(site)
    assert [browser.visit().status for browser in (one, two, one, two)] == [200, 200, 429, 429]


@in_requests
def test_a_visitor_without_a_session_is_not_counted(make_site: MakeSite) -> None:
    site = make_site(rate_limit="1/minute")
    browser = site.browser()
    assert [browser.visit().status for _ in range(5)] == [200] * 5


@in_requests
def test_several_limits_must_all_hold(make_site: MakeSite) -> None:
    site = make_site(rate_limit="2/second;3/minute")
    browser = known(site)
    statuses = [browser.visit().status for _ in range(3)]
    site.steady.advance(1)
    statuses += [browser.visit().status for _ in range(2)]
    assert statuses == [200, 200, 429, 200, 429]


@in_requests
def test_a_refused_request_is_no_activity(make_site: MakeSite) -> None:
    site = make_site(rate_limit="1/day")
    browser = known(site)
    browser.visit()
    before = site.record(browser.id)
    site.steady.advance(900)
    assert browser.visit().status == 429
    assert site.record(browser.id) == before


@in_requests
def test_what_is_refused_as_one_too_many_at_once_does_not_count(make_site: MakeSite) -> None:
    site = make_site(rate_limit="2/minute", max_requests_per_session=1)
    browser = known(site)
    held = browser.begin(looks=False)
    assert [browser.twin().visit().status for _ in range(3)] == [429] * 3
    held.respond()
    held.end()
    assert [browser.visit().status for _ in range(2)] == [200, 429]


def test_a_websocket_too_many_is_closed_before_the_app_sees_it() -> None:
    clock, opened = ManualClock(), []

    async def talk(socket: WebSocket) -> None:
        opened.append(socket.session["n"])
        await socket.accept()
        await socket.close()

    async def begin(request: Request) -> Response:
        request.session["n"] = 1
        return Response()

    app = Starlette(routes=[Route("/", begin), WebSocketRoute("/talk", talk)])
    options: Any = {"rate_limit": "2/minute", "monotonic": clock, "secret_key": "k" * 32, "log": False}
    client = TestClient(SessionMiddleware(app, **options))
    client.get("/")
    for _ in range(2):
        with client.websocket_connect("/talk"):
            pass
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/talk"):
        pass
    assert (refused.value.code, opened) == (1013, [1, 1])


@pytest.mark.parametrize("wrong", ["", "often", "5", "5/fortnight", 5, "0/x;1/minute"])
def test_an_illegal_rate_is_named(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate_limit"):
        SessionManager(rate_limit=wrong)


def test_windows_that_ended_are_forgotten() -> None:
    clock = ManualClock()
    limit = RateLimit("5/minute", clock)
    for number in range(1000):
        assert limit.wait_of(f"session {number}") is None
        clock.advance(1)
    [(_, limiter)] = limit._limits
    assert len(limiter.storage._windows) <= 60  # type: ignore[attr-defined]
