"""The ASGI entrance: Starlette, FastAPI, Litestar, any ASGI app.

Reading order: `SessionMiddleware` (its arguments), `_Lifespan`, the checks of arguments. What happens to a
request is in `exchange`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Unpack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from session_middleware.arguments import Monitored, Routes, manager_from, matcher, watch
from session_middleware.backends.base import Backend
from session_middleware.errors import ConfigurationError
from session_middleware.exchange import Entrance, Exchange
from session_middleware.manager import ManagerOptions, SessionManager
from session_middleware.policy import flag
from session_middleware.sockets import announced

__all__ = ["SessionMiddleware"]


class SessionMiddleware(Entrance):
    """Server-side sessions for an ASGI app; a drop-in for Starlette's own `SessionMiddleware`.

    The first nine arguments are Starlette's, in its order and with its defaults, but for `https_only`: None
    sends Secure whenever the request came by https. The rest is keyword-only:

    Args:
        backend: a backend object or a URL. Default `memory://`.
        manager: a configured `SessionManager`, instead of `secret_key`, `backend` and the options.
        optional: routes that work without a backend: while it is down they see an empty, read-only session.
        passive: routes that do not count as activity (polling): they renew nothing.
        skip: routes that have no session at all.
        monitor: takes in the events: a `SessionMonitor`; True, the default, is that of the process
            (`get_session_monitor`) where the extra `monitor` is installed; False: none.
        eager: give every page its cookie at the first visit, before anything is written (Streamlit needs it).
        options: every option of `SessionManager`: `idle_timeout`, `fallback_keys`, `backend_timeout`, …

    Raises `ConfigurationError` naming the argument.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: object = None,
        session_cookie: str = "session",
        max_age: int | timedelta | None = 14 * 24 * 60 * 60,
        path: str = "/",
        same_site: Literal["lax", "strict", "none"] = "lax",
        https_only: bool | None = None,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        backend: Backend | str | None = None,
        manager: SessionManager | None = None,
        optional: Routes = (),
        passive: Routes = (),
        skip: Routes = (),
        eager: bool = False,
        monitor: Monitored = True,
        **options: Unpack[ManagerOptions],
    ) -> None:
        cookie = {
            "session_cookie": session_cookie,
            "max_age": max_age,
            "path": path,
            "same_site": same_site,
            "https_only": https_only,
            "domain": domain,
            "partitioned": partitioned,
        }
        super().__init__(
            _app(app),
            manager_from(manager, secret_key, backend, cookie, options, "async"),
            optional=matcher("optional", optional),
            passive=matcher("passive", passive),
            eager=flag("eager", eager),
        )
        self.skip = matcher("skip", skip)
        watch(self.manager, monitor)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await _Lifespan(self, receive, send).run(scope)
        elif kind not in {"http", "websocket"} or self._is_served(scope):
            await self.app(scope, receive, send)
        elif self.eager and kind == "websocket":
            exchange = Exchange(self, scope, receive, send)
            with announced(exchange):
                await exchange.run()
        else:
            await Exchange(self, scope, receive, send).run()

    def _is_served(self, scope: Scope) -> bool:
        """By an outer middleware of ours for the same cookie; or it is a route without a session."""
        served = scope.get("session_middleware")
        return (served is not None and self.name in served) or (self.skip is not None and self.skip(scope))


class _Lifespan:
    """The manager lives as long as the app: it starts before the app's start-up, stops after its shutdown."""

    def __init__(self, middleware: SessionMiddleware, receive: Receive, send: Send) -> None:
        self.middleware = middleware
        self.receive = receive
        self.send = send
        self.runs = False
        self.failed = False

    async def run(self, scope: Scope) -> None:
        try:
            await self.middleware.app(scope, self._receive, self._send)
        finally:
            await self._stop()

    async def _receive(self) -> Message:
        message = await self.receive()
        if message["type"] == "lifespan.startup":
            await self._start()
        return message

    async def _start(self) -> None:
        try:
            await self.middleware.manager.start()
        except Exception as problem:
            self.failed = True
            await self.send({"type": "lifespan.startup.failed", "message": str(problem)})
            raise
        self.runs = True
        if self.middleware.weak_key is not None:
            self.middleware.warn_of_weak_key()

    async def _send(self, message: Message) -> None:
        if self.failed:
            return  # the server was told why; the app would tell it again
        if message["type"] != "lifespan.startup.complete":  # startup.failed, shutdown.*
            await self._stop()
        await self.send(message)

    async def _stop(self) -> None:
        if self.runs:
            self.runs = False
            await self.middleware.manager.stop()


def _app(app: ASGIApp) -> ASGIApp:
    if not callable(app):
        raise ConfigurationError(
            f"app: found {type(app).__name__}, pass the ASGI app that this middleware wraps"
        )
    return app
