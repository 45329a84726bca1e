"""Which options change while a manager runs: checked as at construction, all of them or none.

`chosen` checks and reads; what it answers is applied by the manager. A new live option is one line in
`SessionManager._live`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from session_middleware.errors import ConfigurationError
from session_middleware.policy import Policy, PolicyOptions

__all__ = ["Choice", "Live", "chosen"]

_POLICY: Final = frozenset(PolicyOptions.__annotations__)
_REMEDIES: Final[Mapping[str, str]] = {
    "backend": "move the sessions, then make a manager over the other backend",
    "secret_key": "restart with the new key, and the present one in fallback_keys",
    "fallback_keys": "restart with the other keys",
    "import_from": "restart with the other readers",
}
_RESTART: Final = "make a new manager with it, that is: restart"


@dataclass(frozen=True, slots=True)
class Live:
    """An option that may change: `read` checks a value by the option's name, `apply` cannot fail."""

    read: Callable[[str, Any], Any]
    apply: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a reconfiguration comes to: the policy then, and the other options with their values."""

    policy: Policy
    others: Mapping[str, Any]


def chosen(
    live: Mapping[str, Live], known: Collection[str], policy: Policy, options: Mapping[str, Any]
) -> Choice:
    """These *options*, checked. Raises `ConfigurationError` naming the one that is wrong, or cannot change.

    *known* are all options of the constructor, *policy* is the present one: what is not given stays.
    """
    for name in options:
        if name not in live and name not in _POLICY and name != "policy":
            raise _refused(name, known, {*live, *_POLICY, "policy"})
    base = options.get("policy")
    policies = {name: value for name, value in options.items() if name in _POLICY}
    after = Policy.of(policies, max_age=None, base=policy if base is None else base)
    return Choice(after, {name: live[name].read(name, options[name]) for name in options if name in live})


def _refused(name: str, known: Collection[str], live: Collection[str]) -> ConfigurationError:
    if name in known:
        remedy = _REMEDIES.get(name, _RESTART)
        return ConfigurationError(f"{name}: cannot change while the manager runs; {remedy}")
    return ConfigurationError(
        f"{name}: there is no such option; those that can change are {', '.join(sorted(live))}"
    )
