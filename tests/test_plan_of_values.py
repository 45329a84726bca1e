"""The short way to a plan, for requests that change values alone, comes to what the whole way comes to."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_middleware import plan
from session_middleware.plan import Plan, Write, plan_commit
from session_middleware.policy import Policy
from session_middleware.record import Grace, Record, SessionId
from session_middleware.session import Life, Live, Session, SetCookie
from session_middleware.values import Values, encode_value

NOW = 1_760_000_000.0
GENERATION = int(NOW * 1000) - 5000
KEYS = st.sampled_from(["n", "cart", "theme", "user_id", "role"])
VALUES = st.one_of(
    st.integers(-2, 2), st.lists(st.integers(0, 2), max_size=2), st.just((1,)), st.text(max_size=2)
)
STORED = st.dictionaries(KEYS, VALUES, max_size=4)
VERBS = st.sampled_from([None, None, None, "renew", "cycle", "increment", "metadata", "priority", "login"])


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], str | None, Record, Life]:
    """What is stored, what the handler leaves, which verb it calls, and how the session was opened."""
    stored, age = draw(STORED), draw(st.sampled_from([0.0, 10.0, 90.0]))
    record = Record(
        id=SessionId("I" * 21 + "A"),
        secret="S" * 21 + "A",
        generation=GENERATION,
        created_at=NOW - age,
        deadline=NOW - age + 100.0,
        limit=NOW + draw(st.sampled_from([1000.0, 20.0])),
        last_seen_at=NOW - age,
        cycle_due=draw(st.sampled_from([None, None, 0.0])),
        accepted=draw(st.sampled_from([{}, {}, {GENERATION - 1: Grace(30.0)}])),
        user_id=draw(st.sampled_from([None, "ann"])),
        data=Values.of({name: encode_value(name, value) for name, value in stored.items()}),
    )
    admitted = draw(st.sampled_from([GENERATION, GENERATION, GENERATION - 1]))
    life = Life(
        Policy(idle_timeout=100.0), None, Live(record, admitted, draw(st.just(False) | st.booleans()))
    )
    life.passive = draw(st.booleans())
    life.owed = draw(st.sampled_from([None, None, SetCookie(record.id, record.secret, GENERATION, NOW)]))
    return stored, draw(STORED), draw(VERBS), record, life


def session_of(request: tuple[dict[str, Any], dict[str, Any], str | None, Record, Life]) -> Session:
    stored, left, verb, _, life = request
    session = Session()
    session.open(life)
    for name in stored.keys() - left.keys():
        del session[name]
    session.update(left)
    match verb:
        case "increment":
            session.increment("counter")
        case "metadata":
            session.metadata["a"] = 1
        case "priority":
            session.priority = 3
        case "login":
            session.login("bob")
        case str():
            getattr(session, verb)()
    return session


def planned(session: Session, *, cookie_ages: bool) -> Plan:
    return plan_commit(
        session, NOW, lambda: (SessionId("J" * 21 + "A"), "T" * 21 + "A"), cookie_ages=cookie_ages
    )


@given(requests(), st.booleans())
def test_the_short_way_to_a_plan_comes_to_what_the_whole_way_comes_to(
    request: tuple[dict[str, Any], dict[str, Any], str | None, Record, Life], cookie_ages: bool
) -> None:
    session = session_of(request)
    short = planned(session, cookie_ages=cookie_ages)
    with patch.object(plan, "_changes_values_alone", return_value=False):
        whole = planned(session, cookie_ages=cookie_ages)
    assert short == whole


@pytest.mark.parametrize("verb", ["cycle", "increment", "metadata", "priority"])
def test_a_short_way_for_whoever_calls_a_verb_would_be_noticed(verb: str) -> None:
    record = Record(
        id=SessionId("I" * 21 + "A"),
        secret="S" * 21 + "A",
        generation=GENERATION,
        created_at=NOW,
        deadline=NOW + 100.0,
        limit=NOW + 1000.0,
        last_seen_at=NOW,
    )
    session = session_of(
        ({}, {"n": 1}, verb, record, Life(Policy(idle_timeout=50.0), None, Live(record, GENERATION)))
    )
    whole = planned(session, cookie_ages=True)
    with patch.object(plan, "_changes_values_alone", return_value=True):
        short = planned(session, cookie_ages=True)
    assert isinstance(whole, Write)
    assert short != whole
