"""How the parts of the working state keep what they know: JSON documents under keys of their own.

Every key begins with `state:`; an app leaves those alone. Each part has keys of its own, so parallel requests
that touch different parts, or different forms, merge like any other keys of a session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from copy import deepcopy
from typing import TypeAlias

from session_middleware.errors import ConfigurationError
from session_middleware.session import Session
from session_middleware.values import JsonValue, encode_value

__all__ = ["PREFIX", "Clock", "Store", "add", "cycle", "held", "limit", "names_under", "read", "text"]

PREFIX = "state:"
Store: TypeAlias = MutableMapping[str, JsonValue]
"""A `Session`, or any dictionary that takes JSON values."""
Clock: TypeAlias = Callable[[], float]


def read(values: Store, key: str) -> dict[str, JsonValue]:
    """A copy of the document under *key*, to be changed and assigned. Empty where there is none."""
    found = values.get(key)
    return dict(found) if isinstance(found, dict) else {}


def names_under(values: Store, prefix: str) -> Iterator[str]:
    """What follows *prefix* in each key that begins with it."""
    return (key.removeprefix(prefix) for key in list(values) if key.startswith(prefix))


def add(values: Store, key: str, by: int = 1) -> None:
    """Add to a counter; in a session so that parallel requests add up."""
    if isinstance(values, Session):
        values.increment(key, by)
        return
    present = values.get(key)
    values[key] = (present if isinstance(present, int) else 0) + by


def cycle(values: Store) -> None:
    """A change of privilege: the session's former cookies are worthless at once. Only for a session."""
    if isinstance(values, Session):
        values.cycle(grace=0)


def held(name: str, value: JsonValue) -> JsonValue:
    """A copy of its own. Raises `SessionDataError`, naming *name*, for what no session can hold."""
    encode_value(name, value)
    return deepcopy(value)


def text(name: str, value: object) -> str:
    """*value*, which must be some text; else `ConfigurationError`, naming *name*."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name}: found {type(value).__name__}, pass text")
    if not value:
        raise ConfigurationError(f"{name}: found empty text, pass a name")
    return str(value)


def limit(name: str, value: object) -> int:
    """*value*, which must be an integer over 0; else `ConfigurationError`, naming *name*."""
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{name}: found {value!r}, pass an integer over 0")
    return value
