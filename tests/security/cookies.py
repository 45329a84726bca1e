"""Forged cookies against whole middlewares: nobody is seen, and the backend is never asked.

Reading order: `Stage` (an entrance over a backend that notes each call), `attack` (requests in, figures out),
then what is sent: `crossed`, `forgeries`, `strangers` (with `mutants` of tests/test_cookies.py), and last the
codecs that are wrong on purpose.

Whether a request should be let in is decided by `plain_parser`: if a value that it finds is a valid cookie
byte for byte, the visitor has to be seen, else nobody. So an attack that stopped to reach its target, or that
could not tell who is seen, fails as well.

`python -m tests.security.cookies --seed 1 --count 1000000` prints one line of figures. With
`--control signer` the middleware verifies as a plain `Signer` does, which has to be found out.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import sys
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias

import flask
from itsdangerous import (
    BadSignature,
    Serializer,
    Signer,
    TimestampSigner,
    URLSafeSerializer,
    URLSafeTimedSerializer,
)

from session_middleware import MemoryBackend, SessionManager, SessionMiddleware, WSGISessionMiddleware
from session_middleware.cookies import CookieCodec, CookieReading, Credential
from session_middleware.flask import init_app
from session_middleware.record import SessionId
from session_middleware.testing.clock import ManualClock
from session_middleware.testing.helpers import make_session
from tests.life.harness import SpyBackend
from tests.test_cookies import mutants, plain_parser

KEY = "k7Zq0v-9sXw3bT1LmNp5RyUeHaGfDcJi2oV8"
Kind: TypeAlias = Literal["asgi", "eager", "wsgi", "flask"]
KINDS: tuple[Kind, ...] = ("asgi", "eager", "wsgi", "flask")
Headers: TypeAlias = tuple[bytes, ...]  # the Cookie headers of one request
CHUNK = 500  # requests between two looks at the event loop


# --- whom it is done to ---


class Stage:
    """One entrance over memory. `visits` tells of each request whom its handler saw, and the backend calls.

    The eager one hands out promises, and loads before its handler runs, as over a database.
    """

    def __init__(
        self,
        kind: Kind,
        keys: Sequence[str] = (KEY,),
        *,
        name: str = "session",
        codec: type[CookieCodec] = CookieCodec,
        backend: MemoryBackend | None = None,
    ) -> None:
        self.kind = kind
        self.name = name.encode()
        self.spy = SpyBackend(backend or MemoryBackend())
        self.manager = SessionManager(
            self.spy,
            secret_key=keys[0],
            fallback_keys=list(keys[1:]),
            session_cookie=name,
            clock=ManualClock(),
            monotonic=lambda: 0.0,  # no cleanup comes between
            log=False,
        )
        self.codec = self.manager._codec = codec(self.manager.cookie, keys[0], keys[1:])
        self.seen = ""
        self.loop = asyncio.new_event_loop() if kind in {"asgi", "eager"} else None
        if self.loop is not None:
            self.loop.run_until_complete(self.manager.open())  # a backend that another stage closed
        self._serve = self._served(keys)

    def _served(self, keys: Sequence[str]) -> Any:
        if self.kind == "flask":
            return _flask_app(self, keys)
        if self.kind == "wsgi":
            return WSGISessionMiddleware(self._wsgi_app, manager=self.manager, monitor=False)
        return SessionMiddleware(
            self._asgi_app, manager=self.manager, monitor=False, eager=self.kind == "eager"
        )

    def cookie(self, user: str = "ada") -> bytes:
        """The cookie of a new session of this user, which is stored."""
        return self.cookie_and_promise(user)[0]

    def cookie_and_promise(self, user: str = "ada") -> tuple[bytes, bytes]:
        """Two that open it: as long as it was never cycled, its promise does so too."""
        record = make_session(self.manager, user).life.record
        assert record is not None
        credential = Credential(record.id, record.secret, record.generation)
        return self.codec.sign(credential).encode(), self.codec.sign_promise(credential).encode()

    def visits(self, requests: Iterable[Headers]) -> Iterator[tuple[Headers, str, int]]:
        """Send each, and tell whom its handler saw ("" for nobody) and how often the backend was called."""
        waiting = iter(requests)
        while chunk := list(itertools.islice(waiting, CHUNK)):
            if self.loop is None:
                yield from [self._plain_visit(headers) for headers in chunk]
            else:
                yield from self.loop.run_until_complete(self._async_visits(chunk))

    def visit(self, *headers: bytes) -> tuple[str, int]:
        """One of them."""
        [(_, seen, calls)] = self.visits([headers])
        return seen, calls

    def close(self) -> None:
        if self.loop is not None:
            self.loop.run_until_complete(self.manager.stop())
            self.loop.close()

    # --- requests ---

    async def _async_visits(self, chunk: Sequence[Headers]) -> list[tuple[Headers, str, int]]:
        return [await self._async_visit(headers) for headers in chunk]

    async def _async_visit(self, headers: Headers) -> tuple[Headers, str, int]:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "scheme": "https",
            "headers": [(b"host", b"testserver"), *((b"cookie", header) for header in headers)],
        }
        self._forget()
        await self._serve(scope, _receive, _send)
        return headers, self.seen, self._calls()

    def _plain_visit(self, headers: Headers) -> tuple[Headers, str, int]:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "443",
            "wsgi.url_scheme": "https",
            "HTTP_HOST": "testserver",
            "HTTP_COOKIE": b"; ".join(headers).decode("latin-1"),  # RFC 9113, 8.2.3
        }
        self._forget()
        _exhaust(self._serve(environ, lambda *_: None))
        return headers, self.seen, self._calls()

    def _forget(self) -> None:
        self.seen = "the handler was not reached"
        for port in self.spy._ports.values():
            port.log.clear()

    def _calls(self) -> int:
        return sum(len(port.log) for port in self.spy._ports.values())

    # --- handlers ---

    async def _asgi_app(self, scope: Any, _: Any, send: Any) -> None:
        self.see(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _wsgi_app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.see(environ["session"])
        start_response("200 OK", [])
        return [b""]

    def see(self, session: Any) -> str:
        """Looks."""
        session.mark_accessed()
        self.seen = session.user_id or ""
        return ""


def _flask_app(stage: Stage, keys: Sequence[str]) -> flask.Flask:
    app = flask.Flask("attacked")
    app.config.update(
        SECRET_KEY=keys[0], SECRET_KEY_FALLBACKS=list(keys[1:]), SESSION_COOKIE_NAME=stage.name.decode()
    )
    init_app(app, manager=stage.manager, monitor=False)
    app.add_url_rule("/", "see", lambda: stage.see(flask.session))
    return app


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_: Any) -> None: ...


def _exhaust(body: Any) -> None:
    """As a server does."""
    for _ in body:
        pass
    if hasattr(body, "close"):
        body.close()


@contextmanager
def staged(kind: Kind, *args: Any, **kwargs: Any) -> Iterator[Stage]:
    """One that is closed in the end."""
    stage = Stage(kind, *args, **kwargs)
    try:
        yield stage
    finally:
        stage.close()


# --- how it ends ---


@dataclass
class Figures:
    """What an attack came to."""

    sent: int = 0
    harmless: int = 0  # requests that hold the valid cookie itself, and were let in
    accepted: list[Headers] = field(default_factory=list)  # requests without it that somebody was seen in
    calls: int = 0  # of the backend, by requests without it
    missed: list[Headers] = field(default_factory=list)  # requests with it in which its user was not seen

    @property
    def withstood(self) -> bool:
        return not (self.accepted or self.calls or self.missed)

    def add(self, other: Figures) -> None:
        self.sent += other.sent
        self.harmless += other.harmless
        self.accepted += other.accepted
        self.calls += other.calls
        self.missed += other.missed


def attack(stage: Stage, requests: Iterable[Headers], valid: dict[bytes, str]) -> Figures:
    """Send the requests. *valid*: the cookies that open a session, and whose it is."""
    figures = Figures()
    for headers, seen, calls in stage.visits(requests):
        values = {value for header in headers for value in plain_parser(stage.name, header)}
        users = {valid[value] for value in values & valid.keys()}
        figures.sent += 1
        if users:
            figures.harmless += seen in users
            figures.missed += [] if seen in users else [headers]
        else:
            figures.accepted += [headers] if seen else []
            figures.calls += calls
    return figures


def sent_as(stage: Stage, values: Iterable[bytes]) -> Iterator[Headers]:
    """Each value as the cookie of this name."""
    return ((stage.name + b"=" + value,) for value in values)


# --- what is sent ---


def crossed(value: bytes, other: bytes) -> Iterator[bytes]:
    """All that two cookies exchange: a byte, what lies before or after a place, a part between dots."""
    for at in range(min(len(value), len(other))):
        yield value[:at] + other[at : at + 1] + value[at + 1 :]
        yield value[:at] + other[at:]
        yield other[:at] + value[at:]
    parts, others = value.split(b"."), other.split(b".")
    for choice in itertools.product((False, True), repeat=len(parts)):
        pairs = zip(parts, others, choice, strict=True)
        yield b".".join(theirs if taken else ours for ours, theirs, taken in pairs)
    for order in itertools.permutations(parts):
        yield b".".join(order)


def forgeries(random: Random, value: bytes, other: bytes) -> Iterator[bytes]:
    """Without an end: what somebody may try who has two cookies of their own, but no key."""
    ways = (_shaped, _resigned, _flipped, _regenerated, _spliced, _noise, _hashed)
    while True:
        yield random.choice(ways)(random, value, other)


def _encoded(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _shaped(random: Random, *_: bytes) -> bytes:
    ids = _encoded(random.randbytes(16)), _encoded(random.randbytes(16))
    return b"%b.%b.%d.%b" % (*ids, random.randrange(10**13), _encoded(random.randbytes(32)))


def _resigned(random: Random, value: bytes, _: bytes) -> bytes:
    return value.rpartition(b".")[0] + b"." + _encoded(random.randbytes(32))


def _flipped(random: Random, value: bytes, _: bytes) -> bytes:
    payload, _, signature = value.rpartition(b".")
    digest = int.from_bytes(urlsafe_b64decode(signature + b"="))
    for _ in range(random.randint(1, 4)):
        digest ^= 1 << random.randrange(256)
    return payload + b"." + _encoded(digest.to_bytes(32))


def _regenerated(random: Random, value: bytes, _: bytes) -> bytes:
    id_, secret, generation, signature = value.split(b".")
    newer = max(0, int(generation) + random.randint(-1000, 1000))
    return b".".join((id_, secret, b"%d" % newer, signature))


def _spliced(random: Random, value: bytes, other: bytes) -> bytes:
    pieces = []
    for _ in range(random.randint(2, 5)):
        source, start = random.choice((value, other)), random.randrange(len(value))
        pieces.append(source[start : start + random.randint(1, 60)])
    return b"".join(pieces)


def _noise(random: Random, *_: bytes) -> bytes:
    return random.randbytes(random.randint(0, 160))


def _hashed(random: Random, value: bytes, _: bytes) -> bytes:
    payload = value.rpartition(b".")[0]
    salt = random.choice((b"", b"cookie", payload, random.randbytes(8)))
    return payload + b"." + _encoded(hashlib.sha256(salt + payload).digest())


SALTS = (
    "session_middleware.cookie.v1.session",
    "session_middleware.promise.v1.session",
    "session_middleware.cookie.v1.other",
    "session_middleware.cookie.v2.session",
    "itsdangerous.Signer",
    "cookie-session",
    "",
)
DIGESTS = (hashlib.md5, hashlib.sha1, hashlib.sha224, hashlib.sha256, hashlib.sha384, hashlib.sha512)
DERIVATIONS = ("concat", "django-concat", "hmac", "none")


def strangers(key: str, value: bytes) -> Iterator[bytes]:
    """The payload of a valid cookie as everybody else signs it who has the same key.

    *value* itself is among them, and the promise of its session: they are what two of these signers make.
    """
    payload = value.rpartition(b".")[0].decode()
    for salt, digest, derivation in itertools.product(SALTS, DIGESTS, DERIVATIONS):
        signing: dict[str, Any] = {"key_derivation": derivation, "digest_method": digest}
        for signed in _signed(key, salt, signing, payload):
            yield signed
            head, _, tail = signed.rpartition(b".")
            yield head + b"." + tail[:43].ljust(43, b"A")  # of our length


def _signed(key: str, salt: str, signing: dict[str, Any], payload: str) -> Iterator[bytes]:
    yield Signer(key, salt=salt, **signing).sign(payload)
    yield Signer(key, salt=salt, sep=":", **signing).sign(payload)
    yield TimestampSigner(key, salt=salt, **signing).sign(payload)
    for kind in (Serializer, URLSafeSerializer, URLSafeTimedSerializer):
        made: Any = kind(key, salt=salt, signer_kwargs=signing)
        dumped = made.dumps(payload)
        yield dumped if isinstance(dumped, bytes) else dumped.encode()


# --- what is found out ---


class PlainSignerCodec(CookieCodec):
    """Verifies as `Signer.unsign` does, which decodes base64 leniently."""

    def _judge(self, values: Sequence[bytes]) -> CookieReading:
        found = tuple(credential for value in values if (credential := _unsigned(value)))
        return CookieReading(found, (), len(values) - len(found))


def _unsigned(value: bytes) -> Credential | None:
    signer = Signer(KEY, salt=SALTS[0], key_derivation="hmac", digest_method=hashlib.sha256)
    try:
        id_, secret, generation = signer.unsign(value).decode().split(".")
        return Credential(SessionId(id_), secret, int(generation))
    except (BadSignature, ValueError):
        return None


class StrippingCodec(CookieCodec):
    """Finds cookies as many parsers do: text, whose `strip` takes away more than space and tab."""

    encoding = "latin-1"

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> CookieReading:
        text = "; ".join(
            header.decode(self.encoding, "replace") for key, header in headers if key == b"cookie"
        )
        return self._judge([value.encode(self.encoding, "replace") for value in self._stripped(text)])

    def read_text(self, header: str) -> CookieReading:
        return self.read([(b"cookie", header.encode("latin-1"))])

    def _stripped(self, text: str) -> Iterator[str]:
        for pair in text.split(";"):
            name, _, value = pair.partition("=")
            if name.strip() == self.settings.session_cookie:
                yield value.strip()


class UnicodeStrippingCodec(StrippingCodec):
    """The same, where the text is UTF-8."""

    encoding = "utf-8"


class FoldingCodec(StrippingCodec):
    """Finds the name in whatever case, as browsers compare prefixes."""

    def _stripped(self, text: str) -> Iterator[str]:
        for pair in text.split(";"):
            name, _, value = pair.partition("=")
            if name.strip(" \t").lower() == self.settings.session_cookie.lower():
                yield value.strip(" \t")


CONTROLS: dict[str, type[CookieCodec]] = {
    "signer": PlainSignerCodec,
    "latin-1": StrippingCodec,
    "utf-8": UnicodeStrippingCodec,
    "case": FoldingCodec,
}

# --- the campaign ---


def assault(kind: Kind, seed: int, count: int, codec: type[CookieCodec] = CookieCodec) -> Figures:
    """*count* random forgeries, all mutants of a cookie for every 100,000 of them, and all other signers'."""
    random, figures = Random(f"{seed}.{kind}"), Figures()
    with staged(kind, codec=codec) as stage:
        for _ in range(max(1, count // 100_000)):
            (value, promise), other = stage.cookie_and_promise(), stage.cookie("bob")
            cookies = {value: "ada", promise: "ada", other: "bob"}
            sent = itertools.chain(
                mutants(value),
                mutants(promise),
                crossed(value, other),
                strangers(KEY, value),
                itertools.islice(forgeries(random, value, other), min(count, 100_000)),
            )
            figures.add(attack(stage, sent_as(stage, sent), cookies))
    return figures


def main() -> int:
    """Exit status 0 if nothing forged was accepted, or if the control was found out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100_000, help="random forgeries at each entrance")
    parser.add_argument("--control", choices=["signer"], help="verify as a plain Signer does")
    given = parser.parse_args()
    kinds: tuple[Kind, ...] = ("asgi", "eager", "wsgi") if given.control else KINDS  # Flask makes its codec
    figures, began = Figures(), time.perf_counter()
    for kind in kinds:
        figures.add(assault(kind, given.seed, given.count, CONTROLS.get(given.control, CookieCodec)))
    sys.stdout.write(
        f"{', '.join(kinds)}: {figures.sent:,} requests from seed {given.seed}, {figures.harmless:,} "
        f"held the cookie itself and {len(figures.missed)} of those were refused: {len(figures.accepted):,} "
        f"others accepted, {figures.calls:,} backend calls, {time.perf_counter() - began:.0f} s\n"
    )
    return int(figures.withstood is bool(given.control))


if __name__ == "__main__":
    raise SystemExit(main())
