"""The policy: every option, and a remedy for each illegal one."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_middleware.errors import ConfigurationError
from session_middleware.policy import DAY, Policy, seconds

NO_DURATION = [0, -1, float("nan"), float("inf"), "60", True, [60], timedelta(0), timedelta(seconds=-1)]
NO_KEYS = ["user_id", 5, {"a": 1}, ["a", 5], b"x"]
NO_FLAG = ["yes", 1, 0]
NO_COUNT = [0, -1, 1.5, True, "5"]

ILLEGAL: list[tuple[str, Any]] = [
    *(("idle_timeout", value) for value in NO_DURATION),
    *(("absolute_timeout", value) for value in NO_DURATION),
    *(("grace", value) for value in NO_DURATION),
    *(("renew_after", value) for value in [0, -0.1, 1.01, float("nan"), True, "0.2", timedelta(1)]),
    *(("privilege_keys", value) for value in NO_KEYS),
    *(("user_keys", value) for value in NO_KEYS),
    *(("save_on_error", value) for value in NO_FLAG),
    *(("open_requests_renew", value) for value in NO_FLAG),
    *(("max_bytes", value) for value in NO_COUNT),
    *(("max_keys", value) for value in NO_COUNT),
    *(("retention", value) for value in [5, ["failed"], {5: 1.0}, {"": 1.0}]),
    *(("idle_timout", value) for value in [60]),
]


@pytest.mark.parametrize(("name", "value"), ILLEGAL, ids=repr)
def test_an_illegal_option_is_refused_by_name_with_a_remedy(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}: .*(pass|session keys are text|there are)"):
        Policy.of({name: value}, max_age=None)


def test_every_option_has_an_illegal_value_here() -> None:
    assert {field.name for field in fields(Policy)} == {name for name, _ in ILLEGAL} - {"idle_timout"}


def test_a_configuration_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="grace"):
        Policy.of({"grace": 0}, max_age=None)


def test_none_means_the_default() -> None:
    assert Policy.of(dict.fromkeys(field.name for field in fields(Policy)), max_age=None) == Policy()


@pytest.mark.parametrize(
    ("max_age", "idle", "absolute"),
    [
        (None, 14 * DAY, 30 * DAY),
        (60, 60.0, 30 * DAY),
        (60 * DAY, 60 * DAY, 60 * DAY),
        (0, 0.0, 30 * DAY),
        (-5, 0.0, 30 * DAY),
    ],
)
def test_the_cookies_max_age_is_the_default_idle_timeout(
    max_age: float | None, idle: float, absolute: float
) -> None:
    policy = Policy.of({}, max_age=max_age)
    assert (policy.idle_timeout, policy.absolute_timeout) == (idle, absolute)


def test_an_absolute_timeout_shorter_than_the_idle_one_is_legal() -> None:
    assert Policy.of({"idle_timeout": 60, "absolute_timeout": 5}, max_age=None).absolute_timeout == 5.0


def test_options_override_a_preset_one_by_one() -> None:
    policy = Policy.of({"idle_timeout": timedelta(minutes=5)}, max_age=1, base=Policy.aal2())
    assert (policy.idle_timeout, policy.absolute_timeout, policy.open_requests_renew) == (300.0, DAY, False)


@pytest.mark.parametrize(
    ("preset", "idle", "absolute"),
    [(Policy.aal1(), 30 * DAY, 30 * DAY), (Policy.aal2(), 3600.0, DAY), (Policy.aal3(), 900.0, DAY / 2)],
)
def test_the_presets_are_those_of_the_source(preset: Policy, idle: float, absolute: float) -> None:
    assert (preset.idle_timeout, preset.absolute_timeout) == (idle, absolute)


def test_a_timedelta_is_all_of_its_seconds() -> None:
    assert seconds("x", timedelta(days=14, microseconds=500_000)) == 14 * DAY + 0.5


def test_keys_may_come_in_any_collection() -> None:
    policy = Policy.of({"privilege_keys": ["a", "b"], "user_keys": ("a",)}, max_age=None)
    assert (policy.privilege_keys, policy.user_keys) == (frozenset({"a", "b"}), ("a",))
    assert Policy.of({"privilege_keys": {"a"}, "user_keys": ()}, max_age=None).user_keys == ()


# --- renewal ---


def test_a_renewal_is_due_once_less_than_the_share_is_left() -> None:
    policy = Policy(idle_timeout=100.0, renew_after=0.25)
    assert policy.renewal(deadline=1075.0, limit=9e9, own=None, now=1000.0) is None
    assert policy.renewal(deadline=1074.9, limit=9e9, own=None, now=1000.0) == 1100.0


def test_a_renewal_follows_the_sessions_own_timeout() -> None:
    policy = Policy(idle_timeout=100.0)
    assert policy.renewal(deadline=1050.0, limit=9e9, own=10.0, now=1000.0) is None
    assert policy.renewal(deadline=1007.0, limit=9e9, own=10.0, now=1000.0) == 1010.0


@given(
    deadline=st.floats(0, 1e6),
    limit=st.floats(0, 1e6),
    now=st.floats(0, 1e6),
    own=st.none() | st.floats(0.1, 1e5),
)
def test_a_renewal_never_goes_back_nor_past_the_limit(
    deadline: float, limit: float, now: float, own: float | None
) -> None:
    renewed = Policy(idle_timeout=1000.0).renewal(deadline=deadline, limit=limit, own=own, now=now)
    assert renewed is None or deadline < renewed <= limit
