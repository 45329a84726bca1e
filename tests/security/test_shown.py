"""What is shown to whoever develops or operates an app: debug pages, dumps of stores, reports, `repr`.

Searched as in `test_canary`. Values are in a store, and so is a record's secret; cookies, signatures and keys
are not. Controls: a page that tells a value, and the secret in each dump.
"""

from __future__ import annotations

import json
import pprint
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import flask
import pytest
import rich.pretty
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.debug import DebuggedApplication
from werkzeug.test import Client

import session_middleware
from session_middleware import SessionManager, SessionMiddleware, plan
from session_middleware.backends import postgres_sql, redis_store
from session_middleware.backends.capabilities import Page, Salvaged
from session_middleware.changes import Changes
from session_middleware.cli.app import cli
from session_middleware.cookies import CookieReading, Credential
from session_middleware.flask import init_app
from session_middleware.importing import Sighting
from session_middleware.old_cookies import OldSession
from session_middleware.record import Delta, Record, SessionId
from session_middleware.session import Live, SetCookie
from session_middleware.values import Values
from tests.security.test_canary import KEY, VALUE, Told, a_day, manager, parts_of, told
from tests.servers.postgres import FOLDERS as POSTGRES_FOLDERS
from tests.servers.processes import ServerMissing, program
from tests.servers.redis import RedisServer, client

__all__ = ["manager", "told"]  # fixtures

HTML = {"accept": "text/html"}
IN_NO_STORE = ("cookie", "signature", "key")


def parts(cookie: str, *names: str) -> dict[str, str]:
    return {name: part for name, part in parts_of(cookie).items() if name in names}


# --- debug pages ---------------------------------------------------------------------------------------


def fail(session: Any, what: str) -> None:
    match what:
        case "keep":
            session["kept"] = VALUE
            session.login("ada")
        case "raise":
            assert session["kept"] == VALUE
            raise RuntimeError("on purpose")
        case "unfit":
            session["unfit"] = object()
        case "careless":
            raise RuntimeError(f"it was {session['kept']}")


def starlette_page(what: str) -> tuple[str, str]:
    """The page, and the cookie that was live then."""

    async def page(request: Request) -> PlainTextResponse:
        fail(request.session, request.path_params["what"])
        return PlainTextResponse("ok")

    app = Starlette(debug=True, routes=[Route("/{what}", page)])
    app.add_middleware(SessionMiddleware, manager=SessionManager(secret_key=KEY), monitor=False)
    with TestClient(app, raise_server_exceptions=False) as browser:
        browser.get("/keep")
        return browser.get(f"/{what}", headers=HTML).text, browser.cookies["session"]


def flask_page(what: str) -> tuple[str, str]:
    """The same of Werkzeug's debugger, with its console."""
    app = flask.Flask(__name__)
    app.debug, app.secret_key = True, KEY
    init_app(app, manager=SessionManager(), monitor=False)

    @app.get("/<what>")
    def page(what: str) -> str:
        fail(flask.session, what)
        return "ok"

    browser = Client(DebuggedApplication(app, evalex=True))
    browser.get("/keep")
    cookie = browser.get_cookie("session")
    assert cookie is not None
    return browser.get(f"/{what}", headers=HTML).text, cookie.value


PAGES = [starlette_page, flask_page]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("what", "told_of"), [("raise", "on purpose"), ("unfit", "SessionDataError")])
def test_a_debug_page_shows_no_credential_and_no_value(
    page: Callable[[str], tuple[str, str]], what: str, told_of: str
) -> None:
    text, cookie = page(what)
    shown = Told()
    shown.add("page", text)
    assert "Traceback" in text
    assert told_of in text
    assert shown.finds(parts_of(cookie)) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_debug_page_of_an_app_that_tells_a_value_is_found(page: Callable[[str], tuple[str, str]]) -> None:
    text, cookie = page("careless")
    shown = Told()
    shown.add("page", text)
    assert shown.finds(parts(cookie, "value"))


# --- dumps of stores -----------------------------------------------------------------------------------


@contextmanager
def monitored(server: RedisServer) -> Iterator[list[str]]:
    """All commands that reach it meanwhile."""
    heard: list[str] = []
    with closing(socket.create_connection(("127.0.0.1", server.port))) as listening:
        listening.sendall(b"MONITOR\r\n")
        assert listening.recv(5) == b"+OK\r\n"
        yield heard
        server.ask("ECHO", "that was all")
        while "that was all" not in "".join(heard[-2:]):
            heard.append(listening.recv(65536).decode("latin-1"))


def test_what_redis_is_told_and_dumps_holds_no_cookie_and_no_key(redis: RedisServer, told: Told) -> None:
    sessions = SessionManager(redis.new_store(), secret_key=KEY)
    with monitored(redis) as heard:
        cookie = a_day(sessions, told)
    shown = Told()
    shown.add("commands", *heard)
    with client(sessions.backend.url) as operator:
        shown.add("dump", *(operator.dump(key).decode("latin-1") for key in operator.scan_iter()))
    assert shown.finds(parts(cookie, *IN_NO_STORE)) == []
    assert {"commands"} <= {where for where, *_ in shown.finds(parts(cookie, "secret"))}
    sessions.blocking.stop()


def test_a_dump_of_postgresql_holds_no_cookie_and_no_key(
    postgres: Any, told: Told, unavailable: Callable[[str], NoReturn]
) -> None:
    try:
        pg_dump = program("pg_dump", *POSTGRES_FOLDERS)
    except ServerMissing as problem:
        unavailable(str(problem))
    sessions = SessionManager(postgres.new_store(), secret_key=KEY)
    cookie = a_day(sessions, told)
    done = subprocess.run([pg_dump, postgres.url], capture_output=True, text=True, check=True)
    shown = Told()
    shown.add("dump", done.stdout)
    assert shown.finds(parts(cookie, *IN_NO_STORE)) == []
    assert shown.finds(parts(cookie, "secret"))
    sessions.blocking.stop()


# --- reports of logs -----------------------------------------------------------------------------------


def test_a_report_of_the_log_shows_no_credential_and_no_value(told: Told, tmp_path: Path) -> None:
    sessions = SessionManager(secret_key=KEY)
    cookie = a_day(sessions, told)
    log, page, shown = tmp_path / "app.log", tmp_path / "report.html", Told()
    log.write_text(told.texts["JSONRenderer"].replace("}{", "}\n{"))
    for options in ([], ["--json"], ["--html", str(page)]):
        done = CliRunner().invoke(cli, ["report", str(log), *options])
        assert done.exit_code == 0, done.output
        shown.add(f"report {options[:1]}", done.output)
    shown.add("page", page.read_text())
    assert "session_created" in "".join(shown.texts.values())
    assert shown.finds(parts_of(cookie)) == []


# --- repr ----------------------------------------------------------------------------------------------


def held_by(*roots: object) -> Iterator[object]:
    """Every object of this package that can be reached from these through attributes and containers."""
    todo, seen = list(roots), {}
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, str | bytes | int | float | type | None):
            continue
        seen[id(one)] = one  # kept, so that no other object gets its place
        is_ours = type(one).__module__.startswith("session_middleware")
        if is_ours:
            yield one
        todo += contents(one, is_ours=is_ours)


def contents(one: Any, *, is_ours: bool) -> Iterator[object]:
    if isinstance(one, dict) and not is_ours:
        yield from one.values()
    if isinstance(one, list | tuple | set | frozenset):
        yield from one
    if is_ours or type(one).__module__ == __name__:
        yield from vars(one).values() if hasattr(one, "__dict__") else ()
        slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
        names = [*slots, *getattr(type(one), "__struct_fields__", ())]
        yield from (getattr(one, name) for name in names if hasattr(one, name))


def show(one: object, shown: Told) -> None:
    text = [repr(one), str(one), f"{one}", pprint.pformat(one), rich.pretty.pretty_repr(one)]
    shown.add(type(one).__name__, *text)


SECRET = secrets.token_urlsafe(16)
RECORD = Record(
    id=SessionId("i" * 22),
    secret=SECRET,
    generation=1,
    created_at=1.0,
    deadline=2.0,
    limit=2.0,
    last_seen_at=1.0,
    data=Values.of({"kept": json.dumps(VALUE).encode()}),
    metadata={"client": VALUE},
)
DELTA = Delta(set=RECORD.data.pairs, metadata=RECORD.metadata)
CREDENTIAL = Credential(RECORD.id, SECRET, 1)
HELD: list[object] = [
    RECORD,
    DELTA,
    RECORD.data,
    CREDENTIAL,
    CookieReading((CREDENTIAL,), (CREDENTIAL,), 0),
    SetCookie(RECORD.id, SECRET, 1, 2.0),
    Live(RECORD, 1),
    Changes(dict(RECORD.data.pairs), (), {}),
    plan.Create(RECORD),
    plan.Write(RECORD, DELTA),
    plan.Swap(RECORD, RECORD.id, "superseded"),
    plan.Keep(RECORD),
    Salvaged({"secret": SECRET}, RECORD.data.packed, ("k", SECRET)),
    Page([RECORD], None),
    Sighting("session", OldSession({"kept": VALUE}, SECRET.encode(), 2.0, "flask")),
    redis_store.Stored(RECORD),
    redis_store.Found(RECORD, redis_store.Stored(RECORD)),
    redis_store.CREATE("key", *redis_store.fields_of(RECORD).values()),
    redis_store.hash_of([b"k", SECRET.encode(), b"s", RECORD.data.packed]),
    postgres_sql.Stored(RECORD, 1, SECRET),
    postgres_sql.Loaded(RECORD, postgres_sql.Stored(RECORD, 1, SECRET)),
    postgres_sql._row_of(RECORD),
]


@pytest.mark.parametrize("one", HELD, ids=lambda one: type(one).__name__)
def test_no_repr_of_what_is_held_on_the_way_shows_a_secret_or_a_value(one: object) -> None:
    shown = Told()
    show(one, shown)
    assert shown.finds({"secret": SECRET, "value": VALUE}) == []


def test_a_repr_of_a_plain_container_is_found() -> None:
    shown = Told()
    show({"secret": SECRET}, shown)
    show([RECORD.data.packed], shown)
    assert {name for _, name, _ in shown.finds({"secret": SECRET, "value": VALUE})} == {"secret", "value"}


def test_no_object_that_a_request_holds_shows_a_credential_or_a_value() -> None:
    sessions = SessionManager(secret_key=KEY)
    shown, kinds = Told(), set()

    async def page(request: Request) -> PlainTextResponse:
        session = request.session
        fail(session, request.path_params["what"])
        session["more"] = VALUE
        session.increment("n")
        session.cycle()
        await sessions.save(session)  # so it owes a cookie
        session["more"] = [VALUE]
        for one in held_by(
            session, request.scope["session_middleware"], sessions, *sessions.active_requests()
        ):
            kinds.add(type(one))
            show(one, shown)
        return PlainTextResponse("ok")

    app = SessionMiddleware(Starlette(routes=[Route("/{what}", page)]), manager=sessions, monitor=False)
    sessions.subscribe(None, lambda event: kinds.add(type(event)) or shown.add("event", event, str(event)))
    with TestClient(app) as browser:
        browser.get("/keep")
        browser.get("/look")
        cookie = browser.cookies["session"]
    shown.add("app", app, str(app))
    public = [getattr(session_middleware, name) for name in session_middleware.__all__]
    classes = {one for one in public if isinstance(one, type) and not issubclass(one, Exception)}
    unseen = classes - kinds
    assert {kind.__name__ for kind in unseen} <= NOT_OF_A_REQUEST
    assert shown.finds(parts_of(cookie)) == []


NOT_OF_A_REQUEST = {"EventType", "SQLiteBackend", "SessionMiddleware", "WSGISessionMiddleware", "Where"}
