"""Streamlit: what a visitor does survives a refresh, a new tab and a restart of the server.

    # app.py, run by `streamlit run app.py` or `uvicorn app:app`
    app = st.App(
        "script.py",
        middleware=[Middleware(SessionMiddleware, secret_key=KEY, backend="sqlite:///s.db", eager=True)],
    )

    # script.py
    session = bootstrap_session()
    if session is None:
        st.warning("Please reload this page.")
        st.stop()
    form = session.get_form_state("contact")
    persist_input("name", st.text_input("Name", form.data.get("name", ""), key="name"), form_id="contact")

Reading order: `bootstrap_session` and the other functions of a script, `StreamlitSessions` (the façade),
`_Tab` (one browser tab: who it is, found out anew in each run), `_ScriptSession` (writes what changes),
then how a run finds its WebSocket.

A script runs in a thread without an event loop, so everything here goes over the backend's blocking port.
Which manager serves it is told by the WebSocket whose message made it run: the innermost middleware with
`eager=True` around it has put a name into its headers (`session_middleware.sockets`). So any number of apps
and middlewares in one process cannot be mistaken for one another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.requests import HTTPConnection

from session_middleware.blocking import run_blocking
from session_middleware.cookies import CookieReading
from session_middleware.errors import BackendError, ConfigurationError
from session_middleware.exchange import Entrance, Exchange
from session_middleware.manager import SessionManager
from session_middleware.policy import Duration
from session_middleware.record import SessionId
from session_middleware.session import Life, Live, Overtaken, Session
from session_middleware.sockets import HEADER, socket_of
from session_middleware.state import BlockingPersistenceEngine, NavigationEntry, StateLimits, UserSession
from session_middleware.values import JsonValue, encode_value

try:
    import streamlit as st
    from streamlit.runtime.scriptrunner import get_script_run_ctx
except ModuleNotFoundError as problem:
    raise ImportError(
        'session_middleware.streamlit needs Streamlit: pip install "session_middleware[streamlit]"'
    ) from problem

__all__ = [
    "Database",
    "StreamlitSessions",
    "bootstrap_session",
    "get_current_session",
    "get_db_manager",
    "get_persistence_engine",
    "get_session_manager",
    "persist_input",
    "persist_session",
    "recover_session",
    "save_form",
    "session_of",
]

_KEY: Final = "_session_middleware"  # of the tab, in `st.session_state`
_INPUTS: Final = "inputs"
_HELP: Final = "st.App(script, middleware=[Middleware(SessionMiddleware, secret_key=..., eager=True)])"


class _Settings(NamedTuple):
    """What a script says in `bootstrap_session`, kept for the callbacks of its next run."""

    role_permissions: Mapping[str, Collection[str]] | None = None
    limits: StateLimits = StateLimits()


# --- what a script calls ---


def bootstrap_session(
    session_id: str | None = None,
    *,
    debounce_delay: Duration | None = None,
    role_permissions: Mapping[str, Collection[str]] | None = None,
    limits: StateLimits = StateLimits(),  # noqa: B008  (immutable)
) -> UserSession | None:
    """The working state of this browser's session; call it first in the script. None: ask for a reload.

    What changes in it is written by itself, within `debounce_delay` seconds. Looking at it stores nothing.

    None where the browser has no session that is open to it: its cookie is gone, its session has ended (a
    logout in another tab), it signed in elsewhere and this tab has the former cookie. Also in the one run
    that finds somebody else in the tab than the run before: what `st.session_state` kept of the former
    visitor is dropped then, and a run without that visitor's widgets makes the page drop what was typed.

    Args:
        session_id: accepted only where it names the session of the cookie; else it is ignored, and an event
            tells. An id is never a credential.
        debounce_delay: seconds that a change waits at most, for every visitor. Default 2, as it was.
        role_permissions: what each role implies, `{"editor": {"read", "write"}}`. Default: nothing.
        limits: how much of each kind is remembered.

    Raises `ConfigurationError` without the middleware, `BackendError` while the backend is away.
    """
    tab = _this_tab()
    tab.settings = _Settings(role_permissions, limits)
    if debounce_delay is not None and tab.entrance is not None:
        _engine_of(tab.entrance.manager).debounce_delay = debounce_delay
    session = tab.view()
    if session_id is not None:
        _is_own(session_id, tab)
    return session


def get_current_session() -> UserSession | None:
    """The same session as `bootstrap_session` answered in this run; also in callbacks, before that."""
    return _this_tab().view()


def get_session_manager() -> StreamlitSessions:
    """Navigation, cache and clean-up of this browser's session, and the `SessionManager` behind it."""
    return StreamlitSessions()


def persist_input(field: str, value: JsonValue, form_id: str = _INPUTS) -> bool:
    """Keep what a widget holds in a form of the session. False: there is no session, and nothing was kept.

    Call it in the body of the script, with the widget's value in each run: what did not change in this tab
    is not written. (An `on_change` callback may call it too; but a page that was open while the server was
    restarted runs none for its first edit.) Raises `SessionDataError` for what is not JSON: give a date as
    `value.isoformat()`.
    """
    tab = _this_tab()
    session = tab.view()
    if session is None:
        return False
    encoded = encode_value(field, value)
    before, tab.inputs[form_id, field] = tab.inputs.get((form_id, field)), encoded
    data = session.get_form_state(form_id).data
    # What did not change here since the last run is another's to change: another tab's, or `undo`'s. And an
    # empty widget that nobody has filled yet is no reason to store a session.
    if encoded != before and (encode_value(field, data[field]) != encoded if field in data else value):
        session.update_form_data(form_id, field, value)
    return True


def save_form(form_id: str, data: Mapping[str, JsonValue], *, immediate: bool = False) -> bool:
    """Make *data* all that the form holds, and mark it as saved. False: there is no session any more.

    With *immediate* it is stored when this returns; else within the debounce delay.
    """
    session = _this_tab().view()
    if session is None:
        return False
    session.get_form_state(form_id).replace(data)
    session.mark_form_saved(form_id)
    return persist_session(session, immediate=immediate)


def persist_session(session: UserSession | Session, *, immediate: bool = False) -> bool:
    """Write what changed in *session*, soon or at once; False: it was ended meanwhile.

    Needed only for `immediate`, and after a change inside a value (`session.values["a"].append(1)`).
    """
    return get_persistence_engine().persist(session, immediate=immediate)


def recover_session(session_id: str) -> UserSession | None:
    """This browser's session as it is stored now, if *session_id* names it; else None, and an event tells.

    For another's, on a page for administrators: `get_persistence_engine().recover_session(id)`.
    """
    tab = _this_tab()
    return tab.view() if _is_own(session_id, tab) else None


def get_persistence_engine() -> BlockingPersistenceEngine:
    """Writes the sessions of this script's manager; one for all its visitors."""
    return _engine_of(_manager())


def get_db_manager() -> Database:
    """Tells whether the backend of this script's sessions answers."""
    return Database(_manager())


def session_of(request: HTTPConnection) -> Session:
    """The session of a request to one of the app's own routes (`st.App(..., routes=[...])`).

    `request.session` is Streamlit's own there, for a cookie of its own. In a route a visitor signs in and out
    (`session_of(request).login("ada")`): a script cannot, it has no response that could carry the new cookie.
    Raises `ConfigurationError` where no middleware of ours is around it.
    """
    sessions: dict[str, Session] = request.scope.get("session_middleware") or {}
    if not sessions:
        raise ConfigurationError(f"there is no session here: {_HELP}")
    return sessions[next(reversed(sessions))]  # of several middlewares, the innermost's


class Database:
    """The backend, as a script may ask after it."""

    def __init__(self, manager: SessionManager) -> None:
        self.manager = manager

    def health_check(self) -> bool:
        """Whether the backend answers now."""
        try:
            self.manager.blocking.why_ended(self.manager.mint()[0])
        except BackendError:
            return False
        return True


class StreamlitSessions:
    """The session of this browser, for one run of the script."""

    @property
    def manager(self) -> SessionManager:
        """The manager of all sessions: `manager.blocking.get_user_sessions(...)`."""
        return _manager()

    @property
    def session(self) -> UserSession | None:
        """See `get_current_session`."""
        return get_current_session()

    def navigate_to(self, page: str, params: Mapping[str, JsonValue] | None = None) -> NavigationEntry | None:
        """Go to *page*; None where there is no session. `st.rerun()` or `st.switch_page()` shows it."""
        session = self.session
        return None if session is None else session.navigate_to(page, params)

    def go_back(self) -> NavigationEntry | None:
        """The page before, which is the present one now; None where there is none."""
        session = self.session
        return None if session is None else session.go_back()

    def invalidate_cache(self, pattern: str | None = None) -> list[str]:
        """Forget the cache keys that contain *pattern* and all that rest on them; None: all. Those keys."""
        session = self.session
        return [] if session is None else session.invalidate_cache_keys(pattern)

    def cleanup_session(self) -> bool:
        """End this browser's session, here and in its other tabs, and forget `st.session_state`.

        Was there anything stored? From here on there is no session until the page is reloaded.
        """
        return _this_tab().end()


# --- one browser tab ---


class _Tab:
    """A tab of a browser (a session of Streamlit's), as long as its page is open. In `st.session_state`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # fragments may run in parallel
        self.run: object = None  # the run that `session` is of
        self.name: str | None = None  # of the WebSocket
        self.entrance: Entrance | None = None
        self.reading = CookieReading((), (), 0)
        self.client: Mapping[str, JsonValue] = {}
        self.is_over = False  # what the WebSocket's cookie opened has ended; a reconnect may bring another
        self.who: tuple[SessionId | None, str | None] | None = None  # None: nobody was asked for yet
        self.session: _ScriptSession | None = None
        self.settings = _Settings()
        self.inputs: dict[tuple[str, str], bytes] = {}  # what the widgets held in the last run, encoded

    def __repr__(self) -> str:
        return f"<_Tab of {self.who and self.who[0]}>"

    def __reduce__(self) -> tuple[type[_Tab], tuple[()]]:
        return (_Tab, ())  # nothing of it leaves this process, whatever serializes `st.session_state`

    def view(self) -> UserSession | None:
        """What the script may see in this run."""
        session = self.session
        if session is None or self.entrance is None:
            return None
        given, clock = self.settings, self.entrance.manager.clock
        return UserSession(session, role_permissions=given.role_permissions, limits=given.limits, clock=clock)

    def begin(self, run: object) -> None:
        """Find out who is here, once in each run."""
        if self.run is run:
            return
        connection = _socket()
        if connection is not None and connection[0] != self.name:
            self._connected(*connection)
        life = self._opened()
        session = None if life is None else self._shown(life, connection and connection[1])
        is_another = self._is_another(session, life)
        self.run, self.session = run, session
        if is_another:
            self._forget()

    def end(self) -> bool:
        """End the session, if it is stored; it is nobody's tab until another cookie comes."""
        session, entrance = self.session, self.entrance
        if session is None or entrance is None:
            return False
        was_stored = False
        if session.life.record is not None:
            _engine_of(entrance.manager).flush(str(session.id))
            was_stored = entrance.manager.blocking.delete_session(session.id)
            self.is_over, self.who = True, (None, None)
        self._forget()
        return was_stored

    # --- inside ---

    def _connected(self, name: str, socket: Exchange) -> None:
        entrance = socket.entrance
        self.name, self.entrance, self.is_over = name, entrance, False
        self.reading = entrance.codec.read(socket.scope["headers"])
        facts_of = entrance.manager.client_facts
        self.client = {} if facts_of is None else facts_of(socket.scope)

    def _opened(self) -> Life | None:
        """What the cookie opens now. Raises `BackendError` if the backend cannot say."""
        entrance, claims = self.entrance, self.reading.credentials or self.reading.promises
        if entrance is None or self.is_over or not claims:
            return None
        manager = entrance.manager
        # It writes first what waits for them, so that every tab sees what the others did.
        return run_blocking(manager.blocking_performer.open(self.reading, manager.clock()))

    def _shown(self, life: Life, socket: Exchange | None) -> _ScriptSession | None:
        manager = self.known_entrance().manager
        session = _ScriptSession(_engine_of(manager))
        manager.blocking_performer.fill(session, life, manager.clock())
        life = session.life
        life.late = True  # a cookie cannot follow
        life.client = lambda: self.client
        if session.id is None:
            self.is_over = bool(self.reading.credentials)
            return None
        manager.blocking.save(session)  # renews, if that is due
        if socket is not None:
            session.stored = partial(_hold, socket, life)
            session.stored()
        return session

    def _is_another(self, session: _ScriptSession | None, life: Life | None) -> bool:
        """Whether somebody else is here than in the last run. To sign in makes nobody another."""
        before, now = self.who, (None, None) if session is None else (session.id, session.user_id)
        if life is not None and isinstance(life.opening, Overtaken) and before is not None:
            # The browser has a newer cookie of the same session, since a login or a change of role: this
            # WebSocket will be closed for that, and the page connects again with it.
            now = before if before[0] == life.opening.record.id else now
        self.who = now
        return before not in {None, now, (now[0], None)}

    def known_entrance(self) -> Entrance:
        """The middleware around the tab's WebSocket. Raises `ConfigurationError` if there never was one."""
        if self.entrance is None:
            raise ConfigurationError(f"there is no session here: {_HELP}")
        return self.entrance

    def _forget(self) -> None:
        """Drop what the tab kept of its former visitor."""
        self.session = None
        self.inputs.clear()
        st.session_state.clear()
        st.session_state[_KEY] = self


class _ScriptSession(Session):
    """The session of one run: what is changed in it is handed to the engine at once."""

    def __init__(self, engine: BlockingPersistenceEngine) -> None:
        super().__init__()
        self.stored: Callable[[], None] = _nothing
        """Called when it has been stored for the first time."""
        self._engine = engine
        self._writes = False

    def written_soon(self) -> None:
        """Something changed."""
        if self._writes:  # a commit that writes typed values back
            return
        was_stored, self._writes = self.life.record is not None, True
        try:
            self._persist()
        finally:
            self._writes = False
        if not was_stored:
            self.stored()

    def _persist(self) -> None:
        life = self.life
        if life.record is None and life.cycle is not None:
            # Born with a privilege, it would not open to the promise that the visitor has. So it is born
            # first; the next page brings the new cookie, as for any other change of privilege from a script.
            wanted, life.cycle = life.cycle, None
            self._engine.persist(self)
            self.cycle(wanted)
        self._engine.persist(self)


def _then_written(name: str) -> Any:
    method = getattr(Session, name)

    def changed(self: _ScriptSession, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        self.written_soon()
        return result

    changed.__name__ = name
    return changed


for _method in (
    *("__setitem__", "__delitem__", "pop", "popitem", "setdefault", "increment"),
    *("logout", "invalidate", "set_expiry", "renew"),
):
    setattr(_ScriptSession, _method, _then_written(_method))


# --- how a run finds its WebSocket ---


def _this_tab() -> _Tab:
    """The tab whose script runs now, and who is in it."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None:
        raise ConfigurationError("call this in a Streamlit script, which runs by `streamlit run`")
    tab = st.session_state.get(_KEY)
    if not isinstance(tab, _Tab):
        tab = st.session_state[_KEY] = _Tab()
    with tab.lock:
        tab.begin(_run_of(context))
    return tab


def _run_of(context: Any) -> object:
    """An object that each run has anew; fragments change the second one within a run."""
    return getattr(context, "parallel_coordinator", None) or context.cursors


def _socket() -> tuple[str, Exchange] | None:
    """The WebSocket whose message made the script run, and its name. None: the browser has just gone.

    Raises `ConfigurationError` where no middleware of ours is around it.
    """
    headers = st.context.headers
    name = headers.get(HEADER, "")
    socket = socket_of(name)
    if socket is None and headers:
        raise ConfigurationError(f"there is no session here: {_HELP}")
    return None if socket is None else (name, socket)


def _hold(socket: Exchange, life: Life) -> None:
    """The WebSocket holds the session: while it is open it renews it, and it closes when it is ended."""
    manager, holds = socket.entrance.manager, socket.held
    if life.record is None or (holds is not None and _admission(holds.life) == _admission(life)):
        return
    held = Session()  # of its own: the heartbeat must not meet a script in the middle of a change
    held.life = Life(life.policy, life.manager, life.opening)
    manager.activity.hold(socket, held, manager.clock())
    manager.heartbeat.hurry()


def _admission(life: Life) -> tuple[SessionId, int] | None:
    opening = life.opening
    return (opening.record.id, opening.admitted) if isinstance(opening, Live) else None


def _nothing() -> None:
    """The browser has gone: nothing holds the session."""


def _is_own(session_id: object, tab: _Tab) -> bool:
    own = None if tab.session is None else tab.session.id
    if own is not None and session_id == own:
        return True
    if tab.entrance is not None:
        tab.entrance.warn("foreign_session_id", {"remedy": "an id is no credential: leave it out"})
    return False


def _manager() -> SessionManager:
    return _this_tab().known_entrance().manager


_engines: dict[SessionManager, BlockingPersistenceEngine] = {}  # as long as the process: an app has one
_engines_lock = threading.Lock()


def _engine_of(manager: SessionManager) -> BlockingPersistenceEngine:
    with _engines_lock:
        if manager not in _engines:
            _engines[manager] = BlockingPersistenceEngine(manager)
        return _engines[manager]
