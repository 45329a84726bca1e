"""Tracebacks with local variables: what an error tracker shows of a failing backend signs nobody in.

A backend fails in each of its operations while a visitor's request is under way; so does a real server, which
refuses what is written, or whose connection is cut. Every frame of the traceback and of those of its causes
is then searched, as the standard library, structlog and rich show it. The ASGI scope is left
out: a server and every framework hold it in their frames too, with the Cookie header of the request; trackers
have a filter for it. Controls: a careless local is found; so is what goes to a server, where it is shown.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.traceback import Traceback
from structlog.tracebacks import ExceptionDictTransformer

from session_middleware import (
    BackendError,
    MemoryBackend,
    SessionDataError,
    SessionManager,
    SessionMiddleware,
)
from session_middleware.backends import hiding
from session_middleware.backends.base import Colour
from tests.security.test_canary import KEY, VALUE, Told, parts_of
from tests.servers.proxy import Proxy, proxy
from tests.servers.redis import RedisServer


class Failing:
    """Fails in the operation that is named, with nothing of what it was given in its own frame."""

    url = "failing://"
    colours: frozenset[Colour] = frozenset({"async"})
    immediate = False

    def __init__(self) -> None:
        self._real = MemoryBackend().port("blocking")
        self.fails: str | None = None

    def port(self, colour: Colour) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name == self.fails:
            return fail
        return getattr(self._real, name)


async def fail(*_: object, **__: object) -> None:
    raise RuntimeError("on purpose")


async def app(scope: Any, receive: Any, send: Any) -> None:
    session, wanted = scope["session"], scope["path"].strip("/").split("-")
    session.mark_accessed()
    for what in wanted:
        match what:
            case "write":
                session["note"] = VALUE
            case "keep":
                session["kept"] = VALUE
            case "login":
                session.login("ada")
            case "logout":
                session.logout()
            case "cycle":
                session.cycle()
            case "unfit":
                session["unfit"] = object()
            case "large":
                session["large"] = "x" * 100_000
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def visit(served: Any, path: str, cookie: str | None = None) -> str:
    """The cookie that comes back."""
    headers = [] if cookie is None else [(b"cookie", b"session=" + cookie.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "scheme": "http", "headers": headers}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await served(scope, receive, send)
    found = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
    return found[0].partition("=")[2].partition(";")[0] if found else ""


def failed(operation: str, path: str, *, signed_in: bool) -> tuple[RuntimeError, str]:
    """What a request raised, and the cookie that was live then."""
    backend = Failing()
    served = SessionMiddleware(app, manager=SessionManager(backend, secret_key=KEY), monitor=False)

    async def main() -> tuple[RuntimeError, str]:
        cookie = await visit(served, "/login-keep")
        backend.fails = operation
        with pytest.raises(RuntimeError, match="on purpose") as caught:
            await visit(served, path, cookie if signed_in else None)
        return caught.value, cookie

    return asyncio.run(main())


Shown = Callable[[BaseException, Told], None]


def refused(what: str) -> tuple[BaseException, str]:
    """What came of values that cannot be held, beside one that can, and the cookie that was live then."""
    served = SessionMiddleware(app, manager=SessionManager(secret_key=KEY), monitor=False)

    async def main() -> tuple[BaseException, str]:
        cookie = await visit(served, "/login-keep")
        with pytest.raises(SessionDataError) as caught:
            await visit(served, f"/write-{what}", cookie)
        return caught.value, cookie

    return asyncio.run(main())


def by_the_standard_library(problem: BaseException, told: Told) -> None:
    shown = traceback.TracebackException.from_exception(problem, capture_locals=True)
    for frame in shown.stack:
        add_frame(told, frame.filename, frame.name, frame.locals)


def by_structlog(problem: BaseException, told: Told) -> None:
    transform = ExceptionDictTransformer(show_locals=True, locals_max_string=10_000, locals_max_length=1000)
    for trace in transform((type(problem), problem, problem.__traceback__)):
        for frame in trace["frames"]:
            add_frame(told, frame["filename"], frame["name"], frame.get("locals"))


def by_rich(problem: BaseException, told: Told) -> None:
    trace = Traceback.extract(
        type(problem),
        problem,
        problem.__traceback__,
        show_locals=True,
        locals_max_string=10_000,
        locals_max_length=1000,
    )
    for frame in (frame for stack in trace.stacks for frame in stack.frames):
        shown = {name: str(node) for name, node in (frame.locals or {}).items()}
        add_frame(told, frame.filename, frame.name, shown)


def add_frame(told: Told, filename: str, name: str, found: Any) -> None:
    if filename != __file__ or name not in {"visit", "main", "failed", "refused"}:
        told.add(name, *(text for local, text in (found or {}).items() if local != "scope"))


TRACKERS = [by_the_standard_library, by_structlog, by_rich]


@pytest.mark.parametrize("shown", TRACKERS)
@pytest.mark.parametrize(
    ("operation", "path", "signed_in"),
    [
        ("load", "/write", True),
        ("create", "/write", False),
        ("create", "/login-write", False),
        ("create", "/logout-write", True),
        ("commit", "/write", True),
        ("commit", "/cycle-write", True),
        ("commit", "/login-write", True),
        ("delete", "/logout", True),
    ],
)
def test_a_traceback_with_locals_shows_no_credential_and_no_value(
    operation: str, path: str, signed_in: bool, shown: Shown
) -> None:
    problem, cookie = failed(operation, path, signed_in=signed_in)
    told = Told()
    shown(problem, told)
    assert told.texts, "frames of ours were looked at"
    assert told.finds(parts_of(cookie)) == []


@pytest.mark.parametrize("shown", TRACKERS)
@pytest.mark.parametrize("what", ["unfit", "large"])
def test_nor_does_one_of_a_value_that_cannot_be_held(what: str, shown: Shown) -> None:
    problem, cookie = refused(what)
    told = Told()
    for one in chain(problem):
        shown(one, told)
    assert told.finds(parts_of(cookie)) == []


@pytest.mark.parametrize("shown", TRACKERS)
def test_a_careless_local_is_found(shown: Shown) -> None:
    def careless() -> None:
        held = {"it": VALUE}
        raise RuntimeError(len(held))

    told = Told()
    try:
        careless()
    except RuntimeError as problem:
        shown(problem, told)
    assert ("careless", "value", "plain") in told.finds({"value": VALUE})


# --- real servers --------------------------------------------------------------------------------------


def refuse(server: Any, url: str, _: Proxy) -> None:
    if isinstance(server, RedisServer):
        server.ask("CONFIG", "SET", "maxmemory", 1)
        return
    import psycopg

    with psycopg.connect(url, autocommit=True) as operator:
        operator.execute(_RAISES)
        tables = operator.execute("SELECT tablename FROM pg_tables WHERE schemaname=current_schema()")
        for (table,) in tables.fetchall():
            operator.execute(
                f"CREATE TRIGGER no BEFORE INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION no()"  # type: ignore[call-overload]  # a name of ours
            )


_RAISES = """CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'on purpose'; END $$"""


def cut(_: Any, __: str, between: Proxy) -> None:
    between.cuts_after = 0


def failures_at(
    server: Any, spoil: Callable[[Any, str, Proxy], None]
) -> tuple[list[BaseException], dict[str, str]]:
    """What was raised or told of while this happened to it, and what none of that may show."""
    problems: list[BaseException] = []

    async def main(url: str, between: Proxy) -> str:
        manager = SessionManager(url.replace(f":{server.port}", f":{between.port}", 1), secret_key=KEY)
        served = SessionMiddleware(app, manager=manager, monitor=False)
        manager.subscribe(None, lambda event: problems.extend(filter(None, [event.fields.get("exception")])))
        cookie = await visit(served, "/login-keep")
        spoil(server, url, between)
        for path in ("/write", "/cycle-write", "/login-write", "/logout"):
            await visit(served, path, cookie)
        await visit(served, "/login-write")
        await manager.stop()
        return cookie

    url = server.new_store()
    with proxy(server.port) as between:
        cookie = asyncio.run(main(url, between))
    return [one for problem in problems for one in chain(problem)], parts_of(cookie)


def failures_in_a_thread(
    server: Any, spoil: Callable[[Any, str, Proxy], None]
) -> tuple[list[BaseException], dict[str, str]]:
    """The same over the blocking port."""
    problems: list[BaseException] = []

    def main(url: str, between: Proxy) -> dict[str, str]:
        manager = SessionManager(url.replace(f":{server.port}", f":{between.port}", 1))
        sessions = manager.blocking
        session = sessions.create_session("ada", {"kept": VALUE})
        session["note"] = VALUE
        spoil(server, url, between)
        for call, one in (("save", session), ("cycle_session", session.id), ("renew_session", session.id)):
            with pytest.raises(BackendError) as caught:
                getattr(sessions, call)(one)
            problems.append(caught.value)
        sessions.stop()
        return {"value": VALUE, "secret": session.life.record.secret}

    url = server.new_store()
    with proxy(server.port) as between:
        canaries = main(url, between)
    return [one for problem in problems for one in chain(problem)], canaries


def chain(problem: BaseException | None) -> Iterator[BaseException]:
    """It, and what it came of."""
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    running = request.getfixturevalue(request.param)
    yield running
    if isinstance(running, RedisServer):
        running.ask("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.parametrize("spoil", [refuse, cut])
@pytest.mark.parametrize("failures", [failures_at, failures_in_a_thread])
def test_nor_does_one_of_a_real_server_that_fails(
    server: Any, failures: Callable[..., Any], spoil: Callable[[Any, str, Proxy], None]
) -> None:
    problems, canaries = failures(server, spoil)
    told = Told()
    for shown in TRACKERS:
        for problem in problems:
            shown(problem, told)
    assert {"ask", "_exchange", "_run"} & told.texts.keys(), "frames of the port were looked at"
    assert told.finds(canaries) == []


@pytest.mark.parametrize("shown", TRACKERS)
def test_what_goes_to_a_server_is_found_where_it_is_shown(
    server: Any, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hiding._Unshown, "__repr__", lambda hidden: repr(list(hidden)))
    monkeypatch.setattr(hiding._Unshown, "__rich_repr__", lambda hidden: iter([list(hidden)]))
    problems, canaries = failures_at(server, refuse)
    told = Told()
    for problem in problems:
        shown(problem, told)
    assert {"value", "secret"} & {name for _, name, _ in told.finds(canaries)}
