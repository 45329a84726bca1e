"""The ASGI entrance: Starlette, FastAPI, Litestar, any ASGI app.

Reading order: `SessionMiddleware` (its arguments, the lifespan), `Exchange` (one request or WebSocket: opened,
committed before the response leaves, committed again for what came late), then the headers.

`Exchange` is made for every request and does as little as it can: an app that does not look at the session pays
for one object and one look-up.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from fnmatch import translate
from math import ceil
from secrets import token_hex
from typing import Any, Literal, TypeAlias, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from session_middleware.activity import ActiveRequest
from session_middleware.backends.base import Backend, wrong_colour
from session_middleware.blocking import run_blocking
from session_middleware.cookies import CookieReading, CookieSettings, Credential
from session_middleware.errors import BackendError, ConfigurationError, SessionCapacityError, SessionError
from session_middleware.manager import SessionManager
from session_middleware.record import Record
from session_middleware.reporting import bind_request_context, unbind_request_context
from session_middleware.session import Fresh, Life, Session, SetCookie, UnreadSession

__all__ = ["SessionMiddleware"]

T = TypeVar("T")
Routes: TypeAlias = Sequence[str] | Callable[[Scope], bool]
"""Path patterns as in a shell (`/static/*`), or a function of the ASGI scope."""

_RETRY_AFTER = b"2"  # seconds
_PROCESS = token_hex(4)  # tells request ids of several processes apart
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_LOCAL = ("localhost", "127.", "::1", "testserver")


class SessionMiddleware:
    """Server-side sessions for an ASGI app; a drop-in for Starlette's own `SessionMiddleware`.

    The first nine arguments are Starlette's, in its order and with its defaults, but for `https_only`: None
    sends Secure whenever the request came by https. The rest is keyword-only:

    Args:
        backend: a backend object or a URL. Default `memory://`.
        manager: a configured `SessionManager`, instead of `secret_key`, `backend` and the options.
        optional: routes that work without a backend: while it is down they see an empty, read-only session.
        passive: routes that do not count as activity (polling): they renew nothing.
        skip: routes that have no session at all.
        eager: give every page its cookie at the first visit, before anything is written (Streamlit needs it).
        options: every option of `SessionManager`: `idle_timeout`, `fallback_keys`, `backend_timeout`, …

    Raises `ConfigurationError` naming the argument.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (Starlette's signature)
        self,
        app: ASGIApp,
        secret_key: object = None,
        session_cookie: str = "session",
        max_age: int | timedelta | None = 14 * 24 * 60 * 60,
        path: str = "/",
        same_site: Literal["lax", "strict", "none"] = "lax",
        https_only: bool | None = None,  # noqa: FBT001
        domain: str | None = None,
        partitioned: bool = False,  # noqa: FBT001, FBT002
        *,
        backend: Backend | str | None = None,
        manager: SessionManager | None = None,
        optional: Routes = (),
        passive: Routes = (),
        skip: Routes = (),
        eager: bool = False,
        **options: Any,
    ) -> None:
        self.app = app
        cookie = {
            "session_cookie": session_cookie,
            "max_age": max_age,
            "path": path,
            "same_site": same_site,
            "https_only": https_only,
            "domain": domain,
            "partitioned": partitioned,
        }
        self.manager = _manager_from(manager, secret_key, backend, cookie, options)
        self.codec = self.manager.codec
        self.name = self.manager.cookie.session_cookie
        self.immediate = self.manager.performer.port.immediate
        self.optional = _matcher("optional", optional)
        self.passive = _matcher("passive", passive)
        self.skip = _matcher("skip", skip)
        self.eager = eager
        limited = self.manager.max_requests_per_session is not None
        self.opens_first = not self.immediate or limited or eager
        self.warned_of_http = False
        self.next_cleanup = 0.0  # monotonic seconds; for apps without a lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind not in {"http", "websocket"} or self._is_served(scope):
            await self.app(scope, receive, send)
        else:
            await Exchange(self, scope, receive, send).run()

    def _is_served(self, scope: Scope) -> bool:
        """By an outer middleware of ours for the same cookie; or it is a route without a session."""
        served = scope.get("session_middleware")
        return (served is not None and self.name in served) or (self.skip is not None and self.skip(scope))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The manager lives as long as the app: it starts before the app's start-up and stops after its shutdown."""
        started = False

        async def receive_started() -> Message:
            nonlocal started
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.manager.start()
                except SessionError as problem:
                    await send({"type": "lifespan.startup.failed", "message": str(problem)})
                    raise
                started = True
            return message

        async def send_stopped(message: Message) -> None:
            nonlocal started
            if started and message["type"] != "lifespan.startup.complete":  # startup.failed, shutdown.*
                started = False
                await self.manager.stop()
            await send(message)

        try:
            await self.app(scope, receive_started, send_stopped)
        finally:
            if started:
                await self.manager.stop()


class Exchange(ActiveRequest):
    """One request or WebSocket and its session."""

    __slots__ = (
        "began",
        "closed",
        "context_bound",
        "disconnected",
        "kind",
        "middleware",
        "now",
        "promise",
        "receive",
        "refused",
        "scope",
        "send",
        "session",
        "started",
        "status",
    )

    def __init__(self, middleware: SessionMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope["path"])
        self.middleware = middleware
        self.scope = scope
        self.receive = receive
        self.send = send
        self.kind = scope["type"]
        self.started = False  # the response has left
        self.refused = False  # we answered instead of the app
        self.disconnected = False
        self.closed = False
        self.context_bound = False
        self.promise: Credential | None = None
        self.status = 0
        self.now = 0.0
        self.began = 0.0
        self.session: Session = UnreadSession(self._open_now)
        scope["session"] = self.session
        scope["session_middleware"] = {**scope.get("session_middleware", {}), middleware.name: self.session}

    # --- from beginning to end ---

    async def run(self) -> None:
        """Serve it."""
        middleware, manager = self.middleware, self.middleware.manager
        limit = manager.max_concurrent_requests
        if limit is not None and len(manager.activity) >= limit:
            await self._refuse(503, active=len(manager.activity), limit=limit)
            return
        manager.activity.enter(self)
        observed = manager.reporter.wants("request_started")
        if observed:
            self._observe("request_started")
        failed = True
        try:
            manager.heartbeat.ensure()
            if not middleware.opens_first or await self._open_first():
                await self._call_app()
            failed = False
        finally:
            try:
                await self._end(failed=failed and not self.disconnected)
            finally:
                manager.activity.leave(self)
                if self.context_bound:
                    unbind_request_context()
                if observed:
                    self._observe("request_finished")

    async def _call_app(self) -> None:
        receive = self._receive_socket if self.kind == "websocket" else self.receive
        try:
            await self.middleware.app(self.scope, receive, self._send)
        except (BackendError, SessionCapacityError) as problem:
            if self.started or self.refused:
                raise
            await self._refuse(503, problem=problem)

    async def _end(self, *, failed: bool) -> None:
        """Save what came after the response left, or with no response at all."""
        manager, session = self.middleware.manager, self.session
        if type(session) is UnreadSession or self.refused:
            return
        now = manager.clock()
        session.life.late = True
        await self._finish(manager.performer.commit_late(session, now, failed=failed))
        if not manager.is_started and self.kind == "http":
            await self._clean_up_now_and_then()

    async def _clean_up_now_and_then(self) -> None:
        """One small step after a response, where no lifespan runs the periodic cleanup."""
        middleware, manager = self.middleware, self.middleware.manager
        now = manager.monotonic()
        if now < middleware.next_cleanup:
            return
        first, middleware.next_cleanup = middleware.next_cleanup == 0.0, now + manager.cleaner.interval
        if not first:
            try:
                await self._finish(manager.cleanup_step())
            except BackendError as problem:
                manager.reporter.emit("sessions_cleanup_failed", None, None, manager.clock(), exception=problem)

    # --- opening ---

    async def _open_first(self) -> bool:
        """Load the session before the app runs; False if the request was answered instead."""
        manager = self.middleware.manager
        self.now = manager.clock()
        reading = self._read_cookies()
        if reading.credentials or reading.promises:
            try:
                life = await self._finish(manager.performer.open(reading, self.now))
            except BackendError as problem:
                if not (self.middleware.optional is not None and self.middleware.optional(self.scope)):
                    await self._refuse(503, problem=problem)
                    return False
                life = Life(manager.policy, manager)
                life.degraded = True
        else:
            life = Life(manager.policy, manager)
        limit, record = manager.max_requests_per_session, life.record
        if limit is not None and record is not None:
            active = len(manager.activity.holding(record.id))
            if active >= limit:
                await self._refuse(429, active=active, limit=limit)
                return False
        self.session.opener = lambda session: self._show(session, life)
        if limit is not None or (self.middleware.eager and self._is_navigation()):
            self.session.mark_accessed()
            self.session.accessed = False  # our own reads are no look
        return True

    def _open_now(self, session: Session) -> None:
        """The first look, over a backend that answers at once."""
        manager = self.middleware.manager
        self.now = manager.clock()
        reading = self._read_cookies()
        if reading.credentials or reading.promises:
            life = run_blocking(manager.performer.open(reading, self.now))
        else:
            life = Life(manager.policy, manager)
        self._show(session, life)

    def _read_cookies(self) -> CookieReading:
        manager = self.middleware.manager
        reading = self.middleware.codec.read(self.scope["headers"])
        for _ in range(reading.rejected):
            manager.reporter.emit(
                "session_suspicious_activity",
                None,
                None,
                self.now,
                activity_type="bad_signature",
                details={"path": self.path},
            )
        return reading

    def _show(self, session: Session, life: Life) -> None:
        manager = self.middleware.manager
        life.late = self.started
        life.passive = self.middleware.passive is not None and self.middleware.passive(self.scope)
        manager.performer.fill(session, life, self.now)
        self._hold()

    def _hold(self) -> None:
        """The request holds its session from the first look, or from the commit that made it."""
        manager, life = self.middleware.manager, self.session.life
        record = life.record
        if record is not None and record.id != self.session_id:
            manager.activity.hold(self, self.session, self.now)
        if manager.log_context:
            request_id = f"{_PROCESS}-{self.number}"
            bind_request_context(*_who(record), request_id)
            self.context_bound = True

    # --- the response ---

    def _send(self, message: Message) -> Awaitable[None]:
        if self.started or message["type"] not in _STARTS:
            return self.send(message) if not (self.refused or self.closed) else _dropped()
        return self._start(message)

    async def _start(self, message: Message) -> None:
        """Commit, then let the response leave with what that made of the cookie."""
        if self.refused or self.closed:
            return
        self.status = message.get("status", 101)
        if type(self.session) is not UnreadSession:
            try:
                await self._commit()
            except BackendError as problem:
                await self._refuse(503, problem=problem)
                return
            message = self._with_headers(message)
            self.session.life.late = True
        self.started = True
        await self.send(message)

    async def _commit(self) -> None:
        manager = self.middleware.manager
        self.now = manager.clock()
        await self._finish(manager.performer.commit(self.session, self.now, failed=self.status >= 500))
        if self.session_id is None:
            self._hold()

    def _finish(self, operation: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run it to its end although this request may be cancelled; at once where nothing suspends."""
        return operation if self.middleware.immediate else self.middleware.manager.finisher.finish(operation)

    def _with_headers(self, message: Message) -> Message:
        life, accessed = self.session.life, self.session.accessed
        cookie = self._set_cookie()
        if cookie is None and not accessed:
            return message
        headers = [(bytes(name), bytes(value)) for name, value in message.get("headers") or ()]
        if cookie is not None:
            ours = self.middleware.codec.names_our_cookie
            headers = [(name, value) for name, value in headers if name.lower() != b"set-cookie" or not ours(value)]
            headers.append((b"set-cookie", cookie))
            _forbid_storing(headers)
        _vary_by_cookie(headers)
        life.owed = None
        return {**message, "headers": headers}

    def _set_cookie(self) -> bytes | None:
        """The Set-Cookie this response owes, or None."""
        codec, owed = self.middleware.codec, self.session.life.owed
        if owed is None:
            return self._promise() if self.middleware.eager else None
        secure = self._is_secure()
        if not isinstance(owed, SetCookie):
            return codec.remove_cookie(secure=secure)
        max_age = self.middleware.manager.cookie.max_age
        if max_age is not None and max_age > 0:
            max_age = max(0, min(max_age, ceil(owed.deadline - self.now)))
        credential = Credential(owed.id, owed.secret, owed.generation)
        return codec.set_cookie(credential, max_age=max_age, secure=secure)

    def _promise(self) -> bytes | None:
        """A cookie for a visitor who has none, under which the first write will create the session."""
        life = self.session.life
        if not (isinstance(life.opening, Fresh) and life.opening.promised is None and self._is_navigation()):
            return None
        id_, secret = self.middleware.manager.mint()
        life.opening = Fresh(promised=(id_, secret))
        credential = Credential(id_, secret, int(self.now * 1000))
        return self.middleware.codec.set_promise(credential, secure=self._is_secure())

    def _is_navigation(self) -> bool:
        if self.kind != "http" or self.scope["method"] != "GET":
            return False
        return any(name == b"accept" and b"text/html" in value for name, value in self.scope["headers"])

    def _is_secure(self) -> bool:
        https = self.scope.get("scheme") in {"https", "wss"}
        if not (https or self.middleware.warned_of_http) and self.middleware.manager.cookie.https_only is not False:
            self._warn_of_http()
        return self.middleware.codec.sends_secure(https)

    def _warn_of_http(self) -> None:
        host = next((value.decode("latin-1") for name, value in self.scope["headers"] if name == b"host"), "")
        if host.strip("[]").startswith(_LOCAL):
            return
        self.middleware.warned_of_http = True
        self.middleware.manager.reporter.emit(
            "session_suspicious_activity",
            None,
            None,
            self.now,
            activity_type="insecure_transport",
            details={"host": host, "remedy": "serve by https, or trust the proxy's X-Forwarded-Proto"},
        )

    # --- instead of the app's response ---

    async def _refuse(self, status: int, *, problem: Exception | None = None, **figures: object) -> None:
        """Answer 503 or 429 ourselves (a WebSocket: close 1013); the cookie stays as it is."""
        self.refused = True
        self.status = status
        if problem is None:
            self._observe("request_refused", status=status, **figures)
        elif isinstance(problem, BackendError):
            self._report_outage(problem)
        if self.kind == "websocket":
            await self.send({"type": "websocket.close", "code": 1013, "reason": _PHRASES[status].decode()})
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(_PHRASES[status])),
            (b"retry-after", _RETRY_AFTER),
            (b"cache-control", b"no-store"),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": _PHRASES[status]})

    def _report_outage(self, problem: BackendError) -> None:
        manager = self.middleware.manager
        operation = "commit" if type(self.session) is not UnreadSession else "load"
        manager.reporter.emit(
            "backend_unavailable", None, None, manager.clock(), operation=operation, exception=problem
        )

    # --- WebSockets ---

    async def _receive_socket(self) -> Message:
        if self.closed:
            return {"type": "websocket.disconnect", "code": 1008}
        message = await self.receive()
        if message["type"] == "websocket.disconnect":
            self.disconnected = True
        return message

    async def revoke(self) -> None:
        """Close the WebSocket whose session was ended. An HTTP request is left to finish."""
        if self.kind == "websocket" and self.started and not (self.closed or self.disconnected):
            self.closed = True
            await self.send({"type": "websocket.close", "code": 1008, "reason": "session ended"})

    # --- events ---

    def _observe(self, name: str, **figures: object) -> None:
        manager, session = self.middleware.manager, self.session
        record = None if type(session) is UnreadSession else session.life.record
        now = manager.clock()
        fields: dict[str, object] = {"method": self.scope.get("method", "WEBSOCKET"), "path": self.path, **figures}
        if name == "request_finished":
            fields |= {"status": self.status, "duration": now - self.began}
        else:
            self.began = now
        manager.reporter.emit(name, *_who(record), now, **fields)


_PHRASES = {429: b"Too many requests for one session", 503: b"Service unavailable, try again in a moment"}


def _who(record: Record | None) -> tuple[str | None, str | None]:
    return (None, None) if record is None else (record.id, record.user_id)


async def _dropped() -> None:
    """What becomes of a message after we answered instead of the app."""


def _vary_by_cookie(headers: list[tuple[bytes, bytes]]) -> None:
    """Caches must tell visitors apart (CVE-2023-30861). Extends the app's own Vary."""
    for index, (name, value) in enumerate(headers):
        if name.lower() == b"vary":
            listed = [item.strip().lower() for item in value.split(b",")]
            if b"*" not in listed and b"cookie" not in listed:
                headers[index] = (name, value + b", Cookie")
            return
    headers.append((b"vary", b"Cookie"))


def _forbid_storing(headers: list[tuple[bytes, bytes]]) -> None:
    """No shared cache may keep a response that sets a session cookie."""
    kept = [value.lower() for name, value in headers if name.lower() == b"cache-control"]
    if any(b"private" in value or b"no-store" in value for value in kept):
        return
    headers[:] = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
    headers.append((b"cache-control", b"no-store"))


def _matcher(argument: str, routes: Routes) -> Callable[[Scope], bool] | None:
    if callable(routes):
        return routes
    if isinstance(routes, str) or not all(isinstance(pattern, str) for pattern in routes):
        raise ConfigurationError(f"{argument}: pass a list of path patterns (such as ['/static/*']) or scope -> bool")
    if not routes:
        return None
    matches = re.compile("|".join(translate(pattern) for pattern in routes)).match
    return lambda scope: matches(scope["path"]) is not None


def _manager_from(
    manager: SessionManager | None,
    secret_key: object,
    backend: Backend | str | None,
    cookie: dict[str, Any],
    options: dict[str, Any],
) -> SessionManager:
    if manager is None:
        if secret_key is None:
            raise ConfigurationError("secret_key: pass the key that signs the cookies, or a manager that has one")
        chosen: Backend | str = "memory://" if backend is None else backend
        manager = SessionManager(chosen, secret_key=secret_key, **cookie, **options)
    elif not isinstance(manager, SessionManager):
        raise ConfigurationError(f"manager: found {type(manager).__name__}, pass a SessionManager")
    else:
        given = [name for name, value in cookie.items() if value != getattr(_STARLETTE, name)]
        given += [name for name, value in (("secret_key", secret_key), ("backend", backend)) if value is not None]
        if given or options:
            raise ConfigurationError(f"{[*given, *options][0]}: the manager has it already; set it there, not here")
    if "async" not in manager.backend.colours:
        raise wrong_colour(manager.backend, "async")
    return manager


_STARLETTE = CookieSettings()
