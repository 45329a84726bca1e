"""What a handler sees: a dict in every respect, opened by the first look, whose repr holds no values."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from session_middleware.errors import (
    BackendUnavailable,
    ConfigurationError,
    ResponseStartedError,
    SessionDataError,
)
from session_middleware.policy import Policy
from session_middleware.record import Record, SessionId
from session_middleware.session import (
    Fresh,
    JustEnded,
    Life,
    Live,
    Overtaken,
    Session,
    SetCookie,
    UnreadSession,
    user_text,
)
from session_middleware.values import Values

RECORD = Record(
    id=SessionId("I" * 22),
    secret="S" * 22,
    generation=1000,
    created_at=1.0,
    deadline=100.0,
    limit=200.0,
    last_seen_at=2.0,
    floors=(1000,),
    authenticated_at=1.5,
    user_id="ann",
    status="processing",
    priority=3,
    data=Values(b'{"a":1,"b":[1,2]}'),
    metadata={"device": "x"},
)


def live(record: Record = RECORD) -> Life:
    return Life(Policy(), None, Live(record, record.generation))


def opened(life: Life | None = None) -> Session:
    session = Session()
    session.open(life or live())
    return session


class Unread:
    """A session nobody has looked at, and how often it was opened."""

    def __init__(self) -> None:
        self.times = 0
        self.session = UnreadSession(self._open)

    def _open(self, session: Session) -> None:
        self.times += 1
        session.open(live())


def _delete(session: Session) -> None:
    del session["a"]


def _assign(session: Session) -> None:
    session["c"] = 1


def _merge(session: Session) -> None:
    session |= {"c": 1}


LOOKS: dict[str, Callable[[Any], object]] = {
    "[]": lambda s: s["a"],
    "[]=": _assign,
    "del": _delete,
    "|=": _merge,
    "|": lambda s: s | {"c": 1},
    "or": lambda s: {"c": 1} | s,
    "in": lambda s: "a" in s,
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda s: list(reversed(s)),
    "==": lambda s: s == {"a": 1, "b": [1, 2]},
    "== reflected": lambda s: s == {"a": 1, "b": [1, 2]},
    "!=": lambda s: s != {},
    "dict": dict,
    "**": lambda s: {**s},
    "match": lambda s: [value for value in [s] if isinstance(value, dict) and value.get("a")],
    "get": lambda s: s.get("a"),
    "keys": lambda s: s.keys(),
    "values": lambda s: s.values(),
    "items": lambda s: s.items(),
    "copy": lambda s: s.copy(),
    "pop": lambda s: s.pop("a"),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("a", 1),
    "update": lambda s: s.update(c=1),
    "clear": lambda s: s.clear(),
    "sorted": sorted,
    "format": "{a}".format_map,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "id": lambda s: s.id,
    "user_id": lambda s: s.user_id,
    "is_new": lambda s: s.is_new,
    "login": lambda s: s.login("bob"),
    "logout": lambda s: s.logout(),
    "invalidate": lambda s: s.invalidate(),
    "cycle": lambda s: s.cycle(),
    "renew": lambda s: s.renew(),
    "set_expiry": lambda s: s.set_expiry(5),
    "increment": lambda s: s.increment("n"),
    "metadata": lambda s: s.metadata,
    "mark_accessed": lambda s: s.mark_accessed(),
    "mark_modified": lambda s: s.mark_modified(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_the_first_look_of_any_kind_opens_it_once(look: Callable[[Session], object]) -> None:
    unread = Unread()
    look(unread.session)
    assert type(unread.session) is Session
    assert (unread.times, unread.session.accessed) == (1, True)
    look(opened())  # which is just as legal on an open one


def test_every_method_of_dict_is_a_look_or_named_as_none() -> None:
    no_looks = {
        *(
            "__class__",
            "__class_getitem__",
            "__delattr__",
            "__dir__",
            "__doc__",
            "__format__",
            "__getattribute__",
        ),
        *(
            "__getstate__",
            "__hash__",
            "__init__",
            "__init_subclass__",
            "__new__",
            "__reduce_ex__",
            "__repr__",
        ),
        *("__setattr__", "__str__", "__subclasshook__", "fromkeys"),
    }
    for name in set(dir(dict)) - no_looks:
        assert getattr(UnreadSession, name) is not getattr(dict, name), name


@pytest.mark.parametrize("look", [repr, str, lambda s: s.accessed, lambda s: s.modified, type, id])
def test_what_a_debugger_does_is_no_look(look: Callable[[Session], object]) -> None:
    unread = Unread()
    look(unread.session)
    assert unread.times == 0


def test_an_unknown_attribute_is_no_look() -> None:
    unread = Unread()
    with pytest.raises(AttributeError):
        unread.session.no_such_thing  # noqa: B018
    assert unread.times == 0


# --- a dict, and nothing else for whoever takes it for one ---


def test_a_session_is_a_dict_and_compares_like_one() -> None:
    session = opened()
    assert isinstance(session, dict)
    assert session == {"a": 1, "b": [1, 2]}
    assert json.loads(json.dumps(session)) == session


def _through_pickle(session: Session) -> object:
    return pickle.loads(pickle.dumps(session))  # noqa: S301  (our own bytes)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, _through_pickle, Session.copy])
def test_a_copy_has_the_values_and_no_identity(copied: Callable[[Session], object]) -> None:
    made = copied(opened())
    assert (type(made), made) == (dict, {"a": 1, "b": [1, 2]})


# --- Starlette's contract: accessed and modified ---


@pytest.mark.parametrize("read", [lambda s: s["a"], lambda s: s.get("x"), len, list, lambda s: "a" in s])
def test_a_read_is_no_modification(read: Callable[[Session], object]) -> None:
    session = Unread().session
    read(session)
    assert (session.accessed, session.modified) == (True, False)


@pytest.mark.parametrize(
    "write",
    [_assign, _delete, _merge, *(LOOKS[name] for name in ("pop", "popitem", "update", "clear", "increment"))],
)
def test_a_write_is_a_modification(write: Callable[[Session], object]) -> None:
    session = Unread().session
    write(session)
    assert (session.accessed, session.modified) == (True, True)


@pytest.mark.parametrize("idle", [lambda s: s.pop("x", 1), lambda s: s.setdefault("a", 5)])
def test_a_method_that_changes_nothing_is_no_modification(idle: Callable[[Session], object]) -> None:
    session = opened()
    idle(session)
    assert not session.modified


def test_the_mapping_methods_answer_as_those_of_dict() -> None:
    session = opened()
    assert session.pop("a") == 1
    assert session.pop("a", 5) == 5
    with pytest.raises(KeyError):
        session.pop("a")
    assert session.popitem() == ("b", [1, 2])
    with pytest.raises(KeyError):
        session.popitem()
    assert session.setdefault("c", 1) == 1
    assert session.setdefault("d") is None
    session.update([("e", 1)], f=2)
    with pytest.raises(KeyError):
        del session["x"]
    assert dict(session) == {"c": 1, "d": None, "e": 1, "f": 2}


def test_mark_modified_is_noted() -> None:
    session = opened()
    session.mark_modified()
    assert session.modified
    assert session.accessed


# --- no values in logs ---


@pytest.mark.parametrize("shown", [repr, str, "{}".format, lambda s: f"{s!r:>5}"])
def test_the_repr_has_keys_and_no_values(shown: Callable[[Session], str]) -> None:
    session = opened(live(Record(**{**_fields(RECORD), "data": Values(b'{"password":"hunter2"}')})))
    assert "hunter2" not in shown(session)
    assert "password" in shown(session)
    assert RECORD.id in shown(session)
    assert RECORD.secret not in shown(session)


def test_the_repr_of_an_unread_session_opens_nothing() -> None:
    assert repr(Unread().session) == "<UnreadSession>"


@pytest.mark.parametrize(
    "value", [SetCookie(RECORD.id, RECORD.secret, 5, 1.0), RECORD, Live(RECORD, 5), Overtaken(RECORD)]
)
def test_no_repr_around_a_session_holds_its_secret(value: object) -> None:
    assert RECORD.secret not in repr(value)
    assert RECORD.secret not in f"{value}"


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__struct_fields__}


# --- identity ---


def test_a_live_session_tells_what_is_stored() -> None:
    session = opened()
    assert (session.id, session.session_id, session.user_id, session.is_new) == (
        RECORD.id,
        RECORD.id,
        "ann",
        False,
    )
    assert (session.created_at, session.expires_at, session.last_activity) == (1.0, 100.0, 2.0)
    assert (session.authenticated_at, session.status, session.priority) == (1.5, "processing", 3)
    assert (session.metadata, session.manager, session.connection_count) == ({"device": "x"}, None, 0)
    assert (session.degraded, session.ended_because) == (False, None)


@pytest.mark.parametrize("opening", [Fresh(), Overtaken(RECORD), JustEnded(RECORD.id, "logout")])
def test_no_session_tells_nothing(opening: Any) -> None:
    session = opened(Life(Policy(), None, opening))
    assert (session.id, session.user_id, session.is_new, dict(session)) == (None, None, True, {})
    assert (session.created_at, session.expires_at, session.last_activity) == (None, None, None)
    assert (session.authenticated_at, session.status, session.priority) == (None, None, 0)
    assert (session.metadata, session.connection_count) == ({}, 0)


def test_a_session_tells_why_the_former_one_ended() -> None:
    assert opened(Life(Policy(), None, Fresh("idle_timeout"))).ended_because == "idle_timeout"
    assert opened(Life(Policy(), None, JustEnded(RECORD.id, "logout"))).ended_because == "logout"


def test_a_promised_session_has_its_id_already() -> None:
    assert opened(Life(Policy(), None, Fresh(promised=(RECORD.id, "S" * 22, 1)))).id == RECORD.id


def test_an_ended_session_has_no_id_and_no_user() -> None:
    session = opened()
    session.logout()
    assert (session.id, session.user_id, dict(session)) == (None, None, {})


def test_a_session_made_by_itself_is_a_dict_with_nothing_behind() -> None:
    session = Session({"a": 1}, b=2)
    assert (dict(session), session.id, session.is_new) == ({"a": 1, "b": 2}, None, True)


# --- verbs ---


@pytest.mark.parametrize("user", [True, None, 1.5, "", ["ann"]])
def test_what_is_no_user_id_is_refused(user: Any) -> None:
    with pytest.raises(ConfigurationError, match="user_id"):
        opened().login(user)
    with pytest.raises(ConfigurationError, match="user_id"):
        user_text(user)


def test_a_user_id_is_text_from_the_login_on() -> None:
    session = opened()
    session.login(7)
    assert session.user_id == "7"


def test_the_strictest_cycle_of_a_request_wins() -> None:
    session = opened()
    session.cycle(grace=5)
    session.cycle()
    assert session.life.cycle == 5
    session.cycle(grace=0)
    session.cycle(grace=9)
    assert session.life.cycle == 0


@pytest.mark.parametrize("grace", [-1, True, "5", float("nan"), False])
def test_a_grace_that_is_no_duration_is_refused(grace: Any) -> None:
    with pytest.raises(ConfigurationError, match="grace"):
        opened().cycle(grace=grace)


def test_a_login_after_the_response_is_refused_with_the_remedy() -> None:
    session = opened()
    session.life.late = True
    with pytest.raises(ResponseStartedError, match="earlier"):
        session.login("bob")


DEGRADED = {
    name: LOOKS[name]
    for name in (
        "[]=",
        "|=",
        "update",
        "clear",
        "login",
        "logout",
        "cycle",
        "renew",
        "set_expiry",
        "increment",
    )
}


@pytest.mark.parametrize("change", DEGRADED.values(), ids=DEGRADED)
def test_a_degraded_session_refuses_changes_and_stays_as_it_is(change: Callable[[Session], object]) -> None:
    session = opened(Life(Policy()))
    session.life.degraded = True
    assert session.get("a") is None
    with pytest.raises(BackendUnavailable):
        change(session)
    assert (session.degraded, dict(session), session.modified) == (True, {}, False)


def test_an_increment_shows_its_result_at_once() -> None:
    session = opened()
    assert (session.increment("a"), session.increment("a", 5), session["a"]) == (2, 7, 7)
    with pytest.raises(SessionDataError, match="'b'"):
        session.increment("b")
