"""A site under test: browsers, requests held inside their handler, and a spy between core and backend.

Reading order: `Response`, `Browser`, `Site` (what tests use), then the drivers (`AsgiHeld`, `PlainHeld`,
`WsgiHeld`: one request each), then `SpyBackend`.

A test plays the handler itself. `browser.begin()` opens a request and stops inside its handler, whose session
is then `held.session`; `held.respond(status)` lets the response leave; `held.end()` is the end of the
request, after its streamed body and background tasks. Other requests may do anything in between.
`browser.visit(act)` is all of it at once.

The async driver serves a real ASGI app under `SessionMiddleware`, in an event loop that runs only while the
test waits for it. The blocking driver does what an entrance without an event loop does, with the same
`Performer` over the backend's blocking port; the WSGI driver serves a real WSGI app in the test's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from session_middleware import SessionManager, SessionMiddleware, WSGISessionMiddleware
from session_middleware.backends.base import Backend, Colour, EndedRecord, LoadAnswer, Port
from session_middleware.backends.capabilities import (
    Admitted,
    Capped,
    Caps,
    Counting,
    Epochal,
    Iterating,
    Page,
    Position,
    Usage,
)
from session_middleware.blocking import run_blocking
from session_middleware.cookies import Credential
from session_middleware.errors import BackendError, SessionCapacityError
from session_middleware.events import SessionEvent
from session_middleware.operations import Operations
from session_middleware.perform import Performer
from session_middleware.record import CREATED, Committed, CreateResult, Delta, Record, Refused, SessionId
from session_middleware.session import Life, Session, SetCookie, UnreadSession
from session_middleware.testing.clock import ManualClock
from session_middleware.where import Where

__all__ = [
    "ABSOLUTE",
    "IDLE",
    "MAX_AGE",
    "Browser",
    "Call",
    "Driver",
    "Held",
    "Response",
    "Site",
    "SpyBackend",
    "SpyPort",
]

T = TypeVar("T")
Driver: TypeAlias = Literal["async", "blocking", "wsgi"]
KEY = "a key for tests, with more than 32 bytes in it"
IDLE, ABSOLUTE, MAX_AGE = 1000.0, 5000.0, 2000  # seconds; a read renews once more than 200 have passed
NOISE = ("request_started", "request_finished", "session_data_retrieved")


@dataclass
class Response:
    """What came back, as raw as it left."""

    status: int
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def set_cookies(self) -> list[str]:
        """Every Set-Cookie header."""
        return [value.decode("ascii") for name, value in self.headers if name == b"set-cookie"]

    @property
    def set_cookie(self) -> str | None:
        """The only Set-Cookie header there may be."""
        assert len(self.set_cookies) <= 1, self.set_cookies
        return self.set_cookies[0] if self.set_cookies else None

    @property
    def cookie(self) -> str | None:
        """The value of the session cookie that was set; None if none was, or it was removed."""
        value = None if self.set_cookie is None else self.set_cookie.partition("=")[2].partition(";")[0]
        return None if self.removes else value

    @property
    def removes(self) -> bool:
        """Whether it takes the cookie away."""
        return self.set_cookie is not None and self.set_cookie.startswith("session=null;")

    @property
    def max_age(self) -> int | None:
        """Seconds, None where there is no Max-Age."""
        for attribute in (self.set_cookie or "").split("; "):
            if attribute.startswith("Max-Age="):
                return int(attribute.removeprefix("Max-Age="))
        return None


class Held:
    """A request stopped inside its handler. `answered` is set where no handler was reached."""

    session: Session
    answered: Response | None = None

    def __init__(self, site: Site, browser: Browser) -> None:
        self.site = site
        self.browser = browser

    def respond(self, status: int = 200, *, lost: bool = False) -> Response:
        """Let the response leave. *lost*: it never reaches the browser. Raises what the app raised."""
        response = self._respond(status)
        if not lost:
            self.browser.take(response)
        return response

    def end(self) -> None:
        """The body is sent and the background tasks have run."""
        raise NotImplementedError

    def fail(self, problem: Exception) -> None:
        """The handler raises *problem*, and nobody catches it."""
        raise NotImplementedError

    def _respond(self, status: int) -> Response:
        raise NotImplementedError


class Browser:
    """A client with one cookie of the site, or (`others`) several."""

    def __init__(self, site: Site, cookie: str | None = None) -> None:
        self.site = site
        self.cookie = cookie
        self.others: tuple[str, ...] = ()

    def begin(self, *, looks: bool = True, path: str = "/") -> Held:
        """Send a request, and stop in its handler."""
        cookies = [cookie for cookie in (self.cookie, *self.others) if cookie is not None]
        header = "; ".join(f"session={cookie}" for cookie in cookies)
        headers = [(b"host", b"testserver"), *([(b"cookie", header.encode("latin-1"))] if cookies else [])]
        return self.site.begin(self, headers, looks=looks, path=path)

    def visit(
        self,
        act: Callable[[Session], object] = lambda _: None,
        *,
        status: int = 200,
        lost: bool = False,
        looks: bool = True,
        path: str = "/",
    ) -> Response:
        """A whole request, whose handler does *act*."""
        held = self.begin(looks=looks, path=path)
        if held.answered is not None:
            return held.answered
        if looks:
            act(held.session)
        response = held.respond(status, lost=lost)
        held.end()
        return response

    def login(self, user: str | int = "ann", **values: object) -> Response:
        """Sign in, as an app does that calls `login()`."""
        return self.visit(lambda session: (session.update(values), session.login(user)))

    def take(self, response: Response) -> None:
        """Keep what a response says of the cookie."""
        if response.set_cookie is not None:
            self.cookie = response.cookie

    def twin(self) -> Browser:
        """Another client with the same cookie: a second tab's old request, or a thief."""
        return Browser(self.site, self.cookie)

    @property
    def sees(self) -> dict[str, Any]:
        """The values that a request shows now."""
        held = self.begin()
        values = dict(held.session)
        held.respond()
        held.end()
        return values

    @property
    def generation(self) -> int:
        """The one its cookie names."""
        assert self.cookie is not None
        return int(self.cookie.split(".")[2])

    @property
    def id(self) -> SessionId:
        """The session its cookie names."""
        assert self.cookie is not None
        return SessionId(self.cookie.split(".")[0])


class Site:
    """One manager over a spied backend, served by one driver."""

    def __init__(self, backend: Backend, driver: Driver, **options: Any) -> None:
        self.driver = driver
        colour: Colour = "async" if driver == "async" else "blocking"
        self.clock = ManualClock()
        self.steady = ManualClock(0.0)  # of its own: no cleanup comes between
        self.spy = SpyBackend(backend)
        self.colour = colour
        passive = {"passive": options.pop("passive", ())}
        settings = {"idle_timeout": IDLE, "absolute_timeout": ABSOLUTE, "max_age": MAX_AGE, **options}
        self.manager = SessionManager(
            self.spy,
            secret_key=KEY,
            clock=self.clock,
            monotonic=self.steady,
            backend_timeout=60.0,
            log=False,
            **settings,
        )
        self.events: list[SessionEvent] = []
        self.manager.subscribe(None, self.events.append)
        self.loop = asyncio.new_event_loop() if colour == "async" else None
        self.middleware = SessionMiddleware(_serve, manager=self.manager, **passive)
        self.wsgi = WSGISessionMiddleware(_serve_plainly, manager=self.manager, **passive)
        self.port = self.spy.port(colour)
        self.operations: Operations = self.manager if colour == "async" else self.manager.blocking._operations
        self.performer: Performer = self.operations._performer
        self._open: list[Held] = []

    def browser(self, cookie: str | None = None) -> Browser:
        """A new client."""
        return Browser(self, cookie)

    def begin(self, browser: Browser, headers: list[tuple[bytes, bytes]], *, looks: bool, path: str) -> Held:
        """A request of *browser*, up to its handler."""
        held = _KINDS[self.driver](self, browser, headers, looks=looks, path=path)
        self._open.append(held)
        return held

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What *work* returns, in the driver's colour."""
        return run_blocking(work) if self.loop is None else self.loop.run_until_complete(work)

    def do(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """An operation of the manager."""
        return self.run(getattr(self.operations, operation)(*args, **kwargs))

    def save(self, held: Held) -> bool:
        """The handler calls `manager.save(session)`."""
        saved: bool = self.do("save", held.session)
        return saved

    def answer(self, id_: SessionId) -> LoadAnswer:
        """What the backend says of this session now, not noted in the log."""
        return self.run(self.port.inner.load(id_, self.clock()))

    def record(self, id_: SessionId) -> Record:
        """What is stored. Fails where there is no live session."""
        record = self.answer(id_)
        assert isinstance(record, Record), record
        return record

    def put_back(self, record: Record) -> None:
        """Let *record* be what is stored, as a restored backup would: over a row that has just expired."""
        now = self.clock()
        self.run(self.port.inner.commit(record.id, Delta(expire_at=now), now))
        assert self.run(self.port.inner.create(record, now)) is CREATED

    def stored(self, id_: SessionId) -> dict[str, bytes]:
        """The encoded values that are stored."""
        return dict(self.record(id_).data)

    # --- what happened ---

    def forget(self) -> None:
        """From here on, `calls` and `events` begin anew."""
        self.port.log.clear()
        self.events.clear()

    @property
    def calls(self) -> list[str]:
        """The names of the backend calls, in order."""
        return [call.name for call in self.port.log]

    @property
    def told(self) -> list[str]:
        """The names of the events, in order, without those of every request."""
        return [event.name for event in self.events if event.name not in NOISE]

    def only(self, name: str) -> SessionEvent:
        """The one event of this name. Fails if there is none, or another one."""
        [event] = [event for event in self.events if event.name == name]
        return event

    def fields(self, name: str) -> dict[str, object]:
        """The fields of the one event of this name."""
        return dict(self.only(name).fields)

    def suspicion(self) -> str:
        """The type of the one suspicious activity."""
        return str(self.fields("session_suspicious_activity")["activity_type"])

    def lost(self) -> tuple[str, list[str]]:
        """Reason and keys of the one `session_data_save_failed`."""
        told = self.fields("session_data_save_failed")
        assert isinstance(told["keys"], list)
        return str(told["reason"]), told["keys"]

    def close(self) -> None:
        """End what is under way, and let go of everything."""
        self.port.faults.clear()
        for held in self._open:
            with suppress(Exception):
                held.end()
        self.run(self.port.inner.close())
        if self.loop is not None:
            self.loop.run_until_complete(_cancelled(asyncio.all_tasks(self.loop)))
            self.loop.close()


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel them, and wait until they are over: a connection is let go of in several steps."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=60)


# --- over ASGI ---


async def _serve(scope: Any, receive: Any, send: Any) -> None:
    """The app: its handler does what the test tells it."""
    held: AsgiHeld = scope["held"]
    held.session = scope["session"]
    if held.looks:
        held.session.mark_accessed()  # as Starlette's `request.session` does
    held.paused.set()
    while (order := await held.orders.get()) is not None:
        await order(send)
        held.paused.set()
    await send({"type": "http.response.body", "body": b""})


class AsgiHeld(Held):
    """One request through the middleware."""

    def __init__(
        self, site: Site, browser: Browser, headers: list[tuple[bytes, bytes]], *, looks: bool, path: str
    ) -> None:
        super().__init__(site, browser)
        assert site.loop is not None
        self.looks = looks
        self.loop = site.loop
        self.messages: list[dict[str, Any]] = []
        self.orders: asyncio.Queue[Callable[[Any], Coroutine[Any, Any, None]] | None] = asyncio.Queue()
        self.paused = asyncio.Event()
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": headers,
            "scheme": "http",
            "held": self,
        }
        self.task = self.loop.create_task(self._answer(scope))
        self._go_on()
        if self.task.done():
            self.task.result()
            self.answered = self._response()

    async def _answer(self, scope: dict[str, Any]) -> None:
        await self.site.middleware(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Any) -> None:
        self.messages.append(message)

    def _go_on(self) -> None:
        """Until the handler waits for the test again, or the request is over."""
        self.loop.run_until_complete(self._paused_or_over())
        self.paused.clear()

    async def _paused_or_over(self) -> None:
        paused = asyncio.ensure_future(self.paused.wait())
        await asyncio.wait({paused, self.task}, return_when=asyncio.FIRST_COMPLETED)
        paused.cancel()
        await asyncio.wait({paused})

    def _respond(self, status: int) -> Response:
        async def start(send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": True})

        self.orders.put_nowait(start)
        self._go_on()
        if self.task.done():
            self.task.result()
        return self._response()

    def _response(self) -> Response:
        [start] = [message for message in self.messages if message["type"] == "http.response.start"]
        return Response(start["status"], start["headers"])

    def end(self) -> None:
        if self.task.done():
            return
        self.orders.put_nowait(None)
        self._go_on()
        assert self.task.done()
        self.task.result()

    def fail(self, problem: Exception) -> None:
        async def explode(_: Any) -> None:
            raise problem

        self.orders.put_nowait(explode)
        self._go_on()
        assert self.task.exception() is problem


# --- without an event loop ---


class PlainHeld(Held):
    """One request through the blocking port, committed as an entrance does."""

    def __init__(
        self, site: Site, browser: Browser, headers: list[tuple[bytes, bytes]], *, looks: bool, path: str
    ) -> None:
        super().__init__(site, browser)
        self.over = False
        self.now = site.clock()
        self.session = UnreadSession(lambda session: self._show(session, path))
        reading = site.manager.codec.read(headers)
        self.life = Life(site.manager.policy, site.manager)
        if reading.credentials or reading.promises:
            try:
                self.life = run_blocking(site.performer.open(reading, self.now))
            except (BackendError, SessionCapacityError):
                self._refuse()
                return
        if looks:
            self.session.mark_accessed()

    def _show(self, session: Session, path: str) -> None:
        matches = self.site.middleware.passive
        self.life.passive = matches is not None and matches({"path": path})
        self.site.performer.fill(session, self.life, self.now)

    def _refuse(self) -> Response:
        self.over = True
        self.answered = Response(503, [(b"retry-after", b"2")])
        return self.answered

    def _respond(self, status: int) -> Response:
        if type(self.session) is UnreadSession:
            return Response(status)
        self.now = self.site.clock()
        try:
            run_blocking(self.site.performer.commit(self.session, self.now, failed=status >= 500))
        except (BackendError, SessionCapacityError):
            return self._refuse()
        except Exception:
            self.over = True
            raise
        headers = self._headers()
        self.session.life.late = True
        return Response(status, headers)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        owed, codec = self.session.life.owed, self.site.manager.codec
        self.session.life.owed = None
        if owed is None:
            return []
        if not isinstance(owed, SetCookie):
            return [(b"set-cookie", codec.remove_cookie(secure=False))]
        max_age = self.site.manager.cookie.max_age
        if max_age is not None:
            max_age = min(max_age, ceil(owed.deadline - self.now))
        credential = Credential(owed.id, owed.secret, owed.generation)
        return [(b"set-cookie", codec.set_cookie(credential, max_age=max_age, secure=False))]

    def end(self) -> None:
        self._finish(failed=False)

    def fail(self, problem: Exception) -> None:
        self._finish(failed=True)

    def _finish(self, *, failed: bool) -> None:
        if self.over or type(self.session) is UnreadSession:
            return
        self.over = True
        self.session.life.late = True
        with suppress(BackendError):  # the response has left, and the event has been told
            run_blocking(self.site.performer.commit_late(self.session, self.site.clock(), failed=failed))


# --- over WSGI ---


def _serve_plainly(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """The app: its body does what the test tells it."""
    held: WsgiHeld = environ["held"]
    held.session = environ["session"]
    if held.looks:
        held.session.mark_accessed()
    return held.body(start_response)


class WsgiHeld(Held):
    """One request through the WSGI middleware; the app's handler and its stream are one generator."""

    def __init__(
        self, site: Site, browser: Browser, headers: list[tuple[bytes, bytes]], *, looks: bool, path: str
    ) -> None:
        super().__init__(site, browser)
        self.looks = looks
        self.over = False
        self.status = 200
        self.problem: Exception | None = None
        self.response = Response(0)
        environ = {f"HTTP_{name.decode().upper()}": value.decode("latin-1") for name, value in headers}
        environ |= {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.url_scheme": "http"}
        self.pieces: Any = site.wsgi({**environ, "held": self}, self._start_response)
        if isinstance(self.pieces, list):  # the middleware's own
            self.over = True
            self.answered = self.response

    def body(self, start_response: Any) -> Iterator[bytes]:
        if self.problem is not None:
            raise self.problem
        start_response(f"{self.status} Status", [])
        yield b""
        if self.problem is not None:
            raise self.problem

    def _start_response(self, status: str, headers: list[tuple[str, str]], _: object = None) -> Any:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        self.response = Response(int(status[:3]), raw)

    def _respond(self, status: int) -> Response:
        self.status = status
        try:
            next(self.pieces)
        except Exception:
            self._close()
            raise
        return self.response

    def end(self) -> None:
        if not self.over:
            for _ in self.pieces:
                pass
            self._close()

    def fail(self, problem: Exception) -> None:
        self.problem = problem
        with suppress(type(problem)):
            next(self.pieces)
        self._close()

    def _close(self) -> None:
        self.over = True
        self.pieces.close()


_KINDS: dict[str, type[AsgiHeld | PlainHeld | WsgiHeld]] = {
    "async": AsgiHeld,
    "blocking": PlainHeld,
    "wsgi": WsgiHeld,
}

# --- the spy ---


class Call(NamedTuple):
    """One backend call: its name, the session, and the record, delta or reason it came with."""

    name: str
    id: SessionId
    what: Record | Delta | str | None = None


class SpyBackend:
    """Notes every call to the ports of another backend, and fails where it is told to."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.url = inner.url
        self.colours = inner.colours
        self._ports: dict[Colour, SpyPort] = {}

    def port(self, colour: Colour) -> SpyPort:
        """The spy on the port of this colour."""
        return self._ports.setdefault(colour, SpyPort(self.inner.port(colour)))


class SpyPort:
    """`log` has the calls in order; `faults[name]` are raised by the next calls of that name, in turn.

    `meanwhile[name]` is done once, while the next call of that name is under way.
    """

    def __init__(self, inner: Port) -> None:
        self.inner = inner
        self.immediate = inner.immediate
        self.log: list[Call] = []
        self.faults: dict[str, list[Exception]] = {}
        self.meanwhile: dict[str, Callable[[], object]] = {}

    def _note(self, name: str, id_: SessionId, what: Record | Delta | str | None = None) -> None:
        self.log.append(Call(name, id_, what))
        if act := self.meanwhile.pop(name, None):
            act()
        if waiting := self.faults.get(name):
            raise waiting.pop(0)

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        self._note("load", id)
        return await self.inner.load(id, now)

    async def create(self, record: Record, now: float) -> CreateResult:
        self._note("create", record.id, record)
        return await self.inner.create(record, now)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        self._note("commit", id, delta)
        return await self.inner.commit(id, delta, now)

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        self._note("delete", id, reason)
        return await self.inner.delete(id, now, reason, by)

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        if waiting := self.faults.get("delete_expired"):
            raise waiting.pop(0)
        return await self.inner.delete_expired(now, limit)

    async def count(self, now: float) -> int:
        assert isinstance(self.inner, Counting)
        return await self.inner.count(now)

    async def usage(self, now: float) -> Usage:
        assert isinstance(self.inner, Counting)
        return await self.inner.usage(now)

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        assert isinstance(self.inner, Epochal)
        return await self.inner.end_all_before(t, now, reason, by=by)

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        self._note("create", record.id, record)
        return await self._capped.create_within(record, now, caps)

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        self._note("commit", id, delta)
        return await self._capped.commit_within(id, delta, now, caps)

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        return await self._capped.shrink(now, caps, limit)

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        return await self._iterating.find(where, now, limit=limit, after=after)

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        return await self._iterating.end_found(ids, where, now, reason, by=by)

    @property
    def _iterating(self) -> Iterating:
        assert isinstance(self.inner, Iterating)
        return self.inner

    @property
    def _capped(self) -> Capped:
        assert isinstance(self.inner, Capped)
        return self.inner

    async def wait(self, seconds: float) -> None:
        await self.inner.wait(seconds)


def mint_of(ids: Iterable[tuple[str, str]]) -> Callable[[], tuple[SessionId, str]]:
    """These ids and secrets, one after the other."""
    waiting = iter(ids)

    def mint() -> tuple[SessionId, str]:
        id_, secret = next(waiting)
        return SessionId(id_), secret

    return mint
