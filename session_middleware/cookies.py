"""The session cookie's bytes: its attributes, its signature, and finding it in what a client sent.

Read in this order: `CookieSettings` (what an app may choose), `Credential` (what a cookie says),
`CookieCodec` (the only class others call), `_Seal` (signing and verifying under one salt), then the parser
and the checks.

A cookie's value is `<id>.<secret>.<generation>.<signature>`. The signature is what
`itsdangerous.Signer(key, salt, key_derivation="hmac", digest_method=sha256)` makes, byte for byte. Verifying
is stricter than `Signer.unsign`, which decodes base64 leniently and so accepts several spellings of one
signature: here the shape comes first, then the value is signed again and compared as a whole, so each
credential has exactly one spelling per key.

Nothing in this file knows a clock: a signature never expires, the record decides how long a session lives.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Literal, NamedTuple

from itsdangerous import Signer

from session_middleware.errors import ConfigurationError
from session_middleware.record import SessionId

__all__ = [
    "LOOKED_AT_MOST",
    "CookieCodec",
    "CookieReading",
    "CookieSettings",
    "Credential",
    "fallback_list",
    "values_named",
]

LOOKED_AT_MOST: Final = 16
"""Well-shaped cookies of our name that are verified per request; any more are counted as rejected."""

_LONGEST_MAX_AGE: Final = 400 * 24 * 60 * 60  # seconds; RFC 6265bis 5.5: browsers cap what is longer
_LONGEST_ATTRIBUTE: Final = 1024  # bytes; RFC 6265bis 5.6: browsers ignore an attribute that is longer
_LONGEST_NAME: Final = 4096 - 128  # bytes; RFC 6265bis 5.6: name and value together; ours is under 128
_REMEMBERED_AT_MOST: Final = 4096  # verified cookies; under 2 MiB
_SHORTEST: Final = 22 + 1 + 22 + 1 + 1 + 1 + 43  # bytes of a cookie of ours with a generation of one digit
_SHORTEST_KEY: Final = 32  # bytes; as long as the digest, RFC 2104 section 3


@dataclass(frozen=True, slots=True)
class CookieSettings:
    """The attributes of the session cookie: Starlette's names, order and defaults.

    session_cookie: the cookie's name, an RFC 9110 token. A name that starts with `__Host-`, `__Secure-` or
        `__Http-` makes browsers insist on Secure, so such a cookie is always sent with it.
        Default "session"; example "__Host-session".
    max_age: seconds until the browser forgets the cookie, as `Max-Age`; a `timedelta` is converted. None is a
        cookie that ends with the browser; 0 or less one that the browser forgets at once. At most 400 days.
        Default 14 days; example `timedelta(hours=8)`.
    path: the part of the site that gets the cookie. Default "/"; example "/shop".
    same_site: "lax", "strict", or "none", which is legal only where Secure is always sent. Default "lax".
    https_only: True sends Secure always, False never, None whenever the request came by https.
        With a prefixed name (see above) None means always. Default None.
    domain: also send the cookie to every host under this one. None: only to the host that set it.
        Default None; example "example.com".
    partitioned: one cookie jar per embedding site (CHIPS). Legal only where Secure is always sent.

    Whatever a browser would silently ignore is a `ConfigurationError` here.
    """

    session_cookie: str = "session"
    max_age: int | None = 14 * 24 * 60 * 60
    path: str = "/"
    same_site: Literal["lax", "strict", "none"] = "lax"
    https_only: bool | None = None
    domain: str | None = None
    partitioned: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_age", _whole_seconds(self.max_age))
        _check_name(self.session_cookie)
        _check_max_age(self.max_age)
        _check_path(self.path)
        _check_domain(self.domain)
        _check_choices(self)
        _check_prefix(self)
        _check_always_secure(self)

    @property
    def is_always_secure(self) -> bool:
        """True where the cookie carries Secure whatever the scheme of the request."""
        return self.https_only is True or _prefix_of(self.session_cookie) is not None


class Credential(NamedTuple):
    """What a verified cookie says. The only value in the package that carries a session's secret.

    `repr` and `str` leave the secret out; a serializer that takes it for a tuple would not.
    """

    id: SessionId
    secret: str
    generation: int

    def __repr__(self) -> str:
        return f"Credential(id={self.id!r}, secret=<hidden>, generation={self.generation})"

    def __rich_repr__(self) -> list[tuple[str, object]]:  # rich looks into a tuple by itself
        return [("id", self.id), ("generation", self.generation)]


class CookieReading(NamedTuple):
    """What the Cookie headers of one request hold under our name.

    credentials: verified cookies, one per id (the highest generation), in order of first appearance.
    promises: verified promises, likewise.
    rejected: cookies of our name that were malformed, wrongly signed, or too many to look at.
    """

    credentials: tuple[Credential, ...]
    promises: tuple[Credential, ...]
    rejected: int


_NOTHING: Final = CookieReading((), (), 0)


class CookieCodec:
    """Signs, verifies, finds, sets and removes the cookie that `settings` describe. Threads may share it.

    secret_key: signs and verifies. Text, bytes, or an object whose `str()` is the key (Starlette's `Secret`).
    fallback_keys: accepted, never used to sign. Their order does not matter.
    weak_key: why a key is easily guessed, or None. Never tells the key.

    The keys themselves are not kept, only what is derived from them for this cookie's name.
    """

    def __init__(
        self, settings: CookieSettings, secret_key: object, fallback_keys: Sequence[object] = ()
    ) -> None:
        keys = [_key_bytes("secret_key", secret_key), *_fallback_bytes(fallback_keys)]
        name = settings.session_cookie
        self.settings: Final = settings
        self.weak_key: Final = _first_weakness(keys)
        self._name: Final = name.encode("ascii")
        self._name_is: Final = self._name + b"="
        self._cookies: Final = _Seal(f"session_middleware.cookie.v1.{name}", keys)
        self._promises: Final = _Seal(f"session_middleware.promise.v1.{name}", keys)
        self._path: Final = f"; path={settings.path}; ".encode("ascii")
        # Indexed by `secure`; a cookie that browsers would refuse without Secure has it in either case.
        always = settings.is_always_secure
        self._flags: Final = (_flags(settings, secure=always), _flags(settings, secure=True))
        # Verified cookies only, so a client without a key can fill nothing; other keys are another codec, so
        # a key that was taken away opens nothing. Kept as the reading of a request with this one cookie.
        self._known: Final[dict[bytes, CookieReading]] = {}

    def sign(self, credential: Credential) -> str:
        """The value of a session cookie. ValueError where the credential could not be read back."""
        return self._cookies.sign(credential).decode("ascii")

    def verify(self, value: bytes) -> Credential | None:
        """What a session cookie of exactly this value says; None unless one of the keys signed it."""
        # A lookup compares bytes only where all 64 bits of a keyed hash agree: there is no prefix to time.
        if known := self._known.get(value):
            return known.credentials[0]
        credential = self._cookies.open(value)
        if credential:
            self._remember(value, credential)
        return credential

    def sign_promise(self, credential: Credential) -> str:
        """The value of a promise: same shape as a session cookie, never taken for one."""
        return self._promises.sign(credential).decode("ascii")

    def verify_promise(self, value: bytes) -> Credential | None:
        """What a promise of exactly this value says; None unless one of the keys signed it."""
        return self._promises.open(value)

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> CookieReading:
        """What raw ASGI headers (lower-case names) hold; several Cookie headers are one list."""
        values: list[bytes] = []
        for key, header in headers:
            if key == b"cookie":
                values += _values_after(self._name_is, header)
        return self._judge(values) if values else _NOTHING

    def read_text(self, header: str) -> CookieReading:
        """What WSGI's HTTP_COOKIE holds: bytes decoded as latin-1 (PEP 3333)."""
        # "?" for what no conforming server puts there: it is in no cookie name and no value of ours.
        values = _values_after(self._name_is, header.encode("latin-1", "replace"))
        return self._judge(values) if values else _NOTHING

    def set_cookie(self, credential: Credential, *, max_age: int | None, secure: bool) -> bytes:
        """A whole Set-Cookie value. `max_age` in seconds; None makes a cookie that ends with the browser."""
        age = b"" if max_age is None else b"Max-Age=%d; " % max_age
        value = self._cookies.sign(credential)
        return b"".join((self._name_is, value, self._path, age, self._flags[secure]))

    def set_promise(self, credential: Credential, *, secure: bool) -> bytes:
        """A whole Set-Cookie value that hands out a promise, which ends with the browser."""
        value = self._promises.sign(credential)
        return b"".join((self._name_is, value, self._path, self._flags[secure]))

    def remove_cookie(self, *, secure: bool) -> bytes:
        """A whole Set-Cookie value that removes the cookie.

        Every attribute is repeated: without Secure, browsers ignore the removal of a `__Host-` cookie; with
        another path, domain or partition it would be another cookie.
        """
        expires = b"expires=Thu, 01 Jan 1970 00:00:00 GMT; "
        return b"".join((self._name_is, b"null", self._path, expires, self._flags[secure]))

    def sends_secure(self, scheme_is_https: bool) -> bool:
        """Whether a cookie set in answer to this request carries Secure."""
        automatic = self.settings.https_only is None and scheme_is_https
        return automatic or self.settings.is_always_secure

    def names_our_cookie(self, set_cookie_value: bytes) -> bool:
        """Whether a Set-Cookie header of this value sets or removes the cookie of our name."""
        name, separator, _ = set_cookie_value.partition(b";")[0].partition(b"=")
        return bool(separator) and name.strip(b" \t") == self._name

    def _judge(self, values: Sequence[bytes]) -> CookieReading:
        if len(values) == 1 and (known := self._known.get(values[0])):
            return known
        credentials: list[Credential] = []
        promises: list[Credential] = []
        shaped = [value for value in values if len(value) >= _SHORTEST and _SHAPE(value)]
        for value in shaped[:LOOKED_AT_MOST]:
            if credential := self.verify(value):
                credentials.append(credential)
            elif promise := self.verify_promise(value):
                promises.append(promise)
        rejected = len(values) - len(credentials) - len(promises)
        return CookieReading(_newest_per_id(credentials), _newest_per_id(promises), rejected)

    def _remember(self, value: bytes, credential: Credential) -> None:
        # Emptied as a whole: each step is atomic, so threads need no lock, and dropping the oldest one by one
        # makes a dict walk over the holes it leaves.
        if len(self._known) >= _REMEMBERED_AT_MOST:
            self._known.clear()
        self._known[value] = CookieReading((credential,), (), 0)


# --- Signing and verifying ---

# 16 random bytes are 22 characters, and the last holds 2 bits: only A, Q, g, w are ever written.
# The signature's 32 bytes are 43 characters, and the last holds 4 bits.
_ID: Final = rb"[A-Za-z0-9_-]{21}[AQgw]"
_SHAPE: Final[Callable[[bytes], re.Match[bytes] | None]] = re.compile(
    rb"%b\.%b\.(?:0|[1-9][0-9]{0,15})\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]" % (_ID, _ID)
).fullmatch
_SIGNATURE: Final = 44  # bytes of a value's end: the dot and the signature

_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


class _Mac:
    """HMAC-SHA-256 (RFC 2104) under one derived key, whose two blocks are hashed once and copied per use.

    A quarter of the time of `Signer.get_signature`, which derives and keys anew for each value.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, derived_key: bytes) -> None:
        block = derived_key.ljust(64, b"\0")
        self._inner: Final = sha256(block.translate(_INNER_PAD))
        self._outer: Final = sha256(block.translate(_OUTER_PAD))

    def signed(self, payload: bytes) -> bytes:
        """The payload, a dot, and its signature, as `Signer.sign` gives it."""
        inner = self._inner.copy()
        inner.update(payload)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return payload + b"." + b2a_base64(outer.digest()).translate(_URL_SAFE)[:43]


class _Seal:
    """Signs with the first key and opens with any, for one purpose: the salt keeps purposes apart."""

    __slots__ = ("_macs",)

    def __init__(self, salt: str, keys: Iterable[bytes]) -> None:
        # A repeated key would only cost each forged cookie another signature.
        self._macs: Final = tuple(_Mac(_derived(salt, key)) for key in dict.fromkeys(keys))

    def sign(self, credential: Credential) -> bytes:
        payload = f"{credential.id}.{credential.secret}.{credential.generation}".encode("ascii", "replace")
        signed = self._macs[0].signed(payload)
        if _SHAPE(signed) is None:
            raise ValueError(
                "A credential is not of the shape a cookie carries: id and secret must be made by "
                "secrets.token_urlsafe(16), the generation an integer of 1 to 16 digits."
            )
        return signed

    def open(self, value: bytes) -> Credential | None:
        if _SHAPE(value) is None:
            return None
        payload = value[:-_SIGNATURE]
        for mac in self._macs:
            if compare_digest(mac.signed(payload), value):
                session_id, secret, generation = payload.decode("ascii").split(".")
                return Credential(SessionId(session_id), secret, int(generation))
        return None


def _derived(salt: str, key: bytes) -> bytes:
    return Signer(key, salt=salt, key_derivation="hmac", digest_method=sha256).derive_key()


# --- Finding our cookie ---


def values_named(name: str, headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The values of every cookie of exactly this name in raw ASGI headers, as they were sent."""
    name_is = name.encode("ascii", "replace") + b"="
    return [value for key, header in headers if key == b"cookie" for value in _values_after(name_is, header)]


def _values_after(name_is: bytes, header: bytes) -> Sequence[bytes]:
    """The values of the pairs that begin with `name_is`: the exact name and "=". Nothing is unquoted.

    Only space and tab are stripped, around the pair and before the value. What `str.strip` takes away besides
    (U+2000 and its like, or a raw 0x85) turns a name that any subdomain may set into a `__Host-` name.
    Each byte is looked at a fixed number of times, however hostile the header.
    """
    before, found, after = header.partition(name_is)
    if not found:
        return ()
    value, _, rest = after.partition(b";")
    if rest or (before and before[-2:] != b"; "):
        return _values_of_pairs(name_is, header)
    return (value.strip(b" \t"),)  # ours stands last or alone: no need to split


def _values_of_pairs(name_is: bytes, header: bytes) -> list[bytes]:
    # In one go over the bytes: a header of 64 kB has room for thousands of pairs.
    return [value.strip(b" \t") for value in _pair_named(name_is).findall(header)]


@cache
def _pair_named(name_is: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?:\A|;)[ \t]*" + re.escape(name_is) + rb"([^;]*)")


def _newest_per_id(credentials: list[Credential]) -> tuple[Credential, ...]:
    if len(credentials) < 2:  # noqa: PLR2004 -- nothing to choose from
        return tuple(credentials)
    newest: dict[str, Credential] = {}
    for credential in credentials:
        best = newest.get(credential.id, credential)
        # The secret settles a tie (one id, created anew after a restore), so that their order never does.
        newest[credential.id] = max(best, credential, key=lambda each: (each.generation, each.secret))
    return tuple(newest.values())


# --- Writing attributes ---


def _flags(settings: CookieSettings, *, secure: bool) -> bytes:
    """What follows Max-Age, in the order and the spelling of Starlette 1.10."""
    flags = f"httponly; samesite={settings.same_site}"
    flags += "; secure" if secure else ""
    flags += f"; domain={settings.domain}" if settings.domain is not None else ""
    flags += "; partitioned" if settings.partitioned else ""
    return flags.encode("ascii")


# --- Checking settings ---

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_PATH: Final = re.compile(r"/[!-:<-~]*")  # RFC 6265 av-octets: printable ASCII but ";" (and no space)
_HOST: Final = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# Browsers compare prefixes without regard to case, so a check of the exact spelling would miss some.
_PREFIXES: Final = ("__Host-", "__Secure-", "__Http-")


def _refusal(argument: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{argument}: {problem}; {remedy}.")


def _prefix_of(name: str) -> str | None:
    """The prefix in its usual spelling, or None."""
    return next((prefix for prefix in _PREFIXES if name.lower().startswith(prefix.lower())), None)


def _whole_seconds(max_age: object) -> int | None:
    """A timedelta as seconds; anything else as it is, for `_check_max_age` to judge."""
    if not isinstance(max_age, timedelta):
        return max_age  # type: ignore[return-value]
    seconds = max_age.total_seconds()
    if not seconds.is_integer():
        raise _refusal("max_age", f"{max_age!r} is not a whole number of seconds", "round it")
    return int(seconds)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise _refusal("session_cookie", f"a {type(name).__name__} is no cookie name", "pass a str")
    if not _TOKEN.fullmatch(name):
        raise _refusal(
            "session_cookie",
            f"{name!r} is no legal cookie name",
            "use ASCII letters, digits, '-' and '_' (an RFC 9110 token)",
        )
    if len(name) > _LONGEST_NAME:
        raise _refusal("session_cookie", f"has {len(name)} characters", f"use at most {_LONGEST_NAME}")


def _check_max_age(max_age: object) -> None:
    if max_age is None:
        return
    if isinstance(max_age, bool) or not isinstance(max_age, int):
        raise _refusal(
            "max_age",
            f"a {type(max_age).__name__} ({max_age!r}) is no number of seconds",
            "pass an int, a timedelta, or None for a cookie that ends with the browser",
        )
    if max_age > _LONGEST_MAX_AGE:
        raise _refusal(
            "max_age",
            f"{max_age} seconds are more than the 400 days that browsers keep a cookie",
            f"use at most {_LONGEST_MAX_AGE}; each renewal starts them anew",
        )


def _check_path(path: object) -> None:
    if not isinstance(path, str) or not path.startswith("/"):
        raise _refusal("path", f"{path!r} does not start with '/'", "use '/' or a path such as '/shop'")
    if not _PATH.fullmatch(path) or len(path) > _LONGEST_ATTRIBUTE:
        raise _refusal(
            "path",
            f"{path!r} holds what no cookie path can hold (space, ';', control or non-ASCII characters), "
            f"or is longer than {_LONGEST_ATTRIBUTE} characters",
            "percent-encode it as browsers do, or use '/'",
        )


def _check_domain(domain: object) -> None:
    if domain is None:
        return
    if not isinstance(domain, str) or not _HOST.fullmatch(domain) or len(domain) > _LONGEST_ATTRIBUTE:
        raise _refusal(
            "domain",
            f"{domain!r} is no host name",
            "use one such as 'example.com', without scheme, port and path (punycode for other scripts), "
            "or None for the host that sets the cookie",
        )


def _check_choices(settings: CookieSettings) -> None:
    same_site: object = settings.same_site
    if same_site not in ("lax", "strict", "none"):
        meant = same_site.lower() if isinstance(same_site, str) else ""
        remedy = f"write {meant!r}" if meant in ("lax", "strict", "none") else "use 'lax', 'strict' or 'none'"
        raise _refusal("same_site", f"{same_site!r} is not known", remedy)
    if settings.https_only is not None and not isinstance(settings.https_only, bool):
        raise _refusal("https_only", f"{settings.https_only!r} is not known", "use True, False or None")
    if not isinstance(settings.partitioned, bool):
        raise _refusal("partitioned", f"{settings.partitioned!r} is not known", "use True or False")


def _check_prefix(settings: CookieSettings) -> None:
    prefix = _prefix_of(settings.session_cookie)
    if prefix is None:
        return
    if settings.https_only is False:
        raise _refusal(
            "https_only",
            f"browsers refuse a {prefix} cookie without Secure",
            f"leave https_only out, or choose a session_cookie without {prefix}",
        )
    if prefix == "__Host-" and settings.path != "/":
        raise _refusal(
            "path",
            f"browsers refuse a __Host- cookie with path={settings.path!r}",
            "use path='/', or a session_cookie that starts with __Secure-",
        )
    if prefix == "__Host-" and settings.domain is not None:
        raise _refusal(
            "domain",
            "browsers refuse a __Host- cookie that has a domain",
            "leave domain out, or use a session_cookie that starts with __Secure-",
        )


def _check_always_secure(settings: CookieSettings) -> None:
    if settings.is_always_secure:
        return
    remedy = "set https_only=True (None would leave Secure out on plain http)"
    if settings.same_site == "none":
        raise _refusal("same_site", "browsers refuse SameSite=None without Secure", f"{remedy}, or use 'lax'")
    if settings.partitioned:
        raise _refusal("partitioned", "browsers refuse Partitioned without Secure", remedy)


# --- Checking keys ---

# Published in the documentation or templates of frameworks, or what people type. Lower case.
_KNOWN_KEYS: Final = frozenset({
    "dev", "development", "key", "test", "testing", "default", "none", "null", "mykey", "topsecret",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    '_5#y2l"f4q8z\n\xec]/',
})  # fmt: skip
# Long enough not to turn up in a random key by chance.
_KNOWN_WORDS: Final = (
    "secret", "changeme", "change-me", "change_me", "change this", "example", "insecure",
    "password", "your-key",
)  # fmt: skip


def _key_bytes(argument: str, key: object) -> bytes:
    """The key as bytes. No message, and no chained exception, ever shows it."""
    reveal = getattr(key, "get_secret_value", None)  # pydantic: its str() is a row of asterisks
    plain = reveal() if callable(reveal) else key
    if isinstance(plain, bytes | bytearray):
        data = bytes(plain)
    elif type(plain).__str__ is object.__str__:
        # str() would make a guessable key of it: "None", "[...]", or an address.
        raise _refusal(argument, f"a {type(plain).__name__} is no key", "pass text or bytes")
    else:
        data = str(plain).encode("utf-8", "surrogatepass")
    if not data.strip():
        raise _refusal(argument, "the key is empty", "pass 32 random bytes: secrets.token_urlsafe(32)")
    if not data.strip(b"*"):
        raise _refusal(argument, "the key is a mask, a row of '*'", "pass the key itself")
    return data


def fallback_list(name: str, fallback_keys: object) -> Iterable[object]:
    """The keys, one by one. `ConfigurationError` for text, whose letters would each be a key."""
    if isinstance(fallback_keys, list | tuple | set | frozenset):
        return fallback_keys
    found = type(fallback_keys).__name__
    raise _refusal(name, f"a {found} is no list of keys", "pass a list, such as [old_key]")


def _fallback_bytes(fallback_keys: object) -> list[bytes]:
    return [_key_bytes("fallback_keys", key) for key in fallback_list("fallback_keys", fallback_keys)]


def _first_weakness(keys: list[bytes]) -> str | None:
    """Why the first weak key is weak. A weak fallback signs forged cookies as well as a weak signing key."""
    found = ((place, _weakness(key)) for place, key in enumerate(keys))
    return next((why + (" (a fallback)" if place else "") for place, why in found if why), None)


def _weakness(key: bytes) -> str | None:
    text = key.decode("latin-1").lower()
    if text in _KNOWN_KEYS or any(word in text for word in _KNOWN_WORDS):
        return "a well-known value that anybody can guess"
    if len(key) < _SHORTEST_KEY:
        return f"shorter than {_SHORTEST_KEY} bytes"
    if len(set(key)) < 8:  # noqa: PLR2004 -- 32 random hex digits show 14 on average
        return "made of fewer than 8 different bytes"
    return None
