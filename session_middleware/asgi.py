"""The ASGI entrance: Starlette, FastAPI, Litestar, any ASGI app.

Reading order: `SessionMiddleware` (its arguments), `_Lifespan`, `Exchange` (one request or WebSocket: opened,
committed before the response leaves, committed again for what came late), then the checks of arguments.

`Exchange` is made for every request and does as little as it can: an app that does not look at the session
pays for one object and one look-up.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from fnmatch import translate
from math import ceil
from secrets import token_hex
from typing import Any, Literal, TypeAlias, TypeVar

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from session_middleware.activity import ActiveRequest
from session_middleware.backends.base import Backend, wrong_colour
from session_middleware.blocking import run_blocking
from session_middleware.cookies import LOOKED_AT_MOST, CookieReading, CookieSettings, Credential
from session_middleware.errors import BackendError, ConfigurationError, SessionCapacityError
from session_middleware.headers import Headers, forbid_storing, host_of, is_local, vary_by_cookie, wants_html
from session_middleware.manager import SessionManager
from session_middleware.outage import Met
from session_middleware.record import Record
from session_middleware.reporting import bind_request_context, unbind_request_context
from session_middleware.session import Fresh, Life, Live, Opening, Session, SetCookie, UnreadSession

__all__ = ["SessionMiddleware"]

T = TypeVar("T")
Routes: TypeAlias = Sequence[str] | Callable[[Scope], bool]
"""Path patterns as in a shell (`/static/*`), or a function of the ASGI scope."""

_ACCEPTED = 101  # the status of an accepted WebSocket
_ERROR = 500  # from this status on, nothing but an ending is saved
_RETRY_AFTER = b"2"  # seconds
_PROCESS = token_hex(4)  # tells request ids of several processes apart
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_PHRASES = {429: b"Too many requests for one session", 503: b"Service unavailable, try again in a moment"}


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
        **options: Any,
    ) -> None:
        self.app = _app(app)
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
        self.eager = _flag("eager", eager)
        limited = self.manager.max_requests_per_session is not None
        self.opens_first = not self.immediate or limited or eager
        self.outage = self.manager.finisher.outage
        self.weak_key = self.codec.weak_key  # None once it was told
        self.warned_of_http = False
        self.next_cleanup = 0.0  # monotonic seconds; for apps without a lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await _Lifespan(self, receive, send).run(scope)
        elif kind not in {"http", "websocket"} or self._is_served(scope):
            await self.app(scope, receive, send)
        else:
            await Exchange(self, scope, receive, send).run()

    def _is_served(self, scope: Scope) -> bool:
        """By an outer middleware of ours for the same cookie; or it is a route without a session."""
        served = scope.get("session_middleware")
        return (served is not None and self.name in served) or (self.skip is not None and self.skip(scope))

    def warn_of_weak_key(self) -> None:
        """Once, and not at construction: nobody listens to events then."""
        why, self.weak_key = self.weak_key, None
        remedy = "use 32 random bytes: secrets.token_urlsafe(32); keep this key in fallback_keys for a while"
        self.warn("weak_key", {"why": why, "remedy": remedy})

    def warn(self, activity_type: str, details: dict[str, object]) -> None:
        """Something that weakens every session of this app, or what an attacker does."""
        now = self.manager.clock()
        self.manager.reporter.emit(_SUSPICIOUS, None, None, now, activity_type=activity_type, details=details)


_SUSPICIOUS = "session_suspicious_activity"


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


class Exchange(ActiveRequest):
    """One request or WebSocket and its session."""

    # Defaults on the class, not slots: what a request does not change costs it nothing.
    life: Life | None = None  # what the cookies opened, where that was found out before the first look
    status = 0
    now = 0.0  # seconds since the epoch, read once per phase
    began = 0.0  # monotonic seconds, of an observed request
    started = False  # the response has left
    refused = False  # we answered instead of the app
    interrupted = False  # cancelled while its commit was under way, which goes on
    closed = False  # the WebSocket is closed, by whomever
    revoked = False  # by us
    disconnected = False  # by the client
    context_bound = False

    def __init__(self, middleware: SessionMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope["path"])
        self.middleware = middleware
        self.scope = scope
        self.receive = receive
        self.send = send
        self.session: Session = UnreadSession(self._open_now)
        scope["session"] = self.session
        scope["session_middleware"] = {**scope.get("session_middleware", {}), middleware.name: self.session}

    # --- from beginning to end ---

    async def run(self) -> None:
        """Serve it."""
        manager = self.middleware.manager
        activity, limit = manager.activity, manager.max_concurrent_requests
        if limit is not None and len(activity) >= limit:
            await self._refuse(503, active=len(activity), limit=limit)
            return
        activity.enter(self)
        observed = manager.reporter.wants("request_started") or manager.reporter.wants("request_finished")
        if observed:
            self._report_start()
        failed = True
        try:
            manager.heartbeat.ensure()
            if not self.middleware.opens_first or await self._open_first():
                await self._call_app()
            failed = self.status >= _ERROR
        finally:
            try:
                if type(self.session) is not UnreadSession:
                    await self._end(failed=failed and not self.disconnected)
            finally:
                activity.leave(self)
                if self.context_bound:
                    unbind_request_context()
                if observed:
                    self._report_finish()

    async def _call_app(self) -> None:
        receive, send = self.receive, self._send
        if self.scope["type"] == "websocket":
            receive, send = self._receive_socket, self._send_socket
        try:
            await self.middleware.app(self.scope, receive, send)
        except Exception as problem:
            if self.refused:
                return  # the visitor has our answer, the operator our event
            if self.started or not isinstance(problem, BackendError | SessionCapacityError):
                raise
            await self._refuse(503, problem=problem)

    async def _end(self, *, failed: bool) -> None:
        """Save what came after the response left, or with no response at all."""
        manager, session = self.middleware.manager, self.session
        if self.refused or self.interrupted:
            return
        session.life.late = True
        opening = session.life.opening
        try:
            await self._finish(manager.performer.commit_late(session, manager.clock(), failed=failed))
        except BackendError as problem:  # an event has named the keys, and nobody is left to be answered
            self._note_failure("commit", problem)
        else:
            self._note_commit(opening)
        if not manager.is_started:
            await self._clean_up_now_and_then()

    async def _clean_up_now_and_then(self) -> None:
        """One small step after a response, where no lifespan runs the periodic cleanup."""
        middleware, manager = self.middleware, self.middleware.manager
        now = manager.monotonic()
        if now < middleware.next_cleanup or self.scope["type"] != "http":
            return
        first, middleware.next_cleanup = middleware.next_cleanup == 0.0, now + manager.cleaner.interval
        if first:
            return
        try:
            if await self._finish(manager.cleanup_step()):
                middleware.next_cleanup = now  # there may be more: go on after the next response
        except BackendError as problem:
            manager.reporter.emit("sessions_cleanup_failed", None, None, manager.clock(), exception=problem)

    # --- opening ---

    async def _open_first(self) -> bool:
        """Load the session before the app runs; False if the request was answered instead."""
        self.now = self.middleware.manager.clock()
        self.session.opener = self._show_opened
        reading = self._read_cookies()
        if not (reading.credentials or reading.promises):
            return True
        try:
            life = self.life = await self._finish(self.middleware.manager.performer.open(reading, self.now))
        except BackendError as problem:
            return await self._do_without(reading, problem)
        self._note_success("load")
        record = life.record
        if record is not None:
            if not await self._admits(record):
                return False
            self._bind_context(record)
            if isinstance(life.opening, Live) and life.opening.promised and self._is_navigation():
                self.session.mark_accessed()  # its commit replaces the promise by an ordinary cookie
                self.session.accessed = False  # our own reads are no look
        return True

    async def _do_without(self, reading: CookieReading, problem: BackendError) -> bool:
        """The backend cannot say whose cookie it is: 503, or on `optional` routes a read-only session."""
        middleware, manager = self.middleware, self.middleware.manager
        for credential in reading.credentials or reading.promises:
            manager.reporter.emit(_NOT_RETRIEVED, credential.id, None, self.now, reason="unavailable")
        if middleware.optional is None or not middleware.optional(self.scope):
            await self._refuse(503, problem=problem)
            return False
        self._note_failure("load", problem)
        self.life = Life(manager.policy, manager)
        self.life.degraded = True
        return True

    async def _admits(self, record: Record) -> bool:
        """Count it among the requests of its session, looked at or not; False if that are too many."""
        manager = self.middleware.manager
        limit = manager.max_requests_per_session
        if limit is None:
            return True
        active = len(manager.activity.holding(record.id))
        if active >= limit:
            await self._refuse(429, active=active, limit=limit)
            return False
        counted = Session()
        counted.life = Life(manager.policy, manager, Live(record, record.generation))
        manager.activity.hold(self, counted, self.now)
        self.held = None  # until it looks, it renews nothing
        return True

    def _open_now(self, session: Session) -> None:
        """The first look, over a backend that answers at once."""
        manager = self.middleware.manager
        self.now = manager.clock()
        reading = self._read_cookies()
        if reading.credentials or reading.promises:
            self.life = run_blocking(manager.performer.open(reading, self.now))
            self._note_success("load")
        self._show_opened(session)

    def _read_cookies(self) -> CookieReading:
        middleware = self.middleware
        if middleware.weak_key is not None:
            middleware.warn_of_weak_key()
        reading = middleware.codec.read(self.scope["headers"])
        for _ in range(min(reading.rejected, LOOKED_AT_MOST)):  # a header of 64 kB has room for thousands
            middleware.warn("bad_signature", {"path": self.path})
        return reading

    def _show_opened(self, session: Session) -> None:
        """Fill the session at its first look, and hold it from then on."""
        manager = self.middleware.manager
        manager.performer.fill(session, self._opened(), self.now)
        session.life.late = self.started
        session.life.passive = self.middleware.passive is not None and self.middleware.passive(self.scope)
        self._hold(session)

    def _opened(self) -> Life:
        if self.life is None:
            self.life = Life(self.middleware.manager.policy, self.middleware.manager)
        return self.life

    def _hold(self, session: Session) -> None:
        """The request holds its session from the first look, or from the commit that made it."""
        manager, record = self.middleware.manager, session.life.record
        if record is None or (self.held is not None and self.session_id == record.id):
            return
        manager.activity.hold(self, session, self.now)
        self._bind_context(record)
        if record.idle_timeout is not None:
            manager.heartbeat.hurry()

    def _bind_context(self, record: Record) -> None:
        if self.middleware.manager.log_context and structlog.is_configured():
            bind_request_context(*_who(record), f"{_PROCESS}-{self.number}")
            self.context_bound = True

    # --- the response ---

    def _send(self, message: Message) -> Awaitable[None]:
        if self.started or message["type"] not in _STARTS:
            return _dropped() if self.refused else self.send(message)
        return self._start(message)

    async def _start(self, message: Message) -> None:
        """Commit, then let the response leave with what that made of the cookie."""
        if self.refused:
            return
        self.status = message.get("status", _ACCEPTED)
        looked = type(self.session) is not UnreadSession
        if looked:
            await self._commit()
        if looked or self.middleware.eager:
            message = self._with_headers(message)
            self._life().late = True
        self.started = True
        await self.send(message)

    async def _commit(self) -> None:
        """Save; if the backend cannot, it is 503, and the app's response goes no further."""
        manager, session, life = self.middleware.manager, self.session, self.session.life
        self.now = manager.clock()
        opening, owed = life.opening, life.owed
        try:
            await self._finish(manager.performer.commit(session, self.now, failed=self.status >= _ERROR))
        except BackendError as problem:
            life.owed = owed  # what an early `save` made of the cookie stays true
            await self._refuse(503, problem=problem)
            raise
        except BaseException as problem:
            self.interrupted = not isinstance(problem, Exception)
            raise
        self._note_commit(opening)
        self._hold(session)

    def _finish(self, operation: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run it to its end although this request may be cancelled; at once where nothing suspends."""
        return operation if self.middleware.immediate else self.middleware.manager.finisher.finish(operation)

    def _with_headers(self, message: Message) -> Message:
        cookie = self._set_cookie()
        if cookie is None and not self.session.accessed:
            return message
        headers: Headers = [(bytes(name), bytes(value)) for name, value in message.get("headers") or ()]
        if cookie is not None:
            ours = self.middleware.codec.names_our_cookie
            headers = [pair for pair in headers if pair[0].lower() != b"set-cookie" or not ours(pair[1])]
            headers.append((b"set-cookie", cookie))
            forbid_storing(headers)
        vary_by_cookie(headers)
        return {**message, "headers": headers}

    def _set_cookie(self) -> bytes | None:
        """The Set-Cookie this response owes, or None."""
        codec, life = self.middleware.codec, self._life()
        owed, life.owed = life.owed, None
        if owed is None:
            return self._promise(life) if self.middleware.eager else None
        secure = self._is_secure()
        if not isinstance(owed, SetCookie):
            return codec.remove_cookie(secure=secure)
        max_age = self.middleware.manager.cookie.max_age
        if max_age is not None and max_age > 0:
            max_age = max(0, min(max_age, ceil(owed.deadline - self.now)))
        credential = Credential(owed.id, owed.secret, owed.generation)
        return codec.set_cookie(credential, max_age=max_age, secure=secure)

    def _life(self) -> Life:
        """Of the session, looked at or not."""
        return self._opened() if type(self.session) is UnreadSession else self.session.life

    def _promise(self, life: Life) -> bytes | None:
        """A cookie for a visitor who has none, under which the first write will create the session."""
        opening = life.opening
        if not isinstance(opening, Fresh) or opening.promised is not None or life.degraded:
            return None  # the visitor has a cookie, or may have one
        if not self._is_navigation():
            return None
        id_, secret = self.middleware.manager.mint()
        life.opening = Fresh(opening.ended_because, promised=(id_, secret))
        credential = Credential(id_, secret, int(self.now * 1000))
        return self.middleware.codec.set_promise(credential, secure=self._is_secure())

    def _is_navigation(self) -> bool:
        scope = self.scope
        return scope["type"] == "http" and scope["method"] == "GET" and wants_html(scope["headers"])

    def _is_secure(self) -> bool:
        https = self.scope.get("scheme") in {"https", "wss"}
        if not https and not self.middleware.warned_of_http:
            self._warn_of_http()
        return self.middleware.codec.sends_secure(https)

    def _warn_of_http(self) -> None:
        host = host_of(self.scope["headers"])
        if not is_local(host) and self.middleware.manager.cookie.https_only is not False:
            self.middleware.warned_of_http = True
            remedy = "serve by https, or trust the proxy's X-Forwarded-Proto"
            self.middleware.warn("insecure_transport", {"host": host.decode("latin-1"), "remedy": remedy})

    # --- instead of the app's response ---

    async def _refuse(self, status: int, *, problem: Exception | None = None, **figures: object) -> None:
        """Answer 503 or 429 ourselves (a WebSocket: close 1013); the cookie stays as it is."""
        self.refused = True
        self.status = status
        if problem is None:
            self._report("request_refused", status=status, **figures)
        elif isinstance(problem, BackendError):
            self._note_failure("load" if type(self.session) is UnreadSession else "commit", problem)
        phrase = _PHRASES[status]
        if self.scope["type"] == "websocket":
            await self.send({"type": "websocket.close", "code": 1013, "reason": phrase.decode()})
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(phrase)),
            (b"retry-after", _RETRY_AFTER),
            (b"cache-control", b"no-store"),
        ]
        start: Message = {"type": "http.response.start", "status": status, "headers": headers}
        if type(self.session) is not UnreadSession and self.session.life.owed is not None:
            start = self._with_headers(start)
        await self.send(start)
        await self.send({"type": "http.response.body", "body": phrase})

    # --- whether the backend is up ---

    def _note_failure(self, met: Met, problem: BackendError) -> None:
        manager = self.middleware.manager
        if self.middleware.outage.begin(met, manager.monotonic()):
            manager.reporter.emit(
                "backend_unavailable", None, None, manager.clock(), operation=met, exception=problem
            )

    def _note_success(self, met: Met) -> None:
        outage, manager = self.middleware.outage, self.middleware.manager
        if outage.failing is not None:
            down_for = outage.end(met, manager.monotonic())
            if down_for is not None:
                manager.reporter.emit("backend_recovered", None, None, manager.clock(), down_for=down_for)

    def _note_commit(self, before: Opening) -> None:
        """A commit that changed nothing asked nothing of the backend, so it tells nothing about it."""
        if self.middleware.outage.failing is not None and self.session.life.opening is not before:
            self._note_success("commit")

    # --- WebSockets ---

    async def _receive_socket(self) -> Message:
        if self.revoked:
            return {"type": "websocket.disconnect", "code": 1008}
        message = await self.receive()
        if message["type"] == "websocket.disconnect":
            self.disconnected = True
        return message

    async def _send_socket(self, message: Message) -> None:
        if self.revoked:
            raise ConnectionResetError("the session was ended, and this WebSocket with it")
        if message["type"] == "websocket.close":
            self.closed = True
        await self._send(message)

    async def revoke(self) -> None:
        """Close the WebSocket whose session was ended. An HTTP request is left to finish."""
        if self.scope["type"] != "websocket" or self.status != _ACCEPTED or self.closed or self.disconnected:
            return
        self.closed = self.revoked = True
        with contextlib.suppress(OSError, RuntimeError):  # it was closed by the client at the same moment
            await self.send({"type": "websocket.close", "code": 1008, "reason": "session ended"})

    # --- events ---

    def _report_start(self) -> None:
        self.began = self.middleware.manager.monotonic()
        self._report("request_started", active=len(self.middleware.manager.activity))

    def _report_finish(self) -> None:
        manager = self.middleware.manager
        duration = manager.monotonic() - self.began
        active = len(manager.activity)
        self._report("request_finished", status=self.status, duration=duration, active=active)

    def _report(self, name: str, **fields: object) -> None:
        manager, life, scope = self.middleware.manager, self.life, self.scope
        if type(self.session) is not UnreadSession:
            life = self.session.life
        who = _who(None if life is None else life.record)
        method = scope.get("method", "WEBSOCKET")
        manager.reporter.emit(name, *who, manager.clock(), method=method, path=self.path, **fields)


_NOT_RETRIEVED = "session_data_retrieval_failed"


def _who(record: Record | None) -> tuple[str | None, str | None]:
    return (None, None) if record is None else (record.id, record.user_id)


async def _dropped() -> None:
    """What becomes of a message after we answered instead of the app."""


def _app(app: ASGIApp) -> ASGIApp:
    if not callable(app):
        raise ConfigurationError(
            f"app: found {type(app).__name__}, pass the ASGI app that this middleware wraps"
        )
    return app


def _flag(argument: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{argument}: found {type(value).__name__}, pass True or False")
    return value


def _matcher(argument: str, routes: Routes) -> Callable[[Scope], bool] | None:
    if callable(routes):
        return routes
    listed = isinstance(routes, Sequence | AbstractSet) and not isinstance(routes, str)
    if not listed or not all(isinstance(pattern, str) for pattern in routes):
        raise ConfigurationError(
            f"{argument}: pass a list of path patterns (such as ['/static/*']) or scope -> bool"
        )
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
            raise ConfigurationError(
                "secret_key: pass the key that signs the cookies, or a manager that has one"
            )
        chosen: Backend | str = "memory://" if backend is None else backend
        manager = SessionManager(chosen, secret_key=secret_key, **cookie, **options)
    elif not isinstance(manager, SessionManager):
        raise ConfigurationError(f"manager: found {type(manager).__name__}, pass a SessionManager")
    else:
        given = [name for name, value in cookie.items() if value != getattr(_STARLETTE, name)]
        given += [
            name for name, value in (("secret_key", secret_key), ("backend", backend)) if value is not None
        ]
        if given or options:
            raise ConfigurationError(
                f"{[*given, *options][0]}: the manager has it already; set it there, not here"
            )
    if "async" not in manager.backend.colours:
        raise wrong_colour(manager.backend, "async")
    return manager


_STARLETTE = CookieSettings()
