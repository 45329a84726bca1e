"""Readers of old cookies: what the real packages made is read, and nothing else."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("flask")

import flask
import httpx
from cachelib import FileSystemCache
from flask_session import Session as FlaskSession
from itsdangerous import TimestampSigner
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starsessions import CookieStore, InMemoryStore
from starsessions import SessionAutoloadMiddleware as Autoload
from starsessions import SessionMiddleware as StarsessionsOwn
from starsessions.stores import SessionStore

from session_middleware import ConfigurationError, SessionManager
from session_middleware.old_cookies import FlaskCookie, IdCookie, OldCookie, OldSession, StarletteCookie
from tests.importing.old import OLD_KEY, flask_cookie, starlette_cookie

VALUES = {"user_id": 7, "cart": ["tea", {"n": 2}], "name": "Ånn"}
TAGGED: dict[str, Any] = {
    "tuple": (1, (2,)),
    "bytes": b"\xff",
    "datetime": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "uuid": UUID(int=7),
    "markup": Markup("<b>x</b>"),
    "long": "x" * 2000,  # Flask compresses this one
}
DAY = 24 * 3600


def both(**arguments: Any) -> list[tuple[OldCookie, str]]:
    return [
        (StarletteCookie(OLD_KEY, **arguments), starlette_cookie(VALUES)),
        (FlaskCookie(OLD_KEY, **arguments), flask_cookie(VALUES)),
    ]


def test_what_the_real_packages_made_is_read() -> None:
    for reader, cookie in both():
        now = time.time()
        found = reader.read(cookie.encode(), now)
        assert found is not None
        assert found.values == VALUES
        assert now < found.expires_at < now + 32 * DAY


def test_flasks_tagged_values_are_read_as_they_were() -> None:
    found = FlaskCookie(OLD_KEY).read(flask_cookie(TAGGED).encode(), time.time())
    assert found is not None
    assert found.values == TAGGED


def test_starlettes_secret_is_a_key_and_flasks_fallbacks_are_keys() -> None:
    assert StarletteCookie(Secret(OLD_KEY)).read(starlette_cookie({"a": 1}).encode(), time.time())
    fallback = FlaskCookie("the key of now", fallback_keys=[OLD_KEY])
    assert fallback.read(flask_cookie({"a": 1}).encode(), time.time())
    assert fallback.read(flask_cookie({"a": 1}, "the key of now").encode(), time.time())


def test_a_cookie_of_another_key_is_nobodys() -> None:
    assert StarletteCookie("another").read(starlette_cookie(VALUES).encode(), time.time()) is None
    assert FlaskCookie("another").read(flask_cookie(VALUES).encode(), time.time()) is None


def test_a_cookie_ends_when_its_package_would_have_refused_it_and_none_comes_from_the_future() -> None:
    for reader, cookie in both(max_age=timedelta(hours=1)):
        now = time.time()
        assert reader.read(cookie.encode(), now + 3590) is not None
        assert reader.read(cookie.encode(), now + 3610) is None
        assert reader.read(cookie.encode(), now - 60) is None


def test_a_cookie_without_an_age_is_remembered_as_long_as_a_browser_may_keep_it() -> None:
    cookie, now = starlette_cookie(VALUES), time.time()
    found = StarletteCookie(OLD_KEY, max_age=None).read(cookie.encode(), now)
    assert found is not None
    assert found.expires_at > now + 399 * DAY


def altered(value: bytes) -> Iterator[bytes]:
    """One byte of it changed, put in, or left out."""
    for at in range(len(value)):
        yield value[:at] + value[at + 1 :]
        for byte in {*b"AQgw_-.=!9z", value[at] ^ 1, value[at] + 1, value[at] - 1}:
            yield value[:at] + bytes([byte]) + value[at + 1 :]
            yield value[:at] + bytes([byte]) + value[at:]
    yield from (value + more for more in (b"=", b"==", b"!", b"A", b"."))


def test_whatever_is_altered_is_refused_or_known_for_the_same_cookie() -> None:
    """The signature's encoding has several spellings: they all must be one cookie, or a logout is undone."""
    for reader, cookie in both():
        value, now = cookie.encode(), time.time()
        real = reader.read(value, now)
        spellings = {other for other in altered(value) if other != value and reader.read(other, now)}
        assert spellings, "the control: itsdangerous accepts several spellings"
        assert [found for other in spellings if (found := reader.read(other, now)) != real] == []


@pytest.mark.parametrize(
    "value",
    [b"", b".", b"..", b"null", b"a.b.c", b"\xff\xfe.x.y", b"=" * 4000, b"." * 4000, b"eyJhIjogMX0=.aQ.x"],
)
def test_rubbish_is_nobodys(value: bytes) -> None:
    for reader, _ in both():
        assert reader.read(value, time.time()) is None


@pytest.mark.parametrize(
    "payload", [b"bnVsbA==", b"WzFd", b"e30=", b"%%%", b"bm8="]
)  # null, [1], {}, none, no
def test_a_signed_value_that_is_no_session_is_nobodys(payload: bytes) -> None:
    value = TimestampSigner(OLD_KEY).sign(payload)
    assert StarletteCookie(OLD_KEY).read(value, time.time()) is None


def test_two_sessions_have_two_ids_and_a_repr_shows_keys_only() -> None:
    reader = StarletteCookie(OLD_KEY)
    one = reader.read(starlette_cookie({"a": "hidden"}).encode(), time.time())
    other = reader.read(starlette_cookie({"a": "else"}).encode(), time.time())
    assert one is not None
    assert other is not None
    assert one.id != other.id
    assert repr(one) == "<OldSession of starlette keys=['a']>"


class Mine:
    session_cookie = "mine"

    def read(self, value: bytes, now: float) -> OldSession | None:
        return None


def test_one_reader_or_several_may_be_passed() -> None:
    assert len(SessionManager(import_from=Mine()).import_from) == 1
    assert len(SessionManager(import_from=[Mine(), StarletteCookie("k")]).import_from) == 2
    assert SessionManager().import_from == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SessionManager(import_from="flask"), "import_from: found str"),  # type: ignore[arg-type]
        (
            lambda: SessionManager(import_from=[Mine]),
            "import_from: found _ProtocolMeta|import_from: found type",
        ),  # type: ignore[list-item]
        (lambda: SessionManager(import_from=7), "import_from: found int"),  # type: ignore[arg-type]
        (lambda: StarletteCookie(None), "secret_key: found no key"),
        (lambda: StarletteCookie(""), "secret_key: found no key"),
        (lambda: FlaskCookie("k", fallback_keys=[" "]), "secret_key: found no key"),
        (lambda: FlaskCookie("k", max_age=0), "max_age: found 0"),
        (lambda: IdCookie("redis://"), "lookup: found str"),  # type: ignore[arg-type]
        (lambda: IdCookie(dict, max_age=-1), "max_age: found -1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


# --- what other packages have stored ---


def test_a_session_that_flask_session_has_stored_is_read(tmp_path: Path) -> None:
    cache = FileSystemCache(str(tmp_path))
    app = flask.Flask(__name__)
    app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=cache)
    FlaskSession(app)

    @app.get("/")
    def page() -> str:
        flask.session.update(TAGGED)
        return ""

    client = app.test_client()
    client.get("/")
    cookie = client.get_cookie("session")
    assert cookie is not None
    reader = IdCookie(lambda id_: cache.get(f"session:{id_}"), max_age=100)
    found = reader.read(cookie.value.encode(), 7.0)
    assert found is not None
    assert found.values == {**TAGGED, "_permanent": True}
    assert found.expires_at == 107.0
    assert reader.read(b"another", 7.0) is None
    assert reader.read(b"\xff", 7.0) is None


async def _written(values: dict[str, Any], store: SessionStore) -> str:
    """The cookie that starsessions sets for a session of these values."""

    async def page(request: Request) -> Response:
        request.session.update(values)
        return Response()

    own = [Middleware(StarsessionsOwn, store=store, cookie_https_only=False), Middleware(Autoload)]
    app = Starlette(routes=[Route("/", page)], middleware=own)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await client.get("/")
        return client.cookies["session"]


def test_a_session_that_starsessions_has_stored_is_read() -> None:
    store = InMemoryStore()
    cookie = asyncio.run(_written(VALUES, store))

    def lookup(id_: str) -> dict[str, Any] | None:
        data = asyncio.run(store.read(id_, 0))
        return {k: v for k, v in json.loads(data).items() if k != "__metadata__"} if data else None

    found = IdCookie(lookup).read(cookie.encode(), 7.0)
    assert found is not None
    assert found.values == VALUES
    assert IdCookie(lookup).read(b"another", 7.0) is None


def test_a_cookie_of_starsessions_cookie_store_is_one_of_starlettes_kind() -> None:
    cookie = asyncio.run(_written(VALUES, CookieStore(OLD_KEY)))
    found = StarletteCookie(OLD_KEY).read(cookie.encode(), time.time())
    assert found is not None
    assert {name: found.values[name] for name in VALUES} == VALUES
