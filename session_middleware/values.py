"""The values of a session as bytes: JSON plus a closed set of tagged types.

Reading order: `Values` (what a record holds), `encode_value` / `decode_values` (Python ↔ bytes), then the
tags. Everything is JSON text: no pickle, no hook for custom types, no second decoder to fall back to.

A value that JSON cannot hold is written as an object with one key that begins with `~`:
`{"~t": [1, 2]}` is a tuple. An app's own object of that shape is wrapped in `{"~~": …}`, so every value
comes back as it went in.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterator, KeysView, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from session_middleware.errors import SessionDataError

__all__ = [
    "MAX_DEPTH",
    "NO_VALUES",
    "JsonValue",
    "Values",
    "check_size",
    "decode_value",
    "decode_values",
    "encode_plainly",
    "encode_value",
]

JsonValue: TypeAlias = Any  # what a session holds: JSON values and the tagged types below
MAX_DEPTH = 32
"""How deep lists and objects may nest in one value."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Values(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The encoded values of a session: a mapping of key to bytes, kept as one JSON object in `packed`.

    Opaque to backends: they store `packed`, or the single pairs, and make it again with `Values(packed)` or
    `Values.of(pairs)`. Raises `SessionDataError` when pairs are asked of text that is no JSON object.

    A million sessions in memory are a million texts: none keeps its pairs, and the garbage collector looks
    at none. Whoever needs several pairs takes them once, as `pairs` or `split()`.
    """

    packed: bytes = b"{}"

    @classmethod
    def of(cls, pairs: Mapping[str, bytes]) -> Values:
        """These pairs, packed."""
        return cls.joined({name: msgspec.Raw(value) for name, value in pairs.items()})

    @classmethod
    def joined(cls, parts: Mapping[str, msgspec.Raw]) -> Values:
        """The same of views, such as `split` gives."""
        packed = _encode(parts)
        return cls(memoryview(packed).tobytes())  # the encoder's buffer is up to twice as large

    def split(self) -> dict[str, msgspec.Raw]:
        """Key → a view of its bytes, equal to another view but never to `bytes`. Raises as `pairs`."""
        try:
            return _split(self.packed)
        except (msgspec.MsgspecError, UnicodeError) as problem:
            raise SessionDataError("the stored values are no JSON object") from problem

    @property
    def pairs(self) -> dict[str, bytes]:
        """Key → bytes, made anew for each who asks."""
        return {name: bytes(raw) for name, raw in self.split().items()}

    def keys(self) -> KeysView[str]:
        """The keys, in their order."""
        return self.split().keys()

    def get(self, name: str) -> bytes | None:
        """The bytes under this key, None where there is none."""
        raw = self.split().get(name)
        return None if raw is None else bytes(raw)

    def __getitem__(self, name: str) -> bytes:
        return bytes(self.split()[name])

    def __contains__(self, name: object) -> bool:
        return name in self.split()

    def __iter__(self) -> Iterator[str]:
        return iter(self.split())

    def __len__(self) -> int:
        return len(self.split())

    def __bool__(self) -> bool:
        return self.packed != b"{}" and bool(self.split())

    def __eq__(self, other: object) -> bool:
        return self.pairs == (other.pairs if isinstance(other, Values) else other)

    def __ne__(self, other: object) -> bool:  # a struct's own looks at nothing but which object it is
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:  # reprs end up in logs and tracebacks
        return f"<Values of {len(self.packed)} bytes>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("bytes", len(self.packed))]


NO_VALUES = Values()


def encode_plainly(values: JsonValue) -> bytes | None:
    """A value, or all of them, in one go; None if that cannot be written so.

    Equal to a record's `packed` if nothing changed. Types are not checked one by one (a tuple is written as
    a list), so this answers "is anything different?", never "what is to be stored?".
    """
    try:
        return _encode(values)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None


def encode_value(key: str, value: JsonValue) -> bytes:
    """One value as bytes, exactly as it will come back.

    Raises `SessionDataError` naming *key* (never the value) for a type that cannot be held, a number that is
    not finite, an object key that is no text, text that is no Unicode, or nesting beyond `MAX_DEPTH`.
    """
    if not isinstance(key, str):
        raise SessionDataError(
            f"a session key must be text, found {type(key).__name__}: use str(key)", str(key)
        )
    try:
        _encode(key)
        return _encode(_as_json(value, MAX_DEPTH))
    except _Unfit as problem:
        raise SessionDataError(f"session[{key!r}] cannot be kept: {problem}", key) from None
    except UnicodeEncodeError:
        raise SessionDataError(f"session[{key!a}] cannot be kept: it holds lone surrogates", key) from None
    except (ValueError, OverflowError):  # CPython writes no integer of more than 4,300 digits
        raise SessionDataError(f"session[{key!r}] cannot be kept: a number in it is too long", key) from None


def decode_value(encoded: bytes | msgspec.Raw) -> JsonValue:
    """The value behind these bytes. Raises `SessionDataError` if they are damaged."""
    return _decoded(bytes(encoded))


def decode_values(values: Values) -> dict[str, JsonValue]:
    """Every value of a record, decoded at once. Raises `SessionDataError` if the text is damaged."""
    decoded = _decoded(values.packed, top=True)
    if type(decoded) is not dict:
        raise SessionDataError("the stored values are no JSON object")
    return decoded


def check_size(values: Mapping[str, bytes | msgspec.Raw], *, max_bytes: int, max_keys: int) -> None:
    """Raise `SessionDataError` if a session with these values would be too large."""
    if len(values) > max_keys:
        raise SessionDataError(f"the session would hold {len(values)} keys, the limit is {max_keys}")
    size = sum(map(len, values)) + sum(map(len, values.values()))
    if size > max_bytes:
        largest = max(values, key=lambda name: len(values[name]))
        raise SessionDataError(
            f"the session would hold {size} bytes, the limit is {max_bytes} (largest key: {largest!r}); "
            "keep large data elsewhere and its id in the session",
            largest,
        )


# --- Python → JSON -------------------------------------------------------------------------------------


class _Unfit(Exception):
    """Why a value cannot be held, without the value."""


def _as_json(value: JsonValue, depth: int) -> JsonValue:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if depth < 0:
        raise _Unfit(f"it nests deeper than {MAX_DEPTH} levels")
    written = _WRITERS.get(kind)
    return _of_subclass(value, depth) if written is None else written(value, depth)


def _of_subclass(value: JsonValue, depth: int) -> JsonValue:
    """Subclasses are kept as what they extend (a StrEnum as its text), as `json.dumps` does."""
    if isinstance(value, str):
        return {"~m": str(value)} if hasattr(value, "__html__") else str.__str__(value)
    if isinstance(value, int):
        return int(value)
    for known, written in _WRITERS.items():
        if isinstance(value, known):
            return written(value, depth)
    raise _Unfit(f"{type(value).__name__} is not a type that sessions hold; convert it first")


def _finite(value: float, _: int) -> float:
    if not math.isfinite(value):
        raise _Unfit("NaN and infinity have no JSON form")
    return float(value)


def _object(value: dict[JsonValue, JsonValue], depth: int) -> JsonValue:
    for name in value:
        if not isinstance(name, str):
            raise _Unfit(
                f"an object key in it is {type(name).__name__}, only text comes back as it was; use str()"
            )
    written = {str(name): _as_json(inner, depth - 1) for name, inner in value.items()}
    return {"~~": written} if _looks_tagged(written) else written


def _items(value: Any, depth: int) -> list[JsonValue]:
    return [_as_json(inner, depth - 1) for inner in value]


_WRITERS: dict[type, Callable[[Any, int], JsonValue]] = {
    float: _finite,
    list: _items,
    dict: _object,
    tuple: lambda value, depth: {"~t": _items(value, depth)},
    bytes: lambda value, _: {"~b": base64.b64encode(value).decode("ascii")},
    datetime: lambda value, _: {"~dt": value.isoformat()},  # before date, which it extends
    date: lambda value, _: {"~d": value.isoformat()},
    UUID: lambda value, _: {"~u": value.hex},
    Decimal: lambda value, _: {"~n": str(value)},
}


# --- JSON → Python -------------------------------------------------------------------------------------


class _Markup(str):
    """Text that is safe HTML, where markupsafe (which has the real one) is not installed."""

    __slots__ = ()

    def __html__(self) -> str:
        return str.__str__(self)


def _markup(text: str) -> str:
    try:
        from markupsafe import Markup  # noqa: PLC0415  (optional: comes with Flask and Jinja)
    except ImportError:
        return _Markup(text)
    return Markup(text)  # noqa: S704  (it was Markup when it went in)


_READERS: dict[str, Callable[[Any], JsonValue]] = {
    "~t": lambda inner: tuple(_untagged(item) for item in inner),
    "~b": lambda inner: base64.b64decode(inner, validate=True),
    "~dt": datetime.fromisoformat,
    "~d": date.fromisoformat,
    "~u": UUID,
    "~n": Decimal,
    "~m": _markup,
    "~~": lambda inner: {name: _untagged(item) for name, item in inner.items()},
}


def _decoded(encoded: bytes, *, top: bool = False) -> JsonValue:
    try:
        plain = _decode(encoded)
        if b"~" not in encoded:  # one byte is found ten times as fast as the two that a tag begins with
            return plain
        if top and type(plain) is dict:  # the session itself is never a tag, whatever its keys
            return {name: _untagged(value) for name, value in plain.items()}
        return _untagged(plain)
    except _DAMAGE as problem:
        raise SessionDataError("the stored values cannot be decoded") from problem


_DAMAGE = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    InvalidOperation,
    RecursionError,
    binascii.Error,
)


def _untagged(value: JsonValue) -> JsonValue:
    if type(value) is list:
        return [_untagged(item) for item in value]
    if type(value) is not dict:
        return value
    if _looks_tagged(value):
        [(tag, inner)] = value.items()
        return _READERS[tag](inner)
    return {name: _untagged(item) for name, item in value.items()}


def _looks_tagged(value: dict[str, JsonValue]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("~")
