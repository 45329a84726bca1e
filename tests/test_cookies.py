"""The cookie's bytes: what is accepted, what is found, what is written, what is refused.

Reading order: helpers, signing, forgery, keys, finding, attributes, settings, secrecy.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from itsdangerous import BadSignature, Signer, TimestampSigner, URLSafeSerializer, URLSafeTimedSerializer
from starlette.datastructures import Secret
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import cookie_parser

from session_middleware import cookies
from session_middleware.cookies import CookieCodec, CookieReading, CookieSettings, Credential
from session_middleware.errors import ConfigurationError
from session_middleware.record import SessionId

KEY = "k7Zq0v-9sXw3bT1LmNp5RyUeHaGfDcJi2oV8"
OLD_KEY = "Wm4xQ-8tYb6nRz0cLk2vPs9dFh3jGa7eUi5o"
OLDER_KEY = "Hc1yN-5uKe8wTq3zXp7mBv0gLr4sJd6aOf9i"

GENERATION = 1_790_000_000_123
NOTHING = CookieReading((), (), 0)


def token(number: int) -> SessionId:
    """Twenty-two characters such as `secrets.token_urlsafe(16)` makes, the same in every run."""
    return SessionId(urlsafe_b64encode(hashlib.sha256(b"%d" % number).digest()[:16])[:22].decode())


def credential(number: int = 1, generation: int = GENERATION) -> Credential:
    return Credential(token(number), token(number + 1000), generation)


def codec(key: object = KEY, *fallback: object, **settings: Any) -> CookieCodec:
    return CookieCodec(CookieSettings(**settings), key, fallback)


def real_signer(key: str | list[str] = KEY, salt: str = "session_middleware.cookie.v1.session") -> Signer:
    return Signer(key, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)


def cookie_headers(*values: str | bytes) -> list[tuple[bytes, bytes]]:
    encoded = (value.encode() if isinstance(value, str) else value for value in values)
    return [(b"host", b"example.com"), *((b"cookie", value) for value in encoded)]


class CountingCodec(CookieCodec):
    """Counts how many values are verified."""

    def __init__(self) -> None:
        super().__init__(CookieSettings(), KEY)
        self.verified = 0

    def verify(self, value: bytes) -> Credential | None:
        self.verified += 1
        return super().verify(value)


CREDENTIALS = st.builds(
    Credential,
    st.integers(0, 2**64).map(token),
    st.integers(0, 2**64).map(token),
    st.integers(0, 10**16 - 1),
)

# --- Signing ---


@given(CREDENTIALS)
def test_what_is_signed_reads_back_equal(signed: Credential) -> None:
    ours = codec()
    assert ours.verify(ours.sign(signed).encode()) == signed
    assert ours.verify_promise(ours.sign_promise(signed).encode()) == signed


@given(CREDENTIALS, st.text(st.characters(codec="utf-8"), max_size=80))
def test_a_cookie_is_byte_for_byte_what_itsdangerous_signs(signed: Credential, text: str) -> None:
    key = f"k{text}"  # never empty, never a mask
    payload = f"{signed.id}.{signed.secret}.{signed.generation}"
    assert codec(key).sign(signed).encode() == real_signer(key).sign(payload)
    promise = real_signer(key, salt="session_middleware.promise.v1.session").sign(payload)
    assert codec(key).sign_promise(signed).encode() == promise


@pytest.mark.parametrize("length", [1, 31, 32, 63, 64, 65, 200])
def test_keys_of_every_length_are_used_as_itsdangerous_uses_them(length: int) -> None:
    key = "x" * length
    assert codec(key).verify(real_signer(key).sign(f"{token(1)}.{token(2)}.0")) is not None


def test_what_itsdangerous_signs_is_accepted() -> None:
    value = real_signer().sign(f"{token(1)}.{token(2)}.7")
    assert codec().verify(value) == Credential(token(1), token(2), 7)


@given(CREDENTIALS)
def test_a_cookie_is_under_128_bytes_of_the_plain_alphabet(signed: Credential) -> None:
    value = codec().sign(signed)
    assert len(value) < 128
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", value)


@pytest.mark.parametrize(
    "broken",
    [
        credential()._replace(id=SessionId("short")),
        credential()._replace(id=SessionId("a" * 22)),
        credential()._replace(secret="ü" * 22),
        credential()._replace(secret=token(1) + ";"),
        credential(generation=-1),
        credential(generation=10**16),
    ],
)
def test_a_credential_that_could_not_be_read_back_is_not_signed(broken: Credential) -> None:
    with pytest.raises(ValueError, match="shape") as caught:
        codec().sign(broken)
    assert broken.secret not in str(caught.value)


# --- Forgery ---


def mutants(value: bytes) -> Iterator[bytes]:
    """Every value one step away: each byte replaced, inserted, deleted; swaps, cuts, repeats, longer ends."""
    for at in range(len(value) + 1):
        head, tail = value[:at], value[at:]
        yield from (head, tail, head + tail[1:], head + value + tail, head + tail[:1] + tail)
        for byte in range(256):
            yield head + bytes([byte]) + tail[1:]
            yield head + bytes([byte]) + tail
    for first, second in itertools.combinations(range(len(value)), 2):
        swapped = bytearray(value)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        yield bytes(swapped)
    ends = (b"=", b"~", b"!", b"A", b".", b"\0", b"\n")
    yield from (value + end * count for end in ends for count in range(1, 5))
    yield from (value.upper(), value.lower(), value.swapcase(), b"null", b"")


def accepted_mutants(accepts: Callable[[bytes], bool], value: bytes) -> set[bytes]:
    return {mutant for mutant in mutants(value) if mutant != value and accepts(mutant)}


@pytest.mark.parametrize("number", range(6))
def test_no_mutant_of_a_valid_cookie_is_accepted(number: int) -> None:
    ours = codec(KEY, OLD_KEY)
    value = ours.sign(credential(number)).encode()
    assert accepted_mutants(lambda mutant: ours.verify(mutant) is not None, value) == set()
    assert ours.verify(value) is not None


def test_no_mutant_of_a_promise_is_accepted() -> None:
    ours = codec()
    value = ours.sign_promise(credential()).encode()
    assert accepted_mutants(lambda mutant: ours.verify_promise(mutant) is not None, value) == set()


def test_the_mutants_include_some_that_a_plain_signer_accepts() -> None:
    def unsigns(mutant: bytes) -> bool:
        try:
            real_signer().unsign(mutant)
        except BadSignature:
            return False
        return True

    assert len(accepted_mutants(unsigns, codec().sign(credential()).encode())) >= 5


@given(st.binary(max_size=200))
@example(b"")
@example(b"." * 106)
def test_random_bytes_verify_to_none(value: bytes) -> None:
    assert codec().verify(value) is None
    assert codec().verify_promise(value) is None


@given(CREDENTIALS, st.binary(min_size=32, max_size=32))
def test_the_right_shape_with_a_random_signature_verifies_to_none(forged: Credential, noise: bytes) -> None:
    signature = urlsafe_b64encode(noise)[:43]
    value = f"{forged.id}.{forged.secret}.{forged.generation}.".encode() + signature
    assert cookies._SHAPE(value)
    assert codec().verify(value) is None


@pytest.mark.parametrize("payload", [
    f"{token(1)}.{token(2)}.", f"{token(1)}.{token(2)}.01", f"{token(1)}.{token(2)}.-1",
    f"{token(1)}.{token(2)}.12345678901234567", f"{token(1)}.{token(2)}.1.1", f"{token(1)}.{token(2)}",
    f"{token(1)[:-1]}.{token(2)}.1", f"{token(1)[:-1]}B.{token(2)}.1", f"{token(1)[:-1]}..{token(2)}.1",
    f"{token(1)}.{token(2)}.٣", f"{token(1)}.{token(2)}.1\n", "",
])  # fmt: skip
def test_another_shape_is_refused_even_where_our_own_key_and_salt_signed_it(payload: str) -> None:
    assert codec().verify(real_signer().sign(payload)) is None


PAYLOAD = f"{token(1)}.{token(2)}.{GENERATION}"


@pytest.mark.parametrize("value", [
    Signer(KEY).sign(PAYLOAD),
    Signer(KEY, salt="session_middleware.cookie.v1.session").sign(PAYLOAD),
    Signer(KEY, salt="session_middleware.cookie.v1.session", digest_method=hashlib.sha256).sign(PAYLOAD),
    real_signer(salt="itsdangerous.Signer").sign(PAYLOAD),
    real_signer(salt="session_middleware.cookie.v1.").sign(PAYLOAD),
    real_signer(salt="session_middleware.cookie.v2.session").sign(PAYLOAD),
    real_signer(salt="session_middleware.cookie.v1.other").sign(PAYLOAD),
    real_signer(salt="session_middleware.promise.v1.session").sign(PAYLOAD),
    TimestampSigner(KEY).sign(PAYLOAD),
    TimestampSigner(KEY, salt="session_middleware.cookie.v1.session", key_derivation="hmac").sign(PAYLOAD),
    URLSafeSerializer(KEY, salt="session_middleware.cookie.v1.session").dumps(PAYLOAD).encode(),
    URLSafeTimedSerializer(KEY, salt="cookie-session").dumps({"user": 1}).encode(),
], ids=itertools.count())  # fmt: skip
def test_what_others_sign_with_the_same_key_is_refused(value: bytes) -> None:
    assert codec().verify(value) is None


def test_a_cookie_of_another_name_is_refused() -> None:
    value = codec(session_cookie="admin").sign(credential()).encode()
    assert codec(session_cookie="admin").verify(value) == credential()
    assert codec(session_cookie="session").verify(value) is None


def test_a_promise_is_no_cookie_and_a_cookie_is_no_promise() -> None:
    ours = codec()
    assert ours.verify(ours.sign_promise(credential()).encode()) is None
    assert ours.verify_promise(ours.sign(credential()).encode()) is None


def test_only_verified_cookies_are_remembered_and_never_more_than_the_bound() -> None:
    ours = codec()
    for number in range(4096 + 50):
        assert ours.verify(ours.sign(credential(generation=number)).encode()) is not None
        ours.verify(codec(OLD_KEY).sign(credential()).encode()) if number < 50 else None
    assert len(ours._known) == 50
    assert ours.verify(ours.sign(credential()).encode()) == credential()


# --- Keys ---


@pytest.mark.parametrize("order", list(itertools.permutations([OLD_KEY, OLDER_KEY])))
def test_a_cookie_of_any_fallback_key_is_accepted_in_every_order(order: tuple[str, ...]) -> None:
    for old in (KEY, OLD_KEY, OLDER_KEY):
        assert codec(KEY, *order).verify(codec(old).sign(credential()).encode()) == credential()


@pytest.mark.parametrize("keys", list(itertools.permutations([KEY, OLD_KEY, OLDER_KEY])))
def test_a_fallback_key_never_signs(keys: tuple[str, ...]) -> None:
    assert codec(*keys).sign(credential()) == codec(keys[0]).sign(credential())
    assert codec(*keys).sign_promise(credential()) == codec(keys[0]).sign_promise(credential())


def test_a_key_that_was_taken_away_opens_nothing() -> None:
    value = codec(OLD_KEY).sign(credential()).encode()
    assert codec(KEY, OLD_KEY).verify(value) == credential()
    assert codec(KEY).verify(value) is None


def test_a_promise_of_a_fallback_key_is_accepted() -> None:
    value = codec(OLD_KEY).sign_promise(credential()).encode()
    assert codec(KEY, OLD_KEY).verify_promise(value) == credential()


def test_a_repeated_key_costs_nothing() -> None:
    assert len(codec(KEY, KEY, OLD_KEY, OLD_KEY)._cookies._macs) == 2


class PydanticSecret:
    """As pydantic's SecretStr: its text is a mask."""

    def get_secret_value(self) -> str:
        return KEY

    def __str__(self) -> str:
        return "**********"


@pytest.mark.parametrize("key", [KEY, KEY.encode(), bytearray(KEY.encode()), Secret(KEY), PydanticSecret()])
def test_a_key_may_be_text_bytes_or_an_object_that_holds_text(key: object) -> None:
    assert codec(key).sign(credential()) == codec(KEY).sign(credential())
    assert codec(OLD_KEY, key).verify(codec(KEY).sign(credential()).encode()) == credential()


@pytest.mark.parametrize(("key", "words"), [
    ("", ["empty", "32 random bytes"]), (b"", ["empty"]), (" \n", ["empty"]), (Secret(""), ["empty"]),
    ("*" * 10, ["mask", "pass the key itself"]), (None, ["NoneType", "text or bytes"]), (12345, ["int"]),
    ([KEY], ["list"]), (object(), ["object"]),
])  # fmt: skip
def test_what_is_no_key_is_refused(key: object, words: list[str]) -> None:
    for argument, arguments in {"secret_key": (key,), "fallback_keys": (KEY, key)}.items():
        with pytest.raises(ConfigurationError) as caught:
            codec(*arguments)
        assert str(caught.value).startswith(f"{argument}: ")
        assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("fallback", [OLD_KEY, OLD_KEY.encode(), Secret(OLD_KEY), None, {OLD_KEY: 1}])
def test_fallback_keys_that_are_no_list_are_refused(fallback: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^fallback_keys: .*pass a list") as caught:
        CookieCodec(CookieSettings(), KEY, fallback)
    assert OLD_KEY not in str(caught.value)


@pytest.mark.parametrize("collection", [list, tuple, set, frozenset])
def test_fallback_keys_come_in_any_collection(collection: Callable[[list[str]], Any]) -> None:
    ours = CookieCodec(CookieSettings(), KEY, collection([OLD_KEY]))
    assert ours.verify(codec(OLD_KEY).sign(credential()).encode()) == credential()


def test_a_key_that_utf_8_cannot_encode_raises_no_error_that_would_show_it() -> None:
    ours = codec("\ud800" + KEY)
    assert ours.verify(ours.sign(credential()).encode()) == credential()


@pytest.mark.parametrize(("key", "reason"), [
    ("secret", "well-known"), ("changeme", "well-known"), ("example", "well-known"), ("dev", "well-known"),
    ("django-insecure-" + KEY, "well-known"), ("this-is-my-very-SECRET-key-do-not-share", "well-known"),
    ("09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7", "well-known"),
    (KEY[:31], "32 bytes"), ("0" * 64, "different bytes"), (b"\xff" * 32, "different bytes"),
])  # fmt: skip
def test_a_weak_key_is_named_as_weak_but_not_shown(key: str | bytes, reason: str) -> None:
    for weak in (codec(key).weak_key, codec(KEY, key).weak_key):
        assert weak is not None
        assert reason in weak
        assert str(key) not in weak
    assert "fallback" in str(codec(KEY, key).weak_key)


@pytest.mark.parametrize("key", [
    "dev", "Development", "KEY", "test", "testing", "default", "none", "null", "mykey", "topsecret",
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf", b'_5#y2L"F4Q8z\n\xec]/',
    *(f"{word}-{KEY}" for word in (
        "secret", "changeme", "change-me", "change_me", "change this", "example", "insecure", "password",
        "Your-Key",
    )),
])  # fmt: skip
def test_what_tutorials_and_templates_show_is_well_known(key: str | bytes) -> None:
    assert codec(key).weak_key == "a well-known value that anybody can guess"


@pytest.mark.parametrize(("key", "weakness"), [
    (KEY[:32], None), (KEY[:31], "shorter than 32 bytes"), ("abcdefgh" * 4, None),
    ("abcdefg" * 5, "made of fewer than 8 different bytes"), ("x-dev-" + KEY, None),
    ("X" * 40, "made of fewer than 8 different bytes"),
])  # fmt: skip
def test_a_key_is_weak_up_to_a_length_and_a_number_of_different_bytes(key: str, weakness: str | None) -> None:
    assert codec(key).weak_key == weakness
    assert codec(KEY, key).weak_key == (weakness and f"{weakness} (a fallback)")


@pytest.mark.parametrize("key", [KEY, KEY[:32], bytes(range(32)), hashlib.sha256(b"x").hexdigest()])
def test_a_good_key_is_not_called_weak(key: str | bytes) -> None:
    assert codec(key, OLD_KEY).weak_key is None


# --- Finding ---


def test_a_request_without_our_cookie_reads_as_nothing() -> None:
    assert codec().read([]) == NOTHING
    assert codec().read(cookie_headers("a=b; sessions=c; xsession=d; session2=e")) == NOTHING
    assert codec().read_text("") == NOTHING


@pytest.mark.parametrize("around", [
    "{}", "a=b; {}", "{}; a=b", "a=b; {}; c=d", "a=b;{};c=d", "a=b;\t{}\t;c=d", " {} ", "{} ",
    "a=b; {}\t", ";;{};;", "; {}; ",
    "xsession=1; {}", "a=session=; {}", 'a="; {}; b="', "session; {}", "=session=1; {}", "{};session",
])  # fmt: skip
def test_our_cookie_is_found_wherever_it_stands(around: str) -> None:
    ours = codec()
    header = around.format(f"session={ours.sign(credential())}")
    for _ in ("looked at", "remembered"):
        assert ours.read(cookie_headers(header)) == CookieReading((credential(),), (), 0)
        assert ours.read_text(header) == CookieReading((credential(),), (), 0)


@pytest.mark.parametrize("value", [
    "", "null", "x", '"{}"', "{}x", "{}=", "{}.", "{},a=b", "%22{}", "é", "a" * 5000,
])  # fmt: skip
def test_a_malformed_cookie_of_our_name_is_rejected(value: str) -> None:
    ours = codec()
    for header in (f"session={value.format(ours.sign(credential()))}", "a=b; session=x; c=d"):
        assert ours.read(cookie_headers(header)) == CookieReading((), (), 1)
        assert ours.read_text(header) == CookieReading((), (), 1)


def test_text_that_is_no_latin_1_is_read_without_an_error() -> None:
    ours = codec()
    assert ours.read_text(f"a=\u2000; session={ours.sign(credential())}").credentials == (credential(),)
    assert ours.read_text(f"\u2000session={ours.sign(credential())}") == NOTHING


UNICODE_SPACES = [chr(point) for point in range(0x110000) if chr(point).isspace()]
ONE_BYTE_AROUND = [pattern for byte in range(256) if byte not in b" \t;"
                   for pattern in (bytes([byte]) + b"NAME", b"NAME" + bytes([byte]))]  # fmt: skip
SPOOFED_NAMES = [
    *ONE_BYTE_AROUND,
    *(pattern for space in UNICODE_SPACES if space not in " \t"
      for pattern in (space.encode() + b"NAME", b"NAME" + space.encode())),
    b"NAME ", b"NAME\t", b"=NAME", b"$NAME", b"a NAME", b"NAME;", b"NAME;=", b"$Version=1,NAME", b'"NAME"',
    b"%5f%5fHost-session", b"__HOST-session", b"__host-session", b"__Host-Session", b"_Host-session",
]  # fmt: skip


def spoofed_headers(name: bytes, value: bytes) -> Iterator[bytes]:
    for spoof in SPOOFED_NAMES:
        pair = spoof.replace(b"NAME", name) + b"=" + value
        yield from (pair, b"a=b; " + pair, pair + b"; a=b", b"a=b;" + pair + b";c=d")


def test_no_name_but_the_exact_one_is_ours() -> None:
    ours = codec(session_cookie="__Host-session")
    value = ours.sign(credential()).encode()
    wrong = [
        header
        for header in spoofed_headers(b"__Host-session", value)
        # "NAME=" + "=" + value is our name with a value that begins with "=": malformed, so rejected.
        if ours.read(cookie_headers(header)) != (CookieReading((), (), 1) if b"n==" in header else NOTHING)
    ]
    assert wrong == []
    assert ours.read(cookie_headers(b"__Host-session=" + value)).credentials == (credential(),)


def test_the_spoofed_names_include_some_that_starlettes_parser_takes_for_ours() -> None:
    taken = {
        header
        for header in spoofed_headers(b"__Host-session", b"evil")
        for decoded in (header.decode("latin-1"), header.decode("utf-8", "replace"))
        if cookie_parser(decoded).get("__Host-session") == "evil"
    }
    assert len(taken) > 50


@pytest.mark.parametrize("name", ["session", "__Host-session", "a", "s.e-s_s"])
def test_cookies_without_a_name_or_without_a_value_are_not_ours(name: str) -> None:
    ours = codec(session_cookie=name)
    value = ours.sign(credential())
    for header in (name, f"={name}", f"={name}={value}", value, f"x={name}={value}", f"{name}; x={value}"):
        assert ours.read(cookie_headers(header)) == NOTHING


def splits(pairs: tuple[str, ...]) -> Iterator[list[str]]:
    """Every way to send these pairs, in this order, over one or more headers."""
    for cuts in itertools.product((False, True), repeat=len(pairs) - 1):
        headers = [pairs[0]]
        for cut, pair in zip(cuts, pairs[1:], strict=True):
            headers = [*headers, pair] if cut else [*headers[:-1], f"{headers[-1]}; {pair}"]
        yield headers


def test_duplicates_read_the_same_in_every_order_and_over_any_number_of_headers() -> None:
    ours = codec()
    values = [
        ours.sign(credential(1, 5)),
        ours.sign(credential(1, 40)),
        ours.sign(credential(2, 7)),
        ours.sign_promise(credential(3, 1)),
        codec(OLD_KEY).sign(credential(4)),
    ]
    pairs = ["foreign=1", *(f"session={value}" for value in values)]
    for order in itertools.permutations(pairs):
        for headers in splits(order):
            reading = ours.read(cookie_headers(*headers))
            assert set(reading.credentials) == {credential(1, 40), credential(2, 7)}
            assert (reading.promises, reading.rejected) == ((credential(3, 1),), 1)


def test_credentials_come_in_the_order_of_first_appearance() -> None:
    ours = codec()
    numbers = [(2, 1), (1, 9), (3, 1), (2, 8), (1, 2)]
    header = "; ".join(f"session={ours.sign(credential(*each))}" for each in numbers)
    found = ours.read(cookie_headers(header)).credentials
    assert found == (credential(2, 8), credential(1, 9), credential(3, 1))


def test_one_id_and_generation_with_two_secrets_reads_the_same_in_either_order() -> None:
    ours = codec()
    pairs = [f"session={ours.sign(Credential(token(1), token(secret), 5))}" for secret in (2, 3)]
    there, back = (ours.read(cookie_headers("; ".join(order))) for order in (pairs, pairs[::-1]))
    assert there == back
    assert len(there.credentials) == 1


def test_a_reading_does_not_depend_on_what_was_remembered() -> None:
    ours, value = codec(), codec().sign(credential())
    alone = cookie_headers(f"session={value}")
    doubled = cookie_headers(f"session={value}; session={value}; session=x")
    assert [ours.read(alone), ours.read(alone), ours.read(doubled), ours.read(alone)] == [
        CookieReading((credential(),), (), 0),
        CookieReading((credential(),), (), 0),
        CookieReading((credential(),), (), 1),
        CookieReading((credential(),), (), 0),
    ]


def test_more_cookies_than_are_looked_at_are_rejected_unverified() -> None:
    ours, stranger = CountingCodec(), codec(OLD_KEY)
    forged = [f"session={stranger.sign(credential(number))}" for number in range(600)]
    malformed = ["session=x"] * 100
    valid = f"session={ours.sign(credential())}"
    assert cookies.LOOKED_AT_MOST == 16
    at_the_limit = [*malformed, *forged[: cookies.LOOKED_AT_MOST - 1], valid]
    assert ours.read(cookie_headers("; ".join(at_the_limit))).credentials == (credential(),)
    assert ours.verified == cookies.LOOKED_AT_MOST
    ours.verified = 0
    header = "; ".join([*forged, valid])
    assert len(header) > 64 * 1024
    assert ours.read(cookie_headers(header)) == CookieReading((), (), 601)
    assert ours.verified == cookies.LOOKED_AT_MOST


HOSTILE = [b"\\", b'"', b";", b"=", b" ", b"\t", b"\x80", b"a=b;", b"session", b"session=", b"session=;",
           b"; ", b"session;", b" session =", b"=session", b'session="\\',
           b"session=\\073;", b"A."]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_header_of_64_kb_is_read_without_verifying_anything(piece: bytes) -> None:
    ours = CountingCodec()
    header = piece * (64 * 1024 // len(piece))
    assert ours.read(cookie_headers(header))[:2] == ((), ())
    assert ours.read(cookie_headers(b"session=" + header))[:2] == ((), ())
    assert ours.verified == 0
    valid = b"session=" + ours.sign(credential()).encode()
    assert ours.read(cookie_headers(header + b";" + valid + b";" + header)).credentials == (credential(),)
    assert ours.verified == 1


@given(st.lists(st.binary(max_size=300), max_size=4), st.sampled_from(["session", "a", "__Host-x"]))
def test_any_bytes_at_all_are_read_without_an_error(headers: list[bytes], name: str) -> None:
    reading = codec(session_cookie=name).read(cookie_headers(*headers))
    assert reading.credentials == reading.promises == ()


def plain_parser(name: bytes, header: bytes) -> list[bytes]:
    """The rule, without any short cut."""
    found = []
    for pair in header.split(b";"):
        key, separator, value = pair.strip(b" \t").partition(b"=")
        if separator and key == name:
            found.append(value.strip(b" \t"))
    return found


@pytest.mark.parametrize(("header", "values"), [
    (b"session=x", [b"x"]), (b"session= \tx \t", [b"x"]), (b"a=1; session= x", [b"x"]),
    (b"session=XxX", [b"XxX"]), (b" \tsession=x", [b"x"]), (b"session= x ;session=\ty", [b"x", b"y"]),
    (b"session =x", []), (b"session=a=b", [b"a=b"]), (b"session=", [b""]), (b"a=session=x", []),
])  # fmt: skip
def test_space_and_tab_are_stripped_around_a_value_and_before_the_name(
    header: bytes, values: list[bytes]
) -> None:
    assert plain_parser(b"session", header) == values
    assert list(cookies._values_after(b"session=", header)) == values


def test_only_the_cookie_header_is_read() -> None:
    ours, value = codec(), codec().sign(credential()).encode()
    others = [
        (name, b"session=" + value) for name in (b"x-cookie", b"set-cookie", b"cookie2", b"Cookie", b"")
    ]
    assert ours.read(others) == NOTHING
    assert cookies.values_named("session", others) == []
    assert ours.read([*others, (b"cookie", b"session=" + value)]).credentials == (credential(),)


def test_values_of_any_name_are_found_as_they_were_sent() -> None:
    headers = cookie_headers(b"other=1; session= a ", b"session=b;sess=2;session=\xff")
    assert cookies.values_named("session", headers) == [b"a", b"b", b"\xff"]
    assert (
        cookies.values_named("s\xe9", cookie_headers(b"s\xe9=1; s=2")) == []
    )  # no cookie can have that name


PIECES = [b"session", b"=", b";", b"; ", b" ", b"\t", b"x", b"sess", b"\xa0"]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_the_parser_finds_what_the_plain_rule_finds(pieces: list[bytes]) -> None:
    header = b"".join(pieces)
    assert list(cookies._values_after(b"session=", header)) == plain_parser(b"session", header)


@pytest.mark.parametrize(("set_cookie", "ours"), [
    (b"session=x; path=/", True), (b"session=", True), (b" session =x", True), (b"session=null;", True),
    (b"session", False), (b"session; a=b", False), (b"Session=x", False), (b"sessions=x", False),
    (b"xsession=x", False), (b"a=session=x", False), (b"=session", False), (b"", False),
    (b"\xa0session=x", False), (b"session=a=b; path=/", True), (b"Xsession=x", False),
    (b"\tsession\t=", True),
])  # fmt: skip
def test_a_set_cookie_header_of_our_name_is_recognised(set_cookie: bytes, ours: bool) -> None:
    assert codec().names_our_cookie(set_cookie) is ours


# --- Attributes ---


def test_a_cookie_is_set_with_starlettes_attributes() -> None:
    ours = codec()
    value = ours.sign(credential()).encode()
    start = b"session=" + value + b"; path=/; "
    plain = start + b"Max-Age=1209600; httponly; samesite=lax"
    assert ours.set_cookie(credential(), max_age=1209600, secure=False) == plain
    assert ours.set_cookie(credential(), max_age=1209600, secure=True) == plain + b"; secure"
    assert ours.set_cookie(credential(), max_age=None, secure=False) == start + b"httponly; samesite=lax"
    assert b"; Max-Age=0; " in ours.set_cookie(credential(), max_age=0, secure=False)
    assert b"; Max-Age=-1; " in ours.set_cookie(credential(), max_age=-1, secure=False)


def test_every_attribute_stands_where_starlette_puts_it() -> None:
    ours = codec(path="/shop", same_site="none", https_only=True, domain=".example.com", partitioned=True)
    flags = b"httponly; samesite=none; secure; domain=.example.com; partitioned"
    value = ours.sign(credential()).encode()
    assert ours.set_cookie(credential(), max_age=60, secure=True) == (
        b"session=" + value + b"; path=/shop; Max-Age=60; " + flags
    )
    assert ours.remove_cookie(secure=True) == (
        b"session=null; path=/shop; expires=Thu, 01 Jan 1970 00:00:00 GMT; " + flags
    )


@pytest.mark.parametrize("settings", [
    {}, {"https_only": True}, {"same_site": "strict"}, {"domain": "example.com"}, {"path": "/a"},
    {"https_only": True, "same_site": "none", "partitioned": True, "domain": ".a.com", "path": "/a%20b"},
])  # fmt: skip
def test_the_flags_are_those_of_starlettes_own_middleware(settings: dict[str, Any]) -> None:
    theirs = StarlettesMiddleware(lambda *_: None, KEY, **settings)  # type: ignore[arg-type]
    ours = codec(**settings)
    sent = ours.set_cookie(credential(), max_age=5, secure=ours.sends_secure(scheme_is_https=False)).decode()
    value = ours.sign(credential())
    assert sent == f"session={value}; path={theirs.path}; Max-Age=5; {theirs.security_flags}"


def test_a_promise_is_set_without_max_age() -> None:
    ours = codec()
    value = ours.sign_promise(credential()).encode()
    plain = b"session=" + value + b"; path=/; httponly; samesite=lax"
    assert ours.set_promise(credential(), secure=False) == plain
    assert ours.set_promise(credential(), secure=True) == plain + b"; secure"


def test_what_is_set_is_what_is_read() -> None:
    ours = codec()
    pair = ours.set_cookie(credential(), max_age=5, secure=True).partition(b";")[0]
    assert ours.read(cookie_headers(pair)).credentials == (credential(),)
    promise = ours.set_promise(credential(), secure=True).partition(b";")[0]
    assert ours.read(cookie_headers(promise)).promises == (credential(),)
    removed = ours.remove_cookie(secure=True).partition(b";")[0]
    assert ours.read(cookie_headers(removed)) == CookieReading((), (), 1)


@pytest.mark.parametrize("name", [
    "__Host-s", "__Secure-s", "__Http-s", "__Host-Http-s", "__host-s", "__SECURE-s",
])  # fmt: skip
def test_a_prefixed_cookie_always_carries_secure_also_when_removed(name: str) -> None:
    ours = codec(session_cookie=name)
    assert ours.sends_secure(scheme_is_https=False)
    assert b"; secure" in ours.remove_cookie(secure=False)
    assert b"; secure" in ours.set_cookie(credential(), max_age=None, secure=False)
    assert b"; secure" in ours.set_promise(credential(), secure=False)


@pytest.mark.parametrize(("https_only", "over_http", "over_https"), [
    (None, False, True), (True, True, True), (False, False, False),
])  # fmt: skip
def test_https_only_decides_about_secure(https_only: bool | None, over_http: bool, over_https: bool) -> None:
    ours = codec(https_only=https_only)
    assert ours.sends_secure(scheme_is_https=False) is over_http
    assert ours.sends_secure(scheme_is_https=True) is over_https


# --- Settings ---


def test_the_settings_are_starlettes_in_name_order_and_default() -> None:
    assert CookieSettings() == CookieSettings("session", 14 * 24 * 60 * 60, "/", "lax", None, None, False)


@pytest.mark.parametrize("settings", [
    {"session_cookie": "__Host-sid"}, {"session_cookie": "__Secure-sid", "domain": "a.com", "path": "/a"},
    {"session_cookie": "__Host-sid", "same_site": "none", "partitioned": True},
    {"session_cookie": "!#$%&'*+-.^_`|~09aZ"}, {"max_age": 0}, {"max_age": -1}, {"max_age": None},
    {"max_age": 400 * 86400}, {"domain": "127.0.0.1"}, {"domain": "localhost"}, {"path": "/%C3%A9"},
    {"same_site": "none", "https_only": True}, {"session_cookie": "a" * 3968}, {"path": "/" + "a" * 1023},
    {"domain": "a" * 1024},
])  # fmt: skip
def test_legal_settings_are_accepted(settings: dict[str, Any]) -> None:
    assert CookieSettings(**settings).session_cookie


def test_a_timedelta_is_converted_with_its_days() -> None:
    assert CookieSettings(max_age=timedelta(days=14)).max_age == 14 * 86400  # type: ignore[arg-type]


ILLEGAL: list[tuple[dict[str, Any], list[str]]] = [
    *(({"session_cookie": name}, ["session_cookie", "legal cookie name", "letters"])
      for name in ("", "a b", "a=b", "a;b", "a,b", 'a"b', "a\r\nb", "é", "a/b", "a\n", "[a]", "a\x00")),
    ({"session_cookie": None}, ["session_cookie", "NoneType", "str"]),
    ({"session_cookie": b"session"}, ["session_cookie", "bytes", "str"]),
    ({"session_cookie": "a" * 3969}, ["session_cookie", "3969", "at most 3968"]),
    *(({"max_age": wrong}, ["max_age", type(wrong).__name__, "timedelta"])
      for wrong in (True, False, 3600.0, "3600", float("nan"), [1])),
    ({"max_age": timedelta(seconds=1.5)}, ["max_age", "whole number of seconds", "round"]),
    ({"max_age": 400 * 86400 + 1}, ["max_age", "400 days", "34560000"]),
    ({"max_age": timedelta(days=401)}, ["max_age", "400 days"]),
    *(({"path": path}, ["path", "start with '/'", "'/shop'"]) for path in ("", "shop", "\n/", None, 1)),
    *(({"path": path}, ["path", "no cookie path", "percent-encode"])
      for path in ("/a;b", "/a\r\nSet-Cookie: x=y", "/a\x00", "/\x7f", "/é", "/\u2000", "/a b",
                   "/" + "a" * 1024)),
    *(({"domain": domain}, ["domain", "no host name", "example.com"])
      for domain in ("", "a;b", "a\r\nb", "a.b\n", "é.com", "https://a.b", "a.b:80", "a.b/c", "a..b", "a.",
                     1, "a" * 1025)),
    *(({"same_site": wrong}, ["same_site", f"write '{wrong.lower()}'"])
      for wrong in ("Lax", "STRICT", "None")),
    *(({"same_site": wrong}, ["same_site", "'lax', 'strict' or 'none'"])
      for wrong in ("", None, "lax; x", True)),
    *(({"https_only": wrong}, ["https_only", "True, False or None"]) for wrong in ("yes", 1, 0)),
    *(({"partitioned": wrong, "https_only": True}, ["partitioned", "True or False"])
      for wrong in ("yes", 1, None)),
    *(({"session_cookie": name, "https_only": False}, ["https_only", "without Secure", "leave https_only"])
      for name in ("__Host-s", "__Secure-s", "__Http-s", "__host-s")),
    ({"session_cookie": "__Host-s", "path": "/a"}, ["path", "__Host-", "path='/'", "__Secure-"]),
    ({"session_cookie": "__HOST-s", "path": "/a"}, ["path", "__Host-"]),
    ({"session_cookie": "__Host-s", "domain": "a.b"}, ["domain", "__Host-", "leave domain out"]),
    *(({"same_site": "none", "https_only": https}, ["same_site", "SameSite=None", "https_only=True"])
      for https in (None, False)),
    *(({"partitioned": True, "https_only": https}, ["partitioned", "Secure", "https_only=True"])
      for https in (None, False)),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "words"), ILLEGAL, ids=lambda value: repr(value)[:60])
def test_an_illegal_setting_is_refused_with_its_remedy(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CookieSettings(**settings)
    message = str(caught.value)
    assert re.fullmatch(rf"{words[0]}: [^;].*; .*[^.]\.", message)
    assert all(word in message for word in words)
    assert message.isprintable()


@pytest.mark.parametrize(("settings", "message"), [
    ({"https_only": "yes"}, "https_only: 'yes' is not known; use True, False or None."),
    ({"same_site": None}, "same_site: None is not known; use 'lax', 'strict' or 'none'."),
    ({"same_site": "LAX"}, "same_site: 'LAX' is not known; write 'lax'."),
    ({"partitioned": True}, ("partitioned: browsers refuse Partitioned without Secure; "
     "set https_only=True (None would leave Secure out on plain http).")),
])  # fmt: skip
def test_a_refusal_says_which_argument_what_is_wrong_and_what_to_do(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CookieSettings(**settings)
    assert str(caught.value) == message


# --- Secrecy ---


def test_a_credential_is_shown_without_its_secret() -> None:
    shown = f"Credential(id='{token(1)}', secret=<hidden>, generation=7)"
    assert (repr(credential(1, 7)), str(credential(1, 7))) == (shown, shown)


def test_no_repr_shows_a_secret_or_a_key() -> None:
    ours = codec(KEY, OLD_KEY)
    value = ours.sign(credential())
    reading = ours.read(cookie_headers(f"session={value}; session={ours.sign_promise(credential(2))}"))
    shown = " ".join([
        repr(credential()), str(credential()), f"{credential()}", repr([credential()]), repr(reading),
        str(reading), repr(ours), repr(ours._cookies), repr(ours._cookies._macs),
        repr(ours.settings), str(ours.weak_key),
    ])  # fmt: skip
    assert credential().id in shown
    for hidden in (credential().secret, credential(2).secret, KEY, OLD_KEY, value):
        assert hidden not in shown
