"""Litestar over Redis and Django over PostgreSQL: the sessions each brings, and ours around the same app.

Reading order: `in_litestar`, `in_django`; each yields a bare app of the framework, that with its own sessions
and that with ours, over the same server. What the framework itself costs is in all three.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from session_middleware import SessionMiddleware
from tests.benchmarks.apps import BARE, PAGES, Candidate, Page, ignore
from tests.benchmarks.traffic import live
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

__all__ = ["DJANGO", "LITESTAR", "OURS_DJANGO", "OURS_LITESTAR", "in_django", "in_litestar"]

LITESTAR, OURS_LITESTAR = "Litestar, Redis", "ours in Litestar, Redis"
DJANGO, OURS_DJANGO = "Django, PostgreSQL", "ours in Django, PostgreSQL"
_KEY: Final = secrets.token_urlsafe(32)
_EACH: Final = frozenset(
    {"none", "untouched", "read", "write", "new"}
)  # Litestar begins one for whoever comes


def _shown(page: Page, session: Any) -> str:
    """What a page answers, over any kind of session."""
    return page(cast("Request", SimpleNamespace(session=session))).decode()


# --- Litestar ---


@contextmanager
def in_litestar(redis: RedisServer) -> Iterator[list[Candidate]]:
    """Bare, its server-side sessions, ours."""
    from litestar import Litestar
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.redis import RedisStore

    config = ServerSideSessionConfig(store="sessions")
    own = Litestar(
        _litestar_pages(lambda request: request.session),
        middleware=[config.middleware],
        stores={"sessions": RedisStore.with_client(redis.new_store())},
    )
    within = Litestar(_litestar_pages(lambda request: request.scope["session"]))
    yield [
        Candidate(BARE, Litestar(_litestar_pages(None)), frozenset(), has_session=False),
        Candidate(LITESTAR, own, _EACH),
        Candidate(
            OURS_LITESTAR, SessionMiddleware(within, _KEY, backend=redis.new_store()), frozenset({"new"})
        ),
    ]


def _litestar_pages(session_of: Callable[[Any], Any] | None) -> list[Any]:
    from litestar import MediaType, get
    from litestar import Request as LitestarRequest

    def handler(path: str, page: Page) -> Any:
        async def shown(request: LitestarRequest[Any, Any, Any]) -> str:
            if session_of is None or page is ignore:
                return ignore(cast("Request", None)).decode()
            return _shown(page, session_of(request))

        shown.__annotations__ = {"request": LitestarRequest, "return": str}
        return get(path, media_type=MediaType.TEXT)(shown)

    return [handler(path, page) for path, page in PAGES.items()]


# --- Django ---


@contextmanager
def in_django(postgres: PostgresServer) -> Iterator[list[Candidate]]:
    """Bare, its sessions in a database, ours. With a pool: else each request opens a connection."""
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections
    from django.test.utils import override_settings

    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DATABASES={"default": _database(postgres)},
            INSTALLED_APPS=["django.contrib.sessions"],
            ROOT_URLCONF=_urls_of(None).__name__,
            SECRET_KEY=_KEY,
            SESSION_COOKIE_NAME="session",
        )
        django.setup()
    call_command("migrate", verbosity=0)
    with override_settings(MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"]):
        own = _django_app(_urls_of(lambda request: request.session))
    bare, within = (
        _django_app(_urls_of(None)),
        _django_app(_urls_of(lambda request: request.scope["session"])),
    )
    try:
        yield [
            Candidate(BARE, bare, frozenset(), has_session=False),
            Candidate(DJANGO, own, frozenset({"write", "new"})),
            Candidate(
                OURS_DJANGO, SessionMiddleware(within, _KEY, backend=postgres.new_store()), frozenset({"new"})
            ),
        ]
    finally:
        connections.close_all()


def _database(postgres: PostgresServer) -> dict[str, Any]:
    address, _, options = postgres.new_store().partition("?options=")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "tests",
        "HOST": "127.0.0.1",
        "PORT": address.rpartition(":")[2].partition("/")[0],
        "OPTIONS": {"options": options.replace("%3D", "="), "pool": True},
    }


def _urls_of(session_of: Callable[[Any], Any] | None) -> ModuleType:
    """A module of addresses, as Django wants one."""
    from django.http import HttpResponse
    from django.urls import path

    def view(page: Page) -> Any:
        def shown(request: Any) -> Any:
            if session_of is None or page is ignore:
                return HttpResponse(ignore(request))
            session = session_of(request)
            if page is PAGES["/show"]:
                return HttpResponse(repr(sorted(session.keys())))
            return HttpResponse(_shown(page, session))

        return shown

    name = f"benchmark_urls_{secrets.token_hex(4)}"
    module: Any = ModuleType(name)
    module.urlpatterns = [path(address.lstrip("/"), view(page)) for address, page in PAGES.items()]
    sys.modules[name] = module
    return cast("ModuleType", module)


def _django_app(urls: ModuleType) -> ASGIApp:
    """Django's own handler, which knows no lifespan, over these addresses."""
    from django.core.handlers.asgi import ASGIHandler
    from django.http import HttpRequest

    class Handler(ASGIHandler):
        def create_request(self, scope: Any, body_file: Any) -> Any:
            request, error = super().create_request(scope, body_file)
            if isinstance(request, HttpRequest):
                request.urlconf = urls.__name__  # type: ignore[attr-defined]  # what Django looks at
            return request, error

    handler = Handler()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
        else:
            await handler(scope, _once(receive), send)

    return app


def _once(receive: Receive) -> Receive:
    """The request, and then a client who waits for the answer: Django listens for one who leaves."""
    messages = [receive]

    async def received() -> Message:
        if messages:
            return await messages.pop()()
        return await asyncio.Event().wait()  # type: ignore[return-value]  # it never comes

    return received
