"""Sessions under Flask: its contract about cookies, our verbs, what happens when the backend is down."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("flask")

import flask
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from session_middleware import ConfigurationError, MemoryBackend, SessionManager, SessionMiddleware
from session_middleware.flask import SessionInterface, init_app, manager_of
from session_middleware.old_cookies import FlaskCookie
from tests.wsgi.harness import FaultyBackend

KEY = "vY0sN2bq8LZkXw5Rj1TgPd7HcM4uEa9F"


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/sessions.db"


def app_of(view: Callable[[], Any], **arguments: Any) -> flask.Flask:
    """An app that answers every path with *view*; the arguments are those of `init_app`, or configuration."""
    app = flask.Flask(__name__)
    app.config.update(SECRET_KEY=KEY, SESSION_LOG=False)
    app.config.update({name: arguments.pop(name) for name in list(arguments) if name.isupper()})
    init_app(app, **arguments)
    app.add_url_rule("/", "view", view)
    app.add_url_rule("/<path:path>", "view_of", lambda path: view())
    return app


def visit(client: Any, action: Callable[[Any], Any]) -> Any:
    """A request whose view does *action*: apps of these tests look it up here."""
    client.application.config["ACTION"] = action
    return client.get("/")


def acting() -> Any:
    result = flask.current_app.config["ACTION"](flask.session)
    return result if isinstance(result, str | tuple | flask.Response) else "page"


@pytest.fixture
def app(url: str) -> flask.Flask:
    return app_of(acting, backend=url)


@pytest.fixture
def client(app: flask.Flask) -> Any:
    return app.test_client()


def record_of(client: Any) -> Any:
    value = client.get_cookie("session").value
    return manager_of(client.application).blocking.get_session(value.partition(".")[0])


# --- our verbs on flask.session ---


def test_login_logout_cycle_increment_and_user_id_work(client: Any) -> None:
    visit(client, lambda session: session.__setitem__("cart", ["tea"]))
    before = client.get_cookie("session").value
    visit(client, lambda session: session.login("ann"))
    assert client.get_cookie("session").value != before
    assert visit(client, lambda session: f"{session.user_id} {session['cart']}").text == "ann ['tea']"
    for _ in range(2):
        visit(client, lambda session: session.increment("visits"))
    assert record_of(client)["visits"] == 2
    stolen = client.get_cookie("session").value
    visit(client, lambda session: session.cycle())
    assert client.get_cookie("session").value != stolen
    assert visit(client, lambda session: session.logout()).headers["Set-Cookie"].startswith("session=;")
    assert client.get_cookie("session") is None
    client.set_cookie("session", stolen)
    assert visit(client, lambda session: str(session.user_id)).text == "None"


def test_a_login_without_any_value_keeps_its_cookie(client: Any) -> None:
    visit(client, lambda session: session.login("ann"))
    assert visit(client, lambda session: session.user_id).text == "ann"
    assert client.get_cookie("session") is not None


def test_a_user_key_of_an_unchanged_app_is_a_login(client: Any) -> None:
    visit(client, lambda session: session.update(a=1))
    before = client.get_cookie("session").value
    visit(client, lambda session: session.update(user_id=7))
    assert client.get_cookie("session").value.split(".")[0] == before.split(".")[0]
    assert client.get_cookie("session").value != before
    assert len(manager_of(client.application).blocking.get_user_sessions(7)) == 1


def test_a_nested_change_is_saved_without_modified(client: Any) -> None:
    visit(client, lambda session: session.update(cart=[]))
    visit(client, lambda session: session["cart"].append("tea"))
    assert record_of(client)["cart"] == ["tea"]


VALUES: dict[str, Any] = {
    "tuple": (1, (2, 3)),
    "bytes": b"\xff",
    "datetime": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "uuid": UUID(int=7),
    "markup": Markup("<b>x</b>"),
}


def test_flasks_tagged_values_come_out_as_they_went_in(client: Any) -> None:
    visit(client, lambda session: session.update(VALUES))
    seen: list[dict[str, Any]] = []
    visit(client, lambda session: seen.append(dict(session)))
    assert seen == [VALUES]
    assert [type(value) for value in seen[0].values()] == [type(value) for value in VALUES.values()]


# --- Flask's contract about cookies ---


def test_new_permanent_modified_and_accessed_mean_what_flask_means(client: Any) -> None:
    def act(session: Any) -> str:
        told = [session.new, session.permanent, session.modified]
        session.permanent = True
        return str([*told, session.permanent, session.modified])

    assert visit(client, act).text == "[True, False, False, True, True]"
    assert visit(client, act).text == "[False, True, False, True, True]"


def test_modified_by_hand_sets_the_cookie_again_and_a_read_does_not(client: Any) -> None:
    visit(client, lambda session: session.update(a=1))
    assert "Set-Cookie" not in visit(client, lambda session: str(session["a"])).headers
    again = visit(client, lambda session: setattr(session, "modified", True))
    assert again.headers["Set-Cookie"].startswith("session=" + client.get_cookie("session").value)


def test_an_emptied_session_takes_its_cookie_away(client: Any) -> None:
    visit(client, lambda session: session.update(a=1))
    emptied = visit(client, lambda session: (session.pop("a"), "page")[1])
    assert emptied.headers["Set-Cookie"].startswith("session=;")


def test_a_refreshed_cookie_never_replaces_that_of_a_login_meanwhile(client: Any) -> None:
    def begin(session: Any) -> None:
        session.permanent = True

    visit(client, begin)
    slow = client.application.test_client()
    slow.set_cookie("session", client.get_cookie("session").value)

    def meanwhile(session: Any) -> None:
        len(session)
        session.modified = True
        client.application.config["ACTION"] = lambda inner: inner.login("ann")
        client.get("/")

    assert "Set-Cookie" not in visit(slow, meanwhile).headers


def test_a_permanent_session_is_refreshed_though_nobody_looks(url: str) -> None:
    def view() -> str:
        if flask.request.path == "/begin":
            flask.session.permanent = True
        return "page"

    client = app_of(view, backend=url).test_client()
    client.get("/begin")
    unseen = client.get("/")
    assert "Expires" in unseen.headers["Set-Cookie"]
    assert unseen.headers["Vary"] == "Cookie"


def test_https_makes_the_cookie_secure(client: Any) -> None:
    client.application.config["ACTION"] = lambda session: session.update(a=1)
    assert "Secure" in client.get("/", base_url="https://localhost").headers["Set-Cookie"]


def test_the_lifetime_of_flask_is_the_idle_timeout_unless_ours_is_set() -> None:
    app = app_of(acting, PERMANENT_SESSION_LIFETIME=timedelta(days=3))
    assert manager_of(app).policy.idle_timeout == 3 * 86400.0
    manager = manager_of(app)
    app.config["SESSION_IDLE_TIMEOUT"] = 60
    assert manager_of(app).policy.idle_timeout == 60.0
    assert manager_of(app) is manager


def test_settings_may_come_after_init_app_and_the_backend_is_one_of_them(tmp_path: Path) -> None:
    app = app_of(acting)
    app.config["SESSION_BACKEND"] = f"sqlite:///{tmp_path}/late.db"
    visit(app.test_client(), lambda session: session.update(a=1))
    assert (tmp_path / "late.db").exists()


def test_without_a_key_the_session_reads_empty_and_says_what_is_missing() -> None:
    app = app_of(acting, SECRET_KEY=None)
    app.testing = True
    assert visit(app.test_client(), lambda session: str(session.get("a"))).text == "None"
    for change in (lambda session: session.update(a=1), lambda session: session.login("ann")):
        with pytest.raises(RuntimeError, match="secret key"):
            visit(app.test_client(), change)


def test_session_transaction_reads_and_writes(client: Any) -> None:
    with client.session_transaction() as session:
        session["a"] = 1
        session.login("ann")
    assert visit(client, lambda session: f"{session['a']} {session.user_id}").text == "1 ann"


def test_a_500_saves_nothing_but_a_logout(client: Any) -> None:
    visit(client, lambda session: session.update(a=1))
    assert visit(client, lambda session: (session.update(a=2), ("oops", 500))[1]).status_code == 500
    assert record_of(client)["a"] == 1
    visit(client, lambda session: session.login("ann"))
    stolen = client.get_cookie("session").value
    assert visit(client, lambda session: (session.logout(), 1 / 0)[1]).status_code == 500
    client.set_cookie("session", stolen)
    assert visit(client, lambda session: str(session.user_id)).text == "None"


def test_a_change_while_streaming_is_saved(client: Any) -> None:
    def act(session: Any) -> Any:
        session["early"] = 1

        def body() -> Iterator[str]:
            yield "x"
            flask.session["late"] = 2

        return flask.Response(flask.stream_with_context(body()))

    answer = visit(client, act)
    assert answer.text == "x"
    answer.close()
    assert dict(record_of(client)) == {"early": 1, "late": 2}
    assert len(manager_of(client.application).activity) == 0


def test_after_every_request_nothing_is_in_flight(client: Any) -> None:
    client.application.testing = True
    visit(client, lambda session: session.update(a=1))
    with pytest.raises(ZeroDivisionError):
        visit(client, lambda session: 1 / 0)
    with client.session_transaction() as session:
        session["b"] = 1
    assert len(manager_of(client.application).activity) == 0


# --- when the backend is down, or full ---


def faulty_app(**arguments: Any) -> tuple[FaultyBackend, Any]:
    backend = FaultyBackend(MemoryBackend())
    return backend, app_of(acting, backend=backend, **arguments).test_client()


def test_a_failed_load_is_503_for_who_looks_and_nothing_for_who_does_not() -> None:
    backend, client = faulty_app()
    client.application.add_url_rule("/plain/page", "plain", lambda: "plain")
    visit(client, lambda session: session.update(a=1))
    backend.failing = {"load"}
    answer = visit(client, lambda session: str(session.get("a")))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "Set-Cookie" not in answer.headers
    assert client.get("/plain/page").status_code == 200
    backend.failing = set()
    assert visit(client, lambda session: str(session["a"])).text == "1"


def test_a_failed_commit_rewrites_the_response_to_503() -> None:
    backend, client = faulty_app()
    backend.failing = {"create"}
    answer = visit(client, lambda session: session.update(a=1))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "page" not in answer.text
    assert "Set-Cookie" not in answer.headers


def test_an_optional_path_works_without_the_backend() -> None:
    backend, client = faulty_app(optional=["/"])
    visit(client, lambda session: session.update(a=1))
    backend.failing = {"load"}
    assert visit(client, lambda session: str(session.degraded)).text == "True"


def test_more_requests_at_once_than_allowed_are_503_looked_at_or_not() -> None:
    inner: list[int] = []

    def view() -> str:
        if flask.request.path == "/outer":
            inner.append(flask.current_app.test_client().get("/").status_code)
        return "page"

    app = app_of(view, max_concurrent_requests=1)
    assert app.test_client().get("/outer").status_code == 200
    assert inner == [503]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"manager": SessionManager(log=False), "backend": "memory://"}, "backend: the manager has it"),
        ({"manager": "x"}, "manager: found str"),
        ({"max_age": 3}, "max_age: there is no such option"),
        ({"optional": "/x"}, "optional: pass a list"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SessionInterface(**arguments)


def test_an_async_only_backend_is_refused_at_construction() -> None:
    class AsyncOnly(MemoryBackend):
        colours = frozenset({"async"})

    with pytest.raises(ConfigurationError, match="no blocking port"):
        init_app(flask.Flask("x"), backend=AsyncOnly())


# --- others ---


def starlette_app(url: str, *mounts: Mount) -> Any:
    async def read(request: Request) -> JSONResponse:
        session: Any = request.session
        session.increment("seen")
        return JSONResponse({"user": session.user_id, "seen": session["seen"]})

    app = Starlette(routes=[Route("/read", read), *mounts])
    app.add_middleware(SessionMiddleware, secret_key=KEY, backend=url)
    return app


def test_a_flask_and_a_starlette_app_share_one_session(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    app = app_of(acting, backend=url)
    client = app.test_client()
    visit(client, lambda session: (session.update(VALUES), session.login("ann"), "page")[2])
    with TestClient(starlette_app(url)) as browser:
        browser.cookies.set("session", client.get_cookie("session").value)
        assert browser.get("/read").json() == {"user": "ann", "seen": 1}
        assert visit(client, lambda session: str(session["seen"])).text == "1"
        seen: list[dict[str, Any]] = []
        visit(client, lambda session: seen.append(dict(session)))
        assert seen == [{**VALUES, "seen": 1}]
        visit(client, lambda session: session.logout())
        assert browser.get("/read").json()["user"] is None


def test_a_flask_app_mounted_in_a_starlette_app_shares_its_session(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    app = app_of(acting, backend=url)
    app.config["ACTION"] = lambda session: session.login("ann")
    bridge = pytest.importorskip("a2wsgi").WSGIMiddleware(app)
    outer = starlette_app(url, Mount("/flask", app=bridge))
    with TestClient(outer) as browser:
        browser.get("/flask/")
        assert browser.get("/read").json() == {"user": "ann", "seen": 1}
        app.config["ACTION"] = lambda session: f"{session.user_id} {session['seen']}"
        assert browser.get("/flask/").text == "ann 1"


def test_a_starlette_app_mounted_in_a_flask_app_shares_its_session(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    app = app_of(acting, backend=url)
    inner = starlette_app(url)
    bridge = pytest.importorskip("a2wsgi").ASGIMiddleware(inner)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/api": bridge})  # type: ignore[method-assign]
    client = app.test_client()
    visit(client, lambda session: session.login("ann"))
    assert client.get("/api/read").json == {"user": "ann", "seen": 1}
    assert visit(client, lambda session: f"{session.user_id} {session['seen']}").text == "ann 1"
    visit(client, lambda session: session.logout())
    assert client.get("/api/read").json["user"] is None
    asyncio.run_coroutine_threadsafe(manager_of_asgi(inner).stop(), bridge.loop).result(10)


def manager_of_asgi(app: Any) -> SessionManager:
    """The manager of the middleware that wraps a Starlette app."""
    found = app.middleware_stack.app
    assert isinstance(found, SessionMiddleware)
    return found.manager


def test_an_async_view_has_the_session_too(client: Any) -> None:
    pytest.importorskip("asgiref")

    async def view() -> str:
        flask.session["async"] = True
        return "page"

    client.application.add_url_rule("/async/view", "async_view", view)
    client.get("/async/view")
    assert dict(record_of(client)) == {"async": True}


def test_the_manager_works_from_a_plain_thread_beside_a_running_loop(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    manager = SessionManager(url, secret_key=KEY, log=False)
    found: list[int] = []

    async def home(_: Request) -> JSONResponse:
        await manager.create_session("ann")

        def work() -> None:
            manager.blocking.create_session("ann")
            found.append(len(manager.blocking.get_user_sessions("ann")))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return JSONResponse(len(await manager.get_user_sessions("ann")))

    app = Starlette(routes=[Route("/", home)])
    app.add_middleware(SessionMiddleware, manager=manager)
    with TestClient(app) as browser:
        assert browser.get("/").json() == 2
    manager.blocking.stop()
    assert found == [2]


def test_the_commands_list_revoke_and_clean_up(client: Any) -> None:
    runner = client.application.test_cli_runner()
    visit(client, lambda session: session.login("ann"))
    listed = runner.invoke(args=["session", "list", "ann"])
    id_ = record_of(client).id
    assert listed.output.startswith(id_)
    assert runner.invoke(args=["session", "revoke", id_]).output == "1 ended\n"
    assert runner.invoke(args=["session", "revoke", id_]).exit_code == 1
    assert runner.invoke(args=["session", "revoke"]).exit_code == 2
    assert runner.invoke(args=["session", "list", "ann"]).output == ""
    visit(client, lambda session: session.login("bob"))
    everyone = runner.invoke(args=["session", "list"]).output.splitlines()
    assert [(line.split()[0], line.split()[2]) for line in everyone] == [(record_of(client).id, "bob")]
    assert runner.invoke(args=["session", "list", "--limit", "0"]).exit_code != 0
    assert runner.invoke(args=["session", "revoke", "--user", "bob"]).output == "1 ended\n"
    assert runner.invoke(args=["session", "cleanup"]).output.endswith("removed\n")


# --- from Flask's own cookies ---


def test_an_app_that_changes_over_to_us_keeps_its_sessions(client: Any, app: flask.Flask) -> None:
    flasks_own = app_of(acting)
    flasks_own.session_interface = flask.sessions.SecureCookieSessionInterface()
    old = flasks_own.test_client()
    visit(old, lambda session: session.update(VALUES, user_id=7, _permanent=True))
    over = app_of(acting, backend="memory://", import_from=FlaskCookie(KEY)).test_client()
    before = old.get_cookie("session").value
    over.set_cookie("session", before)
    assert visit(over, lambda session: f"{session['tuple']} {session.user_id} {session.permanent}").text == (
        "(1, (2, 3)) 7 True"
    )
    assert over.get_cookie("session").value != before
    visit(over, lambda session: session.logout())
    over.set_cookie("session", before)
    assert visit(over, lambda session: str(session.user_id)).text == "None"
