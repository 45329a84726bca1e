"""One request without an event loop, from its first byte to the commit of what came late.

Reading order: `PlainEntrance`, `PlainExchange` (an `Exchange` whose coroutines run to their end in this
thread, over the blocking port), then `WSGIExchange` and `Body` in the order of a request's life.

An app calls `start_response` before its response can be known: it may still replace it, with *exc_info*. So
the response waits here until the first piece of the body comes (or its end), and the commit with it.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, Protocol, TypeAlias

from starlette.types import Message

from session_middleware.blocking import run_blocking
from session_middleware.cookies import CookieCodec
from session_middleware.errors import BackendError, SessionCapacityError
from session_middleware.exchange import Entrance, Exchange, Matcher
from session_middleware.headers import Headers
from session_middleware.housekeeping import Housekeeper
from session_middleware.manager import SessionManager
from session_middleware.plan import is_settled
from session_middleware.record import Record
from session_middleware.reporting import unbind_request_context
from session_middleware.session import UnreadSession

__all__ = [
    "Body",
    "Environ",
    "PlainEntrance",
    "PlainExchange",
    "StartResponse",
    "WSGIApp",
    "WSGIExchange",
    "Write",
    "facts_of",
]

Environ: TypeAlias = dict[str, Any]
Write: TypeAlias = Callable[[bytes], object]


class StartResponse(Protocol):
    """`start_response` of PEP 3333. *exc_info* is passed only where there is one."""

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: Any = ..., /) -> Write: ...


WSGIApp: TypeAlias = Callable[[Environ, Any], Iterable[bytes]]

_ERROR = 500  # from this status on, nothing but an ending is saved
_REASONS = {429: "429 Too Many Requests", 503: "503 Service Unavailable"}
_HEADERS = (
    (b"host", "HTTP_HOST"),
    (b"cookie", "HTTP_COOKIE"),
    (b"accept", "HTTP_ACCEPT"),
    (b"user-agent", "HTTP_USER_AGENT"),
)


class PlainEntrance(Entrance):
    """What all requests of one middleware share, where they run in threads."""

    def __init__(
        self,
        manager: SessionManager,
        *,
        optional: Matcher | None,
        passive: Matcher | None,
        codec: CookieCodec | None = None,
    ) -> None:
        super().__init__(
            _no_app,
            manager,
            optional=optional,
            passive=passive,
            performer=manager.blocking_performer,
            codec=codec,
        )
        self.immediate = True  # `opens_first` is decided; from here on: nothing suspends
        self.housekeeper = Housekeeper.of(manager)
        self.lifetime = manager.blocking_lifetime
        self.gate = threading.Lock()  # two threads may not both be the last that is let in


async def _no_app(*_: object) -> None:
    """Stands for the ASGI app that is not there."""


class PlainExchange(Exchange):
    """One request whose coroutines run to their end in this thread."""

    entrance: PlainEntrance
    bound: Record | None = None  # whose names the app's log lines carry
    observed = False
    over = False

    def __init__(self, entrance: PlainEntrance, environ: Environ) -> None:
        self.sent: list[Message] = []  # what an event loop would send
        self.environ = environ
        super().__init__(entrance, facts_of(environ), _nothing, self._keep)

    async def _keep(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    # --- from beginning to end ---

    def enter(self) -> bool:
        """Count the request, and load its session; False if it was refused instead."""
        entrance, reporter = self.entrance, self.entrance.reporter
        if not self._may_enter():
            return False
        self.observed = reporter.wants("request_started") or reporter.wants("request_finished")
        if self.observed:
            self._report_start()
        entrance.housekeeper.ensure()
        if entrance.lifetime.is_closed and not run_blocking(self._reopens()):
            return False
        return not entrance.opens_first or run_blocking(self._open_first())

    def leave(self, *, failed: bool = False) -> None:
        """Save what came after the response left, or with no response at all. Idempotent."""
        if self.over:
            return
        self.over = True
        try:
            if self.has_looked:
                self.session.life.late = True
                if not is_settled(self.session, self.now):
                    run_blocking(self._end(failed=failed or self.status >= _ERROR))
        finally:
            self.entrance.activity.leave(self)
            self.unbind()
            if self.observed:
                self._report_finish()

    @property
    def has_looked(self) -> bool:
        """Whether anybody looked at the session."""
        return type(self.session) is not UnreadSession

    def _may_enter(self) -> bool:
        entrance = self.entrance
        entrance.budget.requests += 1
        limit = entrance.manager.max_concurrent_requests
        if limit is None:
            entrance.activity.enter(self)
            return True
        with entrance.gate:
            active = len(entrance.activity)
            if active < limit:
                entrance.activity.enter(self)
                return True
        self.over = True  # it never was under way
        run_blocking(self._refuse(503, active=active, limit=limit))
        return False

    async def _admits(self, record: Record) -> bool:
        with self.entrance.gate:
            return await super()._admits(record)

    # --- the app's own log lines ---

    def rebind(self) -> None:
        """Go on in a thread that may have served others meanwhile."""
        if self.bound is not None and not self.context_bound:
            self._bind_context(self.bound)

    def unbind(self) -> None:
        """Leave the thread to others."""
        if self.context_bound:
            self.context_bound = False
            unbind_request_context()

    def _bind_context(self, record: Record) -> None:
        self.bound = record
        super()._bind_context(record)

    def _keep_renewed(self, record: Record) -> None:
        if record.idle_timeout is not None:  # the housekeeper has its own thread: no event loop is asked for
            self.entrance.housekeeper.hurry()


class WSGIExchange(PlainExchange):
    """One request of a WSGI app."""

    pending: tuple[str, list[tuple[str, str]], Any] | None = None
    server_write: Write | None = None

    def __init__(self, entrance: PlainEntrance, environ: Environ, start_response: StartResponse) -> None:
        super().__init__(entrance, environ)
        self.server_start = start_response
        environ["session"] = self.session
        environ["session_middleware"] = self.scope["session_middleware"]

    def serve(self, app: WSGIApp) -> Iterable[bytes]:
        """Serve it: what the server sends, piece by piece."""
        failed = True
        try:
            body = self._served(app)
            failed = False
        finally:
            if failed:
                self.leave(failed=True)
        if self._is_whole(body):
            self.leave()
            return body
        self.unbind()
        return Body(self, body)

    def _served(self, app: WSGIApp) -> Iterable[bytes]:
        if not self.enter():
            return self._answer_ourselves()
        try:
            body = app(self.environ, self._start_response)
        except Exception as problem:  # noqa: BLE001  (what is not ours to answer is raised again)
            return self.answer_for(problem)
        if self.refused:  # in a `write` whose error the app swallowed
            close(body)
            return self._answer_ourselves()
        whole = self.pending is not None and self._is_whole(body)
        return (self.respond() if whole else None) or body

    def _is_whole(self, body: Iterable[bytes]) -> bool:
        """No code of the app runs while the server sends it; and servers look at what it is."""
        wrapper = self.environ.get("wsgi.file_wrapper")
        return isinstance(body, list | tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper))

    # --- the response ---

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Write:
        if exc_info is None and (self.pending is not None or self.started):
            raise AssertionError("start_response was called again, without exc_info")
        if self.started:
            return self.server_start(status, headers, exc_info)  # raises it: the first response has left
        self.pending = (status, headers, exc_info)
        return self._write

    def _write(self, data: bytes) -> object:
        if self.pending is not None:
            self._start_now()
        return None if self.refused or self.server_write is None else self.server_write(data)

    def respond(self) -> list[bytes] | None:
        """Commit, and let the response leave. If it may not, what to send instead."""
        try:
            self._start_now()
        except Exception as problem:  # noqa: BLE001  (what is not ours to answer is raised again)
            return self.answer_for(problem)
        return None

    def _start_now(self) -> None:
        if self.pending is None:
            return
        status, headers, exc_info = self.pending
        self.pending = None
        given = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        start: Message = {"type": "http.response.start", "status": int(status[:3]), "headers": given}
        run_blocking(_awaited(self._start(start)))
        made = self.sent.pop()["headers"]
        if made is not given:
            headers = _as_text(made)
        more = () if exc_info is None else (exc_info,)
        self.server_write = self.server_start(status, headers, *more)

    def answer_for(self, problem: Exception) -> list[bytes]:
        """Our own answer after *problem*, where that is ours to answer; else raises it again."""
        if not self.refused:
            if self.started or not isinstance(problem, BackendError | SessionCapacityError):
                raise problem
            self.pending = None
            run_blocking(self._refuse(503, problem=problem))
        return self._answer_ourselves()

    def _answer_ourselves(self) -> list[bytes]:
        start, body = self.sent
        self.server_start(_REASONS[start["status"]], _as_text(start["headers"]))
        return [body["body"]]


class Body:
    """A body that the app makes while the server sends it. The request is over when it is closed."""

    def __init__(self, exchange: WSGIExchange, body: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._body = body
        self._pieces: Iterator[bytes] | None = None
        self._failed = False
        self._closed = False

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        exchange.rebind()
        try:
            return self._next_piece()
        except StopIteration:
            raise
        except BaseException:  # GeneratorExit too: nothing late is saved
            self._failed = True
            raise
        finally:
            exchange.unbind()

    def _next_piece(self) -> bytes:
        exchange = self._exchange
        try:
            if self._pieces is None:
                self._pieces = iter(self._body)
            piece = next(self._pieces, None)
        except Exception as problem:  # noqa: BLE001  (what is not ours to answer is raised again)
            instead: list[bytes] | None = exchange.answer_for(problem)
        else:
            instead = exchange.respond()
            if instead is None and piece is not None:
                return piece
        if instead is None:
            raise StopIteration
        self._pieces = iter(())
        return instead[0]

    def close(self) -> None:
        """The server is done: all was sent, or the client has gone."""
        if self._closed:
            return
        self._closed = True
        exchange = self._exchange
        exchange.rebind()
        try:
            if not self._failed:
                exchange.respond()  # though nobody asked for it: the handler has done its work
            close(self._body)
        except BaseException:  # as above
            self._failed = True
            raise
        finally:
            exchange.leave(failed=self._failed)


def close(body: object) -> None:
    """Call *body*'s `close`, if it has one."""
    closer = getattr(body, "close", None)
    if closer is not None:
        closer()


def _as_text(headers: Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").title(), value.decode("latin-1")) for name, value in headers]


async def _awaited(response: Awaitable[None]) -> None:
    await response


async def _nothing() -> Message:
    """Stands for an event loop's `receive`, which is never asked."""
    return {}


def facts_of(environ: Environ) -> dict[str, Any]:
    """What an `Exchange` reads of its request, under ASGI's names."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    facts: dict[str, Any] = {
        "type": "http",
        "method": environ.get("REQUEST_METHOD", "GET"),
        "path": path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace"),
        "scheme": environ.get("wsgi.url_scheme", "http"),
        # "?" for what no conforming server puts there (PEP 3333): it is in no cookie of ours.
        "headers": [
            (name, environ[key].encode("latin-1", "replace")) for name, key in _HEADERS if key in environ
        ],
        "client": (environ.get("REMOTE_ADDR", ""), 0),
        "environ": environ,
    }
    if "session_middleware" in environ:
        facts["session_middleware"] = environ["session_middleware"]
    return facts
