"""Options from text: the environment, or a mapping that a configuration file gave.

Which options there are, and what each of them takes, is read from the constructor's own signature: there is
no second list to keep. Reading order: `from_environment` and `from_mapping` (what the two make of their
source), `options_of` (which options a constructor has), `_read` (text to value, by the option's type).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from inspect import isclass
from types import NoneType, UnionType
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    TypeAlias,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

from session_middleware.errors import ConfigurationError
from session_middleware.policy import Policy

__all__ = ["Aliases", "Unit", "from_environment", "from_mapping", "options_of"]

M = TypeVar("M")
Unit: TypeAlias = Literal["seconds", "minutes", "hours", "days"]
Aliases: TypeAlias = Mapping[str, str | tuple[str, Unit]]
"""Other names for options: `{"MORGAN_SESSION_TIMEOUT": ("idle_timeout", "minutes")}`, or only the option."""

_Names: TypeAlias = dict[str, tuple[str, str | None]]  # by name in the source: the option and its unit

_SECONDS: Final[Mapping[str, int]] = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
_TIMEOUT: Final = ("timeout", ("idle_timeout", None))  # as the older systems named it
_NEVER_QUOTED: Final = frozenset({"secret_key", "fallback_keys"})
_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})
_PRESETS: Final = frozenset(
    name for name, member in vars(Policy).items() if isinstance(member, classmethod) and name != "of"
)
_OPTION: Final = re.compile(r"(\w+): ")  # how the message of a `ConfigurationError` begins


@dataclass(frozen=True, slots=True)
class _Given:
    """One setting: which option, under which name it was found, and what stood there."""

    option: str
    name: str
    value: Any
    unit: str | None = None


def from_environment(
    make: Callable[..., M],
    environ: Mapping[str, str],
    prefix: str,
    aliases: Aliases | None,
    options: Mapping[str, Any],
) -> M:
    """What *make* makes of the variables named *prefix* + option, and of those that *aliases* name.

    An empty variable counts as none; one that names no option is not ours. *options* go before all of them.
    Raises `ConfigurationError` that quotes the variable and its text, but never that of a secret.
    """
    known = options_of(make)
    names: _Names = {f"{prefix}{option}".upper(): (option, None) for option in known}
    names[f"{prefix}{_TIMEOUT[0]}".upper()] = _TIMEOUT[1]
    set_to_text = {name: text for name, text in environ.items() if text.strip()}
    return _made(make, _found(names | _resolved(aliases, known), set_to_text, options), options)


def from_mapping(
    make: Callable[..., M], mapping: Mapping[str, Any], aliases: Aliases | None, options: Mapping[str, Any]
) -> M:
    """What *make* makes of options by name. Text is read as in the environment, all else taken as it is.

    Raises `ConfigurationError`, also for a key that is no option.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigurationError(f"mapping: found {type(mapping).__name__}, pass a mapping of options")
    known = options_of(make)
    names: _Names = {option: (option, None) for option in known}
    names[_TIMEOUT[0]] = _TIMEOUT[1]
    names |= _resolved(aliases, known)
    unknown = [str(key) for key in mapping if key not in names]
    if unknown:
        raise ConfigurationError(f"{unknown[0]}: {_no_such(known)}")
    return _made(make, _found(names, mapping, options), options)


def options_of(make: Callable[..., object]) -> dict[str, Any]:
    """Every option *make* takes, with its type; those of `**options: Unpack[...]` among them."""
    hints = get_type_hints(make.__init__ if isclass(make) else make)
    hints.pop("return", None)
    for name in [name for name, hint in hints.items() if get_origin(hint) is Unpack]:
        hints |= get_type_hints(get_args(hints.pop(name))[0])
    return hints


# --- from names to options ---


def _no_such(known: Collection[str]) -> str:
    return f"there is no such option; there are {', '.join(sorted(known))}"


def _resolved(aliases: Aliases | None, known: Mapping[str, Any]) -> _Names:
    resolved: _Names = {}
    for name, target in (aliases or {}).items():
        option, unit = (target, None) if isinstance(target, str) else target
        if option not in known:
            raise ConfigurationError(f"aliases: {name} stands for {option!r}, and {_no_such(known)}")
        if unit is not None and (unit not in _SECONDS or timedelta not in _members(known[option])):
            raise ConfigurationError(
                f"aliases: {name} stands for {option!r} in {unit!r}; a unit is one of "
                f"{', '.join(_SECONDS)}, and only durations have one"
            )
        resolved[name] = (option, unit)
    return resolved


def _found(names: _Names, source: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, _Given]:
    """What *source* sets, by option. What *options* set is not looked at."""
    found: dict[str, _Given] = {}
    for name, (option, unit) in names.items():
        if name not in source or option in options:
            continue
        if option in found:
            raise ConfigurationError(
                f"{name}: sets {option}, as {found[option].name} does already; leave one of them out"
            )
        found[option] = _Given(option, name, source[name], unit)
    return found


def _made(make: Callable[..., M], found: Mapping[str, _Given], options: Mapping[str, Any]) -> M:
    types = options_of(make)
    read = {option: _value(given, types[option]) for option, given in found.items()}
    try:
        return make(**{**read, **options})
    except ConfigurationError as problem:
        named = _OPTION.match(str(problem))
        if named is None or named[1] not in found:
            raise
        raise _refused(found[named[1]], str(problem)[named.end() :]) from None


def _value(given: _Given, kind: Any) -> Any:
    value = given.value
    if isinstance(value, str):
        try:
            value = _read(value if given.option in _NEVER_QUOTED else value.strip(), kind)
        except ValueError as problem:
            raise _refused(given, str(problem)) from None
    if given.unit is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return value * _SECONDS[given.unit]


def _refused(given: _Given, why: str) -> ConfigurationError:
    if given.option in _NEVER_QUOTED:
        return ConfigurationError(f"{given.name}: {why}")
    shown = _without_password(given.value) if given.option == "backend" else given.value
    return ConfigurationError(f"{given.name}={shown!r}: {why}")


def _without_password(url: object) -> object:
    if not isinstance(url, str):
        return url
    return re.sub(r"\?.*", "?***", re.sub(r"//.*@", "//***@", url))


# --- from text to a value ---


def _read(text: str, kind: Any) -> Any:
    """What *text* says to an option of this type. ValueError says what it may be."""
    members = _members(kind)
    choices = [choice for one in members if get_origin(one) is Literal for choice in get_args(one)]
    if text in choices:  # "none" among them is no None
        return text
    if NoneType in members and text.lower() == "none":
        return None
    for belongs, read in _READERS:
        if any(belongs(member) for member in members):
            return read(text, members)
    return _no_text(choices)


def _no_text(choices: Collection[Any]) -> NoReturn:
    if choices:
        raise ValueError(f"pass one of {', '.join(map(str, choices))}")
    raise ValueError("this cannot be given as text; pass it as an argument")


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one there is."""
    if get_origin(kind) not in {Union, UnionType}:
        return (kind,)
    return tuple(member for one in get_args(kind) for member in _members(one))


def _or_none(members: Collection[Any]) -> str:
    return ", or none" if NoneType in members else ""


def _preset(text: str, _: Collection[Any]) -> Policy:
    if text not in _PRESETS:
        raise ValueError(f"pass one of {', '.join(sorted(_PRESETS))}")
    made: Policy = getattr(Policy, text)()
    return made


def _switch(text: str, members: Collection[Any]) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError(f"pass true or false{_or_none(members)}")
    return text.lower() in _YES


def _number(text: str, members: Collection[Any]) -> int | float | str:
    for read in (int, float) if float in members else (int,):
        try:
            number: int | float = read(text)
        except ValueError:
            continue
        return number
    if str in members:
        return text
    what = "a number of seconds" if timedelta in members else "a number"
    whole = "" if float in members else " without a fraction"
    raise ValueError(f"pass {what}{whole}{_or_none(members)}")


def _listed(text: str, _: Collection[Any]) -> list[Any]:
    """A JSON list, or texts with commas between them."""
    if text.lstrip().startswith("["):
        listed: list[Any] = _json(text, list, "pass a JSON list, or texts with commas between them")
        return listed
    return [part for part in (part.strip() for part in text.split(",")) if part]


def _mapped(text: str, members: Collection[Any]) -> dict[str, Any]:
    otherwise = f'pass a JSON object, such as {{"failed": 3600}}{_or_none(members)}'
    mapped: dict[str, Any] = _json(text, dict, otherwise)
    return mapped


def _json(text: str, kind: type, otherwise: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:  # whose message, and whose `doc`, would repeat a secret
        value = None
    if not isinstance(value, kind):
        raise ValueError(otherwise)  # noqa: TRY004  (of the text, not of an argument)
    return value


def _is_mapping(member: Any) -> bool:
    return _is_a(member, Mapping)


def _is_list(member: Any) -> bool:
    return _is_a(member, Collection) and not _is_a(member, Mapping) and not _is_a(member, str | bytes)


def _is_a(member: Any, kind: Any) -> bool:
    origin = get_origin(member) or member
    return isclass(origin) and issubclass(origin, kind)


_READERS: Final[tuple[tuple[Callable[[Any], bool], Callable[[str, Collection[Any]], Any]], ...]] = (
    (lambda member: member is Policy, _preset),
    (lambda member: member is bool, _switch),
    (_is_mapping, _mapped),
    (_is_list, _listed),
    (lambda member: member in {int, float}, _number),
    (lambda member: member in {str, object}, lambda text, _: text),
)
"""The first whose type an option takes reads its text. A `Literal` and None come before all of them."""
