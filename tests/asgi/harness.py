"""What the tests of the ASGI entrance drive it with.

Reading order: `page` (a handler in a line), `Client` (a browser that shows raw headers), `Socket` (a
WebSocket of the same kind), `FaultyBackend` (a real backend that fails, hangs and keeps a log), `Site` (all
of them around one middleware).
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from session_middleware import BackendUnavailable, Session, SessionEvent, SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend, Colour, Port
from session_middleware.testing.clock import ManualClock

KEY = "vY0sN2bq8LZkXw5Rj1TgPd7HcM4uEa9F"
Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


def page(
    action: Callable[[Session], Any] = lambda _: None, status: int = 200, headers: Sequence[Any] = ()
) -> App:
    """An app that does *action* to the session, then answers; it may be async, and may say a status."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        result = action(scope["session"])
        result = await result if inspect.isawaitable(result) else result
        await answer(send, result if isinstance(result, int) and result >= 200 else status, headers)

    return app


async def answer(send: Any, status: int = 200, headers: Sequence[Any] = ()) -> None:
    """A small whole response."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b"page"})


def put(**values: Any) -> Callable[[Session], None]:
    """Writes these values."""
    return lambda session: session.update(values)


class Answer:
    """One response, as it left us."""

    def __init__(self, messages: list[Message]) -> None:
        starts = [message for message in messages if message["type"] == "http.response.start"]
        assert len(starts) == 1, messages
        self.status: int = starts[0]["status"]
        self.headers: list[tuple[bytes, bytes]] = list(starts[0].get("headers", ()))
        self.body = b"".join(message.get("body", b"") for message in messages)

    def all(self, name: str) -> list[str]:
        """Every value under this header name."""
        return [value.decode() for key, value in self.headers if key.lower() == name.encode()]

    def header(self, name: str) -> str | None:
        """Its only value; None where there is none."""
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def set_cookie(self) -> str | None:
        return self.header("set-cookie")


class Client:
    """One browser: it keeps cookies, and shows raw headers."""

    def __init__(self, app: App, scheme: str = "http", host: str = "localhost") -> None:
        self.app = app
        self.scheme = scheme
        self.host = host
        self.cookies: dict[str, str] = {}

    def copy(self) -> "Client":
        """The same cookies, as they are now."""
        twin = Client(self.app, self.scheme, self.host)
        twin.cookies = dict(self.cookies)
        return twin

    def scope(
        self, path: str = "/", *, kind: str = "http", accept: str = "*/*", **more: Any
    ) -> dict[str, Any]:
        headers = [(b"host", self.host.encode()), (b"accept", accept.encode())]
        if self.cookies:
            pairs = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            headers.append((b"cookie", pairs.encode()))
        scheme = self.scheme.replace("http", "ws") if kind == "websocket" else self.scheme
        base = {"type": kind, "scheme": scheme, "path": path, "raw_path": path.encode(), "query_string": b""}
        base |= {"headers": headers, "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.4"}}
        base |= {"root_path": "", "client": ("127.0.0.1", 1), "server": (self.host, 80), "extensions": {}}
        return base | ({"method": "GET"} if kind == "http" else {"subprotocols": []}) | more

    async def get(self, path: str = "/", **more: Any) -> Answer:
        """The response to one request."""
        messages: list[Message] = []
        body: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            return body.pop() if body else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            messages.append(message)
            if message["type"] == "http.response.start":
                self.keep(message["headers"])

        await self.app(self.scope(path, **more), receive, send)
        return Answer(messages)

    def keep(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Do with Set-Cookie what a browser does."""
        for name, value in headers:
            if name.lower() == b"set-cookie":
                cookie, _, attributes = value.decode().partition(";")
                key, _, content = cookie.partition("=")
                if "1970" in attributes:
                    self.cookies.pop(key, None)
                else:
                    self.cookies[key] = content

    async def connect(self, path: str = "/", **more: Any) -> "Socket":
        """A WebSocket, as far as the app's first message."""
        socket = Socket(self, path, **more)
        await socket.next()
        return socket


class Socket:
    """One WebSocket; `sent` are the messages of the app."""

    def __init__(self, client: Client, path: str, **more: Any) -> None:
        self.sent: list[Message] = []
        self._in: asyncio.Queue[Message] = asyncio.Queue()
        self._news: asyncio.Queue[Message] = asyncio.Queue()
        self._in.put_nowait({"type": "websocket.connect"})
        self._client = client
        scope = client.scope(path, kind="websocket", **more)
        self.task = asyncio.ensure_future(client.app(scope, self._in.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._client.keep(message.get("headers") or ())
        if message["type"] == "websocket.close":
            self._in.put_nowait({"type": "websocket.disconnect", "code": message["code"]})
        self._news.put_nowait(message)

    async def next(self) -> Message:
        """The app's next message; what the app raised, if it ended without one."""
        news = asyncio.ensure_future(self._news.get())
        await asyncio.wait({news, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not news.done():
            news.cancel()
            await self.task
            raise EOFError("the app ended the WebSocket's task")
        return news.result()

    def say(self, text: str) -> None:
        self._in.put_nowait({"type": "websocket.receive", "text": text})

    async def leave(self) -> None:
        """Disconnect, and wait until the app is done."""
        self._in.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.task


def chat(action: Callable[[Session, str], Any], first: Callable[[Session], Any] = lambda _: None) -> App:
    """A WebSocket app: *first* before it accepts, then *action* for each text, echoed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        first(scope["session"])
        await send({"type": "websocket.accept", "headers": []})
        while (message := await receive())["type"] == "websocket.receive":
            result = action(scope["session"], message["text"])
            if inspect.isawaitable(result):
                await result
            await send({"type": "websocket.send", "text": message["text"]})

    return app


class FaultyPort:
    """A real port that fails, hangs or loses answers on command; `log` names what reached it."""

    def __init__(self, real: Port) -> None:
        self.real = real
        self.immediate = False
        self.log: list[str] = []
        self.failing: frozenset[str] = frozenset()
        self.slow: dict[str, asyncio.Event] = {}
        self.lost_answers: frozenset[str] = frozenset()  # done, but the answer does not come back
        self.pauses = 0  # turns of the event loop that every operation takes, before and after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.real, name)
        if name in {"open", "close", "wait", "watch"}:
            return method
        return lambda *a, **k: self._call(name, method, *a, **k)

    async def _call(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        self.log.append(name)
        if name in self.slow:
            await self.slow[name].wait()
        if name in self.failing:
            raise BackendUnavailable("the test pulled the plug")
        for _ in range(self.pauses):
            await asyncio.sleep(0)
        result = await method(*args, **named)
        for _ in range(self.pauses):
            await asyncio.sleep(0)
        if name in self.lost_answers:
            raise BackendUnavailable("the answer was lost", unknown=True)
        return result

    async def open(self) -> None:
        self.log.append("open")
        if "open" in self.failing:
            raise BackendUnavailable("the test pulled the plug")
        await self.real.open()

    def fail(self, *operations: str) -> None:
        """These fail from now on; none: all is well again."""
        self.failing = frozenset(operations)

    def hang(self, operation: str) -> asyncio.Event:
        """This one waits for the event, which the caller sets."""
        return self.slow.setdefault(operation, asyncio.Event())


ALL = ("load", "create", "commit", "delete", "delete_expired")


class FaultyBackend:
    """`backend=` with a `FaultyPort` as its async port. One loop at a time."""

    url = "faulty://"
    colours: frozenset[Colour] = frozenset({"async"})

    def __init__(self, real: Backend) -> None:
        self.faults = FaultyPort(real.port("async"))

    def port(self, colour: Colour) -> Any:
        return self.faults


class Site:
    """A middleware over an app and a backend, its manager's events, and a first visitor."""

    def __init__(
        self,
        app: App,
        backend: Backend,
        clock: ManualClock,
        *,
        entrance: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("secret_key", KEY)
        self.clock = clock
        self.manager = SessionManager(backend, clock=clock, monotonic=clock, **options)
        self.events: list[SessionEvent] = []
        self.manager.subscribe(None, self.events.append)
        self.middleware = SessionMiddleware(app, manager=self.manager, **(entrance or {}))
        self.client = self.new_client()

    def new_client(self, **more: Any) -> Client:
        return Client(self.middleware, **more)

    async def visit(self, app: App, client: Client | None = None, **more: Any) -> Answer:
        """One request to *app* in place of the site's."""
        self.middleware.app = app
        return await (client or self.client).get(**more)

    async def stored(self) -> list[dict[str, Any]]:
        """The values of the sessions that the events told of and that are alive."""
        ids = [event.session_id for event in self.named("session_created")]
        found = [await self.manager.get_session(str(id_)) for id_ in ids]
        return [dict(session) for session in found if session is not None]

    async def value(self, key: str, client: Client | None = None) -> Any:
        """What the client's next request reads."""
        seen: list[Any] = []
        await self.visit(page(lambda session: seen.append(session.get(key))), (client or self.client).copy())
        return seen[0]

    def named(self, *names: str) -> list[SessionEvent]:
        return [event for event in self.events if event.name in names]

    def suspicions(self) -> list[object]:
        return [event.fields["activity_type"] for event in self.named("session_suspicious_activity")]
