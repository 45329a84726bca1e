"""Values as bytes: what goes in comes back, and what cannot is refused by name."""

from __future__ import annotations

import gc
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_middleware import values as module
from session_middleware.errors import SessionDataError
from session_middleware.values import (
    MAX_DEPTH,
    Values,
    check_size,
    decode_value,
    decode_values,
    encode_plainly,
    encode_value,
)

markupsafe = pytest.importorskip("markupsafe")

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
INTEGERS = st.integers(-(2**63), 2**64 - 1)
PLAIN = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT
OFFSETS = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
TAGGED = (
    st.binary()
    | st.datetimes(timezones=st.none() | OFFSETS)
    | st.dates()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | TEXT.map(markupsafe.Markup)
)
NAMES = TEXT | st.sampled_from(["~", "~t", "~b", "~dt", "~d", "~u", "~n", "~m", "~~", "~new"])


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(NAMES, inner, max_size=4)
        ),
        max_leaves=12,
    )


def kind_of(value: Any) -> str:
    """Names a test the same in every process, as a repr with an address does not."""
    return type(value).__name__


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, datetime):
        return one == other and one.utcoffset() == other.utcoffset()
    if isinstance(one, float | Decimal):
        return repr(one) == repr(other)
    return bool(one == other)


def plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


# --- there and back ---


@given(nested(PLAIN | TAGGED))
def test_every_value_comes_back_as_it_went_in(value: Any) -> None:
    assert same(decode_value(encode_value("key", value)), value)


@given(st.dictionaries(NAMES, nested(PLAIN | TAGGED), max_size=5))
def test_a_whole_session_comes_back_whatever_its_keys(session: dict[str, Any]) -> None:
    packed = Values.of({name: encode_value(name, value) for name, value in session.items()})
    assert same(decode_values(packed), session)
    assert same(decode_values(Values(packed.packed)), session)
    assert dict(Values(packed.packed)) == dict(packed)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime.max,  # noqa: DTZ901  (naive ones are held too)
        date.min,
        Decimal("1E+400"),
        Decimal("-Infinity"),
        Decimal("1.10"),
        UUID(int=0),
        b"\x00\xff",
        (),
        ((), [()]),
        {"~t": [1]},
        {"~~": {"~t": 1}},
        {"~": {}},
        markupsafe.Markup("<b>"),
        -0.0,
        2**63,
    ],
    ids=repr,
)
def test_the_corners_of_each_type_come_back(value: Any) -> None:
    assert same(decode_value(encode_value("key", value)), value)


def test_subclasses_are_kept_as_what_they_extend() -> None:
    class Colour(StrEnum):
        RED = "red"

    class Level(IntEnum):
        HIGH = 3

    class Bag(dict[str, int]):
        pass

    kept = decode_value(encode_value("key", [Colour.RED, Level.HIGH, Bag(a=1), {Colour.RED: 1}]))
    assert same(kept, ["red", 3, {"a": 1}, {"red": 1}])


def test_markup_is_kept_without_markupsafe_too(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode_value("key", markupsafe.Markup("<b>"))
    monkeypatch.setitem(__import__("sys").modules, "markupsafe", None)
    text = decode_value(encoded)
    assert (text, text.__html__()) == ("<b>", "<b>")
    assert encode_value("key", text) == encoded


# --- what cannot be held ---


@pytest.mark.parametrize(
    "value",
    [
        *(
            object(),
            {1, 2},
            frozenset(),
            1j,
            float("nan"),
            float("inf"),
            range(3),
            bytearray(b"x"),
            Exception(),
        ),
        *({1: 2}, {None: 1}, {b"x": 1}, "\ud800", {"\ud800": 1}, ["\udfff"], timedelta(1), type, len),
    ],
    ids=kind_of,
)
def test_what_cannot_be_held_is_refused_by_its_key(value: Any) -> None:
    for wrapped in (value, [value], {"a": (value,)}):
        with pytest.raises(SessionDataError, match="place") as refused:
            encode_value("place", wrapped)
        assert refused.value.key == "place"


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**400], ids=["2**64", "-2**63-1", "10**400"])
def test_a_huge_integer_comes_back_or_is_refused_by_its_key(value: int) -> None:
    try:
        encoded = encode_value("place", value)
    except SessionDataError as refused:
        assert refused.key == "place"  # noqa: PT017  (or it comes back: either is right)
    else:
        assert same(decode_value(encoded), value)


def test_the_message_never_holds_the_value() -> None:
    class Hidden:
        def __repr__(self) -> str:
            return "hunter2"

    for value in (Hidden(), {"password": Hidden()}, {"hunter2": Hidden()}, {("hunter2",): 1}):
        with pytest.raises(SessionDataError) as refused:
            encode_value("key", value)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("key", [5, None, b"x", ("a",)])
def test_a_key_that_is_no_text_is_refused(key: Any) -> None:
    with pytest.raises(SessionDataError, match="text"):
        encode_value(key, 1)


def test_a_key_of_lone_surrogates_is_refused() -> None:
    with pytest.raises(SessionDataError, match="surrogate"):
        encode_value("\ud800", 1)


def test_nesting_is_legal_up_to_the_limit() -> None:
    deep: list[Any] = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert decode_value(encode_value("key", deep)) == deep
    with pytest.raises(SessionDataError, match=str(MAX_DEPTH)):
        encode_value("key", [deep])


def test_a_value_that_holds_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(SessionDataError):
        encode_value("key", ring)
    assert encode_plainly({"key": ring}) is None


# --- damage ---


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_data_error(damaged: bytes) -> None:
    for decode in (decode_value, lambda raw: decode_values(Values(raw)), lambda raw: dict(Values(raw))):
        with suppress(SessionDataError):
            decode(damaged)


@given(
    tag=st.sampled_from(["~t", "~b", "~dt", "~d", "~u", "~n", "~m", "~~", "~new", "~"]),
    inner=nested(PLAIN),
)
def test_any_content_of_a_tag_is_a_value_or_a_data_error(tag: str, inner: Any) -> None:
    raw = msgspec.json.encode({"key": {tag: inner}})
    try:
        decode_values(Values(raw))
    except SessionDataError as refused:
        assert str(refused) == "the stored values cannot be decoded"  # noqa: PT017  (or it is a value)


@given(st.dictionaries(TEXT, nested(PLAIN | TAGGED), min_size=1, max_size=3), st.data())
def test_a_damaged_byte_is_another_value_or_a_data_error(
    session: dict[str, Any], data: st.DataObject
) -> None:
    packed = bytearray(Values.of({name: encode_value(name, value) for name, value in session.items()}).packed)
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(SessionDataError):
        decode_values(Values(bytes(packed)))


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"null", b"", b"{", b'{"a":1}x', b"\xff"])
def test_stored_values_that_are_no_object_are_a_data_error(raw: bytes) -> None:
    with pytest.raises(SessionDataError):
        decode_values(Values(raw))
    with pytest.raises(SessionDataError):
        dict(Values(raw))


def test_an_unknown_tag_is_a_data_error_never_another_value() -> None:
    with pytest.raises(SessionDataError):
        decode_value(b'{"~new":1}')


def test_deep_nesting_in_stored_bytes_is_a_data_error() -> None:
    with pytest.raises(SessionDataError):
        decode_value(b"[" * 100_000 + b"]" * 100_000)


# --- what has changed, how much there is ---


@given(st.dictionaries(TEXT, nested(PLAIN).filter(lambda value: "(" not in repr(value)), max_size=4))
def test_unchanged_values_encode_plainly_to_what_is_stored(session: dict[str, Any]) -> None:
    stored = Values.of({name: encode_value(name, value) for name, value in session.items()})
    if b'"~' not in stored.packed:
        assert encode_plainly(decode_values(stored)) == stored.packed


@given(
    st.dictionaries(TEXT, nested(PLAIN), min_size=1, max_size=4),
    st.sampled_from([1, "x", None, [1], {"a": {}}]),
)
def test_another_value_never_encodes_plainly_to_what_is_stored(session: dict[str, Any], other: Any) -> None:
    stored = Values.of({name: encode_value(name, value) for name, value in session.items()})
    name = next(iter(session))
    changed = {**decode_values(stored), name: other}
    if encode_value(name, other) != stored[name]:
        assert encode_plainly(changed) != stored.packed


@pytest.mark.parametrize("value", [object(), float("nan"), "\ud800", {1, object()}], ids=kind_of)
def test_what_cannot_be_encoded_plainly_is_none_or_differs(value: Any) -> None:
    assert encode_plainly({"key": value}) in (None, b'{"key":null}')


def test_a_size_within_the_limits_is_fine() -> None:
    check_size({"a": b"12", "bc": b"3"}, max_bytes=6, max_keys=2)


def test_a_size_beyond_a_limit_names_the_largest_key() -> None:
    with pytest.raises(SessionDataError, match=r"6 bytes, the limit is 5.*'a'") as refused:
        check_size({"a": b"1234", "b": b""}, max_bytes=5, max_keys=2)
    assert refused.value.key == "a"
    with pytest.raises(SessionDataError, match="3 keys, the limit is 2") as refused:
        check_size({"a": b"", "b": b"", "c": b""}, max_bytes=5, max_keys=2)
    assert refused.value.key is None


def test_the_repr_of_values_holds_none() -> None:
    assert repr(Values(b'{"password":"hunter2"}')) == "<Values of 22 bytes>"


def test_values_are_a_mapping() -> None:
    values = Values(b'{"a":1,"b":[2]}')
    assert (len(values), list(values), values["b"], values.get("c")) == (2, ["a", "b"], b"[2]", None)
    assert (dict(values), "a" in values, "c" in values, bool(values)) == (values.pairs, True, False, True)
    assert Values.of({"b": b"[2]", "a": b"1"}) == values
    assert not Values.of({"b": b"[2]", "a": b"1"}) != values  # noqa: SIM202  (both operators are asked)
    assert Values.of({"a": b"1", "b": b"[3]"}) != values
    assert module.NO_VALUES == {}
    assert not module.NO_VALUES


def test_values_are_nothing_to_the_garbage_collector() -> None:
    assert not gc.is_tracked(Values(b'{"a":1}'))
