"""Quart under `SessionMiddleware`, as the docs say."""

from typing import Any

import pytest
import quart

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend
from tests.asgi.harness import KEY

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(backend: Backend) -> Any:
    app = quart.Quart(__name__)
    app.manager = SessionManager(backend, secret_key=KEY, log=False)

    @app.post("/login/<user>")
    async def login(user: str) -> str:
        quart.request.scope["session"].login(user)
        return user

    @app.post("/logout")
    async def logout() -> str:
        quart.request.scope["session"].logout()
        return ""

    @app.get("/visits")
    async def visits() -> dict[str, Any]:
        session = quart.request.scope["session"]
        return {"user": session.user_id, "visits": session.increment("visits")}

    @app.get("/own")
    async def own() -> str:
        quart.session["own"] = 1
        return ""

    @app.websocket("/ws")
    async def ws() -> None:
        session = quart.websocket.scope["session"]
        session["said"] = await quart.websocket.receive()
        await quart.websocket.send(str(session.user_id))

    app.secret_key = KEY
    app.asgi_app = SessionMiddleware(app.asgi_app, manager=app.manager, session_cookie="session")
    return app


async def test_a_login_lasts_and_a_logout_stays_a_logout(app: Any) -> None:
    async with app.test_app() as running:
        client = running.test_client()
        assert (await client.post("/login/ann")).headers["set-cookie"].startswith("session=")
        stolen = next(iter(client.cookie_jar)).value
        assert await (await client.get("/visits")).get_json() == {"user": "ann", "visits": 1}
        assert await (await client.get("/visits")).get_json() == {"user": "ann", "visits": 2}
        await client.post("/logout")
        client.set_cookie("localhost", "session", stolen)
        assert await (await client.get("/visits")).get_json() == {"user": None, "visits": 1}


async def test_what_a_websocket_changes_is_saved(app: Any) -> None:
    async with app.test_app() as running:
        client = running.test_client()
        await client.post("/login/ann")
        async with client.websocket("/ws") as socket:
            await socket.send("hello")
            assert await socket.receive() == "ann"
        [session] = await app.manager.get_user_sessions("ann")
        assert session["said"] == "hello"


async def test_quarts_own_session_lives_beside_it_under_another_name(app: Any) -> None:
    app.config["SESSION_COOKIE_NAME"] = "own"
    async with app.test_app() as running:
        client = running.test_client()
        await client.post("/login/ann")
        await client.get("/own")
        assert {cookie.name for cookie in client.cookie_jar} == {"session", "own"}
        assert (await (await client.get("/visits")).get_json())["user"] == "ann"
