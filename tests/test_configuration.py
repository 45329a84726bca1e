"""Options from the environment and from mappings: one case per option, and errors that name the variable."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from session_middleware import ConfigurationError, Policy, SessionManager
from session_middleware.configuration import options_of

KEY = "k" * 16 + "0123456789abcdef"
OTHER = "o" * 16 + "0123456789abcdef"

# Every option: a text, and what the manager then shows. None: no text can say it.
CASES: dict[str, tuple[str, Callable[[SessionManager], Any], Any] | None] = {
    "backend": ("sqlite:///app.db", lambda made: made.backend.url, "sqlite:///app.db"),
    "secret_key": (KEY, lambda made: made.codec.weak_key, None),
    "fallback_keys": (f"{OTHER}, {OTHER}2", lambda made: made.codec.weak_key, None),
    "import_from": None,
    "clock": None,
    "monotonic": None,
    "policy": ("aal2", lambda made: made.policy, Policy.aal2()),
    "cleanup_interval": ("7.5", lambda made: made.cleaner.interval, 7.5),
    "backend_timeout": ("2", lambda made: made.backend_timeout, 2.0),
    "check_interval": ("9", lambda made: made.heartbeat.interval, 9.0),
    "stuck_after": ("60", lambda made: made._core.stuck_after, 60.0),
    "max_concurrent_requests": ("50", lambda made: made.max_concurrent_requests, 50),
    "max_requests_per_session": ("none", lambda made: made.max_requests_per_session, None),
    "max_sessions": ("10_000", lambda made: made._core.max_sessions, 10_000),
    "max_sessions_per_user": ("3", lambda made: made._caps.per_user, 3),
    "on_too_many": ("reject", lambda made: made._caps.reject, True),
    "rate_limit": ("100/minute", lambda made: made.rate_limit.text, "100/minute"),
    "client_facts": ("false", lambda made: made.client_facts, None),
    "log": ("off", lambda made: made.reporter._is_on.__name__, "_never"),
    "log_context": ("No", lambda made: made.log_context, False),
    "session_cookie": ("sid", lambda made: made.cookie.session_cookie, "sid"),
    "max_age": ("none", lambda made: made.cookie.max_age, None),
    "path": ("/app", lambda made: made.cookie.path, "/app"),
    "same_site": ("strict", lambda made: made.cookie.same_site, "strict"),
    "https_only": ("true", lambda made: made.cookie.https_only, True),
    "domain": ("example.com", lambda made: made.cookie.domain, "example.com"),
    "partitioned": ("false", lambda made: made.cookie.partitioned, False),
    "idle_timeout": ("1800", lambda made: made.policy.idle_timeout, 1800.0),
    "absolute_timeout": (" 3600.5 ", lambda made: made.policy.absolute_timeout, 3600.5),
    "renew_after": ("0.5", lambda made: made.policy.renew_after, 0.5),
    "grace": ("5", lambda made: made.policy.grace, 5.0),
    "privilege_keys": ("role,admin", lambda made: made.policy.privilege_keys, frozenset({"role", "admin"})),
    "user_keys": ('["uid"]', lambda made: made.policy.user_keys, ("uid",)),
    "save_on_error": ("1", lambda made: made.policy.save_on_error, True),
    "open_requests_renew": ("0", lambda made: made.policy.open_requests_renew, False),
    "max_bytes": ("1000", lambda made: made.policy.max_bytes, 1000),
    "max_keys": ("10", lambda made: made.policy.max_keys, 10),
    "retention": ('{"failed": 60}', lambda made: made.policy.retention, {"failed": 60.0}),
}
SAID = {option: case for option, case in CASES.items() if case is not None}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in options_of(SessionManager):
        monkeypatch.delenv(f"SESSION_{option.upper()}", raising=False)


@pytest.mark.parametrize("option", options_of(SessionManager))
def test_every_option_has_a_case_here(option: str) -> None:
    assert option in CASES


@pytest.mark.parametrize("option", SAID)
def test_every_option_is_reached_from_the_environment(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, shown, expected = SAID[option]
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    monkeypatch.setenv(f"SESSION_{option.upper()}", text)
    assert shown(SessionManager.from_env()) == expected


@pytest.mark.parametrize("option", SAID)
def test_every_option_is_reached_from_a_mapping(option: str) -> None:
    text, shown, expected = SAID[option]
    assert shown(SessionManager.from_config({"secret_key": KEY, option: text})) == expected


@pytest.mark.parametrize("option", [option for option, case in CASES.items() if case is None])
def test_what_no_text_can_say_is_refused_with_the_way_out(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SESSION_{option.upper()}", "x")
    with pytest.raises(ConfigurationError, match=f"SESSION_{option.upper()}='x': .*as an argument"):
        SessionManager.from_env()


@pytest.mark.parametrize(
    ("variable", "text", "remedy"),
    [
        ("SESSION_IDLE_TIMEOUT", "soon", "a number of seconds"),
        ("SESSION_IDLE_TIMEOUT", "-5", "over 0"),
        ("SESSION_TIMEOUT", "0", "over 0"),
        ("SESSION_MAX_CONCURRENT_REQUESTS", "1.5", "without a fraction"),
        ("SESSION_LOG", "maybe", "true or false"),
        ("SESSION_SAME_SITE", "loose", "lax, strict, none"),
        ("SESSION_RETENTION", "60", "JSON object"),
        ("SESSION_POLICY", "aal4", "aal1, aal2, aal3"),
        ("SESSION_BACKEND", "carrier-pigeon://", "no backend is known"),
    ],
)
def test_a_bad_value_is_refused_quoting_the_variable_and_its_text(
    variable: str, text: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=f"{variable}='{text}': .*{remedy}"):
        SessionManager.from_env()


@pytest.mark.parametrize("variable", ["SESSION_FALLBACK_KEYS", "SESSION_BACKEND"])
def test_no_error_tells_a_secret(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '["hunter2", 5' if variable.endswith("KEYS") else "pigeon://ada:hunter2@host/db?password=hunter2"
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        SessionManager.from_env()
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_unknown_and_empty_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_MANAGER", "local/host:@/tmp/.ICE-unix/1")  # desktops set this one
    monkeypatch.setenv("SESSION_IDLE_TIMEOUT", "")
    assert SessionManager.from_env().policy.idle_timeout == 14 * 24 * 3600


def test_session_timeout_is_the_idle_timeout_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_TIMEOUT", "900")
    assert SessionManager.from_env().policy.idle_timeout == 900


def test_an_alias_stands_for_an_option_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORGAN_SESSION_TIMEOUT", "30")
    monkeypatch.setenv("MORGAN_LOG", "off")
    aliases = {"MORGAN_SESSION_TIMEOUT": ("idle_timeout", "minutes"), "MORGAN_LOG": "log"}
    made = SessionManager.from_env(aliases=aliases)  # type: ignore[arg-type]
    assert made.policy.idle_timeout == 1800


@pytest.mark.parametrize("target", ["no_option", ("log", "minutes"), ("idle_timeout", "years")])
def test_an_alias_that_stands_for_nothing_is_refused(target: Any) -> None:
    with pytest.raises(ConfigurationError, match="aliases: MINE stands for"):
        SessionManager.from_env(aliases={"MINE": target})


def test_two_variables_for_one_option_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_TIMEOUT", "900")
    monkeypatch.setenv("SESSION_IDLE_TIMEOUT", "900")
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        SessionManager.from_env()


def test_arguments_go_before_variables_and_the_prefix_is_yours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_IDLE_TIMEOUT", "900")
    monkeypatch.setenv("SESSION_IDLE_TIMEOUT", "5")
    monkeypatch.setenv("APP_CHECK_INTERVAL", "not read")
    made = SessionManager.from_env("APP_", check_interval=timedelta(seconds=3))
    assert (made.policy.idle_timeout, made.heartbeat.interval) == (900, 3)


def test_a_mapping_takes_values_as_they_are_and_refuses_unknown_keys() -> None:
    made = SessionManager.from_config({"idle_timeout": timedelta(hours=1), "user_keys": ["uid"]}, log=False)
    assert (made.policy.idle_timeout, made.policy.user_keys) == (3600, ("uid",))
    with pytest.raises(
        ConfigurationError, match=r"idle_timeuot: there is no such option; there are .*idle_t"
    ):
        SessionManager.from_config({"idle_timeuot": 60})
    with pytest.raises(ConfigurationError, match="mapping: found list"):
        SessionManager.from_config(["idle_timeout"])  # type: ignore[arg-type]
