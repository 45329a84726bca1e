"""The WSGI entrance: any WSGI app, in threads or processes, without an event loop.

    app = WSGISessionMiddleware(app, secret_key=KEY, backend="sqlite:///sessions.db")

`environ["session"]` is the session. What happens to a request is in `wsgi_exchange`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Literal, Unpack

from session_middleware.arguments import Monitored, Routes, manager_from, matcher, watch
from session_middleware.backends.base import Backend
from session_middleware.errors import ConfigurationError
from session_middleware.manager import ManagerOptions, SessionManager
from session_middleware.wsgi_exchange import (
    Environ,
    PlainEntrance,
    StartResponse,
    WSGIApp,
    WSGIExchange,
    facts_of,
)

__all__ = ["WSGISessionMiddleware"]


class WSGISessionMiddleware:
    """Server-side sessions for a WSGI app: `environ["session"]`.

    The arguments are those of `SessionMiddleware`, with the same defaults. Routes are path patterns as in a
    shell, or functions of the environ:

    Args:
        backend: a backend object or a URL. Default `memory://`.
        manager: a configured `SessionManager`, instead of `secret_key`, `backend` and the options.
        optional: routes that work without a backend: while it is down they see an empty, read-only session.
        passive: routes that do not count as activity (polling): they renew nothing.
        skip: routes that have no session at all.
        monitor: takes in the events: a `SessionMonitor`; True, the default, is that of the process
            (`get_session_monitor`) where the extra `monitor` is installed; False: none.
        options: every option of `SessionManager`: `idle_timeout`, `fallback_keys`, …

    Expired sessions are cleaned up by a daemon thread, which begins with the first request of a process.

    Raises `ConfigurationError` naming the argument.
    """

    def __init__(
        self,
        app: WSGIApp,
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
        monitor: Monitored = True,
        **options: Unpack[ManagerOptions],
    ) -> None:
        if not callable(app):
            raise ConfigurationError(
                f"app: found {type(app).__name__}, pass the WSGI app that this middleware wraps"
            )
        cookie = {
            "session_cookie": session_cookie,
            "max_age": max_age,
            "path": path,
            "same_site": same_site,
            "https_only": https_only,
            "domain": domain,
            "partitioned": partitioned,
        }
        self.app = app
        self.manager = manager_from(manager, secret_key, backend, cookie, options, "blocking")
        watch(self.manager, monitor)
        self._skip = matcher("skip", skip, "environ")
        self._entrance = PlainEntrance(
            self.manager,
            optional=matcher("optional", optional, "environ"),
            passive=matcher("passive", passive, "environ"),
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if self._entrance.name in environ.get("session_middleware", ()):
            return self.app(environ, start_response)  # an outer middleware of ours serves this cookie
        if self._skip is not None and self._skip(facts_of(environ)):
            return self.app(environ, start_response)
        return WSGIExchange(self._entrance, environ, start_response).serve(self.app)
