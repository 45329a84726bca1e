"""Which sessions an operation is about: conditions that must all hold.

Reading order: `Where` (the conditions, and what they mean), `Conditions` (the same as arguments), `where_of`
(both together), then how each field is checked.

`Where.matches` is the meaning for every backend. A backend may look at fewer records by an index of its own,
never at others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import isfinite
from typing import Any, NoReturn, TypeAlias, TypedDict

from session_middleware.errors import ConfigurationError
from session_middleware.record import Record

__all__ = ["Conditions", "Where", "moment_of", "where_of"]

_Network: TypeAlias = IPv4Network | IPv6Network


class Conditions(TypedDict, total=False):
    """The fields of `Where` as arguments."""

    user_id: str | int | None
    status: str | None
    created_before: float | None
    created_after: float | None
    authenticated_before: float | None
    authenticated_after: float | None
    seen_before: float | None
    seen_after: float | None
    network: str | None
    user_agent: str | None
    ids: Collection[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Conditions on sessions; None asks nothing, and all that ask something must hold.

    Args:
        user_id: signed in as this user; an integer is taken as text.
        status: has exactly this status.
        created_before, created_after: when it was created, in seconds since the epoch. `before` is exclusive
            and `after` inclusive, here and below, so that neighbouring spans neither overlap nor leave a gap.
        authenticated_before, authenticated_after: when somebody last signed in. Not met by a session that
            nobody signed in to.
        seen_before, seen_after: when its visitor was last noted, as exact as renewals are.
        network: what is known of the client's address (`metadata["client"]["network"]`) lies in this network,
            such as `"192.0.2.0/24"`. Where only networks are kept, no single address is ever met.
        user_agent: the client's name (`metadata["client"]["user_agent"]`) contains this text, in any case.
        ids: is one of these.

    Raises `ConfigurationError` naming the field.
    """

    user_id: str | int | None = None
    status: str | None = None
    created_before: float | None = None
    created_after: float | None = None
    authenticated_before: float | None = None
    authenticated_after: float | None = None
    seen_before: float | None = None
    seen_after: float | None = None
    network: str | None = None
    user_agent: str | None = None
    ids: Collection[str] | None = None

    def __post_init__(self) -> None:
        for name, checked in _CHECKS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checked(name, value))

    @property
    def is_empty(self) -> bool:
        """It asks nothing: every session is met."""
        return all(getattr(self, name) is None for name in _CHECKS)

    def matches(self, record: Record) -> bool:
        """Whether this record meets every condition. Its deadline is not looked at."""
        return (
            self.user_id in (None, record.user_id)
            and self.status in (None, record.status)
            and (self.ids is None or record.id in self.ids)
            and _lies(self.created_after, record.created_at, self.created_before)
            and _lies(self.authenticated_after, record.authenticated_at, self.authenticated_before)
            and _lies(self.seen_after, record.last_seen_at, self.seen_before)
            and self._meets_client(record)
        )

    def _meets_client(self, record: Record) -> bool:
        if self.network is None and self.user_agent is None:
            return True
        client = record.metadata.get("client")
        if not isinstance(client, Mapping):
            return False
        return (self.network is None or _is_within(client.get("network"), self.network)) and (
            self.user_agent is None or _contains(client.get("user_agent"), self.user_agent)
        )


def where_of(where: Where | None, conditions: Mapping[str, Any]) -> Where:
    """*where* and these further conditions in one. `ConfigurationError` for a field that is named twice."""
    known = {} if where is None else {name: getattr(where, name) for name in _CHECKS}
    given = {name: value for name, value in known.items() if value is not None}
    for name, value in conditions.items():
        if name not in _CHECKS:
            raise ConfigurationError(f"{name}: no condition on sessions; there are {', '.join(_CHECKS)}")
        if value is not None and name in given:
            raise ConfigurationError(f"{name}: given twice, in where and beside it; give it once")
    return Where(**{**given, **{name: value for name, value in conditions.items() if value is not None}})


def _lies(after: float | None, time: float | None, before: float | None) -> bool:
    if after is None and before is None:
        return True
    return time is not None and (after is None or time >= after) and (before is None or time < before)


def _is_within(known: object, wanted: str) -> bool:
    inner, outer = _network_of(known), _network_of(wanted)
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def _contains(known: object, wanted: str) -> bool:
    return isinstance(known, str) and wanted.casefold() in known.casefold()


def _network_of(text: object) -> _Network | None:
    return _parsed(text) if isinstance(text, str) else None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> _Network | None:
    """None for what is no address and no network: kept by an app, or by an older release."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


# --- how each field is checked ---------------------------------------------------------------------------


def _refuse(name: str, found: str, remedy: str) -> NoReturn:
    raise ConfigurationError(f"{name}: found {found}, pass {remedy}")


def _user(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        _refuse(name, "empty text" if value == "" else type(value).__name__, "the id of a user")
    return str(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        _refuse(name, type(value).__name__, "text")
    return value


def _some_text(name: str, value: object) -> str:
    text = _text(name, value)
    if not text:
        _refuse(name, "empty text, which every client has", "a part of the client's name")
    return text


def moment_of(name: str, value: object) -> float:
    """*value* as seconds since the epoch. `ConfigurationError` naming it if it is no moment."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        found = repr(value) if isinstance(value, float) else type(value).__name__
        _refuse(name, found, "seconds since the epoch (of a datetime: its timestamp())")
    return float(value)


def _a_network(name: str, value: object) -> str:
    text = _text(name, value)
    try:
        return str(ip_network(text))
    except ValueError as problem:
        raise ConfigurationError(
            f'{name}: found {text!r}, pass an IP network such as "192.0.2.0/24": {problem}'
        ) from None


def _some_ids(name: str, value: object) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Collection):
        _refuse(name, type(value).__name__, "a collection of session ids, such as a list")
    if not all(isinstance(one, str) for one in value):
        _refuse(name, "something that is no text in it", "session ids")
    return frozenset(value)


_SPECIAL: dict[str, Callable[[str, object], object]] = {
    "user_id": _user,
    "status": _text,
    "network": _a_network,
    "user_agent": _some_text,
    "ids": _some_ids,
}
_CHECKS = {field.name: _SPECIAL.get(field.name, moment_of) for field in fields(Where)}
"""What checks each field, in the order of the fields."""
