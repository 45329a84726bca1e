"""How long sessions live, what counts as a privilege, how large they may grow.

`Policy` holds every such knob with its default, its cost and an example. All durations are seconds; a
`timedelta` is converted once, here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import isfinite
from typing import Any, TypeAlias, TypedDict

from session_middleware.errors import ConfigurationError

__all__ = [
    "DAY",
    "DEFAULT_IDLE_TIMEOUT",
    "GRACE",
    "JUST_NOW",
    "Duration",
    "Policy",
    "PolicyOptions",
    "checked_priority",
    "flag",
    "seconds",
    "seconds_or_zero",
]

Duration: TypeAlias = float | timedelta
DAY = 24 * 3600.0
DEFAULT_IDLE_TIMEOUT = 14 * DAY
DEFAULT_ABSOLUTE_TIMEOUT = 30 * DAY
GRACE = 30.0
"""Seconds a superseded generation still opens the session once the newer cookie has come back."""
JUST_NOW = 30.0
"""Seconds for which a request may have been under way when a login or a logout overtook it."""


class PolicyOptions(TypedDict, total=False):
    """The options of a `Policy` as arguments; None is the default."""

    idle_timeout: Duration | None
    absolute_timeout: Duration | None
    renew_after: float | None
    grace: Duration | None
    privilege_keys: Collection[str] | None
    user_keys: Sequence[str] | None
    save_on_error: bool | None
    open_requests_renew: bool | None
    max_bytes: int | None
    max_keys: int | None
    retention: Mapping[str, Duration] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The life of sessions.

    Args:
        idle_timeout: a session ends this long after the last request that looked at it. Enforced from the
            record on each load, whether or not a cleanup runs. Default 14 days; cost: one write per
            `renew_after` share of it. Example: `idle_timeout=1800`.
        absolute_timeout: a session ends this long after its creation, or its last `login()`, however active
            it is. Default 30 days, or `idle_timeout` where that is longer. Shorter than the idle timeout is
            legal: the earlier deadline wins. Example: `absolute_timeout=timedelta(hours=12)`.
        renew_after: share of the idle timeout, over 0 and at most 1, for which requests that only read write
            nothing. Default 0.2: renewed once less than 80 % is left, so an active session costs at most five
            writes per idle timeout. Smaller keeps deadlines sharper and writes more.
        grace: how long parallel requests may use the cookie that `session.cycle()` superseded, counted from
            the moment the new cookie first comes back. Default 30.
        privilege_keys: when the value under one of these keys changes, the session cycles without grace.
            Default: what apps commonly keep a signed-in user and roles under. `()` turns it off.
        user_keys: where the app does not call `session.login()`, the text or integer under the first of these
            is the session's user, and a change of it is a login. `()` turns it off.
        save_on_error: save although the response is 500 or above, or the handler raised. Default False.
        open_requests_renew: an open request or WebSocket keeps its session from idling out. Default True.
        max_bytes, max_keys: limits on one session: 64 KiB, 1,000 keys. Values nest 32 deep at most.
        retention: a session ends at most this long after `set_status` gave it such a status; its next status
            lifts that. Default: none. Example: `retention={"failed": 3600, "completed": 21600}`.
    """

    idle_timeout: float = DEFAULT_IDLE_TIMEOUT
    absolute_timeout: float = DEFAULT_ABSOLUTE_TIMEOUT
    renew_after: float = 0.2
    grace: float = GRACE
    privilege_keys: frozenset[str] = frozenset(
        {"user_id", "_user_id", "user", "username", "role", "roles", "is_admin"}
    )
    user_keys: tuple[str, ...] = ("user_id", "_user_id")
    save_on_error: bool = False
    open_requests_renew: bool = True
    max_bytes: int = 64 * 1024
    max_keys: int = 1000
    retention: Mapping[str, float] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, options: Mapping[str, Any], *, max_age: float | None, base: Policy | None = None) -> Policy:
        """The policy with these options; None means the default (or what *base* says).

        *max_age* (seconds, as the cookie has it) is the default idle timeout; zero or less means that
        sessions are over at once. Raises `ConfigurationError` naming the option.
        """
        if base is not None and not isinstance(base, Policy):
            raise ConfigurationError(
                f"policy: found {type(base).__name__}, pass a Policy such as Policy.aal2()"
            )
        chosen = {name: value for name, value in options.items() if value is not None}
        unknown = sorted(chosen.keys() - _READERS.keys())
        if unknown:
            raise ConfigurationError(
                f"{unknown[0]}: there is no such option; there are {', '.join(sorted(_READERS))}"
            )
        read = {name: _READERS[name](name, value) for name, value in chosen.items()}
        if base is not None:
            return cls(**{**{name: getattr(base, name) for name in _READERS}, **read})
        idle = DEFAULT_IDLE_TIMEOUT if max_age is None else max(float(max_age), 0.0)
        read.setdefault("idle_timeout", idle)
        read.setdefault("absolute_timeout", max(DEFAULT_ABSOLUTE_TIMEOUT, idle))
        return cls(**read)

    @classmethod
    def aal1(cls) -> Policy:
        """NIST SP 800-63B-4, 2.1.3: reauthentication at least every 30 days; no idle limit is asked for."""
        return cls(idle_timeout=30 * DAY, absolute_timeout=30 * DAY)

    @classmethod
    def aal2(cls) -> Policy:
        """NIST SP 800-63B-4, 2.2.3: 24 hours overall, 1 hour of inactivity; open sockets do not count."""
        return cls(idle_timeout=3600.0, absolute_timeout=DAY, open_requests_renew=False)

    @classmethod
    def aal3(cls) -> Policy:
        """NIST SP 800-63B-4, 2.3.3: 12 hours overall, 15 minutes of inactivity; open sockets do not count."""
        return cls(idle_timeout=900.0, absolute_timeout=DAY / 2, open_requests_renew=False)

    def idle(self, own: float | None) -> float:
        """Seconds without activity after which a session ends; *own* is its `set_expiry`."""
        return self.idle_timeout if own is None else own

    def is_fresh(self, deadline: float, own: float | None, now: float) -> bool:
        """Whether no renewal is due yet.

        *deadline* and *now*: seconds since the epoch. *own*: the session's `set_expiry`, None: the policy's.
        """
        idle = self.idle_timeout if own is None else own
        return deadline - now >= (1.0 - self.renew_after) * idle

    def renewal(self, *, deadline: float, limit: float, own: float | None, now: float) -> float | None:
        """The deadline a renewal gives, or None if that is not due yet or gains nothing."""
        if self.is_fresh(deadline, own, now):
            return None
        renewed = min(now + self.idle(own), limit)
        return renewed if renewed > deadline else None


def seconds(name: str, value: Any) -> float:
    """A positive, finite duration in seconds. Raises `ConfigurationError` naming the option *name*."""
    length = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(length, bool) or not isinstance(length, int | float):
        raise ConfigurationError(
            f"{name}: found {type(value).__name__}, pass seconds as a number, or a timedelta"
        )
    if not isfinite(length) or length <= 0:
        raise ConfigurationError(f"{name}: found {length}, pass a number of seconds over 0")
    return float(length)


def seconds_or_zero(name: str, value: Any) -> float:
    """As `seconds`, and 0 is legal."""
    return 0.0 if value == 0 and not isinstance(value, bool) else seconds(name, value)


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigurationError(
            f"{name}: found {value!r}, pass a share of the idle timeout, over 0 and at most 1 (such as 0.2)"
        )
    return float(value)


def checked_priority(value: object) -> int:
    """*value*, if it is an integer that every backend can hold. Raises `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        shown = value if isinstance(value, int) else type(value).__name__
        raise ConfigurationError(f"priority: found {shown}, pass an integer of 64 bits")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False. Raises `ConfigurationError` naming the option *name*."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}: found {type(value).__name__}, pass True or False")
    return value


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name}: found {value!r}, pass an integer of at least 1")
    return value


def _keys(name: str, value: Any) -> tuple[str, ...]:
    ordered = name == "user_keys"  # "the first of these" counts
    if isinstance(value, str) or not isinstance(value, Sequence if ordered else Sequence | set | frozenset):
        raise ConfigurationError(
            f"{name}: found {type(value).__name__}, pass a list of keys (such as ['user_id'])"
        )
    if not all(isinstance(key, str) and key for key in value):
        raise ConfigurationError(
            f"{name}: session keys are text, found {[key and type(key).__name__ for key in value]}"
        )
    return tuple(value)


def _by_status(name: str, value: Any) -> Mapping[str, float]:
    if not isinstance(value, Mapping) or not all(isinstance(status, str) and status for status in value):
        raise ConfigurationError(
            f"{name}: found {type(value).__name__}, pass seconds by status, such as {{'failed': 3600}}"
        )
    return {str.__str__(status): seconds(f"{name}[{status!r}]", length) for status, length in value.items()}


_READERS: Mapping[str, Any] = {
    "idle_timeout": seconds,
    "absolute_timeout": seconds,
    "renew_after": _share,
    "grace": seconds,
    "privilege_keys": lambda name, value: frozenset(_keys(name, value)),
    "user_keys": _keys,
    "save_on_error": flag,
    "open_requests_renew": flag,
    "max_bytes": _count,
    "max_keys": _count,
    "retention": _by_status,
}
