"""The WSGI entrance: when it commits, what it does to responses, and how a request ends."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from session_middleware import (
    ConfigurationError,
    MemoryBackend,
    Session,
    SessionDataError,
    SessionManager,
    SQLiteBackend,
    WSGISessionMiddleware,
)
from session_middleware.backends.base import Backend
from session_middleware.housekeeping import Housekeeper
from tests.wsgi.harness import KEY, Client, FaultyBackend, Site, WSGIApp, page, put

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return MemoryBackend() if request.param == "memory" else SQLiteBackend(tmp_path / "sessions.db")


def stored(client: Client, site: Site) -> dict[str, Any]:
    assert client.cookie is not None
    session = site.manager.blocking.get_session(client.cookie.partition("=")[2].partition(".")[0])
    return {} if session is None else dict(session)


# --- the session and the response ---


def test_what_was_written_is_there_in_the_next_request(backend: Backend) -> None:
    seen: list[dict[str, Any]] = []

    def act(session: Session) -> None:
        seen.append(dict(session))
        session["n"] = session.get("n", 0) + 1

    site = Site(page(act), backend)
    client = site.client()
    for _ in range(3):
        assert client.get().status == 200
    assert seen == [{}, {"n": 1}, {"n": 2}]


def test_a_visitor_nobody_looks_at_gets_no_header_and_costs_no_backend_call() -> None:
    backend = FaultyBackend(MemoryBackend())
    backend.failing = {"load", "create", "commit"}
    answer = Site(page(), backend).client().get()
    assert (answer.status, answer.header("vary"), answer.set_cookie) == (200, None, None)


def test_a_look_varies_and_a_new_cookie_is_not_stored_by_caches() -> None:
    apps_own = [("Vary", "Accept"), ("Set-Cookie", "session=old"), ("Set-Cookie", "x=1")]
    site = Site(page(put(a=1), headers=apps_own))
    answer = site.client().get()
    assert answer.header("vary") == "Accept, Cookie"
    assert answer.header("cache-control") == "no-store"
    assert len(answer.all("set-cookie")) == 2
    assert "session=old" not in answer.all("set-cookie")


def test_a_read_writes_nothing_and_sets_no_cookie(backend: Backend) -> None:
    faulty = FaultyBackend(backend)
    site = Site(page(lambda session: session.setdefault("a", 1)), faulty)
    client = site.client()
    client.get()
    faulty.failing = {"create", "commit"}
    answer = client.get()
    assert (answer.status, answer.set_cookie, answer.header("vary")) == (200, None, "Cookie")


def test_https_makes_the_cookie_secure() -> None:
    client = Client(Site(page(put(a=1))).app, "https")
    assert "secure" in (client.get().set_cookie or "").lower()


def test_it_is_stored_before_the_response_leaves_us(backend: Backend) -> None:
    found: list[int] = []

    site = Site(page(put(a=1)), backend)

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        found.append(site.manager.blocking.count())
        return lambda _: None

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http"}
    site.app(environ, start_response)
    assert found == [1]


def test_a_change_between_start_response_and_the_first_piece_still_gets_its_cookie(backend: Backend) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ["session"]["a"] = 1
        yield b"x"

    site = Site(app, backend)
    client = site.client()
    assert client.get().set_cookie is not None
    assert stored(client, site) == {"a": 1}


def test_a_change_while_streaming_is_saved_when_the_body_is_closed(backend: Backend) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        session = environ["session"]
        session["early"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"
        session["late"] = 2
        yield b"y"

    site = Site(app, backend)
    client = site.client()
    assert client.get().written == b"xy"
    assert stored(client, site) == {"early": 1, "late": 2}


def test_a_first_change_while_streaming_is_reported_by_key() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"
        environ["session"]["late"] = 2

    site = Site(app)
    site.client().get()
    [event] = site.told("session_data_save_failed")
    assert (event.fields["reason"], event.fields["keys"]) == ("response_started", ["late"])


def test_a_client_that_goes_away_in_the_middle_ends_the_request(backend: Backend) -> None:
    closed: list[bool] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        environ["session"]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            yield b"x"
            yield b"y"
        finally:
            environ["session"]["gone"] = True
            closed.append(True)

    site = Site(app, backend)
    client = site.client()
    answer = client.open()
    next(answer.body)
    client.keep(answer)
    assert len(site.manager.activity) == 1
    answer.close()
    assert closed == [True]
    assert len(site.manager.activity) == 0
    assert stored(client, site) == {"a": 1, "gone": True}


def test_a_client_that_goes_away_before_the_first_piece_does_not_undo_the_handler() -> None:
    class Stream:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

    def app(environ: Any, start_response: Any) -> Any:
        environ["session"]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Stream()

    site = Site(app)
    answer = site.client().open(checked=False)
    answer.close()
    assert site.manager.blocking.count() == 1
    assert len(site.manager.activity) == 0


def test_what_is_written_by_write_comes_after_the_commit(backend: Backend) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["session"]["a"] = 1
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"one ")
        return [b"two"]

    site = Site(app, backend)
    client = site.client()
    answer = client.get()
    assert answer.written == b"one two"
    assert answer.set_cookie is not None


def test_a_response_replaced_with_exc_info_saves_nothing_of_the_first(backend: Backend) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["session"]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        info = (RuntimeError, RuntimeError(), None)
        start_response("500 Oops", [("Content-Type", "text/plain")], info)
        return [b"oops"]

    site = Site(app, backend)
    answer = site.client().get()
    assert (answer.status, answer.set_cookie) == (500, None)
    assert site.manager.blocking.count() == 0


def test_exc_info_after_the_response_left_is_raised_as_the_server_does() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"
        problem = KeyError("late")
        start_response("500 Oops", [], (KeyError, problem, None))

    site = Site(app)
    answer = site.client().open(checked=False)
    answer.written += next(answer.body)
    with pytest.raises(KeyError, match="late"):
        next(answer.body)
    answer.close()
    assert len(site.manager.activity) == 0


def test_head_and_an_empty_body_set_the_cookie_all_the_same() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        environ["session"]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter(())

    assert Site(app).client().get(method="HEAD").set_cookie is not None


def test_a_whole_body_reaches_the_server_as_it_is() -> None:
    body = [b"as it is"]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    assert Site(app).client().open(checked=False).body is body


@pytest.mark.parametrize("streams", [False, True])
def test_an_exception_reaches_the_server_saves_nothing_and_ends_the_request(streams: bool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["session"]["a"] = 1
        raise RuntimeError("handler")

    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield from app(environ, start_response)

    site = Site(stream if streams else app)
    with pytest.raises(RuntimeError, match="handler"):
        site.client().get(checked=False)
    assert site.manager.blocking.count() == 0
    assert len(site.manager.activity) == 0


def test_a_logout_counts_although_the_handler_fails(backend: Backend) -> None:
    site = Site(page(lambda session: session.login("ann")), backend)
    client = site.client()
    client.get()
    failing = WSGISessionMiddleware(page(lambda session: session.logout(), "500 Oops"), manager=site.manager)
    thief = client.copy()
    client.app = failing
    assert client.get().status == 500
    seen: list[str | None] = []
    thief.app = WSGISessionMiddleware(
        page(lambda session: seen.append(session.user_id)), manager=site.manager
    )
    thief.get()
    assert seen == [None]


def test_no_slow_request_brings_a_session_back(backend: Backend) -> None:
    def act(environ: Any, start_response: Any) -> list[bytes]:
        session = environ["session"]
        if environ["PATH_INFO"] == "/logout":
            session.logout()
        elif environ["PATH_INFO"] == "/slow":
            session["a"] = 1
            Client.get(ann, "/logout")
        else:
            session.login("ann")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    site = Site(act, backend)
    ann = site.client()
    ann.get()
    slow = ann.copy()
    assert slow.get("/slow").set_cookie is None
    assert site.manager.blocking.count() == 0
    assert site.told("session_data_save_failed")[0].fields["keys"] == ["a"]


def test_a_value_that_cannot_be_held_is_the_handlers_error_and_names_the_key() -> None:
    site = Site(page(put(bad=object())))
    with pytest.raises(SessionDataError, match="bad"):
        site.client().get()
    assert len(site.manager.activity) == 0


# --- the backend is down ---


@pytest.mark.parametrize("operation", ["load", "commit"])
def test_a_backend_that_is_down_is_503_and_the_cookie_stays(operation: str) -> None:
    faulty = FaultyBackend(MemoryBackend())
    site = Site(page(lambda session: session.update(n=session.get("n", 0) + 1)), faulty)
    client = site.client()
    client.get()
    faulty.failing = {operation}
    answer = client.get()
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "2", None)
    assert answer.header("cache-control") == "no-store"
    faulty.failing = set()
    assert client.get().status == 200
    assert stored(client, site) == {"n": 2}
    assert [len(site.told(name)) for name in ("backend_unavailable", "backend_recovered")] == [1, 1]


def test_a_backend_that_keeps_a_thread_waiting_is_503_after_the_timeout(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "sessions.db", busy_timeout=3600)  # without ours, this test would hang
    site = Site(page(lambda session: session.increment("n")), backend, backend_timeout=0.01)
    client = site.client()
    client.get()
    with closing(sqlite3.connect(backend.path, isolation_level=None)) as another_process:
        another_process.execute("BEGIN IMMEDIATE")
        answer = client.get()
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "2", None)
    assert client.get().status == 200
    assert stored(client, site) == {"n": 2}


@pytest.mark.parametrize("way", ["stream", "write"])
def test_a_commit_that_fails_replaces_a_streamed_response_as_a_whole(way: str) -> None:
    closed: list[bool] = []

    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        try:
            environ["session"]["a"] = 1
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"never"
        finally:
            closed.append(True)

    def write(environ: Any, start_response: Any) -> list[bytes]:
        environ["session"]["a"] = 1
        try:
            start_response("200 OK", [("Content-Type", "text/plain")])(b"never")
        finally:
            closed.append(True)
        return [b"never"]

    faulty = FaultyBackend(MemoryBackend())
    faulty.failing = {"create"}
    answer = Site(stream if way == "stream" else write, faulty).client().get()
    assert (answer.status, b"never" in answer.written, closed) == (503, False, [True])


def test_an_optional_route_works_without_the_backend_and_drops_no_write_in_silence() -> None:
    faulty = FaultyBackend(MemoryBackend())
    seen: list[bool] = []
    site = Site(page(lambda session: seen.append(session.degraded)), faulty, optional=["/"])
    login = Client(WSGISessionMiddleware(page(put(a=1)), manager=site.manager))
    login.get()
    client = site.client()
    client.cookie = login.cookie
    faulty.failing = {"load"}
    assert client.get().status == 200
    assert seen == [True]
    writes = Client(WSGISessionMiddleware(page(put(a=1)), manager=site.manager, optional=lambda _: True))
    writes.cookie = client.cookie
    assert writes.get().status == 503


# --- limits and activity ---


def test_more_requests_at_once_than_allowed_are_503() -> None:
    inner: list[int] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/outer":
            inner.append(site.client().get().status)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    site = Site(app, max_concurrent_requests=1)
    assert site.client().get("/outer").status == 200
    assert inner == [503]
    assert site.told("request_refused")[0].fields["limit"] == 1
    assert len(site.manager.activity) == 0


def test_more_requests_of_one_session_than_allowed_are_429() -> None:
    inner: list[int] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["session"].setdefault("a", 1)
        if environ["PATH_INFO"] == "/outer":
            inner.append(client.copy().get().status)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    site = Site(app, max_requests_per_session=1)
    client = site.client()
    client.get()
    assert client.get("/outer").status == 200
    assert inner == [429]


def test_a_request_holds_its_session_until_its_body_is_closed() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        environ["session"]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"

    site = Site(app)
    answer = site.client().open("/held")
    next(answer.body)
    assert [request.path for request in site.manager.active_requests()] == ["/held"]
    answer.close()
    assert site.manager.active_requests() == []


def test_the_apps_log_lines_carry_the_session_and_the_thread_is_left_clean() -> None:
    def bound() -> set[str]:
        return set(structlog.contextvars.get_contextvars())

    seen: list[set[str]] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        environ["session"]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"
        seen.append(bound())
        yield b"y"

    structlog.configure(processors=[structlog.contextvars.merge_contextvars])
    try:
        answer = Site(app).client().open()
        between = [bound() for _ in answer.body]
        answer.close()
    finally:
        structlog.reset_defaults()
    assert "session_id" in seen[0]
    assert between == [set(), set()]


# --- where it sits ---


def test_skipped_routes_have_no_session_and_inner_ones_share_the_outer() -> None:
    seen: list[bool] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append("session" in environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    site = Site(app, skip=["/static/*"])
    site.client().get("/static/x.css")
    site.client().get("/")
    assert seen == [False, True]
    inner = WSGISessionMiddleware(page(put(a=1)), secret_key="another key, of more than 32 bytes, too")
    outer = Site(inner)
    client = outer.client()
    client.get()
    assert stored(client, outer) == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "secret_key"),
        ({"secret_key": ""}, "secret_key"),
        (
            {"secret_key": KEY, "manager": SessionManager(secret_key=KEY, log=False)},
            "secret_key: the manager has it",
        ),
        ({"manager": "sqlite:///x.db"}, "manager: found str"),
        ({"secret_key": KEY, "skip": "/static"}, "skip: pass a list"),
        ({"secret_key": KEY, "colour": 1}, "colour"),
    ],
)
def test_a_wrong_argument_is_refused_at_construction_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WSGISessionMiddleware(page(), **arguments)


def test_an_async_only_backend_is_refused_at_construction_with_the_remedy() -> None:
    class AsyncOnly(MemoryBackend):
        colours = frozenset({"async"})

    with pytest.raises(ConfigurationError, match="has no blocking port"):
        WSGISessionMiddleware(page(), secret_key=KEY, backend=AsyncOnly())


# --- threads ---


def in_threads(count: int, work: Callable[[int], None]) -> None:
    problems: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as problem:  # noqa: BLE001  (raised below, in the test's own thread)
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def test_parallel_requests_that_change_different_keys_all_survive(backend: Backend) -> None:
    barrier = threading.Barrier(32)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        session = environ["session"]
        name = environ["PATH_INFO"][1:]
        if name:
            barrier.wait()  # all of them have loaded the same session
            session[name] = 1
            session.increment("count")
        else:
            session["begun"] = True
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    site = Site(app, backend)
    client = site.client()
    client.get()

    def work(number: int) -> None:
        assert client.copy().get(f"/k{number}").status == 200

    in_threads(32, work)
    values = stored(client, site)
    assert {name for name in values if name.startswith("k")} == {f"k{number}" for number in range(32)}
    assert values["count"] == 32


# --- what is done beside the requests ---


def test_the_thread_begins_with_the_first_request_and_ends_with_the_manager() -> None:
    site = Site(page())
    keeper = Housekeeper.of(site.manager)
    assert not keeper.is_running
    site.client().get()
    assert keeper.is_running
    keeper.stop(patience=10)
    assert not keeper.is_running


def test_what_is_due_is_cleaned_up_and_what_is_held_is_renewed() -> None:
    site = Site(page(put(a=1)), idle_timeout=100.0, cleanup_interval=1e-6)
    site.client().get()
    keeper = Housekeeper.of(site.manager)
    keeper.stop(patience=10)
    client = site.client()
    held: list[float] = []

    def stay(session: Session) -> None:
        session.setdefault("a", 1)
        site.clock.advance(60)
        keeper._look_after()
        record = session.life.record
        held.append(0.0 if record is None else record.deadline - site.clock())

    client.app = WSGISessionMiddleware(page(stay), manager=site.manager)
    client.get()
    client.get()
    assert held[1] == 100.0
    site.clock.advance(1000)
    site.manager.blocking_cleaner._clocks = site.manager.blocking_cleaner._read_clocks()
    assert keeper._look_after() is not None
    assert len(site.told("session_expired")) == 2


IN_A_PROCESS = """
import atexit, os, sys, threading

def threads():
    return [thread.name for thread in threading.enumerate() if thread.name == "session-housekeeping"]

atexit.register(lambda: print("at exit", threads(), flush=True))  # before ours, so it runs after it
from session_middleware import SQLiteBackend
from tests.wsgi.harness import Site, page, put

site = Site(page(put(a=1)), SQLiteBackend(sys.argv[1]))
print("imported", threads(), flush=True)
site.client().get()
print("parent", threads(), flush=True)
child = os.fork()
if child == 0:
    print("forked", threads(), flush=True)
    site.client().get()
    print("child", threads(), flush=True)
    sys.exit(0)
os.waitpid(child, 0)
"""


def test_the_thread_is_each_processs_own_and_is_stopped_at_its_exit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_A_PROCESS, str(tmp_path / "sessions.db")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    one = "['session-housekeeping']"
    assert done.stdout.splitlines() == [
        *("imported []", f"parent {one}"),
        *("forked []", f"child {one}", "at exit []"),
        "at exit []",
    ]


def counting(seen: list[int]) -> WSGIApp:
    def count(session: Session) -> None:
        session["n"] = session.get("n", 0) + 1
        seen.append(session["n"])

    return page(count)


@pytest.mark.parametrize("colour", ["async", "blocking"])
def test_an_app_whose_manager_was_stopped_opens_it_again(backend: Backend, colour: str) -> None:
    seen: list[int] = []
    site = Site(counting(seen), backend)
    client = site.client()
    client.get()
    if colour == "async":
        asyncio.run(site.manager.stop())
    else:
        assert site.manager.blocking.stop() is True
    assert client.get().status == 200
    assert seen == [1, 2]


def test_a_stopped_app_whose_backend_is_down_answers_503_until_it_is_up(backend: Backend) -> None:
    seen: list[int] = []
    faulty = FaultyBackend(backend)
    site = Site(counting(seen), faulty)
    client = site.client()
    client.get()
    site.manager.blocking.stop()
    faulty.failing = {"open"}
    refused = client.get()
    assert (refused.status, refused.header("retry-after"), refused.set_cookie) == (503, "2", None)
    faulty.failing = set()
    assert client.get().status == 200
    assert seen == [1, 2]
    assert len(site.manager.activity) == 0


def test_an_app_made_over_a_manager_that_was_stopped_opens_it() -> None:
    manager = SessionManager(secret_key=KEY, log=False)
    asyncio.run(manager.stop())
    client = Client(WSGISessionMiddleware(page(put(n=1)), manager=manager))
    assert client.get().status == 200
    assert client.cookie is not None
