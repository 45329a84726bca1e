"""The policy: every option, and a remedy for each illegal one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_middleware.errors import ConfigurationError
from session_middleware.policy import DAY, Policy, checked_priority, seconds, seconds_or_zero

NO_DURATION = [0, -1, float("nan"), float("inf"), "60", True, [60], timedelta(0), timedelta(seconds=-1)]
NO_KEYS = ["user_id", 5, {"a": 1}, ["a", 5], b"x", ["a", ""]]
NO_FLAG = ["yes", 1, 0]
NO_COUNT = [0, -1, 1.5, True, "5"]

ILLEGAL: list[tuple[str, Any]] = [
    *(("idle_timeout", value) for value in NO_DURATION),
    *(("absolute_timeout", value) for value in NO_DURATION),
    *(("grace", value) for value in NO_DURATION),
    *(("renew_after", value) for value in [0, -0.1, 1.01, float("nan"), True, "0.2", timedelta(1)]),
    *(("privilege_keys", value) for value in NO_KEYS),
    *(("user_keys", value) for value in [*NO_KEYS, {"a"}, frozenset({"a"})]),  # they have no first one
    *(("save_on_error", value) for value in NO_FLAG),
    *(("open_requests_renew", value) for value in NO_FLAG),
    *(("max_bytes", value) for value in NO_COUNT),
    *(("max_keys", value) for value in NO_COUNT),
    *(("retention", value) for value in [5, ["failed"], {5: 1.0}, {"": 1.0}, {"failed": 1.0, 5: 1.0}]),
    *(("idle_timout", value) for value in [60]),
]


@pytest.mark.parametrize(("name", "value"), ILLEGAL, ids=repr)
def test_an_illegal_option_is_refused_by_name_with_a_remedy(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}: .*(pass|session keys are text|there are)"):
        Policy.of({name: value}, max_age=None)


def test_every_option_has_an_illegal_value_here() -> None:
    assert {field.name for field in fields(Policy)} == {name for name, _ in ILLEGAL} - {"idle_timout"}


@pytest.mark.parametrize("length", [0, -1, "60"])
def test_an_illegal_retention_is_refused_with_its_status(length: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^retention\['failed'\]: found .*pass "):
        Policy.of({"retention": {"done": 5, "failed": length}}, max_age=None)


@pytest.mark.parametrize("base", ["aal2", Policy.aal2, {}])
def test_a_base_that_is_no_policy_is_refused(base: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^policy: found {type(base).__name__}, pass a Policy"):
        Policy.of({}, max_age=None, base=base)


def test_a_configuration_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="grace"):
        Policy.of({"grace": 0}, max_age=None)


def test_the_defaults_are_those_that_are_documented() -> None:
    assert {field.name: getattr(Policy(), field.name) for field in fields(Policy)} == {
        "idle_timeout": 1_209_600.0,
        "absolute_timeout": 2_592_000.0,
        "renew_after": 0.2,
        "grace": 30.0,
        "privilege_keys": {"user_id", "_user_id", "user", "username", "role", "roles", "is_admin"},
        "user_keys": ("user_id", "_user_id"),
        "save_on_error": False,
        "open_requests_renew": True,
        "max_bytes": 65_536,
        "max_keys": 1_000,
        "retention": {},
    }


def test_the_least_that_is_legal_is_accepted() -> None:
    least = {"idle_timeout": 0.001, "absolute_timeout": 0.001, "grace": 0.001, "max_bytes": 1, "max_keys": 1}
    policy = Policy.of({**least, "renew_after": 0.001, "retention": {"a": 0.001}}, max_age=None)
    assert {name: getattr(policy, name) for name in least} == least
    assert (policy.renew_after, policy.retention) == (0.001, {"a": 0.001})
    assert Policy.of({"renew_after": 1}, max_age=None).renew_after == 1.0


def test_a_policy_is_a_key_of_a_dict_also_with_retention() -> None:
    assert {Policy(retention={"failed": 60.0}): 1}[Policy(retention={"failed": 60.0})] == 1


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
    ("preset", "idle", "absolute", "sockets_renew"),
    [
        (Policy.aal1, 30 * DAY, 30 * DAY, True),
        (Policy.aal2, 3600.0, DAY, False),
        (Policy.aal3, 900.0, DAY / 2, False),
    ],
)
def test_the_presets_are_those_of_the_source(
    preset: Callable[[], Policy], idle: float, absolute: float, *, sockets_renew: bool
) -> None:
    policy = preset()
    assert (policy.idle_timeout, policy.absolute_timeout) == (idle, absolute)
    assert policy.open_requests_renew is sockets_renew


def test_a_timedelta_is_all_of_its_seconds() -> None:
    assert seconds("x", timedelta(days=14, microseconds=500_000)) == 14 * DAY + 0.5


def test_keys_may_come_in_any_collection() -> None:
    policy = Policy.of({"privilege_keys": ["a", "b"], "user_keys": ("a",)}, max_age=None)
    assert (policy.privilege_keys, policy.user_keys) == (frozenset({"a", "b"}), ("a",))
    assert Policy.of({"privilege_keys": {"a"}, "user_keys": ()}, max_age=None).user_keys == ()
    assert Policy.of({"privilege_keys": frozenset({"a"})}, max_age=None).privilege_keys == {"a"}


@pytest.mark.parametrize("value", [0, 1, -1, 2**63 - 1, 1 - 2**63])
def test_a_priority_is_an_integer_that_every_backend_can_hold(value: int) -> None:
    assert checked_priority(value) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2**63, str(2**63)),
        (True, "True"),
        (1.5, "float"),
        ("5", "str"),
        (None, "NoneType"),
    ],
)
def test_any_other_priority_is_refused_and_only_a_number_is_shown(value: Any, shown: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^priority: found {shown}, pass an integer of 64 bits$"):
        checked_priority(value)


def test_zero_is_legal_only_where_it_is_asked_for() -> None:
    assert (seconds_or_zero("x", 0), seconds_or_zero("x", 0.0), seconds_or_zero("x", 5)) == (0.0, 0.0, 5.0)
    for value in (False, -1, "0"):
        with pytest.raises(ConfigurationError, match=r"^x: "):
            seconds_or_zero("x", value)


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
