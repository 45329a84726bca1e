"""What we give to those who test their apps: managers, sessions, signed-in clients, fixtures."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask, session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from session_middleware import (
    ConfigurationError,
    SessionManager,
    SessionMiddleware,
    WSGISessionMiddleware,
)
from session_middleware.flask import init_app, manager_of
from session_middleware.testing import (
    broken,
    login_as,
    make_manager,
    make_session,
    session_of,
    wait_for_cleanup,
)

HTTPS = "https://testserver"


async def me(request: Request) -> PlainTextResponse:
    request.session["seen"] = True
    return PlainTextResponse(str(request.session.user_id))  # type: ignore[attr-defined]


async def leave(request: Request) -> PlainTextResponse:
    request.session.clear()
    return PlainTextResponse("bye")


def starlette_app(**options: Any) -> Starlette:
    app = Starlette(routes=[Route("/me", me), Route("/leave", leave)])
    app.add_middleware(SessionMiddleware, **options)
    return app


def flask_app() -> Flask:
    app = Flask("tested")
    app.secret_key = "k" * 16 + "0123456789abcdef"
    init_app(app, log=False)

    @app.get("/me")
    def me() -> str:
        session["seen"] = True
        return str(session.user_id)  # type: ignore[attr-defined]

    @app.get("/leave")
    def leave() -> str:
        session.clear()
        return "bye"

    return app


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    mine = environ["session"]
    if environ["PATH_INFO"] == "/leave":
        mine.clear()
    else:
        mine["seen"] = True
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(mine.user_id).encode()]


class AsyncSite:
    """An httpx.AsyncClient, each call of it run to its end."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self.client.get(path))


def made(kind: str, where: str, tmp_path: Path) -> tuple[Any, Callable[[str], str]]:
    backend = "memory://" if where == "memory" else f"sqlite:///{tmp_path}/sessions.db"
    options = {"secret_key": "k" * 16 + "0123456789abcdef", "backend": backend, "log": False}
    if kind == "starlette":
        client: Any = TestClient(starlette_app(**options), base_url=HTTPS)
    elif kind == "httpx-async":
        transport = httpx.ASGITransport(starlette_app(**options))
        client = httpx.AsyncClient(transport=transport, base_url=HTTPS)
        return client, lambda path: AsyncSite(client).get(path).text
    elif kind == "httpx-wsgi":
        wrapped = WSGISessionMiddleware(wsgi_app, **options)
        client = httpx.Client(transport=httpx.WSGITransport(wrapped), base_url=HTTPS)  # type: ignore[arg-type]
    elif kind == "httpx-flask":
        client = httpx.Client(transport=httpx.WSGITransport(flask_app()), base_url=HTTPS)
    else:
        client = flask_app().test_client()
    return client, lambda path: client.get(path).text


@pytest.mark.parametrize("kind", ["starlette", "httpx-async", "httpx-wsgi", "httpx-flask", "flask"])
def test_a_client_is_signed_in_until_it_signs_out(kind: str, tmp_path: Path) -> None:
    client, get = made(kind, "memory", tmp_path)
    assert session_of(client) is None
    signed_in = login_as(client, "ada", cart=["book"])
    assert get("/me") == "ada"
    stored = session_of(client)
    assert stored is not None
    assert stored.id == signed_in.id
    assert dict(stored) == {"cart": ["book"], "seen": True}
    get("/leave")
    assert session_of(client) is None
    assert get("/me") == "None"
    anonymous = session_of(client)
    assert anonymous is not None
    assert anonymous.id != signed_in.id


def test_a_second_login_replaces_the_first_and_none_is_nobody(tmp_path: Path) -> None:
    client, get = made("starlette", "memory", tmp_path)
    login_as(client, "ada")
    login_as(client, 7)
    assert get("/me") == "7"
    login_as(client, None, step=2)
    assert get("/me") == "None"
    assert session_of(client)["step"] == 2  # type: ignore[index]


def test_an_app_over_sqlite_is_served_too_and_its_file_is_closed(tmp_path: Path) -> None:
    client, get = made("starlette", "sqlite", tmp_path)
    with client:
        login_as(client, "ada")
        assert get("/me") == "ada"
        assert session_of(client)["seen"] is True
    assert session_of(client)["seen"] is True


def test_a_secure_cookie_and_an_http_client_are_told_apart_from_a_lost_login() -> None:
    client = TestClient(starlette_app(secret_key="k" * 32, https_only=True))
    with pytest.raises(ConfigurationError, match=r'base_url is http://testserver.* base_url="https://'):
        login_as(client, "ada")


def test_a_client_without_a_base_url_and_one_of_another_domain_are_refused() -> None:
    bare = httpx.Client(transport=httpx.WSGITransport(flask_app()))
    with pytest.raises(ConfigurationError, match="it has no base_url"):
        login_as(bare, "ada")
    abroad = TestClient(starlette_app(secret_key="k" * 32, domain="example.com"), base_url=HTTPS)
    with pytest.raises(ConfigurationError, match=r"refuses a cookie for domain='example\.com'"):
        login_as(abroad, "ada")


def test_what_is_no_client_and_an_app_without_sessions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="client: found str"):
        login_as("client", "ada")
    with pytest.raises(ConfigurationError, match="no session middleware was found"):
        login_as(TestClient(Starlette()), "ada")
    with pytest.raises(ConfigurationError, match="call init_app"):
        login_as(Flask("bare").test_client(), "ada")


def test_a_manager_may_be_passed_or_kept_in_the_state_of_the_app() -> None:
    manager = make_manager()
    app = SessionMiddleware(Starlette(routes=[Route("/me", me)]), manager=manager)

    async def hides(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    hidden = TestClient(hides)
    login_as(hidden, "ada", manager=manager)
    assert hidden.get("/me").text == "ada"
    apart = Starlette()
    apart.state.session_manager = manager
    assert login_as(TestClient(apart), "bob").manager is manager


def test_what_another_key_signed_and_what_was_superseded_opens_nothing(tmp_path: Path) -> None:
    client, _ = made("starlette", "memory", tmp_path)
    signed_in = login_as(client, "ada")
    other = make_manager()
    assert session_of(client, manager=other) is None
    manager = signed_in.manager
    assert isinstance(manager, SessionManager)
    manager.blocking.delete_session(signed_in.id)
    assert session_of(client) is None


def test_flask_uses_the_manager_of_its_app() -> None:
    app = flask_app()
    assert login_as(app.test_client(), "ada").manager is manager_of(app)


@pytest.mark.parametrize("where", ["memory", "sqlite"])
def test_a_manager_for_tests_stands_still_until_its_clock_is_moved(where: str, tmp_path: Path) -> None:
    backend = "memory://" if where == "memory" else f"sqlite:///{tmp_path}/sessions.db"
    manager = make_manager(backend=backend, idle_timeout=60)
    made = make_session(manager, "ada", cart=["book"])
    make_session(manager)
    assert (made.user_id, made["cart"]) == ("ada", ["book"])
    assert wait_for_cleanup(manager) == 0
    manager.clock.advance(2 * 3600)  # type: ignore[attr-defined]
    assert wait_for_cleanup(manager) == 2


def test_the_helpers_are_plain_calls_in_an_event_loop_too() -> None:
    async def test() -> str | None:
        manager = make_manager()
        async with manager:
            made = make_session(manager, "ada")
            found = await manager.get_session(made.id)
            return None if found is None else found.user_id

    assert asyncio.run(test()) == "ada"


def test_a_backend_that_only_awaits_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no blocking port"):
        make_session(make_manager(backend=broken.HesitantBackend()))


def test_pytest_finds_the_fixtures_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["session_middleware.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(
        "def test_it(session_manager, session_clock, session_events):\n"
        "    made = session_manager.blocking.create_session()\n"
        "    assert made.created_at == session_clock.now\n"
        "    assert [event.name for event in session_events] == ['session_created']\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path], capture_output=True, text=True, check=False
    )
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_the_helpers_import_neither_pytest_nor_a_framework() -> None:
    code = "import sys, session_middleware.testing; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pytest", "flask", "httpx", "httpx2"} & set(run.stdout.split())
