"""What the tests of the WSGI entrance drive it with: `page`, `Client` and `FaultyBackend`.

Every request runs under `wsgiref.validate`, which refuses what PEP 3333 does not allow, on both sides of us.
"""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any
from wsgiref.validate import validator

from session_middleware import BackendUnavailable, Session, SessionManager, WSGISessionMiddleware
from session_middleware.backends.base import Backend, Colour, Port
from session_middleware.testing.clock import ManualClock

KEY = "vY0sN2bq8LZkXw5Rj1TgPd7HcM4uEa9F"
WSGIApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


def page(
    action: Callable[[Session], Any] = lambda _: None,
    status: str = "200 OK",
    headers: Iterable[tuple[str, str]] = (),
) -> WSGIApp:
    """An app that does *action* to the session, then answers."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        action(environ["session"])
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return [b"page"]

    return app


def put(**values: Any) -> Callable[[Session], None]:
    return lambda session: session.update(values)


class Answer:
    """One response, as it left us; the body stays open until `read` or `close`."""

    def __init__(self) -> None:
        self.starts: list[tuple[str, list[tuple[str, str]]]] = []
        self.written = b""
        self.body: Any = None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is not None and self.written:
            raise exc_info[1]
        self.starts.append((status, list(headers)))
        return self._write

    def _write(self, data: bytes) -> None:
        self.written += data

    def read(self) -> "Answer":
        try:
            for piece in self.body:
                self.written += piece
        finally:
            self.close()
        return self

    def close(self) -> None:
        closer = getattr(self.body, "close", None)
        if closer is not None:
            closer()

    @property
    def status(self) -> int:
        return int(self.starts[-1][0][:3])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.starts[-1][1] if key.lower() == name]

    def header(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def set_cookie(self) -> str | None:
        """The one of the session."""
        ours = [value for value in self.all("set-cookie") if value.startswith("session=")]
        assert len(ours) <= 1, ours
        return ours[0] if ours else None


class Client:
    """One browser with one cookie."""

    def __init__(self, app: WSGIApp, scheme: str = "http") -> None:
        self.app = app
        self.scheme = scheme
        self.cookie: str | None = None

    def copy(self) -> "Client":
        twin = Client(self.app, self.scheme)
        twin.cookie = self.cookie
        return twin

    def open(self, path: str = "/", method: str = "GET", *, checked: bool = True, **more: Any) -> Answer:
        """A request whose body is not read yet."""
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": self.scheme,
            "wsgi.input": BytesIO(),
            "wsgi.errors": _Errors(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "HTTP_HOST": "localhost",
            **more,
        }
        if self.cookie is not None:
            environ["HTTP_COOKIE"] = self.cookie
        answer = Answer()
        served = validator(self.app) if checked else self.app
        answer.body = served(environ, answer.start_response)
        if answer.starts:
            self.keep(answer)
        return answer

    def get(self, path: str = "/", method: str = "GET", **more: Any) -> Answer:
        answer = self.open(path, method, **more).read()
        self.keep(answer)
        return answer

    def keep(self, answer: Answer) -> None:
        if answer.set_cookie is not None:
            pair, _, rest = answer.set_cookie.partition(";")
            self.cookie = None if "1970" in rest else pair


class _Errors:
    def write(self, _: str) -> None: ...

    def writelines(self, _: Any) -> None: ...

    def flush(self) -> None: ...


class FaultyBackend:
    """A real backend whose operations fail where `failing` names them."""

    url = "faulty://"

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.colours = inner.colours
        self.failing: set[str] = set()

    def port(self, colour: Colour) -> Port:
        return _FaultyPort(self, self.inner.port(colour))  # type: ignore[return-value]


class _FaultyPort:
    immediate = False

    def __init__(self, backend: FaultyBackend, inner: Port) -> None:
        self._backend = backend
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in self._backend.failing:
            return self._fail
        return getattr(self._inner, name)

    async def _fail(self, *_: Any, **__: Any) -> None:
        raise BackendUnavailable("down for the test")


class Site:
    """One middleware over one manager, whose clock the test moves."""

    def __init__(self, app: WSGIApp, backend: Backend | str = "memory://", **options: Any) -> None:
        routes = {name: options.pop(name) for name in ("optional", "passive", "skip") if name in options}
        self.clock = ManualClock()
        self.manager = SessionManager(backend, secret_key=KEY, clock=self.clock, log=False, **options)
        self.events: list[Any] = []
        self.manager.subscribe(None, self.events.append)
        self.app = WSGISessionMiddleware(app, manager=self.manager, **routes)

    def client(self) -> Client:
        return Client(self.app)

    def told(self, name: str) -> list[Any]:
        return [event for event in self.events if event.name == name]
