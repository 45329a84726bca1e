"""The same small app in Flask, and the sessions that Flask may have, each in its default configuration.

Reading order: `made` (an app of one kind), `KINDS` (what each claims), `in_flask` (all of them, in this
process).

The bare app has a session interface that does nothing: Flask's own is one of those compared. Where a default
cannot be kept, a comment says why.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeAlias, cast

import flask
from cachelib import FileSystemCache
from flask.sessions import NullSession, SessionInterface
from flask_session import Session as FlaskSessionPackage
from flask_sqlalchemy import SQLAlchemy
from redis import Redis
from starlette.requests import Request

from session_middleware.backends.redis import RedisBackend
from session_middleware.blocking import run_blocking
from session_middleware.flask import init_app, manager_of
from tests.benchmarks.apps import BARE, PAGES, Candidate, Page, ignore
from tests.benchmarks.wsgi_traffic import WSGIServed

__all__ = [
    "COOKIE_SESSION",
    "FILES",
    "KINDS",
    "OURS_FLASK",
    "OURS_FLASK_REDIS",
    "OURS_FLASK_SQLITE",
    "REDIS",
    "SQLALCHEMY",
    "Kind",
    "Site",
    "bare",
    "candidate_of",
    "in_flask",
    "made",
]

OURS_FLASK = "ours, memory"
OURS_FLASK_SQLITE = "ours, SQLite"
OURS_FLASK_REDIS = "ours, Redis"
COOKIE_SESSION = "Flask, cookie"
FILES = "Flask-Session, files"
REDIS = "Flask-Session, Redis"
SQLALCHEMY = "Flask-Session, SQLite"

_Close: TypeAlias = Callable[[], object]
_SHOWN = cast("Request", SimpleNamespace(session=flask.session))  # pages ask for `.session`, and no more


@dataclass(frozen=True, slots=True)
class Site:
    """Where an app keeps its sessions: a folder of its own, and a Redis (None: there is none)."""

    folder: Path
    redis_url: str | None = None


class _NoSessions(SessionInterface):
    """What Flask has to have, and no more."""

    _null = NullSession()

    def open_session(self, app: flask.Flask, request: flask.Request) -> NullSession:
        return self._null

    def save_session(self, app: flask.Flask, session: Any, response: flask.Response) -> None:
        """Never called: Flask saves no null session."""


def made(name: str, site: Site) -> tuple[flask.Flask, _Close]:
    """An app of this kind, and what lets go of its files and connections."""
    app = flask.Flask("bench")
    app.secret_key = secrets.token_urlsafe(32)
    pages = PAGES if name != BARE else dict.fromkeys(PAGES, ignore)
    for path, page in pages.items():
        app.add_url_rule(path, path[1:], _view(page))
    return app, KINDS[name].install(app, site)


def bare() -> tuple[flask.Flask, _Close]:
    """The app without sessions."""
    return made(BARE, Site(Path()))


def _view(page: Page) -> Callable[[], bytes]:
    return lambda: page(_SHOWN)


# --- one function per kind ---


def _nothing() -> None:
    pass


def _bare(app: flask.Flask, _: Site) -> _Close:
    app.session_interface = _NoSessions()
    return _nothing


def _cookie(app: flask.Flask, _: Site) -> _Close:
    return _nothing


def _files(app: flask.Flask, site: Site) -> _Close:
    # Default: 500 files, beyond which it throws sessions away, those that are being measured among them.
    cache = FileSystemCache(str(site.folder / "files"), threshold=0)
    app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=cache)
    FlaskSessionPackage(app)
    return _nothing


def _redis(app: flask.Flask, site: Site) -> _Close:
    if site.redis_url is None:
        raise ValueError("there is no Redis to keep sessions in")
    client = Redis.from_url(site.redis_url)
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=client)
    FlaskSessionPackage(app)
    return client.close


def _sqlalchemy(app: flask.Flask, site: Site) -> _Close:
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{site.folder / 'peer.db'}"
    database = SQLAlchemy(app)
    app.config.update(SESSION_TYPE="sqlalchemy", SESSION_SQLALCHEMY=database)
    FlaskSessionPackage(app)

    def close() -> None:
        with app.app_context():
            database.engine.dispose()

    close()  # it has made its table: nothing may be open when gunicorn forks
    return close


def _ours(app: flask.Flask, _: Site) -> _Close:
    init_app(app, backend="memory://")
    return _nothing


def _ours_sqlite(app: flask.Flask, site: Site) -> _Close:
    init_app(app, backend=f"sqlite:///{site.folder / 'ours.db'}")
    return lambda: run_blocking(manager_of(app).backend.port("blocking").close())


def _ours_redis(app: flask.Flask, site: Site) -> _Close:
    if site.redis_url is None:
        raise ValueError("there is no Redis to keep sessions in")
    init_app(app, backend=RedisBackend(site.redis_url, prefix="ours:"))
    return lambda: run_blocking(manager_of(app).backend.port("blocking").close())


@dataclass(frozen=True, slots=True)
class Kind:
    """How an app gets its sessions, and which cases it claims to answer with a Set-Cookie."""

    install: Callable[[flask.Flask, Site], _Close]
    sets_cookie: frozenset[str]
    is_shared: bool = True  # by several processes
    needs_redis: bool = False


_CHANGED = frozenset({"write", "new"})
_ALWAYS = frozenset({"untouched", "read", "write", "new"})  # Flask-Session's are permanent by default
KINDS: Final[dict[str, Kind]] = {
    BARE: Kind(_bare, frozenset()),
    COOKIE_SESSION: Kind(_cookie, _CHANGED),
    FILES: Kind(_files, _ALWAYS),
    REDIS: Kind(_redis, _ALWAYS, needs_redis=True),
    SQLALCHEMY: Kind(_sqlalchemy, _ALWAYS),
    OURS_FLASK: Kind(_ours, _CHANGED, is_shared=False),
    OURS_FLASK_SQLITE: Kind(_ours_sqlite, _CHANGED),
    OURS_FLASK_REDIS: Kind(_ours_redis, _CHANGED, needs_redis=True),
}
"""Every kind by its name. Redis can only be had where a server runs."""


@contextmanager
def in_flask(site: Site) -> Iterator[list[Candidate]]:
    """All of them, called without a server; Redis only if *site* has one."""
    names = [name for name, kind in KINDS.items() if not kind.needs_redis or site.redis_url is not None]
    apps = {name: made(name, site) for name in names}
    try:
        yield [candidate_of(name, WSGIServed(app)) for name, (app, _) in apps.items()]
    finally:
        for _, close in apps.values():
            close()


def candidate_of(name: str, app: WSGIServed) -> Candidate:
    """What this kind claims, of this app."""
    return Candidate(name, app, KINDS[name].sets_cookie, has_session=name != BARE)
