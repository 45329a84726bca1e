"""Reads the signed cookies of sessions that another package kept in the cookie itself, to take them over.

Reading order: `OldSession` (what a reader finds), `OldCookie` (what a reader is; write your own), then the
readers of Starlette's and Flask's cookies, and of cookies that name what another package has stored.

Readers verify. What they find is believed: values of a cookie whose key others know are anybody's values.
Whatever a reader raises is the app's own error, and a 500.
"""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha1, sha256
from typing import Any, NamedTuple, Protocol, runtime_checkable

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

from session_middleware.cookies import LOOKED_AT_MOST, fallback_list, values_named
from session_middleware.errors import ConfigurationError
from session_middleware.policy import DAY, Duration, seconds
from session_middleware.record import SessionId
from session_middleware.values import JsonValue

__all__ = [
    "FlaskCookie",
    "IdCookie",
    "OldCookie",
    "OldSession",
    "StarletteCookie",
    "first_old_session",
    "readers_of",
]

_PURPOSE = b"session_middleware.imported.v1\0"


class OldSession(NamedTuple):
    """A session that was kept in a cookie of another package, and is still valid."""

    values: Mapping[str, JsonValue]
    identity: bytes
    """What tells this cookie from all others, and that nobody without the key can vary: what was signed,
    without the signature, whose encoding may have several spellings."""
    expires_at: float
    """When the cookie itself runs out; until then it is remembered that it was taken over. Seconds since the
    epoch."""
    source: str
    """Whose cookie it was, for the metadata of the session: "starlette", "flask", "stored"."""

    @property
    def id(self) -> SessionId:
        """The id under which it is remembered that this cookie was taken over. The same in every process."""
        digest = sha256(_PURPOSE + self.source.encode() + b"\0" + self.identity).digest()
        return SessionId(urlsafe_b64encode(digest[:16])[:22].decode("ascii"))

    def __repr__(self) -> str:  # the identity is most of a credential
        return f"<OldSession of {self.source} keys={sorted(self.values)}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:  # rich looks into a tuple by itself
        return [("source", self.source), ("keys", sorted(self.values))]


@runtime_checkable
class OldCookie(Protocol):
    """Reads one kind of old cookie. `session_cookie` is the name it has in the browser."""

    session_cookie: str

    def read(self, value: bytes, now: float) -> OldSession | None:
        """What a cookie of this value holds at *now* (seconds since the epoch); None unless it is valid."""


class StarletteCookie:
    """The cookie of Starlette's own `SessionMiddleware`, under its arguments.

    Args:
        secret_key: the key it was signed with; text, or Starlette's `Secret`.
        session_cookie: its name. Default "session".
        max_age: seconds (or a `timedelta`) after which Starlette would refuse it; None as Starlette has it: a
            cookie of any age is read, and remembered for 400 days. Default 14 days.

    Raises `ConfigurationError` naming the argument.
    """

    def __init__(
        self,
        secret_key: object,
        session_cookie: str = "session",
        max_age: Duration | None = 14 * DAY,
    ) -> None:
        self.session_cookie = session_cookie
        self._max_age = _max_age(max_age)
        self._signer = TimestampSigner(_key_bytes(secret_key))

    def read(self, value: bytes, now: float) -> OldSession | None:
        """See `OldCookie.read`."""

        def opened() -> tuple[Any, Any]:
            payload, signed_at = self._signer.unsign(value, return_timestamp=True)
            return json.loads(b64decode(payload)), signed_at

        return _read("starlette", value, opened, self._max_age, now)


class FlaskCookie:
    """The cookie of Flask's own sessions. Needs Flask, whose tagged values it holds.

    Args:
        secret_key: the app's `SECRET_KEY`.
        session_cookie: the app's `SESSION_COOKIE_NAME`. Default "session".
        fallback_keys: the app's `SECRET_KEY_FALLBACKS`.
        max_age: seconds (or a `timedelta`), the app's `PERMANENT_SESSION_LIFETIME`. Default 31 days.

    Raises `ConfigurationError` naming the argument.
    """

    def __init__(
        self,
        secret_key: object,
        session_cookie: str = "session",
        fallback_keys: Sequence[object] = (),
        max_age: Duration = 31 * DAY,
    ) -> None:
        self.session_cookie = session_cookie
        self._max_age = seconds("max_age", max_age)
        self._serializer = URLSafeTimedSerializer(
            [*map(_key_bytes, fallback_list("fallback_keys", fallback_keys)), _key_bytes(secret_key)],
            salt="cookie-session",
            serializer=_flask_serializer(),
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha1},
        )

    def read(self, value: bytes, now: float) -> OldSession | None:
        """See `OldCookie.read`."""
        return _read(
            "flask",
            value,
            lambda: self._serializer.loads(value, return_timestamp=True),
            self._max_age,
            now,
        )


class IdCookie:
    """The cookie of a server-side session of another package: the name of what that package has stored.

    Args:
        lookup: what is stored under an id that a browser sent, or None. A plain call, once per visitor and
            cookie; it must be as careful with that id as the other package was.
        session_cookie: the cookie's name. Default "session".
        max_age: seconds (or a `timedelta`) for which the other package keeps a session. Default 31 days.

    Raises `ConfigurationError` naming the argument.
    """

    def __init__(
        self,
        lookup: Callable[[str], Mapping[str, JsonValue] | None],
        session_cookie: str = "session",
        max_age: Duration = 31 * DAY,
    ) -> None:
        if not callable(lookup):
            raise ConfigurationError(f"lookup: found {type(lookup).__name__}, pass a function of the id")
        self.session_cookie = session_cookie
        self._lookup = lookup
        self._max_age = seconds("max_age", max_age)

    def read(self, value: bytes, now: float) -> OldSession | None:
        """See `OldCookie.read`."""
        if not value.isascii() or (values := self._lookup(value.decode("ascii"))) is None:
            return None
        return OldSession(values, value, now + self._max_age, "stored")


def readers_of(given: OldCookie | Iterable[OldCookie]) -> tuple[OldCookie, ...]:
    """The readers of the option `import_from`. Raises `ConfigurationError` for anything else."""
    listed: tuple[object, ...] = tuple(given) if isinstance(given, Iterable) else (given,)
    readers = tuple(one for one in listed if isinstance(one, OldCookie) and not isinstance(one, type))
    if len(readers) < len(listed):
        found = ", ".join(type(one).__name__ for one in listed if one not in readers)
        raise ConfigurationError(
            f"import_from: found {found}; pass readers such as StarletteCookie(secret_key), or objects with "
            "session_cookie and read(value, now)"
        )
    return readers


def first_old_session(
    readers: Iterable[OldCookie], headers: Sequence[tuple[bytes, bytes]], now: float
) -> tuple[OldCookie, OldSession] | None:
    """The first session that one of *readers* finds in the Cookie headers, and who found it; or None."""
    for reader in readers:
        for value in values_named(reader.session_cookie, headers)[:LOOKED_AT_MOST]:
            found = reader.read(value, now)
            if found is not None and found.expires_at > now:
                return reader, found
    return None


_LONGEST = 400 * DAY  # browsers keep no cookie longer (RFC 6265bis, 5.5)


def _read(
    source: str, value: bytes, opened: Callable[[], tuple[Any, Any]], max_age: float | None, now: float
) -> OldSession | None:
    """What *opened* verified and decoded, if it is a session, and not too old."""
    try:
        values, signed_at = opened()
    except (BadData, ValueError, RecursionError):  # not of this kind, or of another key: not ours to tell of
        return None
    at = signed_at.timestamp()
    if not isinstance(values, dict) or not values or not 0 <= now - at <= (max_age or _LONGEST):
        return None
    return OldSession(values, value.rpartition(b".")[0], at + (max_age or _LONGEST), source)


def _max_age(max_age: Duration | None) -> float | None:
    return None if max_age is None else seconds("max_age", max_age)


def _key_bytes(key: object) -> bytes:
    """The key as those packages use it. No message shows it."""
    plain = key if isinstance(key, bytes) else str(key).encode()
    if key is None or not plain.strip():
        raise ConfigurationError("secret_key: found no key; pass the one the old cookies were signed with")
    return plain


def _flask_serializer() -> Any:
    try:
        from flask.json.tag import TaggedJSONSerializer  # noqa: PLC0415  (only who reads such cookies pays)
    except ModuleNotFoundError as problem:
        raise ImportError('FlaskCookie needs Flask: pip install "session_middleware[flask]"') from problem
    return TaggedJSONSerializer()
