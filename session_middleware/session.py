"""What a handler sees: a `dict` with an identity and a lifecycle.

Reading order: the four ways a request's session can be opened (`Opening`), `Life` (what the handler asked
for, read when the request is committed), `Session`, and `UnreadSession`, which a session is until the first
look.

Verbs only note what was asked; everything takes effect at commit. Nothing here touches a backend or a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, Self, TypeAlias, cast

import msgspec

from session_middleware.errors import (
    BackendUnavailable,
    ConfigurationError,
    ResponseStartedError,
    SessionDataError,
)
from session_middleware.jobs import error_of, progress_of, results_of
from session_middleware.policy import Duration, Policy, checked_priority, seconds, seconds_or_zero
from session_middleware.record import MAX_COUNTER, UNSET, Record, SessionId, UnsetType
from session_middleware.values import NO_VALUES, JsonValue, Values, decode_values

__all__ = [
    "CookieChange",
    "Fresh",
    "JustEnded",
    "Life",
    "Live",
    "Opening",
    "Overtaken",
    "RemoveCookie",
    "Session",
    "SetCookie",
    "UnreadSession",
    "user_of",
    "user_text",
]


class Fresh(msgspec.Struct, frozen=True, gc=False):
    """No session yet: an anonymous visitor. A write creates one."""

    ended_because: str | None = None
    """Why the session of a stale cookie ended, where that is still known."""
    promised: tuple[SessionId, str, int] | None = None
    """Id, secret and generation of the promise cookie this visitor has (`eager=True`)."""

    def __repr__(self) -> str:  # no secret in logs and tracebacks
        return f"<Fresh ended_because={self.ended_because} promised={self.promised and self.promised[0]}>"


class Live(msgspec.Struct, frozen=True, gc=False):
    """A live session, opened by a cookie of the generation `admitted` (or by its id: the record's)."""

    record: Record
    admitted: int
    promised: bool = False
    """Opened by a promise cookie, which the next response replaces."""
    came_back: bool = False
    """The visitor's own cookie named `admitted`, so the older ones that wait for that may run out."""


class Overtaken(msgspec.Struct, frozen=True, gc=False):
    """A login or a change of privilege overtook this request just now: it sees nobody, saves nothing."""

    record: Record


class JustEnded(msgspec.Struct, frozen=True, gc=False):
    """The session was ended by a logout less than 30 s ago: this request saves nothing, but may log in."""

    id: SessionId
    reason: str


Opening: TypeAlias = Fresh | Live | Overtaken | JustEnded


class SetCookie(msgspec.Struct, frozen=True, gc=False):
    """The response must carry this cookie; `deadline` is when the session ends without a further visit."""

    id: SessionId
    secret: str
    generation: int
    deadline: float

    def __repr__(self) -> str:  # no secret in logs and tracebacks
        return f"<SetCookie {self.id} generation={self.generation}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:  # rich looks into a struct by itself
        return [("id", self.id), ("generation", self.generation)]


class RemoveCookie(msgspec.Struct, frozen=True, gc=False):
    """The response must take the cookie away: this request ended the session."""


CookieChange: TypeAlias = SetCookie | RemoveCookie


class Life:
    """What is known of a session and what its handler asked for, until the commit."""

    # Defaults on the class, not slots: what a request does not change costs it nothing.
    others: tuple[Record, ...] = ()
    """Further live sessions that the request's cookies opened; a login ends them."""
    late = False  # the response has left
    failed = False  # with a status of 500 or above: nothing is saved any more
    passive = False  # the route is no activity: nothing is renewed
    degraded = False  # the backend is down, on a route that works without
    lost = False  # the last commit could not save something; an event has named it
    ended_early = False  # by a `save` some time before the response; another request may have logged in since
    owed: CookieChange | None = None  # what the commits so far made of the cookie
    client: Callable[[], Mapping[str, JsonValue]] | None = None
    """Tells what is to be kept of the client when the session is created, or somebody signs in."""
    before_commit: tuple[Callable[[], None], ...] = ()
    """Called by every commit before it looks for changes; typed views write theirs into the session."""

    # What the handler asked for. `asked` is True once it called anything that may change the session.
    asked = False
    login: str | None = None
    cycle: float | None = None
    ended = False
    renew = False
    expiry: float | UnsetType | None = UNSET
    priority: int | None = None
    increments: dict[str, int] | None = None
    assigned: frozenset[str] | set[str] = frozenset()
    """Keys that the handler assigned or removed itself."""
    metadata: dict[str, JsonValue] | None = None
    planned: Any = None
    """What a commit under way made its plan of (`settling.Planned`); None: none is under way."""

    def __init__(self, policy: Policy, manager: object = None, opening: Opening = Fresh()) -> None:  # noqa: B008
        self.policy = policy
        self.manager = manager
        self.opening = opening
        self.loaded: Values = opening.record.data if type(opening) is Live else NO_VALUES

    def asked_for(self) -> dict[str, Any]:
        """A copy of what is asked for by now, but for what only says that something happened."""
        present = self.__dict__
        if self.asks_for_nothing_but_values():
            return {}
        return {name: deepcopy(present[name]) for name in _ASKED_FOR if name in present}

    def asks_for_nothing_but_values(self) -> bool:
        """No verb was called, nothing was counted, and nobody looked at the metadata."""
        return _ASKED_FOR.isdisjoint(self.__dict__)

    def forget(self) -> None:
        """Nothing is asked for any more: after a commit, and after a logout took back what came before."""
        for name in _ASKED:
            self.__dict__.pop(name, None)

    @property
    def record(self) -> Record | None:
        """The live record, or None."""
        return self.opening.record if type(self.opening) is Live else None


_ASKED_FOR = frozenset({"login", "cycle", "ended", "renew", "expiry", "priority", "increments", "metadata"})
_ASKED = ("asked", "assigned", *_ASKED_FOR)


class Session(dict[str, JsonValue]):
    """The values of one visitor. A plain `dict` to read and change; changes are found at commit.

    A session made by itself (`Session({...})`) belongs to no request and is never saved.
    """

    __slots__ = ("accessed", "life", "modified", "opener")

    accessed: bool
    modified: bool
    life: Life
    opener: Callable[[Session], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accessed = False
        self.modified = False
        self.life = Life(_DETACHED)

    # --- identity ---

    @property
    def id(self) -> SessionId | None:
        """Public name of the session, None while there is none. Fit for logs, never a credential."""
        life = self.life
        opening = life.opening
        if type(opening) is Live:
            return None if life.ended else opening.record.id
        return opening.promised[0] if type(opening) is Fresh and opening.promised is not None else None

    @property
    def session_id(self) -> SessionId | None:
        """Another name of `id`."""
        return self.id

    @property
    def manager(self) -> Any:
        """The `SessionManager` this session came from; None for a session made by itself."""
        return self.life.manager

    @property
    def is_new(self) -> bool:
        """No record existed when the request began."""
        return self.life.record is None

    @property
    def user_id(self) -> str | None:
        """Who is signed in: by `login()`, or else what the app keeps under its own user key. None: nobody."""
        life = self.life
        if life.login is not None:
            return life.login
        record = life.record
        if record is not None and record.user_id is not None and not life.ended:
            return record.user_id
        return user_of(self, life.policy)

    @property
    def created_at(self) -> float | None:
        """Seconds since the epoch; None while nothing is stored."""
        return None if (record := self.life.record) is None else record.created_at

    @property
    def expires_at(self) -> float | None:
        """When it ends without a further visit, every timeout considered. Seconds since the epoch."""
        return None if (record := self.life.record) is None else record.deadline

    @property
    def last_activity(self) -> float | None:
        """When the visitor was last noted, as exact as renewals are. Seconds since the epoch."""
        return None if (record := self.life.record) is None else record.last_seen_at

    @property
    def authenticated_at(self) -> float | None:
        """When `login()` was last committed. Seconds since the epoch."""
        return None if (record := self.life.record) is None else record.authenticated_at

    @property
    def status(self) -> str | None:
        """What `manager.set_status` said last."""
        return None if (record := self.life.record) is None else record.status

    @property
    def progress(self) -> dict[str, JsonValue] | None:
        """How far the session's job is (`manager.set_progress`): steps, percentage, description. Or None."""
        return progress_of(self)

    @property
    def results(self) -> dict[int, JsonValue]:
        """What the session's job has made so far (`manager.put_item`): items by number, in order."""
        return results_of(self)

    @property
    def error_message(self) -> str | None:
        """Why the session's job failed (`manager.fail`), or None."""
        return error_of(self)

    @property
    def priority(self) -> int:
        """How late the session is evicted where there is no room: higher, later. Default 0; can be set."""
        if self.life.priority is not None:
            return self.life.priority
        return 0 if (record := self.life.record) is None else record.priority

    @priority.setter
    def priority(self, priority: int) -> None:
        self._before_change()
        self.life.priority = checked_priority(priority)

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """What is kept beside the values (client, conversation); changes are saved like values."""
        if self.life.metadata is None:
            record = self.life.record
            self.life.metadata = {} if record is None else deepcopy(dict(record.metadata))
        return self.life.metadata

    @property
    def connection_count(self) -> int:
        """How many requests of this process hold the session now."""
        manager: Any = self.life.manager
        return 0 if manager is None or self.id is None else len(manager.active_requests(self.id))

    @property
    def degraded(self) -> bool:
        """The backend is down and the route works without: the session is empty and refuses changes."""
        return self.life.degraded

    @property
    def ended_because(self) -> str | None:
        """Why the visitor's former session ended (`logout`, `idle_timeout`, …), where it is still known."""
        match self.life.opening:
            case Fresh(ended_because):
                return ended_because
            case JustEnded(_, reason):
                return reason
        return None

    # --- verbs ---

    def login(self, user_id: str | int) -> None:
        """Sign *user_id* in: a new cookie, a new absolute deadline, every older cookie worthless at once.

        Raises `ResponseStartedError` once the response has left.
        """
        self._before_change()
        if self.life.late:
            raise ResponseStartedError(
                "login() after the response has left: no cookie can follow; call it earlier"
            )
        self.life.login = user_text(user_id)

    def logout(self) -> None:
        """End the session and its cookie. What is written afterwards begins a new one."""
        self.mark_modified()
        super().clear()
        self.life.forget()
        self.life.ended = self.life.asked = True

    invalidate = logout

    def clear(self) -> None:
        """The same as `logout()`, as apps of Starlette, Flask and Django mean it."""
        self.logout()

    def cycle(self, grace: float | None = None) -> None:
        """Give the session a new cookie; id and data stay. For every change of privilege but a login.

        *grace*: seconds for which parallel requests may still use the old one, counted from the moment the
        new one first comes back. None: the policy's (30). 0: at once, and what older requests save is
        refused.
        """
        self._before_change()
        wanted = self.life.policy.grace if grace is None else seconds_or_zero("grace", grace)
        self.life.cycle = wanted if self.life.cycle is None else min(self.life.cycle, wanted)

    def renew(self) -> None:
        """Push the idle deadline out now, due or not. Never a new cookie generation."""
        self._before_change()
        self.life.renew = True

    def set_expiry(self, duration: Duration | None) -> None:
        """Give this session an idle timeout of its own (remember me), kept for all its renewals.

        Seconds or a `timedelta`; None goes back to the policy's. The absolute deadline holds all the same.
        """
        self._before_change()
        self.life.expiry = None if duration is None else seconds("set_expiry", duration)

    def increment(self, name: str, by: int = 1) -> int:
        """Add to a counter in the backend, so that parallel increments add up; what it shows from now on.

        Raises `SessionDataError` if the value under *name* is no integer, or would leave 64 bits.
        """
        self.mark_modified()
        present = dict.get(self, name)
        if type(by) is not int or not (present is None or type(present) is int):
            raise SessionDataError(f"session[{name!r}] and the step must be integers to be incremented", name)
        shown = (present or 0) + by
        if abs(shown) > MAX_COUNTER:
            raise SessionDataError(f"session[{name!r}] would leave 64 bits", name)
        counters = self.life.increments = {} if self.life.increments is None else self.life.increments
        if name in counters or self.life.loaded.get(name) == (None if present is None else b"%d" % present):
            counters[name] = counters.get(name, 0) + by  # else it was assigned in this request: set exactly
        super().__setitem__(name, shown)
        return shown

    # --- looks and changes, under Starlette's names ---

    def mark_accessed(self) -> None:
        """Note a look: the response depends on the visitor from now on."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Note a change. Changes are found without it; Flask and Starlette apps call it."""
        self._before_change()
        self.accessed = True
        self.modified = True

    def __setitem__(self, key: str, value: JsonValue) -> None:
        self._assign(key, value)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._assign(key, None)
        super().__delitem__(key)

    def pop(self, key: str, *default: Any) -> Any:
        """As `dict.pop`. A key that is not there is no change."""
        if dict.__contains__(self, key):
            self._assign(key, None)
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, JsonValue]:
        """As `dict.popitem`."""
        key = next(reversed(self), None)
        if key is not None:
            self._assign(key, None)
        return super().popitem()

    def setdefault(self, key: str, default: JsonValue = None) -> JsonValue:
        """As `dict.setdefault`. A key that is there is no change."""
        if not dict.__contains__(self, key):
            self._assign(key, default)
        return super().setdefault(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As `dict.update`."""
        self.mark_modified()
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Mapping[str, JsonValue] | Iterable[tuple[str, JsonValue]], /) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __repr__(self) -> str:  # values and cookies stay out of logs and tracebacks
        id_ = None if (record := self.life.record) is None else record.id
        return f"<{type(self).__name__} {id_} keys={sorted(map(str, self))}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return (dict, (dict(self),))  # a copy has values, and no identity

    # --- how it is filled and guarded ---

    def open(self, life: Life) -> None:
        """Take on *life* and its values. Raises `SessionDataError` if they cannot be decoded."""
        self.life = life
        if type(life.opening) is Live:
            dict.update(self, decode_values(life.loaded))

    def _assign(self, key: str, value: JsonValue) -> None:
        self.mark_modified()
        life = self.life
        if type(life.assigned) is set:
            life.assigned.add(key)
        else:
            life.assigned = {key}
        if life.increments:
            life.increments.pop(key, None)  # assigning sets exactly
        if life.late:
            self._refuse_late_privilege(key, value)

    def _before_change(self) -> None:
        if self.life.degraded:
            raise BackendUnavailable(
                "the session backend is down: this session is read-only (session.degraded)"
            )
        self.life.asked = True

    def _refuse_late_privilege(self, key: str, value: JsonValue) -> None:
        policy, record = self.life.policy, self.life.record
        anonymous = record is None or record.user_id is None
        if dict.get(self, key) == value or not (
            key in policy.user_keys or (anonymous and key in policy.privilege_keys)
        ):
            return
        raise ResponseStartedError(
            f"session[{key!r}] was changed after the response has left: no cookie can follow; "
            "change it earlier"
        )


class UnreadSession(Session):
    """A session nobody has looked at. The first look opens it and turns it into a plain `Session`.

    So an untouched session costs nothing, and one that was looked at reads at the speed of `dict`.
    """

    __slots__ = ()

    def __init__(self, opener: Callable[[Session], None]) -> None:
        """*opener* calls `Session.open` on what it is given; it runs at the first look, once."""
        self.accessed = False
        self.modified = False
        self.opener = opener

    def mark_accessed(self) -> None:
        """The first look: from here on it is a plain `Session`."""
        self.opener(self)
        self.opener = _is_open  # the request and its session hold each other no longer
        self.__class__ = Session  # type: ignore[assignment]  # same layout, see __slots__
        self.accessed = True

    def __getattr__(self, name: str) -> Any:
        """`life` is unset until the first look, so every property and verb is one."""
        if name != "life":
            raise AttributeError(name)
        self.mark_accessed()
        return self.life

    def __repr__(self) -> str:  # a debugger's look is none
        return "<UnreadSession>"


def _is_open(session: Session) -> None:
    """What an opener is once it has done its work."""


def _after_a_look(name: str) -> Callable[..., Any]:
    method = getattr(Session, name)

    def first_look(self: UnreadSession, *args: Any, **kwargs: Any) -> Any:
        self.mark_accessed()
        return method(self, *args, **kwargs)

    first_look.__name__ = name
    return first_look


for _name in (
    *("__contains__", "__eq__", "__ge__", "__getitem__", "__gt__", "__iter__", "__le__", "__len__", "__lt__"),
    *("__ne__", "__or__", "__reversed__", "__ror__", "__reduce__", "__sizeof__"),
    *("copy", "get", "items", "keys", "pop", "popitem", "setdefault", "values"),
):
    setattr(UnreadSession, _name, _after_a_look(_name))


_DETACHED = Policy()


def user_of(values: Mapping[str, JsonValue], policy: Policy) -> str | None:
    """The user that an app keeps under its own user key: the first text or integer there, else None."""
    for key in policy.user_keys:
        value = dict.get(cast("dict[str, JsonValue]", values), key)
        if type(value) is str and value:
            return value
        if type(value) is int:
            return str(value)
    return None


def user_text(user_id: str | int) -> str:
    """A user id as text. Raises `ConfigurationError` for other types and for empty text."""
    if isinstance(user_id, bool) or not isinstance(user_id, str | int):
        raise ConfigurationError(f"user_id: found {type(user_id).__name__}, pass text or an integer")
    if user_id == "":
        raise ConfigurationError("user_id: found empty text, pass the id of the user (or call logout())")
    return str(user_id)
