"""However a request of Flask ends, it is over then, and says what it should."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("flask")

import flask
from flask.globals import request_ctx
from werkzeug.exceptions import HTTPException

from session_middleware import ConfigurationError, MemoryBackend, SessionManager
from session_middleware.flask import manager_of
from session_middleware.old_cookies import FlaskCookie, IdCookie
from tests.flask.test_flask import acting, app_of, record_of, visit
from tests.wsgi.harness import FaultyBackend


def in_flight(app: flask.Flask) -> int:
    return len(manager_of(app).activity)


def test_a_request_whose_session_could_not_be_opened_is_over() -> None:
    def down(_: str) -> None:
        raise ConnectionError("the old store is down")

    app = app_of(acting, import_from=IdCookie(down), max_concurrent_requests=2)
    app.config["ACTION"] = lambda _: None
    app.config["PROPAGATE_EXCEPTIONS"] = False
    for _ in range(4):
        client = app.test_client()
        client.set_cookie("session", "abc")
        assert client.get("/").status_code == 500
        assert in_flight(app) == 0
    assert app.test_client().get("/").status_code == 200


def test_a_stream_that_answers_while_the_backend_is_down_is_over_when_it_ends() -> None:
    backend = FaultyBackend(MemoryBackend())
    app = app_of(acting, backend=backend)
    client = app.test_client()
    visit(client, lambda session: session.update(a=1))
    backend.failing = {"load"}
    app.config["ACTION"] = lambda _: flask.Response(iter([b"a", b"b"]))
    response = client.get("/")
    assert (response.status_code, response.data) == (200, b"ab")
    response.close()
    assert in_flight(app) == 0


def test_a_request_is_over_though_its_session_was_replaced() -> None:
    def replace(session: Any) -> None:
        session.get("a")
        request_ctx._session = {}  # type: ignore[assignment]

    app = app_of(acting)
    client = app.test_client()
    visit(client, lambda session: session.update(a=1))
    visit(client, replace)
    assert in_flight(app) == 0


def test_a_copy_of_the_context_ends_nothing() -> None:
    app = app_of(acting)
    client = app.test_client()
    seen: list[int] = []
    raised: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except ValueError as problem:
            raised.append(problem)

    def act(session: Any) -> Any:
        session["a"] = 1

        @flask.copy_current_request_context
        def work() -> None:
            raise ValueError("in a thread of the view's")

        thread = threading.Thread(target=run, args=(work,))
        thread.start()
        thread.join()
        seen.append(in_flight(app))
        session.login("ann")
        late = session._get_current_object()

        def stream() -> Iterator[str]:
            yield "a"
            late["late"] = 1
            yield "b"

        return flask.Response(stream())

    visit(client, lambda session: session.update(known=1))
    response = visit(client, act)
    assert response.data == b"ab"
    response.close()
    assert (len(raised), seen, in_flight(app)) == (1, [1], 0)
    stored = record_of(client)
    assert (dict(stored), stored.user_id) == ({"known": 1, "a": 1, "late": 1}, "ann")


def test_an_error_page_that_looks_at_the_session_makes_no_500_of_it() -> None:
    backend = FaultyBackend(MemoryBackend())
    app = app_of(acting, backend=backend)
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.errorhandler(HTTPException)
    def page(problem: HTTPException) -> tuple[str, int]:
        return f"sorry, {flask.session.get('name')}", problem.code or 500

    @app.get("/missing")
    def missing() -> None:
        flask.abort(404)

    client = app.test_client()
    visit(client, lambda session: session.update(name="ann"))
    assert client.get("/missing").text == "sorry, ann"
    backend.failing = {"load"}
    assert visit(client, lambda session: session["name"]).status_code == 503
    response = client.get("/missing")
    assert (response.status_code, response.text) == (404, "sorry, None")
    backend.failing = set()
    assert record_of(client)["name"] == "ann"


def test_a_manager_that_fails_inside_a_view_is_a_503() -> None:
    backend = FaultyBackend(MemoryBackend())
    app = app_of(acting, backend=backend)
    client = app.test_client()
    visit(client, lambda session: session.update(a=1))

    def save(session: Any) -> None:
        session["a"] = 2
        backend.failing = {"commit"}
        manager_of(app).blocking.save(session._get_current_object())

    response = visit(client, save)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert response.headers["Cache-Control"] == "no-store"


def test_an_emptied_session_takes_no_cookie_away_that_a_login_set() -> None:
    app = app_of(acting)
    slow, fast = app.test_client(), app.test_client()
    visit(slow, lambda session: session.update(a=1))
    cookie = slow.get_cookie("session").value
    visit(slow, lambda session: session.pop("a"))
    for client in (slow, fast):
        client.set_cookie("session", cookie)

    def act(session: Any) -> None:
        session.get("a")
        app.config["ACTION"] = lambda session: session.login("ann")
        fast.get("/")
        session.modified = True

    assert "Set-Cookie" not in visit(slow, act).headers


@pytest.mark.parametrize("wrong", ["a former key of some length", b"key", 5])
def test_a_fallback_key_outside_a_list_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="fallback_keys"):
        FlaskCookie("k" * 32, fallback_keys=wrong)
    app = app_of(acting, SECRET_KEY_FALLBACKS=wrong)
    app.config.update(ACTION=lambda _: None, PROPAGATE_EXCEPTIONS=True)
    with pytest.raises(ConfigurationError, match="SECRET_KEY_FALLBACKS"):
        app.test_client().get("/")


def test_the_command_shows_nothing_that_steers_a_terminal() -> None:
    app = app_of(acting)
    client = app.test_client()
    visit(client, lambda session: session.login("ann\nforged \x1b[31m"))
    listed = app.test_cli_runner().invoke(args=["session", "list"]).output
    assert listed.count("\n") == 1
    assert "\x1b" not in listed


# --- sessions of other packages, and limits and cleanups of ours ---


def old_visitor(app: flask.Flask, cookie: str) -> Any:
    client = app.test_client()
    client.set_cookie("session", cookie)
    return client


@pytest.mark.parametrize(
    "sweep",
    [
        lambda sessions: sessions.delete_all(confirm=True),
        lambda sessions: sessions.cleanup(status="imported"),
        lambda sessions: sessions.end_sessions(created_after=0.0, dry_run=False),
    ],
    ids=["delete_all", "cleanup", "end_sessions"],
)
def test_no_sweep_lets_an_old_cookie_in_again(sweep: Any) -> None:
    app = app_of(acting, import_from=IdCookie(lambda _: {"user_id": "ann"}))
    client = old_visitor(app, "an-old-id")
    assert visit(client, lambda session: session["user_id"]).text == "ann"
    visit(client, lambda session: session.clear())
    sweep(manager_of(app).blocking)
    again = old_visitor(app, "an-old-id")
    assert visit(again, lambda session: str(session.get("user_id"))).text == "None"


def test_old_cookies_push_no_live_session_out() -> None:
    app = app_of(acting, import_from=IdCookie(lambda id_: {"from": id_}), max_sessions=10)
    users = [app.test_client() for _ in range(4)]
    for number, client in enumerate(users):
        visit(client, lambda session, number=number: session.login(f"user{number}"))
    for number in range(30):
        visit(old_visitor(app, f"old-{number}"), lambda session: str(session.get("from")))
    assert [record_of(client).user_id for client in users] == [f"user{n}" for n in range(4)]


def test_what_remembers_an_old_cookie_is_listed_nowhere() -> None:
    manager = SessionManager(log=False)
    app = app_of(acting, import_from=IdCookie(lambda _: {"a": 1}))
    visit(old_visitor(app, "an-old-id"), lambda session: session.get("a"))
    assert len(manager_of(app).blocking.get_sessions()) == 1
    assert manager.blocking.get_sessions() == []
