"""A shared cache before two visitors: a real nginx that keeps whatever it may. Nobody meets another's page.

The control is an app that forgets what its responses depend on: there the same cache does mix them up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from session_middleware import SessionMiddleware
from tests.servers.nginx import caching_proxy
from tests.servers.processes import ServerMissing, free_port, until

KEY = "0123456789abcdef0123456789abcdef"


async def me(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.session.get("name")))


async def enter(request: Request) -> PlainTextResponse:
    request.session["name"] = request.query_params["name"]
    return PlainTextResponse("entered")


async def cacheable(request: Request) -> PlainTextResponse:
    """An app that tells caches to keep its page, although it depends on the session."""
    return PlainTextResponse(
        str(request.session.get("name")), headers={"cache-control": "public, max-age=600"}
    )


async def up(_: Request) -> PlainTextResponse:
    return PlainTextResponse("up", headers={"cache-control": "public, max-age=600"})


PAGES = [Route(f"/{page.__name__}", page) for page in (me, enter, cacheable, up)]


class Forgetful:
    """The control: takes away what our middleware says to caches."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def without(message: Any) -> None:
            if message["type"] == "http.response.start":
                said = {b"vary", b"cache-control", b"set-cookie"}
                kept = [
                    pair for pair in message["headers"] if pair[0] not in said or scope["path"] == "/enter"
                ]
                message = {**message, "headers": kept}
            await send(message)

        await self.app(scope, receive, without)


@contextmanager
def served(app: Any) -> Iterator[int]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, "the app is served")
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def cached(unavailable: Callable[[str], NoReturn]) -> Callable[..., Any]:
    @contextmanager
    def behind(app: Any) -> Iterator[str]:
        try:
            with served(app) as port, caching_proxy(port) as url:
                yield url
        except ServerMissing as problem:
            unavailable(str(problem))

    return behind


def an_app() -> Any:
    return SessionMiddleware(Starlette(routes=PAGES), KEY, monitor=False, log=False)


@contextmanager
def visitor(url: str, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as browser:
        browser.get("/enter", params={"name": name})
        yield browser


@pytest.mark.parametrize("path", ["/me", "/cacheable"])
def test_two_visitors_behind_a_shared_cache_never_meet_each_others_pages(
    cached: Callable[..., Any], path: str
) -> None:
    with cached(an_app()) as url, visitor(url, "ada") as ada, visitor(url, "bob") as bob:
        for _ in range(3):
            assert (ada.get(path).text, bob.get(path).text) == ("ada", "bob")
        assert httpx.get(f"{url}{path}").text == "None"
        assert (ada.get(path).text, bob.get(path).text) == ("ada", "bob")


def test_the_cache_keeps_pages_that_depend_on_no_session(cached: Callable[..., Any]) -> None:
    with cached(an_app()) as url, visitor(url, "ada") as ada:
        assert ada.get("/up").headers["x-cache"] == "HIT"  # it was asked for before


def test_a_new_visitors_cookie_is_given_to_nobody_else(cached: Callable[..., Any]) -> None:
    with cached(an_app()) as url:
        first, second = (httpx.get(f"{url}/enter?name=ada") for _ in range(2))
        assert first.cookies["session"] != second.cookies["session"]
        assert "HIT" not in {first.headers["x-cache"], second.headers["x-cache"]}


def test_behind_the_same_cache_an_app_that_says_nothing_to_caches_mixes_visitors_up(
    cached: Callable[..., Any],
) -> None:
    with cached(Forgetful(an_app())) as url, visitor(url, "ada") as ada, visitor(url, "bob") as bob:
        assert (ada.get("/me").text, bob.get("/me").text) == ("ada", "ada")
