"""What the middleware accepts, and how it refuses the rest: by naming the argument."""

import inspect
from datetime import timedelta
from typing import Any

import pytest
from starlette.datastructures import Secret
from starlette.middleware.sessions import SessionMiddleware as Starlettes

from session_middleware import ConfigurationError, MemoryBackend, SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import KEY, Client, page, put

APP = page(put(n=1))


class BlockingOnly(MemoryBackend):
    colours = frozenset({"blocking"})


def test_nine_arguments_stand_where_starlette_has_them() -> None:
    theirs = list(inspect.signature(Starlettes).parameters.values())
    ours = list(inspect.signature(SessionMiddleware).parameters.values())[: len(theirs)]
    assert [one.name for one in ours] == [one.name for one in theirs]
    differing = {one.name for one, other in zip(ours, theirs, strict=True) if one.default != other.default}
    assert differing == {"secret_key", "https_only"}  # a manager may bring the key; https is found out
    assert all(one.kind is one.POSITIONAL_OR_KEYWORD for one in ours)


def test_all_nine_may_be_passed_by_position() -> None:
    made = SessionMiddleware(APP, KEY, "sid", 60, "/shop", "strict", True, "example.com", True)
    cookie = made.manager.cookie
    assert (cookie.session_cookie, cookie.max_age, cookie.path, cookie.same_site) == (
        "sid",
        60,
        "/shop",
        "strict",
    )
    assert (cookie.https_only, cookie.domain, cookie.partitioned) == (True, "example.com", True)


def test_further_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        SessionMiddleware(APP, KEY, "sid", 60, "/", "lax", None, None, False, "memory://")  # type: ignore[misc]


ILLEGAL: list[tuple[str, dict[str, Any]]] = [
    ("app", {"app": None}),
    ("app", {"app": "main:app"}),
    ("secret_key", {"secret_key": ""}),
    ("secret_key", {"secret_key": None}),
    ("secret_key", {"secret_key": object()}),
    ("session_cookie", {"session_cookie": "a b"}),
    ("session_cookie", {"session_cookie": "a=b"}),
    ("max_age", {"max_age": 401 * 86400}),
    ("max_age", {"max_age": "60"}),
    ("max_age", {"max_age": True}),
    ("path", {"path": "shop"}),
    ("path", {"path": "/\r\nX: y"}),
    ("same_site", {"same_site": "Lax"}),
    ("same_site", {"same_site": "none"}),
    ("https_only", {"https_only": "yes"}),
    ("https_only", {"session_cookie": "__Host-s", "https_only": False}),
    ("domain", {"domain": "a;b"}),
    ("domain", {"session_cookie": "__Host-s", "domain": "example.com"}),
    ("path", {"session_cookie": "__Host-s", "path": "/shop"}),
    ("partitioned", {"partitioned": 1}),
    ("partitioned", {"partitioned": True}),
    ("backend", {"backend": "mysql://host"}),
    ("backend", {"backend": 7}),
    ("manager", {"manager": "manager", "secret_key": None}),
    ("fallback_keys", {"fallback_keys": "one"}),
    ("fallback_keys", {"fallback_keys": [""]}),
    ("idle_timeout", {"idle_timeout": 0}),
    ("idle_timeout", {"idle_timeout": "60"}),
    ("absolute_timeout", {"absolute_timeout": -1}),
    ("absolute_timeout", {"absolute_timeout": timedelta(0)}),
    ("renew_after", {"renew_after": 0}),
    ("renew_after", {"renew_after": 1.5}),
    ("grace", {"grace": float("nan")}),
    ("cleanup_interval", {"cleanup_interval": 0}),
    ("backend_timeout", {"backend_timeout": float("inf")}),
    ("check_interval", {"check_interval": -1}),
    ("save_on_error", {"save_on_error": 1}),
    ("privilege_keys", {"privilege_keys": "role"}),
    ("user_keys", {"user_keys": [1]}),
    ("max_concurrent_requests", {"max_concurrent_requests": 0}),
    ("max_requests_per_session", {"max_requests_per_session": 1.0}),
    ("optional", {"optional": "/api/*"}),
    ("passive", {"passive": [1]}),
    ("skip", {"skip": 5}),
    ("eager", {"eager": "yes"}),
    ("idle_timeot", {"idle_timeot": 60}),
]


@pytest.mark.parametrize(
    ("named", "arguments"), ILLEGAL, ids=lambda value: ascii(value).partition(" at 0x")[0][:50]
)
def test_an_illegal_argument_is_refused_by_name(named: str, arguments: dict[str, Any]) -> None:
    given = {"app": APP, "secret_key": KEY, **arguments}
    with pytest.raises(ConfigurationError, match=rf"^{named}\b"):
        SessionMiddleware(**given)


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("secret_key", {"secret_key": KEY}),
        ("backend", {"backend": "memory://"}),
        ("idle_timeout", {"idle_timeout": 60}),
        ("max_age", {"max_age": 60}),
    ],
)
def test_a_manager_is_passed_instead_of_what_it_has(named: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{named}\b.*manager"):
        SessionMiddleware(APP, manager=SessionManager(secret_key=KEY), **arguments)


def test_a_manager_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^secret_key"):
        SessionMiddleware(APP, manager=SessionManager())


@pytest.mark.parametrize("how", ["as a backend", "in a manager"])
def test_a_backend_of_the_wrong_colour_is_refused_with_what_to_pass_instead(how: str) -> None:
    backend = BlockingOnly()
    passed: dict[str, Any] = {"secret_key": KEY, "backend": backend}
    if how == "in a manager":
        passed = {"manager": SessionManager(backend, secret_key=KEY)}
    with pytest.raises(ConfigurationError, match=r"BlockingOnly has no async port.*backend=\"memory://\""):
        SessionMiddleware(APP, **passed)


@pytest.mark.anyio
async def test_a_secret_of_starlette_is_the_key_it_hides(backend: Backend) -> None:
    memory = MemoryBackend()
    hidden = Client(SessionMiddleware(APP, Secret(KEY), backend=memory))
    await hidden.get()
    seen: list[Any] = []
    plain = Client(SessionMiddleware(page(lambda session: seen.append(dict(session))), KEY, backend=memory))
    plain.cookies = hidden.cookies
    await plain.get()
    assert seen == [{"n": 1}]


def test_construction_opens_nothing() -> None:
    clock = ManualClock()
    manager = SessionManager("sqlite:////nowhere/at/all.db", secret_key=KEY, clock=clock)
    SessionMiddleware(APP, manager=manager)
    assert not manager.is_started
