"""Makes old cookies with the packages whose they are: real apps that write real sessions."""

from collections.abc import Mapping
from typing import Any

import flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

OLD_KEY = "the key of the app as it was, kept for a while"


def starlette_cookie(values: Mapping[str, Any], key: str = OLD_KEY) -> str:
    """What Starlette's own middleware sets for a session of these values."""

    async def page(request: Request) -> Response:
        request.session.update(values)
        return Response()

    app = Starlette(
        routes=[Route("/", page)],
        middleware=[Middleware(StarlettesOwn, secret_key=key, session_cookie="old")],
    )
    with TestClient(app) as client:
        client.get("/")
        return str(client.cookies["old"])


def flask_cookie(values: Mapping[str, Any], key: str = OLD_KEY) -> str:
    """What Flask's own session interface sets for a session of these values."""
    app = flask.Flask(__name__)
    app.secret_key = key

    @app.get("/")
    def page() -> str:
        flask.session.update(values)
        return ""

    client = app.test_client()
    client.get("/")
    cookie = client.get_cookie("session")
    assert cookie is not None
    return cookie.value
