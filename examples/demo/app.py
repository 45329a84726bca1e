"""What each button of the demo does: plain session code over Starlette, a line or two each.

Reading order: `create_app` (the routes and the middleware), the handlers, what the page is told (`state`),
and `SameOrigin`, which keeps other sites from pressing the buttons.

Everything that changes something is a POST; the page shows what `GET /state` answers.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from session_middleware import Session, SessionManager, SessionMiddleware

from .live import Feed, stream

USERS = {"ada": "Ada", "grace": "Grace", "linus": "Linus"}
SHOP = {"notebook": "Notebook", "pen": "Fountain pen", "lamp": "Desk lamp", "tea": "Green tea"}
SLOW = 4.0  # seconds
MAX_QUANTITY = 99
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def create_app(
    manager: SessionManager, feed: Feed, *, pause: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> Starlette:
    """The demo. *pause* is what the slow request does for some seconds; tests pass another one."""
    manager.subscribe(None, feed.hear)
    app = Starlette(
        routes=[
            *(Route(path, page_file(name)) for path, name in (("/", "page.html"), *FILES)),
            Route("/state", state),
            Route("/events", stream),
            Route("/sign-in/{user}", sign_in, methods=["POST"]),
            Route("/sign-out", sign_out, methods=["POST"]),
            Route("/visits", visit, methods=["POST"]),
            Route("/cart/{item}/add", add_to_cart, methods=["POST"]),
            Route("/cart/{item}/remove", remove_from_cart, methods=["POST"]),
            Route("/devices/others/sign-out", sign_out_others, methods=["POST"]),
            Route("/devices/{id}/sign-out", sign_out_device, methods=["POST"]),
            Route("/slow", slow, methods=["POST"]),
        ],
        middleware=[
            # Without this, a site that lets its own name resolve to 127.0.0.1 would be "the same origin".
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
            Middleware(SameOrigin),
            # What the page asks for by itself is no activity of the visitor.
            Middleware(SessionMiddleware, manager=manager, passive=["/state", "/events"]),
        ],
    )
    app.state.manager, app.state.feed, app.state.pause = manager, feed, pause
    app.state.started_at = time.time()
    return app


# --- who you are ---


async def sign_in(request: Request) -> Response:
    session = session_of(request)
    session.login(one_of(USERS, request.path_params["user"]))
    session.metadata["user_agent"] = request.headers.get("user-agent", "")[:200]
    return Response(status_code=204)


async def sign_out(request: Request) -> Response:
    session_of(request).logout()
    return Response(status_code=204)


# --- what a session keeps ---


async def visit(request: Request) -> Response:
    session_of(request).increment("visits")  # adds in the backend: parallel ones add up
    return Response(status_code=204)


async def add_to_cart(request: Request) -> Response:
    item = one_of(SHOP, request.path_params["item"])
    cart = session_of(request).setdefault("cart", {})
    cart[item] = min(cart.get(item, 0) + 1, MAX_QUANTITY)  # a change inside a value: it is found and saved
    return Response(status_code=204)


async def remove_from_cart(request: Request) -> Response:
    item = one_of(SHOP, request.path_params["item"])
    cart = session_of(request).get("cart", {})
    if cart.get(item, 0) > 1:
        cart[item] -= 1
    else:
        cart.pop(item, None)
    return Response(status_code=204)


# --- my devices ---


async def sign_out_device(request: Request) -> Response:
    session, chosen = session_of(request), request.path_params["id"]
    if chosen == session.id:
        session.logout()
    elif not await manager_of(request).delete_session(chosen, "revoked", user_id=signed_in(session)):
        raise HTTPException(404, "That device is signed out already.")
    return Response(status_code=204)


async def sign_out_others(request: Request) -> Response:
    session = session_of(request)
    await manager_of(request).delete_user_sessions(signed_in(session), keep=[session])
    return Response(status_code=204)


# --- the race ---


async def slow(request: Request) -> Response:
    """Loads the session, takes its time, writes into it: a session that was ended meanwhile stays dead."""
    session = session_of(request)
    signed_in(session)
    await request.app.state.pause(SLOW)
    session["note"] = "written by the slow request"
    return JSONResponse({"saved": await manager_of(request).save(session)})


# --- what the page is told ---


async def state(request: Request) -> Response:
    session, manager = session_of(request), manager_of(request)
    shown = {
        "now": time.time(),
        "started_at": request.app.state.started_at,
        "slow": SLOW,
        "users": USERS,
        "shop": SHOP,
        "ended_because": session.ended_because,
        "session": None if session.is_new else about(session),
        "visits": session.get("visits", 0),
        "cart": session.get("cart", {}),
        "devices": await devices(session, manager),
    }
    return JSONResponse(shown, headers={"cache-control": "no-store"})


def about(session: Session) -> dict[str, object]:
    policy = session.manager.policy
    began = session.authenticated_at or session.created_at or 0.0  # a login moves the absolute deadline
    return {
        "id": session.id,
        "user": session.user_id,
        "created_at": session.created_at,
        "expires_at": session.expires_at,
        "idle_timeout": policy.idle_timeout,
        "absolute_deadline": began + policy.absolute_timeout,
        "absolute_timeout": policy.absolute_timeout,
    }


async def devices(session: Session, manager: SessionManager) -> list[dict[str, object]]:
    if session.user_id is None:
        return []
    return [
        {
            "id": one.id,
            "browser": browser_name(str(one.metadata.get("user_agent", ""))),
            "signed_in_at": one.authenticated_at,
            "seen_at": one.last_activity,
            "is_this": one.id == session.id,
        }
        for one in await manager.get_user_sessions(session.user_id)
    ]


def browser_name(user_agent: str) -> str:
    """What people call it. Browsers also name those they are compatible with, so the order matters."""
    browser = first(r"(Edg|OPR|Firefox|Chrome|Safari|curl)\w*/", user_agent, BROWSERS) or "Unknown browser"
    system = first(r"(Android|iPhone|iPad|Windows|Mac OS X|CrOS|Linux)", user_agent, SYSTEMS)
    return f"{browser} on {system}" if system else browser


def first(pattern: str, text: str, names: dict[str, str]) -> str | None:
    found = set(re.findall(pattern, text))
    return next((name for key, name in names.items() if key in found), None)


BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "Chrome": "Chrome",
    "Safari": "Safari",
    "curl": "curl",
}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS X": "macOS",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}


# --- small things ---

HERE = Path(__file__).parent
FILES = (("/page.css", "page.css"), ("/page.js", "page.js"))


def page_file(name: str) -> Callable[[Request], Response]:
    def respond(_request: Request) -> Response:
        return FileResponse(HERE / name, headers=HEADERS)

    return respond


def session_of(request: Request) -> Session:
    session: Session = request.session  # type: ignore[assignment]  # Starlette calls it a dict
    return session


def manager_of(request: Request) -> SessionManager:
    manager: SessionManager = request.app.state.manager
    return manager


def signed_in(session: Session) -> str:
    if session.user_id is None:
        raise HTTPException(401, "You are signed out. Sign in first.")
    return session.user_id


def one_of(known: dict[str, str], name: str) -> str:
    if name not in known:
        raise HTTPException(404, "There is no such thing here.")
    return name


class SameOrigin:
    """Refuses to change anything for a page of another site. The cookie's SameSite=Lax is the second lock."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["method"] == "POST" and not is_same_origin(Headers(scope=scope)):
            app = PlainTextResponse("Refused: this request comes from another site.", 403)
        await app(scope, receive, send)


def is_same_origin(headers: Headers) -> bool:
    """By what the browser says of the page that asks. Who sends neither header is no browser."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site == "same-origin"
    return origin is None or urlsplit(origin).netloc == headers.get("host")
