"""Test clients that are signed in: Starlette's TestClient, httpx over an app, Flask's test client.

Nothing of these is imported: a client is known by what it has. Reading order: `login_as`, `session_of`,
where the manager is found (`_served_by`), then the two kinds of cookie jars.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from session_middleware.blocking import run_blocking
from session_middleware.cookies import CookieCodec, Credential
from session_middleware.errors import ConfigurationError
from session_middleware.manager import SessionManager
from session_middleware.opening import open_with
from session_middleware.session import Live, Session
from session_middleware.testing.helpers import make_session, plainly

__all__ = ["login_as", "session_of"]

_DEEPEST = 100  # layers of middleware


def login_as(
    client: object, user_id: str | int | None, *, manager: SessionManager | None = None, **data: Any
) -> Session:
    """A new stored session of this user, whose cookie *client* sends from now on. None: an anonymous one.

    *manager*: None finds that of the client's app. A plain call, for async clients too. Raises
    `ConfigurationError` where no manager is found, or where no request of the client would carry the cookie.
    """
    site = _site(client, manager)
    session = make_session(site.manager, user_id, **data)
    record = session.life.record
    assert record is not None  # noqa: S101  (it was just stored; for the type checker)
    site.jar.put(site.codec, Credential(record.id, record.secret, record.generation))
    return session


def session_of(client: object, *, manager: SessionManager | None = None) -> Session | None:
    """What is stored now for the cookie that *client* would send; None if that opens no session.

    It is a copy: what you change in it is not saved.
    """
    site = _site(client, manager)
    reading = site.codec.read_text(site.jar.header(site.codec))
    with plainly(site.manager) as sessions:
        for credential in reading.credentials:
            opened = _opened(site.manager, credential)
            if opened:
                found: Session | None = sessions.get_session(credential.id)
                return found
    return None


def _opened(manager: SessionManager, credential: Credential) -> bool:
    now = manager.clock()
    answer = run_blocking(manager.blocking_performer.port.load(credential.id, now))
    return isinstance(open_with(credential, answer, now)[0], Live)


# --- where the manager is ---


class _Jar(Protocol):
    """The cookies of one client."""

    def put(self, codec: CookieCodec, credential: Credential) -> None: ...
    def header(self, codec: CookieCodec) -> str: ...


@dataclass(frozen=True, slots=True)
class _Site:
    manager: SessionManager
    codec: CookieCodec
    jar: _Jar


def _site(client: Any, manager: SessionManager | None) -> _Site:
    flask = getattr(client, "application", None)
    if flask is not None and hasattr(client, "set_cookie"):
        return _flask_site(flask, _FlaskJar(client, flask), manager)
    if not (hasattr(client, "build_request") and hasattr(client, "cookies")):
        raise ConfigurationError(
            f"client: found {type(client).__name__}, pass Starlette's TestClient, an httpx client, or Flask's"
        )
    app = getattr(client, "app", None) or getattr(getattr(client, "_transport", None), "app", None)
    jar = _HttpxJar(client)
    if manager is None and "session_middleware" in getattr(app, "extensions", ()):
        return _flask_site(app, jar, None)
    chosen = manager or _served_by(app)
    return _Site(chosen, chosen.codec, jar)


def _flask_site(app: Any, jar: _Jar, manager: SessionManager | None) -> _Site:
    interface = app.extensions.get("session_middleware")
    if interface is None:
        raise ConfigurationError("client: its app's sessions are not ours; call init_app(app) first")
    return _Site(manager or interface.manager_of(app), interface.codec_of(app), jar)


def _served_by(app: object) -> SessionManager:
    for layer in _layers(app):
        for found in (
            getattr(layer, "manager", None),
            getattr(getattr(layer, "state", None), "session_manager", None),
        ):
            if isinstance(found, SessionManager):
                return found
    raise ConfigurationError(
        "client: no session middleware was found in its app; pass manager=, the one you gave the middleware"
    )


def _layers(app: Any) -> Iterator[object]:
    """The app and what it wraps, outermost first. Starlette's stack is built as its first request would."""
    for _ in range(_DEEPEST):
        if app is None:
            return
        yield app
        if hasattr(app, "build_middleware_stack"):
            if app.middleware_stack is None:
                app.middleware_stack = app.build_middleware_stack()
            app = app.middleware_stack
        else:
            app = getattr(app, "app", None)


# --- cookie jars ---


@dataclass(frozen=True, slots=True)
class _HttpxJar:
    """Of Starlette's TestClient too. It takes the cookie from a response, so a later one replaces it."""

    client: Any

    def put(self, codec: CookieCodec, credential: Credential) -> None:
        request = self._request(codec)
        https = request.url.scheme == "https"
        secure = codec.sends_secure(https)
        if secure and not https:
            raise ConfigurationError(
                f"client: its base_url is {self.client.base_url}, and its cookie is Secure: no request would "
                'carry it; make the client with base_url="https://testserver"'
            )
        cookie = codec.set_cookie(credential, max_age=None, secure=secure).decode("ascii")
        library = sys.modules[type(request).__module__.partition(".")[0]]  # httpx, or httpx2
        self.client.cookies.extract_cookies(
            library.Response(200, headers=[("set-cookie", cookie)], request=request)
        )
        if credential not in codec.read_text(self.header(codec)).credentials:
            raise ConfigurationError(
                f"client: it refuses a cookie for domain={codec.settings.domain!r}, its base_url is "
                f"{self.client.base_url}; give it one of that domain"
            )

    def header(self, codec: CookieCodec) -> str:
        sent: str = self._request(codec).headers.get("cookie", "")
        return sent

    def _request(self, codec: CookieCodec) -> Any:
        if not self.client.base_url.host:
            raise ConfigurationError(
                'client: it has no base_url, so no cookie can be kept for it; pass base_url="https://testserver"'
            )
        return self.client.build_request("GET", codec.settings.path)


@dataclass(frozen=True, slots=True)
class _FlaskJar:
    """Of Flask's test client, which sends Secure cookies to http too."""

    client: Any
    app: Any

    def put(self, codec: CookieCodec, credential: Credential) -> None:
        domain = self.app.config.get("SESSION_COOKIE_DOMAIN")
        self.client.set_cookie(
            codec.settings.session_cookie,
            codec.sign(credential),
            domain=self._host(),
            origin_only=not domain,
            path=self._path(),
        )

    def header(self, codec: CookieCodec) -> str:
        name = codec.settings.session_cookie
        cookie = self.client.get_cookie(name, domain=self._host(), path=self._path())
        return "" if cookie is None else f"{name}={cookie.value}"

    def _host(self) -> str:
        config = self.app.config
        domain = config.get("SESSION_COOKIE_DOMAIN") or (config.get("SERVER_NAME") or "localhost")
        return str(domain).partition(":")[0].lstrip(".")

    def _path(self) -> str:
        return str(self.app.session_interface.get_cookie_path(self.app))
