"""A slow codec of nothing but the written rules, to be compared with ours for whatever a client may send.

Reading order: `Reference` (one function per rule), `headers_from` (bytes of a fuzzer become headers),
`disagreement`, and the codecs that are wrong on purpose, which must be found out.

Nothing here is shared with `session_middleware.cookies` but the tuples in which answers come: cookies are
split by hand, shapes are checked letter by letter, and itsdangerous signs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

from itsdangerous import Signer

from session_middleware.cookies import CookieCodec, CookieReading, CookieSettings, Credential
from session_middleware.record import SessionId
from tests.security.cookies import CONTROLS as WRONG_PARSERS
from tests.security.cookies import KEY
from tests.test_cookies import OLD_KEY, credential, plain_parser

__all__ = ["CONTROLS", "Reference", "codec_of", "disagreement", "headers_from", "reference_of"]

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ENDS_OF_AN_ID, ENDS_OF_A_SIGNATURE = b"AQgw", b"AEIMQUYcgkosw048"
LOOKED_AT = 16
KEYS = (KEY, OLD_KEY)
FOREIGN_KEY = "Zp2oK-4jNh7gBv1cXs8dLa5fQw3eRt6yUi9m"


class Reference:
    """Reads what `CookieCodec(CookieSettings(name), keys[0], keys[1:])` reads."""

    def __init__(self, name: str, keys: Sequence[str]) -> None:
        self._name = name
        self._keys = keys

    def read(self, headers: Iterable[bytes]) -> CookieReading:
        """What these Cookie headers hold."""
        values = [value for header in headers for value in plain_parser(self._name.encode(), header)]
        looked_at = [value for value in values if _is_shaped(value)][:LOOKED_AT]
        opened = [value for value in looked_at if self._is_signed(value, "cookie")]
        promised = [value for value in looked_at if self._is_signed(value, "promise")]
        rejected = len(values) - len(opened) - len(promised)
        return CookieReading(_newest(opened), _newest(promised), rejected)

    def _is_signed(self, value: bytes, purpose: str) -> bool:
        payload, salt = value.rpartition(b".")[0], f"session_middleware.{purpose}.v1.{self._name}"
        signers = [Signer(key, salt, ".", "hmac", hashlib.sha256) for key in self._keys]
        return any(signer.sign(payload) == value for signer in signers)


def _is_shaped(value: bytes) -> bool:
    parts = value.split(b".")
    if len(parts) != 4:
        return False
    id_, secret, generation, signature = parts
    return (
        _is_encoded(id_, 22, ENDS_OF_AN_ID)
        and _is_encoded(secret, 22, ENDS_OF_AN_ID)
        and _is_generation(generation)
        and _is_encoded(signature, 43, ENDS_OF_A_SIGNATURE)
    )


def _is_encoded(part: bytes, length: int, ends: bytes) -> bool:
    return len(part) == length and all(letter in ALPHABET for letter in part) and part[-1] in ends


def _is_generation(part: bytes) -> bool:
    """An integer of 1 to 16 digits, as Python writes it."""
    return (
        1 <= len(part) <= 16 and all(digit in b"0123456789" for digit in part) and part == b"%d" % int(part)
    )


def _newest(values: Iterable[bytes]) -> tuple[Credential, ...]:
    """One per id, in order of first appearance: the highest generation, then the highest secret."""
    said = [value.decode().split(".") for value in values]
    told = [Credential(SessionId(id_), secret, int(generation)) for id_, secret, generation, _ in said]
    return tuple(
        max((each for each in told if each.id == id_), key=lambda each: (each.generation, each.secret))
        for id_ in dict.fromkeys(each.id for each in told)
    )


# --- what is sent ---


def _values() -> list[bytes]:
    """Cookies and promises of the keys and of another, several of one id; and parts of them."""
    ours, old, foreign = (CookieCodec(CookieSettings(), key) for key in (*KEYS, FOREIGN_KEY))
    first, second = credential(1, 5), credential(2, 70)
    valid = ours.sign(first).encode()
    return [
        valid,
        ours.sign(first._replace(generation=6)).encode(),
        ours.sign(first._replace(secret=second.secret)).encode(),
        old.sign(second).encode(),
        foreign.sign(first).encode(),
        ours.sign_promise(first).encode(),
        old.sign_promise(second).encode(),
        CookieCodec(CookieSettings(session_cookie="other"), KEY).sign(first).encode(),
        Signer(KEY).sign(b"1"),
        b'"%b"' % valid,
        *valid.split(b".")[:3],
        valid.rpartition(b".")[2],
    ]


_SEPARATORS = (b"; ", b";", b"=", b" ", b"\t", b'"', b"\\", b"\xa0", "\u2000".encode(), b"\x00", b",", b"\n")
_NAMES = (b"session", b"session=", b"; session=", b"sess", b"Session=", b"__Host-session=", b"$Version=1; ")
PIECES: Final = (*_values(), *_SEPARATORS, *_NAMES)
NEXT_HEADER, CHANGE, DROP = 250, 251, 252


def headers_from(data: bytes) -> list[bytes]:
    """Each byte is a piece that is added, or a command; the others stand for themselves.

    So a fuzzer that knows bytes only reaches valid cookies, and whatever is a step away from them.
    """
    headers, rest = [b""], iter(data)
    for byte in rest:
        if byte < len(PIECES):
            headers[-1] += PIECES[byte]
        elif byte == NEXT_HEADER:
            headers.append(b"")
        elif byte in {CHANGE, DROP}:
            headers[-1] = _altered(headers[-1], next(rest, 0), next(rest, 0) if byte == CHANGE else None)
        else:
            headers[-1] += bytes([byte])
    return headers


def _altered(header: bytes, back: int, byte: int | None) -> bytes:
    """Another byte, or none, so far back from the end."""
    at = max(len(header) - 1 - back, 0)
    return header[:at] + (b"" if byte is None else bytes([byte])) + header[at + 1 :]


# --- what is compared ---


def codec_of(kind: type[CookieCodec] = CookieCodec, name: str = "session") -> CookieCodec:
    return kind(CookieSettings(session_cookie=name), KEYS[0], KEYS[1:])


def reference_of(name: str = "session") -> Reference:
    return Reference(name, KEYS)


def disagreement(codec: CookieCodec, reference: Reference, data: bytes) -> str | None:
    """Where the two read something else in what *data* stands for; None where they agree."""
    headers = headers_from(data)
    expected = reference.read(headers)
    asgi = codec.read([(b"host", b"example.com"), *((b"cookie", header) for header in headers)])
    if asgi != expected:
        return f"{headers}: found {_told(asgi)}, expected {_told(expected)}"
    joined = b"; ".join(headers)
    expected, wsgi = reference.read([joined]), codec.read_text(joined.decode("latin-1"))
    if wsgi != expected:
        return f"{joined!r} as text: found {_told(wsgi)}, expected {_told(expected)}"
    return None


def _told(reading: CookieReading) -> str:
    credentials, promises = [*map(tuple, reading.credentials)], [*map(tuple, reading.promises)]
    return f"{credentials}, promises {promises}, {reading.rejected} rejected"


# --- what is found out ---


class LastOneWins(CookieCodec):
    """As a `dict` of cookies has it."""

    def _judge(self, values: Sequence[bytes]) -> CookieReading:
        return super()._judge(values[-1:])


class Unbounded(CookieCodec):
    """Looks at every value."""

    def _judge(self, values: Sequence[bytes]) -> CookieReading:
        readings = [super(Unbounded, self)._judge([value]) for value in values]
        found = [credential for reading in readings for credential in reading.credentials]
        promises = [promise for reading in readings for promise in reading.promises]
        return CookieReading(
            tuple({credential.id: credential for credential in found}.values()),
            tuple({promise.id: promise for promise in promises}.values()),
            len(values) - len(found) - len(promises),
        )


class Unquoting(CookieCodec):
    """Takes quotes away, as RFC 2109 had them."""

    def _judge(self, values: Sequence[bytes]) -> CookieReading:
        return super()._judge([re.sub(rb'\A"(.*)"\Z', rb"\1", value) for value in values])


CONTROLS: dict[str, type[CookieCodec]] = {
    **WRONG_PARSERS,
    "last": LastOneWins,
    "unbounded": Unbounded,
    "unquoting": Unquoting,
}
