"""Flask: `flask.session` is our `Session`, with Flask's contract.

    init_app(app, backend="sqlite:///sessions.db")

Everything else is Flask's own configuration, read at each request: `SECRET_KEY`, `SECRET_KEY_FALLBACKS`,
`SESSION_COOKIE_*`, `PERMANENT_SESSION_LIFETIME`, `SESSION_REFRESH_EACH_REQUEST`; and ours: `SESSION_BACKEND`
and every option of `SessionManager` and `Policy` in capitals (`SESSION_IDLE_TIMEOUT`, …).

Reading order: `init_app`, `FlaskSession` (what a view sees), `SessionInterface` (what Flask calls),
`_Request` (one request), `_Site` (what one app shares), the commands of `flask session`.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from session_middleware.arguments import Monitored, Routes, matcher, watch
from session_middleware.backends.base import Backend, wrong_colour
from session_middleware.backends.urls import backend_from
from session_middleware.blocking import run_blocking
from session_middleware.cookies import CookieCodec, CookieSettings, Credential, fallback_list
from session_middleware.errors import BackendError, ConfigurationError, SessionCapacityError, SessionError
from session_middleware.manager import ManagerOptions, SessionManager
from session_middleware.policy import DAY, Policy, PolicyOptions
from session_middleware.record import Record
from session_middleware.session import Life, Live, Opening, RemoveCookie, Session, SetCookie, UnreadSession
from session_middleware.wsgi_exchange import PlainEntrance, PlainExchange, close

try:
    import click
    from flask import Flask, Request, Response
    from flask import request as current_request
    from flask.cli import AppGroup
    from flask.globals import request_ctx
    from flask.sessions import NullSession as FlaskNullSession
    from flask.sessions import SessionInterface as FlaskSessionInterface
    from flask.sessions import SessionMixin
    from flask.signals import request_tearing_down
    from werkzeug.exceptions import HTTPException, ServiceUnavailable, TooManyRequests
except ModuleNotFoundError as problem:
    raise ImportError(
        'session_middleware.flask needs Flask: pip install "session_middleware[flask]"'
    ) from problem

__all__ = ["FlaskSession", "NullSession", "SessionInterface", "init_app", "manager_of"]

_ERROR = 500  # from this status on, nothing but an ending is saved
_RETRY_AFTER = 2  # seconds
_TRY_AGAIN = "Sessions are not available, try again in a moment"
_POLICY = tuple(PolicyOptions.__annotations__)
_FLASKS_OWN = {"fallback_keys", "policy", "clock", "monotonic"}  # what Flask has another way for, or no use
_OTHERS = tuple(sorted(ManagerOptions.__annotations__.keys() - {*_POLICY, *_FLASKS_OWN}))
_OURS = "session_middleware.flask"  # in a request's environ: what serves it
_MOST_KEYS = 64  # combinations of cookie name and keys that are remembered per app


def init_app(
    app: Flask,
    *,
    manager: SessionManager | None = None,
    backend: Backend | str | None = None,
    **options: Any,
) -> None:
    """Let `flask.session` of *app* be ours, and add `flask session` to its commands.

    The arguments are those of `SessionInterface`. The configuration may be filled before or after.
    """
    interface = SessionInterface(manager=manager, backend=backend, **options)
    app.session_interface = interface
    app.extensions["session_middleware"] = interface
    app.before_request(_refuse_if_full)
    for kind in (BackendError, SessionCapacityError):  # raised inside a view, by the manager
        app.register_error_handler(kind, _unavailable)
    app.cli.add_command(_commands(app))


def manager_of(app: Flask) -> SessionManager:
    """The manager behind *app*'s sessions, made now if it was not yet. Raises `ConfigurationError`."""
    interface = app.session_interface
    if not isinstance(interface, SessionInterface):
        raise ConfigurationError("app: its sessions are not ours; call init_app(app) first")
    return interface.manager_of(app)


class FlaskSession(Session, SessionMixin):
    """A `Session` with Flask's names: `permanent`, `new`, `modified`, `accessed`."""

    request_of: _Request

    @property
    def new(self) -> bool:  # type: ignore[override]  # Flask has a constant there, False for want of knowing
        """No record existed when the request began."""
        return self.is_new


class _UnreadFlaskSession(FlaskSession):
    """A session nobody has looked at; the first look turns it into a plain `FlaskSession`."""

    def __init__(self, opener: Callable[[Session], None]) -> None:
        self.accessed = False
        self.modified = False
        self.opener = opener

    def mark_accessed(self) -> None:
        """The first look. Raises `ServiceUnavailable` where the backend could not say whose session it is."""
        self.opener(self)
        self.__class__ = FlaskSession  # type: ignore[assignment]  # same layout
        self.accessed = True


for _name, _method in vars(UnreadSession).items():
    if callable(_method) and _name not in {"__init__", "mark_accessed"}:
        setattr(_UnreadFlaskSession, _name, _method)


class NullSession(FlaskNullSession):
    """What there is without a secret key: readable, empty, and every change says what is missing."""

    user_id: None = None
    id: None = None

    def _lacks_key(self, *_args: object, **_kwargs: object) -> NoReturn:
        self["key"] = None  # raises, in Flask's words
        raise AssertionError

    login = logout = invalidate = cycle = renew = increment = set_expiry = _lacks_key


class SessionInterface(FlaskSessionInterface):
    """Flask's hook for sessions. One object may serve any number of apps.

    Args:
        manager: a configured `SessionManager`; its backend and policy serve, the cookie is Flask's.
        backend: a backend object or a URL, instead of the app's `SESSION_BACKEND`. Default `memory://`.
        optional: paths that work without a backend: while it is down they see an empty, read-only session.
        passive: paths that do not count as activity (polling): they renew nothing.
        monitor: takes in the events: a `SessionMonitor`, True (default) for the process's own, False: none.
        options: those of `SessionManager` and `Policy`; they go before the app's `SESSION_*` settings.

    Raises `ConfigurationError` naming the argument.
    """

    null_session_class = NullSession

    def __init__(
        self,
        *,
        manager: SessionManager | None = None,
        backend: Backend | str | None = None,
        optional: Routes = (),
        passive: Routes = (),
        monitor: Monitored = True,
        **options: Any,
    ) -> None:
        if manager is not None and not isinstance(manager, SessionManager):
            raise ConfigurationError(f"manager: found {type(manager).__name__}, pass a SessionManager")
        if manager is not None and (backend is not None or options):
            given = ["backend"] if backend is not None else list(options)
            raise ConfigurationError(f"{given[0]}: the manager has it already; set it there, not here")
        self._manager = manager
        self._backend = None if backend is None else backend_from(backend)
        for chosen in (self._backend, None if manager is None else manager.backend):
            if chosen is not None and "blocking" not in chosen.colours:
                raise wrong_colour(chosen, "blocking")
        self._routes = {
            "optional": matcher("optional", optional, "environ"),
            "passive": matcher("passive", passive, "environ"),
        }
        self._monitor = monitor
        self._options = _checked(options)
        self._sites: WeakKeyDictionary[Flask, _Site] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def manager_of(self, app: Flask) -> SessionManager:
        """The manager that serves *app*."""
        return self._site(app).manager

    def codec_of(self, app: Flask) -> CookieCodec:
        """Signs the cookies of *app* with its keys of now. Raises `ConfigurationError` where it has none."""
        entrance = self._site(app).entrance(app, self.get_cookie_name(app))
        if entrance is None:
            raise ConfigurationError("app: it has no secret key; set app.secret_key")
        return entrance.codec

    def get_cookie_secure(self, app: Flask) -> bool:
        """Secure where the app asks for it, and whenever the request came by https."""
        return super().get_cookie_secure(app) or current_request.is_secure

    def open_session(self, app: Flask, request: Request) -> SessionMixin | None:
        """The session of *request*; None without a secret key."""
        site = self._site(app)
        entrance = site.entrance(app, self.get_cookie_name(app))
        if entrance is None:
            return None
        opened = _Request(entrance, request.environ)
        opened.detached = request_ctx._session is not None  # noqa: SLF001  (`flask.session` would be a look)
        if not opened.detached:  # found again whatever the app makes of `flask.session`
            opened.context = weakref.ref(_context())
            request.environ[_OURS] = opened
        try:
            opened.enter()
        except BaseException:
            opened.leave(failed=True)
            raise
        opened.let_go_if_detached()
        return opened.shown

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Commit, and let *response* say what that made of the cookie; where it failed, it becomes a 503."""
        if isinstance(session, FlaskSession):
            session.request_of.save(self, app, response)

    def _site(self, app: Flask) -> _Site:
        site = self._sites.get(app)
        settings = _settings(app, self._options)
        if site is None or site.settings != settings:
            with self._lock:
                site = self._sites[app] = self._made_site(app, settings, self._sites.get(app))
        return site

    def _made_site(self, app: Flask, settings: dict[str, Any], before: _Site | None) -> _Site:
        if before is None:
            request_tearing_down.connect(_tear_down, app)
        if self._manager is not None:
            watch(self._manager, self._monitor)
            return _Site(settings, self._manager, self._routes, before.entrances if before else {})
        url = settings["backend"]
        if before is not None and {**before.settings, **_policy_of(settings)} == settings:
            before.manager.blocking.reconfigure(policy=_policy(settings))
            return _Site(settings, before.manager, self._routes, before.entrances)
        same = before is not None and before.settings["backend"] == url
        backend = before.manager.backend if same and before else self._backend or backend_from(url)
        others = {name: settings[name] for name in _OTHERS if name in settings}
        made = SessionManager(backend, max_age=None, policy=_policy(settings), **others)
        if "blocking" not in backend.colours:
            raise wrong_colour(backend, "blocking")
        watch(made, self._monitor)
        return _Site(settings, made, self._routes)


class _Request(PlainExchange):
    """One request of a Flask app, and its session."""

    response: Response | None = None
    cookie: SetCookie | RemoveCookie | None = None  # what the response so far says of it
    detached = False  # a test's `session_transaction`: nobody will tell us of its end
    context: Callable[[], object] = staticmethod(lambda: None)  # of Flask, whose end is the request's

    def __init__(self, entrance: PlainEntrance, environ: dict[str, Any]) -> None:
        super().__init__(entrance, environ)
        self.shown: FlaskSession = _UnreadFlaskSession(self._show)
        self.shown.request_of = self

    def _show(self, session: Session) -> None:
        """The first look."""
        if self.refused:
            if sys.exc_info()[0] is None:
                raise self.refusal()
            # An error page that looks as well: raising again would make a 500 of whatever it is about.
            self.life = Life(self.entrance.manager.policy, self.entrance.manager)
            self.life.degraded = True
            session.open(self.life)
            return
        self._show_opened(session)
        self.session = session
        self.let_go_if_detached()

    def let_go_if_detached(self) -> None:
        """What has no end of its own is not in flight."""
        if self.detached:
            self.entrance.activity.leave(self)
            self.unbind()

    def refusal(self) -> HTTPException:
        """Why there is no session."""
        kind = TooManyRequests if self.status == TooManyRequests.code else ServiceUnavailable
        return kind(_TRY_AGAIN, retry_after=self.retry_after)

    @property
    def is_full(self) -> bool:
        """Refused for a limit, rather than for a backend that is down."""
        return self.refused and (self.over or self.status == TooManyRequests.code)

    # --- the response ---

    def save(self, interface: SessionInterface, app: Flask, response: Response) -> None:
        """Commit, then let *response* leave with what that made of the cookie. May be called again."""
        self.response, self.status = response, response.status_code
        response.call_on_close(self.leave)
        if not self.refused:
            if self.shown.modified and not self.has_looked:  # `session.modified = True` is no look by itself
                self.shown.mark_accessed()
            self._look_if_refreshed(app)
            if self.has_looked and not self._save(interface, app, response):
                return
        if self.refused and response.status_code in {429, 503}:
            response.headers["Cache-Control"] = "no-store"
        if self.shown.accessed or self.cookie is not None:
            response.vary.add("Cookie")
        self.started = True
        self.let_go_if_detached()

    def _look_if_refreshed(self, app: Flask) -> None:
        """A permanent session is refreshed by each request, looked at or not."""
        record = None if self.life is None else self.life.record
        if self.has_looked or record is None or not app.config["SESSION_REFRESH_EACH_REQUEST"]:
            return
        if record.data.get("_permanent") == b"true":
            accessed = self.shown.accessed
            self.shown.mark_accessed()
            self.shown.accessed = accessed  # our own reads are no look

    def _save(self, interface: SessionInterface, app: Flask, response: Response) -> bool:
        """False if the response became a 503."""
        session, life = self.shown, self.shown.life
        modified, before, life.late = session.modified, life.opening, False
        try:
            run_blocking(self._commit())
        except (BackendError, SessionCapacityError) as problem:
            if not self.refused:
                run_blocking(self._refuse(503, problem=problem))
            _rewrite(response)
            return False
        session.modified = modified
        cookie = self._cookie(interface, app, before)
        if cookie is not None:
            self.cookie = cookie
        if self.cookie is not None:
            self._write_cookie(interface, app, response, self.cookie)
        life.late = True
        return True

    def _cookie(
        self, interface: SessionInterface, app: Flask, before: Opening
    ) -> SetCookie | RemoveCookie | None:
        """What this response says of the cookie: by the commit, then by Flask's contract."""
        session, life = self.shown, self.shown.life
        owed, life.owed = life.owed, None
        opening = life.opening
        if self.status >= _ERROR or not isinstance(opening, Live):
            return owed
        record = opening.record
        if not session and session.modified and record.user_id is None:  # it was emptied
            return RemoveCookie() if opening is not before or self._is_current(record) else owed
        wanted = owed is None and bool(session) and interface.should_set_cookie(app, session)
        if wanted and (opening is not before or self._is_current(record)):
            return SetCookie(record.id, record.secret, record.generation, record.deadline)
        return owed

    def _is_current(self, record: Record) -> bool:
        """Whether no login happened since: a cookie from before must not replace the one it set."""
        try:
            answer = run_blocking(self.entrance.performer.port.load(record.id, self.now))
        except BackendError:
            return False
        return isinstance(answer, Record) and answer.generation == record.generation

    def _write_cookie(
        self, interface: SessionInterface, app: Flask, response: Response, cookie: SetCookie | RemoveCookie
    ) -> None:
        _drop_cookies(response, self.entrance.codec)
        self.entrance.budget.cookies += 1
        name = self.entrance.name
        attributes: dict[str, Any] = {
            "domain": interface.get_cookie_domain(app),
            "path": interface.get_cookie_path(app),
            "secure": interface.get_cookie_secure(app),
            "httponly": interface.get_cookie_httponly(app),
            "samesite": interface.get_cookie_samesite(app),
            "partitioned": interface.get_cookie_partitioned(app),
        }
        if isinstance(cookie, RemoveCookie):
            response.delete_cookie(name, **attributes)
        else:
            value = self.entrance.codec.sign(Credential(cookie.id, cookie.secret, cookie.generation))
            expires = interface.get_expiration_time(app, self.shown)
            response.set_cookie(name, value, expires=expires, **attributes)
        if not (response.cache_control.private or response.cache_control.no_store):
            response.headers["Cache-Control"] = "no-store"

    # --- its end ---

    def tear_down(self, problem: BaseException | None) -> None:
        """The request's context is gone; its body may still be on its way."""
        self.unbind()
        if self.response is None:  # it ended without a response, or is a `session_transaction`
            if problem is not None or not self.has_looked:
                self.leave(failed=True)
            else:
                self.entrance.activity.leave(self)
        elif self.response.direct_passthrough or not self.response.is_streamed:
            self.leave()  # no code of the app runs any more, and not every server closes such a body


@dataclass(slots=True)
class _Site:
    """What the requests of one app share while its settings stay as they are."""

    settings: dict[str, Any]
    manager: SessionManager
    routes: dict[str, Callable[[Any], bool] | None]
    entrances: dict[Any, PlainEntrance] = field(default_factory=dict)  # by cookie name and keys

    def entrance(self, app: Flask, name: str) -> PlainEntrance | None:
        """The one for the cookie of this name and the app's keys of now. None: there is no key."""
        key = app.secret_key
        fallbacks = tuple(fallback_list("SECRET_KEY_FALLBACKS", app.config.get("SECRET_KEY_FALLBACKS") or ()))
        found = self.entrances.get((name, key, fallbacks))
        if found is not None or not key:
            return found
        codec = CookieCodec(CookieSettings(session_cookie=name), key, fallbacks)
        if len(self.entrances) >= _MOST_KEYS:
            self.entrances.clear()
        made = PlainEntrance(self.manager, codec=codec, **self.routes)
        made.always_opens_first = (
            True  # whether a session is permanent must be known of those nobody looks at
        )
        self.entrances[name, key, fallbacks] = made
        return made


# --- configuration ---


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(options.keys() - {*_POLICY, *_OTHERS})
    if unknown:
        raise ConfigurationError(
            f"{unknown[0]}: there is no such option; cookies and keys are set by Flask's own configuration, "
            f"and there are {', '.join(sorted({*_POLICY, *_OTHERS}))}"
        )
    return options


def _settings(app: Flask, options: dict[str, Any]) -> dict[str, Any]:
    config = app.config
    found: dict[str, Any] = {
        "backend": config.get("SESSION_BACKEND") or "memory://",
        "lifetime": app.permanent_session_lifetime.total_seconds(),
    }
    for name, key in _CONFIGURED:
        value = config.get(key)
        if value is not None:
            found[name] = value
    return {**found, **options} if options else found


_CONFIGURED = tuple((name, f"SESSION_{name.upper()}") for name in (*_POLICY, *_OTHERS))


def _policy_of(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("lifetime", *_POLICY) if name in settings}


def _policy(settings: dict[str, Any]) -> Policy:
    lifetime = settings["lifetime"]
    defaults = {"idle_timeout": lifetime, "absolute_timeout": max(30 * DAY, lifetime)}
    named = {name: settings[name] for name in _POLICY if name in settings}
    return Policy.of({**defaults, **named}, max_age=None)


# --- what Flask calls besides ---


def _refuse_if_full() -> None:
    """Before the view: more requests at once than the limits allow."""
    ours = current_request.environ.get(_OURS)
    if isinstance(ours, _Request) and ours.is_full:
        raise ours.refusal()


def _unavailable(_: Exception) -> tuple[str, int, dict[str, str]]:
    """A view met a backend that is down, or full."""
    headers = {"Retry-After": str(_RETRY_AFTER), "Cache-Control": "no-store", "Content-Type": "text/plain"}
    return _TRY_AGAIN, ServiceUnavailable.code, headers


def _context() -> Any:
    """The context of the request, itself and not the proxy for it."""
    return request_ctx._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  (its public form)


def _tear_down(_: Flask, exc: BaseException | None = None, **_more: object) -> None:
    """A copy of the context, as `copy_current_request_context` makes it, ends nothing."""
    ours = current_request.environ.get(_OURS)
    if isinstance(ours, _Request) and ours.context() is _context():
        ours.tear_down(exc)


def _drop_cookies(response: Response, codec: CookieCodec) -> None:
    """At most one Set-Cookie of our name in a response, also when the app set one."""
    kept = [
        value
        for value in response.headers.getlist("Set-Cookie")
        if not codec.names_our_cookie(value.encode("latin-1", "replace"))
    ]
    response.headers.setlist("Set-Cookie", kept)


def _rewrite(response: Response) -> None:
    """The commit failed: what the view answered must not be believed."""
    close(response.response)
    response.headers.clear()
    response.direct_passthrough = False
    response.status_code = 503
    response.set_data("Service unavailable, try again in a moment")
    response.mimetype = "text/plain"
    response.headers["Retry-After"] = str(_RETRY_AFTER)
    response.headers["Cache-Control"] = "no-store"


# --- flask session … ---


def _sessions_of(app: Flask, user: str | None, limit: int) -> list[Session]:
    try:
        found: list[Session] = manager_of(app).blocking.get_sessions(user_id=user, limit=limit)
    except SessionError as problem:
        raise click.ClickException(str(problem)) from problem
    return found


def _commands(app: Flask) -> AppGroup:
    group = AppGroup("session", help="List, revoke and clean up sessions.")

    @group.command("list")
    @click.argument("user", required=False)
    @click.option("--limit", default=100, type=click.IntRange(1), show_default=True, help="How many at most.")
    def list_sessions(user: str | None, limit: int) -> None:
        """The live sessions, or those of USER, newest first."""
        for session in _sessions_of(app, user, limit):
            seen = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(session.last_activity))
            keys = ", ".join(sorted(session)) or "-"
            line = f"{session.id}  user {session.user_id or '-'}  seen {seen} UTC  keys {keys}"
            click.echo("".join(sign if sign.isprintable() else "?" for sign in line))

    @group.command("revoke")
    @click.argument("session_id", required=False)
    @click.option("--user", help="End every session of this user.")
    def revoke(session_id: str | None, user: str | None) -> None:
        """End one session by its id, or all of a user."""
        if (session_id is None) == (user is None):
            raise click.UsageError("pass a session id, or --user")
        blocking = manager_of(app).blocking
        if user is not None:
            click.echo(f"{blocking.delete_user_sessions(user)} ended")
        elif not blocking.delete_session(session_id, reason="revoked"):
            raise click.ClickException("no live session has this id")
        else:
            click.echo("1 ended")

    @group.command("cleanup")
    def cleanup() -> None:
        """Delete what has expired."""
        click.echo(f"{manager_of(app).blocking.cleanup_expired()} removed")

    return group
