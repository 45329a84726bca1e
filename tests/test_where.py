"""Conditions on sessions: what they mean, and what they refuse."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from session_middleware import ConfigurationError, Where
from session_middleware.record import Record, SessionId
from session_middleware.where import where_of

CLIENT = {"network": "192.0.2.0/24", "user_agent": "Mozilla/5.0 (X11) Firefox/130.0"}


def record(**fields: Any) -> Record:
    facts: dict[str, Any] = {
        "id": SessionId("one"),
        "secret": "s",
        "generation": 1,
        "created_at": 100.0,
        "last_seen_at": 150.0,
        "authenticated_at": 120.0,
        "deadline": 1000.0,
        "limit": 1000.0,
        "user_id": "7",
        "status": "processing",
        "metadata": {"client": CLIENT},
    }
    return Record(**{**facts, **fields})


MET: list[dict[str, Any]] = [
    {},
    {"user_id": "7"},
    {"user_id": 7},
    {"status": "processing"},
    {"created_after": 100.0},
    {"created_before": 100.1},
    {"authenticated_after": 120},
    {"authenticated_before": 121},
    {"seen_after": 150.0, "seen_before": 151.0},
    {"network": "192.0.0.0/16"},
    {"network": "192.0.2.0/24"},
    {"user_agent": "fireFOX"},
    {"ids": ["one", "two"]},
    {"user_id": "7", "status": "processing", "created_before": 200, "user_agent": "X11", "ids": {"one"}},
]


@pytest.mark.parametrize("conditions", MET, ids=str)
def test_a_session_is_met_by_what_holds_of_it(conditions: dict[str, Any]) -> None:
    assert Where(**conditions).matches(record())


@pytest.mark.parametrize(
    "conditions",
    [
        {"user_id": "70"},
        {"status": "failed"},
        {"status": ""},
        {"created_after": 100.1},
        {"created_before": 100.0},
        {"authenticated_after": 120.5},
        {"authenticated_before": 120.0},
        {"seen_after": 150.1},
        {"seen_before": 150.0},
        {"network": "192.0.2.0/25"},
        {"network": "192.0.2.7/32"},
        {"network": "2001:db8::/32"},
        {"user_agent": "chrome"},
        {"ids": ["on", "one "]},
        {"ids": []},
        {"user_id": "7", "status": "failed"},
    ],
    ids=str,
)
def test_one_condition_that_does_not_hold_is_enough(conditions: dict[str, Any]) -> None:
    assert not Where(**conditions).matches(record())


@pytest.mark.parametrize(
    ("known", "wanted", "expected"),
    [
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.2.7", "192.0.2.7/32", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("2001:db8:1::/48", "2001:db8::/32", True),
        ("2001:db8:1::5", "192.0.2.0/24", False),
        ("unix", "192.0.2.0/24", False),
        (7, "192.0.2.0/24", False),
        (None, "192.0.2.0/24", False),
    ],
)
def test_a_network_holds_addresses_and_smaller_networks(known: object, wanted: str, expected: bool) -> None:
    found = record(metadata={"client": {"network": known}})
    assert Where(network=wanted).matches(found) is expected


@pytest.mark.parametrize("metadata", [{}, {"client": None}, {"client": "cli"}, {"client": {}}], ids=str)
def test_a_session_without_a_client_meets_no_condition_on_it(metadata: dict[str, Any]) -> None:
    assert not Where(network="0.0.0.0/0").matches(record(metadata=metadata))
    assert not Where(user_agent="a").matches(record(metadata=metadata))


def test_a_session_nobody_signed_in_to_meets_no_condition_on_that() -> None:
    anonymous = record(user_id=None, authenticated_at=None)
    assert not Where(authenticated_before=1e12).matches(anonymous)
    assert not Where(authenticated_after=0).matches(anonymous)
    assert Where(created_before=1e12).matches(anonymous)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("user_id", True),
        ("user_id", 1.5),
        ("status", 7),
        ("created_before", "yesterday"),
        ("created_after", float("nan")),
        ("authenticated_before", True),
        ("authenticated_after", float("inf")),
        ("seen_before", []),
        ("seen_after", "1"),
        ("network", "192.0.2.0/33"),
        ("network", "192.0.2.7/24"),
        ("network", "example.org"),
        ("network", 7),
        ("user_agent", ""),
        ("user_agent", b"curl"),
        ("ids", "one"),
        ("ids", 7),
        ("ids", [1]),
    ],
)
def test_a_value_that_cannot_be_a_condition_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field}: "):
        Where(**{field: value})


def test_conditions_can_be_compared_and_not_changed() -> None:
    assert Where(user_id=7, ids=["a", "b"]) == Where(user_id="7", ids={"b", "a"})
    assert len({Where(ids=["a"]), Where(ids=("a",))}) == 1
    with pytest.raises(FrozenInstanceError):
        Where().user_id = "7"  # type: ignore[misc]


def test_only_conditions_that_ask_nothing_are_empty() -> None:
    assert Where().is_empty
    assert not Where(ids=()).is_empty
    assert not Where(status="").is_empty


def test_conditions_add_up() -> None:
    assert where_of(None, {}) == Where()
    assert where_of(Where(user_id=7), {"status": "failed"}) == Where(user_id=7, status="failed")
    assert where_of(Where(user_id=7), {"user_id": None}) == Where(user_id=7)


def test_a_condition_given_twice_or_unknown_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"^user_id: given twice"):
        where_of(Where(user_id=7), {"user_id": 8})
    with pytest.raises(ConfigurationError, match=r"^usr: .*user_id"):
        where_of(None, {"usr": "7"})
