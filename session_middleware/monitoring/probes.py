"""Routes for load balancers and orchestrators: is the process alive, can it serve, and how is it?

    probes = Probes(manager)
    app.mount("/health", probes.asgi_app)   # /health/live, /health/ready, and /health/ itself

`live` never touches the backend, so an outage restarts nobody. `ready` asks it, at most once a second. The
third one adds the checks of the monitor; all show details only to those who may see them. Answers are
`application/health+json` (draft-inadarei-api-health-check-06): 200 for `pass` and `warn`, 503 for `fail`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from datetime import UTC, datetime
from hmac import compare_digest
from threading import Thread
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from session_middleware.backends.base import Port
from session_middleware.blocking import run_blocking
from session_middleware.errors import ConfigurationError, SessionDataError, SessionError
from session_middleware.loops import Finisher
from session_middleware.manager import SessionManager
from session_middleware.monitoring.monitor import SessionMonitor
from session_middleware.policy import Duration, seconds
from session_middleware.record import SessionId

__all__ = ["Authorized", "Probes"]

Authorized: TypeAlias = str | Callable[[Mapping[str, str]], bool] | None
"""A bearer token, or a function of the request's headers (names in lower case). None: nobody."""

_METHODS: Final = frozenset({"GET", "HEAD"})
_NOBODY: Final = SessionId("A" * 22)
_STATUS: Final = {"healthy": "pass", "warning": "warn", "critical": "fail", "unknown": "pass"}
_WORSE: Final = ("pass", "warn", "fail")
_PHRASES: Final = {
    200: "200 OK",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
    503: "503 Service Unavailable",
}


class _Asked(NamedTuple):
    """What came of asking the backend."""

    at: float  # monotonic seconds
    latency: float  # seconds
    problem: str | None  # None: it answered


class Probes:
    """The three routes, as an ASGI and as a WSGI app.

    Args:
        manager: whose backend is asked.
        monitor: whose checks are shown. None: the one that is attached to the manager, if there is one.
        authorized: who sees details: a bearer token (`Authorization: Bearer ...`), or a function of the
            headers. None: nobody; only `status` is told.
        timeout: seconds that the backend may take. Default 1.
        cached: seconds for which its answer holds. Default 1.

    Raises `ConfigurationError` naming the argument.
    """

    def __init__(
        self,
        manager: SessionManager,
        *,
        monitor: SessionMonitor | None = None,
        authorized: Authorized = None,
        timeout: Duration = 1.0,
        cached: Duration = 1.0,
    ) -> None:
        if not isinstance(manager, SessionManager):
            raise ConfigurationError(f"manager: found {type(manager).__name__}, pass a SessionManager")
        self._manager = manager
        self._monitor = monitor
        self._authorized = _rule("authorized", authorized)
        self._timeout = seconds("timeout", timeout)
        self._cached = seconds("cached", cached)
        self._finisher = Finisher(self._timeout)
        self._last: _Asked | None = None
        self._is_asking = False
        self._under_way: Future[None] | None = None

    async def asgi_app(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],  # noqa: ARG002  (ASGI's signature)
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise ConfigurationError(f"probes: they serve http, not {scope['type']}; mount them as a route")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
        asked = await self._ask() if _needs_backend(scope["method"], path) else None
        code, page = self._answer(scope["method"], path, headers, asked)
        shown = [(name.encode(), value.encode()) for name, value in _headers_of(page)]
        await send({"type": "http.response.start", "status": code, "headers": shown})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else page})

    def wsgi_app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        path, method = environ.get("PATH_INFO", "").strip("/"), environ["REQUEST_METHOD"]
        asked = self._ask_plainly() if _needs_backend(method, path) else None
        code, page = self._answer(method, path, headers, asked)
        start_response(_PHRASES[code], _headers_of(page))
        return [b"" if method == "HEAD" else page]

    # --- the backend ---

    async def _ask(self) -> _Asked:
        if (known := self._known()) is not None:
            return known
        self._is_asking, began = True, self._manager.monotonic()
        try:
            await self._finisher.finish(self._load(self._manager.performer.port))
        except SessionError as problem:
            return self._note(began, str(problem))
        finally:
            self._is_asking = False
        return self._note(began, None)

    def _ask_plainly(self) -> _Asked:
        """In a thread of its own: nobody can cut short a call that blocks."""
        if (known := self._known()) is not None:
            return known
        self._is_asking, began = True, self._manager.monotonic()
        try:
            self._in_thread().result(self._timeout)
        except NotDone:
            return self._note(began, f"the backend took longer than timeout={self._timeout} s")
        except SessionError as problem:
            return self._note(began, str(problem))
        finally:
            self._is_asking = False
        return self._note(began, None)

    def _in_thread(self) -> Future[None]:
        """The call that is under way, or a new one: a backend that hangs costs one thread."""
        if self._under_way is None or self._under_way.done():
            self._under_way = Future()
            arguments = (self._load(self._manager.blocking_performer.port), self._under_way)
            Thread(target=_run, args=arguments, name="session-probe", daemon=True).start()
        return self._under_way

    async def _load(self, port: Port) -> None:
        if self._manager.lifetime.is_closed:
            raise ConfigurationError("the manager was stopped")
        try:
            await port.load(_NOBODY, self._manager.clock())
        except SessionDataError:  # somebody's row, and damaged; the backend answered
            return

    def _known(self) -> _Asked | None:
        last = self._last
        if last is None:
            return None
        is_fresh = self._manager.monotonic() - last.at < self._cached
        return last if is_fresh or self._is_asking else None

    def _note(self, began: float, problem: str | None) -> _Asked:
        now = self._manager.monotonic()
        self._last = asked = _Asked(now, now - began, problem)
        monitor = self._watching()
        if monitor is not None and problem is None:
            monitor.record_metric("backend_latency", None, None, asked.latency)
        return asked

    def _watching(self) -> SessionMonitor | None:
        if self._monitor is not None:
            return self._monitor
        attached = self._manager.reporter.attached
        return next((one for one in tuple(attached) if isinstance(one, SessionMonitor)), None)

    # --- the answer ---

    def _answer(
        self, method: str, path: str, headers: Mapping[str, str], asked: _Asked | None
    ) -> tuple[int, bytes]:
        if path not in {"live", "ready", ""}:
            return 404, msgspec.json.encode({"status": "fail", "output": "there are live, ready and /"})
        if method not in _METHODS:
            return 405, msgspec.json.encode({"status": "fail", "output": "ask by GET or HEAD"})
        checks = {} if asked is None else self._backend_check(asked)
        report = self._watching() if path == "" else None
        if report is not None:
            checks |= _checks_of(report.get_session_health_report(), self._time())
        status = max((check["status"] for check in checks.values()), key=_WORSE.index, default="pass")
        body: dict[str, Any] = {"status": status}
        if checks and self._authorized(headers):
            body |= {"description": "sessions", "checks": {name: [one] for name, one in checks.items()}}
        return 503 if status == "fail" else 200, msgspec.json.encode(body)

    def _backend_check(self, asked: _Asked) -> dict[str, dict[str, Any]]:
        check: dict[str, Any] = {
            "componentType": "datastore",
            "observedValue": asked.latency,
            "observedUnit": "s",
            "status": "pass" if asked.problem is None else "fail",
            "time": self._time(),
        }
        if asked.problem is not None:
            check["output"] = asked.problem
        return {"backend:responseTime": check}

    def _time(self) -> str:
        return datetime.fromtimestamp(self._manager.clock(), UTC).isoformat()


def _needs_backend(method: str, path: str) -> bool:
    return method in _METHODS and path in {"ready", ""}


def _run(work: Coroutine[Any, Any, None], future: Future[None]) -> None:
    try:
        run_blocking(work)
    except Exception as problem:  # noqa: BLE001 - it is whoever waits who handles it
        future.set_exception(problem)
    else:
        future.set_result(None)


def _checks_of(report: Mapping[str, Any], time: str) -> dict[str, dict[str, Any]]:
    """The checks of a health report in the words of the draft."""
    found = {}
    for name, check in report["checks"].items():
        found[f"sessions:{name}"] = shown = {
            "observedValue": check["value"],
            "observedUnit": check["unit"],
            "status": _STATUS[check["status"]],
            "time": time,
        }
        if check["what_to_do"]:
            shown["output"] = check["what_to_do"]
    return found


def _headers_of(page: bytes) -> list[tuple[str, str]]:
    return [
        ("content-type", "application/health+json"),
        ("content-length", str(len(page))),
        ("cache-control", "no-store"),
    ]


def _rule(argument: str, authorized: Authorized) -> Callable[[Mapping[str, str]], bool]:
    if authorized is None:
        return lambda _: False
    if isinstance(authorized, str):
        if not authorized:
            raise ConfigurationError(f"{argument}: found empty text, pass a long random token")
        wanted = f"Bearer {authorized}".encode()
        return lambda headers: compare_digest(headers.get("authorization", "").encode(), wanted)
    if not callable(authorized):
        raise ConfigurationError(
            f"{argument}: found {type(authorized).__name__}, pass a token or a function of the headers"
        )
    return authorized
