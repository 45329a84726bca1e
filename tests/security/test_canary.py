"""Canaries: whatever is told of sessions anywhere, nothing of it works as a cookie, and no value is in it.

A visitor signs in, writes, is refused, fails and logs out while everything listens: log lines of every
renderer, events, the monitor with its reports and exports, `repr` of whatever an app holds, what the manager
and the command line say. All of that is then searched for the cookie, its parts, the key and a value, in the
encodings in which text travels. Controls: each is planted on purpose, and found.
"""

from __future__ import annotations

import base64
import json
import logging
import pprint
import secrets
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.blocking import run_blocking
from session_middleware.cli.app import cli
from session_middleware.monitoring import SessionMonitor
from tests.test_manager import backend_named

KEY = "a key of the canary tests, " + secrets.token_urlsafe(24)
VALUE = "canary-" + secrets.token_urlsafe(12)


class Told:
    """All that was told, by where."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, where: str, *what: object) -> None:
        text = "\n".join(one if isinstance(one, str) else repr(one) for one in what)
        self.texts[where] = self.texts.get(where, "") + text

    def finds(self, canaries: dict[str, str]) -> list[tuple[str, str, str]]:
        """Where which one is, and in which spelling."""
        return [
            (where, name, spelling)
            for where, text in self.texts.items()
            for name, canary in canaries.items()
            for spelling, spelt in spellings(canary).items()
            if spelt in text
        ]


def spellings(text: str) -> dict[str, str]:
    raw = text.encode()
    return {
        "plain": text,
        "reversed": text[::-1],
        "hex": raw.hex(),
        "base64": base64.b64encode(raw).decode().rstrip("=")[:-1],
        "url-safe base64": base64.urlsafe_b64encode(raw).decode().rstrip("=")[:-1],
        "percent": "".join(f"%{byte:02X}" for byte in raw),
        "quoted": urllib.parse.quote(text),
        "numbers": ", ".join(map(str, raw)),
    }


def parts_of(cookie: str) -> dict[str, str]:
    """What would serve to sign in; the id, which names a session in logs, is none of it."""
    _, secret, _, signature = cookie.split(".")
    return {"cookie": cookie, "secret": secret, "signature": signature, "key": KEY, "value": VALUE}


class Handler(logging.Handler):
    """Every log line as several renderers write it, and the record itself."""

    def __init__(self, told: Told) -> None:
        super().__init__(logging.DEBUG)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.add("log line", self.format(record), vars(record))


async def visit(request: Request) -> PlainTextResponse:
    session = request.session
    match request.path_params["what"]:
        case "write":
            session["note"] = VALUE
        case "login":
            session.login("ada")
        case "fail":
            session["broken"] = object()
        case "raise":
            raise RuntimeError("on purpose")
        case "logout":
            session.logout()
        case "show":
            request.app.state.told.add("repr", session, str(session), pprint.pformat(session.life))
    return PlainTextResponse(str(len(session)))


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SessionManager]:
    made = SessionManager(backend_named(request.param, request, tmp_path), secret_key=KEY)
    yield made
    run_blocking(made.blocking_performer.port.close())


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    """Listens to the log, through structlog's renderers and the standard library's."""
    told = Told()
    handler, root = Handler(told), logging.getLogger()
    caplog.set_level(logging.DEBUG)
    root.addHandler(handler)
    renderers = [structlog.processors.JSONRenderer(), structlog.dev.ConsoleRenderer(colors=False)]

    def render(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
        for renderer in renderers:
            told.add(type(renderer).__name__, renderer(None, "info", dict(event)))
        return event

    structlog.configure(
        processors=[render, structlog.processors.JSONRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    yield told
    structlog.reset_defaults()
    root.removeHandler(handler)


def a_day(manager: SessionManager, told: Told) -> str:
    """A visitor's day; the cookie that is live at its end."""
    monitor = SessionMonitor()
    monitor.attach(manager)
    manager.subscribe(None, lambda event: told.add("event", event, str(event), dict(event.fields)))
    app = Starlette(routes=[Route("/{what}", visit)])
    app.state.told = told
    served = SessionMiddleware(app, manager=manager)
    with TestClient(served, raise_server_exceptions=False) as browser:
        for what in ("write", "login", "show", "fail", "raise", "show"):
            browser.get(f"/{what}")
        cookie = browser.cookies["session"]
        for forged in (cookie + "x", cookie.replace(".", "-"), "x" * 100):
            stranger = TestClient(served, cookies={"session": forged})
            stranger.get("/show")
        tell_of_manager(manager, told)
        told.add("monitor", monitor.get_session_statistics(), monitor.get_session_health_report())
        told.add("exports", *monitor.export_metrics(), repr(monitor))
        gone = TestClient(served, cookies={"session": cookie})
        leaving = SessionManager(manager.backend, secret_key=KEY).blocking
        told.add("left", leaving.count())
        gone.get("/show")
    return cookie


def tell_of_manager(manager: SessionManager, told: Told) -> None:
    sessions = manager.blocking
    [session] = sessions.get_sessions()
    told.add(
        "manager",
        manager,
        manager.cookie,
        manager.policy,
        manager.codec,
        manager.backend,
    )
    told.add("listings", sessions.get_sessions(), sessions.get_user_sessions("ada"))
    told.add("information", sessions.get_sessions_info(), manager.get_metrics(), sessions.get_health())
    told.add("session", session, session.life, session.life.record, str(session.life.record))
    told.add("active", manager.active_requests())


def test_nothing_that_is_told_anywhere_works_as_a_cookie(manager: SessionManager, told: Told) -> None:
    cookie = a_day(manager, told)
    assert {"log line", "event", "JSONRenderer", "monitor", "exports", "manager", "repr"} <= told.texts.keys()
    assert told.finds(parts_of(cookie)) == []


def test_the_command_line_tells_no_credential_and_no_value(told: Told, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    manager = SessionManager(url, secret_key=KEY)
    cookie = a_day(manager, told)
    [session] = manager.blocking.get_sessions()
    for command in (["list"], ["show", session.id], ["stats"], ["doctor"], ["--help"]):
        done = CliRunner().invoke(cli, [*command, "--backend", url] if command != ["--help"] else command)
        told.add(f"command {command[0]}", done.output, done.stderr)
    assert session.id in told.texts["command list"]
    assert told.finds({name: part for name, part in parts_of(cookie).items() if name != "value"}) == []
    manager.blocking.stop()


def test_no_dump_of_a_store_holds_a_cookie_or_the_key(told: Told, tmp_path: Path) -> None:
    from tests.manager.damage import stored_text

    manager = SessionManager(f"sqlite:///{tmp_path}/sessions.db", secret_key=KEY)
    cookie = a_day(manager, told)
    manager.blocking.stop()
    dump = Told()
    dump.add("store", stored_text(manager.backend))
    found = parts_of(cookie)
    assert dump.finds({name: found[name] for name in ("cookie", "signature", "key")}) == []
    assert dump.finds({"secret": found["secret"]}), "the control: what is stored was looked at"


@pytest.mark.parametrize("canary", ["cookie", "secret", "signature", "key", "value"])
@pytest.mark.parametrize("spelling", sorted(spellings("x")))
def test_what_is_planted_is_found(canary: str, spelling: str) -> None:
    told, parts = (
        Told(),
        parts_of(f"{'i' * 22}.{secrets.token_urlsafe(16)}.1790000000123.{secrets.token_urlsafe(32)}"),
    )
    told.add("a careless log line", json.dumps({"it": spellings(parts[canary])[spelling]}))
    assert (canary, spelling) in {(name, how) for _, name, how in told.finds(parts)}


Planter = Callable[[SessionManager, Told, Any], object]
CARELESS: dict[str, Planter] = {
    "logs the headers": lambda manager, told, request: logging.getLogger("app").warning(
        "%s", request.headers
    ),
    "logs a value": lambda manager, told, request: logging.getLogger("app").warning(
        "%s", dict(request.session)
    ),
}


@pytest.mark.parametrize("careless", CARELESS)
def test_an_app_that_tells_too_much_is_found_out(careless: str, told: Told) -> None:
    manager = SessionManager(secret_key=KEY)

    async def page(request: Request) -> PlainTextResponse:
        request.session["note"] = VALUE
        CARELESS[careless](manager, told, request)
        return PlainTextResponse("ok")

    app = SessionMiddleware(Starlette(routes=[Route("/", page)]), manager=manager)
    with TestClient(app) as browser:
        browser.get("/")
        browser.get("/")
        cookie = browser.cookies["session"]
    assert told.finds(parts_of(cookie)) != []
