"""Single steps of a request, ours beside what they replace.

Reading order: `steps` (what is timed), `measure_steps` (interleaved, CPU time). Each step is checked once: it
must give the answer that its line names.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle
from statistics import median

from itsdangerous import Signer
from starlette.requests import HTTPConnection, cookie_parser

from session_middleware import cookies
from session_middleware.backends.memory import MemoryBackend
from session_middleware.blocking import run_blocking
from session_middleware.cookies import CookieCodec, CookieSettings, Credential
from session_middleware.record import Record, SessionId
from session_middleware.reporting import Reporter
from tests.benchmarks.traffic import COOKIE, Browser

__all__ = ["Pair", "Step", "measure_steps", "steps"]

_CALLS = 500  # of a step in one slice
_STRANGERS = 5_000  # more cookies than the codec remembers, so each is verified anew
_GENERATION = 1_790_000_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """A call to time, and the one it replaces (None: none)."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object] | None = None
    goal: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Microseconds per call: medians over the rounds. `theirs` is None where nothing is compared."""

    name: str
    ours: float
    theirs: float | None
    goal: str

    @property
    def ratio(self) -> float | None:
        """Ours over theirs."""
        return None if self.theirs is None else self.ours / self.theirs


def steps() -> list[Step]:
    """The steps, checked."""
    return [*_cookie_steps(), *_event_steps(), *_memory_steps()]


def measure_steps(rounds: int) -> list[Pair]:
    """Each step and its counterpart, one slice of each per round."""
    found = steps()
    ours: dict[str, list[float]] = {step.name: [] for step in found}
    theirs: dict[str, list[float]] = {step.name: [] for step in found}
    for _ in range(rounds):
        for step in found:
            ours[step.name].append(_slice(step.ours))
            if step.theirs is not None:
                theirs[step.name].append(_slice(step.theirs))
    return [
        Pair(
            step.name,
            median(ours[step.name]),
            median(theirs[step.name]) if theirs[step.name] else None,
            step.goal,
        )
        for step in found
    ]


def _slice(call: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(_CALLS):
        call()
    return (time.process_time() - began) / _CALLS * 1e6


def _nothing() -> None:
    """What a call costs that does nothing: it is inside every figure."""


def _cookie_steps() -> Iterator[Step]:
    key = secrets.token_urlsafe(32)
    codec = CookieCodec(CookieSettings(), key)
    salt = f"session_middleware.cookie.v1.{COOKIE}"
    signer = Signer(key, salt=salt, key_derivation="hmac", digest_method=sha256)
    values = [codec.sign(_credential()) for _ in range(_STRANGERS)]
    ours, theirs = cycle([value.encode() for value in values]).__next__, cycle(values).__next__
    known = values[0].encode()
    scope = Browser(values[0]).scope("/")
    header = scope["headers"][-1][1]
    name_is, text = COOKIE.encode() + b"=", header.decode()
    find = cookies._values_after
    _expect(codec.verify(known) is not None and signer.unsign(values[0]) == known.rsplit(b".", 1)[0])
    _expect(list(find(name_is, header)) == [known] and cookie_parser(text)[COOKIE] == values[0])
    _expect(len(codec.read(scope["headers"]).credentials) == 1)
    yield Step("a call that does nothing", _nothing)
    yield Step(
        "verify a cookie never seen before / Signer.unsign",
        lambda: codec.verify(ours()),
        lambda: signer.unsign(theirs()),
        "0.25",
    )
    yield Step(
        "verify a cookie seen before / Signer.unsign",
        lambda: codec.verify(known),
        lambda: signer.unsign(theirs()),
    )
    yield Step(
        "find it in the Cookie header / Starlette's parser",
        lambda: find(name_is, header),
        lambda: cookie_parser(text),
        "0.18",
    )
    yield Step(
        "from raw headers to a verified cookie / request.cookies",
        lambda: codec.read(scope["headers"]),
        lambda: HTTPConnection(scope).cookies,
    )


def _event_steps() -> Iterator[Step]:
    reporter, fields = Reporter(), {"path": "/"}
    _expect(not reporter.wants("request_started"))
    yield Step("ask whether anybody listens", lambda: reporter.wants("request_started"))
    yield Step(
        "an event nobody listens to",
        lambda: reporter.emit("session_renewed", "a", None, 1.0),
        None,
        "0.15 µs",
    )
    yield Step("the same with a field", lambda: reporter.emit("session_renewed", "a", None, 1.0, **fields))


def _memory_steps() -> Iterator[Step]:
    backend, id_ = MemoryBackend(), SessionId("a" * 22)
    record = Record(
        id=id_,
        secret="",
        generation=1,
        created_at=0.0,
        deadline=9.0,
        limit=9.0,
        last_seen_at=0.0,
        floors=(1,),
    )
    run_blocking(backend.create(record, 1.0))
    _expect(run_blocking(backend.load(id_, 1.0)) is record)
    yield Step("load from memory", lambda: run_blocking(backend.load(id_, 1.0)))


def _credential() -> Credential:
    return Credential(SessionId(secrets.token_urlsafe(16)), secrets.token_urlsafe(16), _GENERATION)


def _expect(holds: bool) -> None:
    if not holds:
        raise AssertionError("a step does not do what its line says")
