"""A million sessions, whatever backend holds them: how they come to be, and what is measured about them.

Reading order: `START` and the times below it (what happens when), `payload`, `Times` (what many calls took),
`timings`, `Watch` (each step of a cleanup), `cleaned` (a cleanup with a writer beside it), `Scale` (the
figures of one backend).

Sessions are created over two weeks and live for two weeks: so a tenth of them is over at `TENTH_OVER`, and
all at `ALL_OVER`; around both there is a gap, because backends look at whole minutes. Each user has five, far
apart. Time is told, not waited for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from session_middleware import SessionManager
from session_middleware.backends.base import EndedRecord
from session_middleware.blocking import run_blocking
from session_middleware.record import Committed, Delta, SessionId
from session_middleware.testing import ManualClock
from tests.benchmarks.apps import PAYLOAD

__all__ = [
    "ALL_OVER",
    "MOST_ROWS",
    "START",
    "TENTH_OVER",
    "WRITERS",
    "Cleaned",
    "Pauses",
    "Scale",
    "ScaleClaimError",
    "Times",
    "Waits",
    "Watch",
    "both_cleanups",
    "cleaned",
    "created_at",
    "made_manager",
    "owner",
    "payload",
    "payload_size",
    "sample",
    "timings",
    "undisturbed",
    "write",
    "written_to",
]

_DAY = 24 * 60 * 60.0
START = 1_790_000_000.0
"""When the last of them was created. Seconds since the epoch."""
_SPREAD = 14 * _DAY  # over which they were created, and how long each lives
TENTH_OVER = START + 0.095 * _SPREAD
ALL_OVER = START + _SPREAD + _DAY
MOST_ROWS = 64
"""Rows of one step of a cleanup: whoever writes meanwhile waits for one step."""
WRITERS = 64
"""Sessions that are written to while others are cleaned up; they outlive both cleanups."""
_PER_USER = 5
_SAMPLES = 2_000  # calls of each operation on one session
_AGGREGATES = 5  # calls of each that looks at all
_CHANGE = Delta(set={"n": b"1"})


class ScaleClaimError(AssertionError):
    """A cleanup does not do what it claims."""


def created_at(number: int, sessions: int) -> float:
    """When the session of this number, of so many, was created: evenly, the first tenth a little closer."""
    early = 0.9 if number < sessions // 10 else 1.0
    return START - _SPREAD + _SPREAD * early * (number + 0.5) / sessions


def owner(number: int, sessions: int) -> str:
    """Whose it is."""
    return f"user{number % max(1, sessions // _PER_USER)}@example.org"


def payload(number: int) -> dict[str, Any]:
    """About 500 bytes of JSON, of its own."""
    return {**PAYLOAD, "user": f"user{number:07d}@example.org"}


def payload_size() -> int:
    """How many bytes that is."""
    return len(json.dumps(payload(0), separators=(",", ":")))


def made_manager(backend: object) -> tuple[SessionManager, ManualClock]:
    """A manager in its default configuration, whose clock is moved by hand."""
    clock = ManualClock(START)
    return SessionManager(backend, secret_key="k" * 40, clock=clock, log=False), clock  # type: ignore[arg-type]


def sample(ids: Sequence[SessionId]) -> Sequence[SessionId]:
    """Some of them, from all over, none of which is over when a tenth is; in no order of time."""
    live = ids[len(ids) // 5 :]
    step = max(1, len(live) // _SAMPLES)
    some = live[::step][:_SAMPLES]
    return [some[number * 7919 % len(some)] for number in range(len(some))]  # a prime: visits each of them


def written_to(manager: SessionManager, clock: ManualClock) -> list[SessionId]:
    """New sessions that live on when all others are over."""
    clock.now, before = ALL_OVER, clock.now
    made = [manager.blocking.create_session(data=payload(number)) for number in range(WRITERS)]
    clock.now = before
    return [session.id for session in made]


# --- what calls took ---


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per call: of half of them at most, of 99 in a hundred at most, of all; and how many."""

    p50: float
    p99: float
    longest: float
    calls: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Times:
        """Those of *seconds*, one at least."""
        ordered = sorted(seconds)
        at = len(ordered) - 1
        return cls(ordered[round(at * 0.5)], ordered[round(at * 0.99)], ordered[-1], len(ordered))


def timings(manager: SessionManager, ids: Sequence[SessionId], users: Sequence[str]) -> dict[str, Times]:
    """What one call of the backend costs, by its name, while nothing else runs; and the manager's figures."""
    operations = manager.blocking._operations
    port, now = operations._port, manager.clock()
    found = {
        "load": Times.of(_timed(port.load, id_, now) for id_ in ids),
        "commit": Times.of(write(port, id_, now) for id_ in ids),
        "list by user": Times.of(_timed(port.list_user, user, now) for user in users),
    }
    for name in ("usage", "count"):
        found[name] = Times.of(_timed(getattr(port, name), now) for _ in range(_AGGREGATES))
    for name in ("get_statistics", "get_health"):
        if hasattr(operations, name):
            found[name] = Times.of(_timed(getattr(operations, name)) for _ in range(_AGGREGATES))
    return found


def _timed(call: Callable[..., Coroutine[Any, Any, object]], *arguments: object) -> float:
    began = time.perf_counter()
    run_blocking(call(*arguments))
    return time.perf_counter() - began


def write(port: Any, id_: SessionId, now: float) -> float:
    """How many seconds one commit takes. Raises `ScaleClaimError` if it was none."""
    began = time.perf_counter()
    answer = run_blocking(port.commit(id_, _CHANGE, now))
    took = time.perf_counter() - began
    if not isinstance(answer, Committed):
        raise ScaleClaimError(f"a write to a live session was answered {answer}")
    return took


# --- cleanup ---


@dataclass(slots=True)
class Watch:
    """The steps of a cleanup: rows and seconds of each."""

    rows: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def over(self, port: Any) -> Iterator[None]:
        """Note each step that *port* is asked for."""
        step = port.delete_expired

        async def noted(now: float, limit: int) -> Sequence[EndedRecord]:
            began = time.perf_counter()
            ended: Sequence[EndedRecord] = await step(now, limit)
            self.seconds.append(time.perf_counter() - began)
            self.rows.append(len(ended))
            return ended

        port.delete_expired = noted
        try:
            yield
        finally:
            del port.delete_expired

    def check(self, expected: int) -> None:
        """Raise `ScaleClaimError` unless *expected* rows were removed, in small steps."""
        if sum(self.rows) != expected:
            raise ScaleClaimError(f"a cleanup removed {sum(self.rows)} sessions of {expected} that were over")
        if max(self.rows) > MOST_ROWS:
            raise ScaleClaimError(
                f"a cleanup removed {max(self.rows)} sessions in one step: writers wait for all of them, "
                f"{MOST_ROWS} at most are allowed"
            )


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A cleanup: how many sessions, in how many seconds and steps; how long a writer waited meanwhile.

    `one_delete`: seconds that one DELETE of the same rows takes; None where it was not tried.
    """

    sessions: int
    seconds: float
    steps: Times
    waits: Times
    one_delete: float | None = None


Waits = Callable[[], AbstractContextManager[list[float]]]
"""Within it somebody writes all the time; after it the list holds how many seconds each write took."""


def cleaned(
    manager: SessionManager, expected: int, left: int, waits: Waits, one_delete: float | None = None
) -> Cleaned:
    """Clean up what is over now while somebody writes. *left*: how many sessions must be there afterwards.

    Raises `ScaleClaimError` for a cleanup that left something, took too much, or went in large steps.
    """
    watch = Watch()
    with waits() as taken:
        began = time.perf_counter()
        with watch.over(manager.blocking._operations._port):
            manager.blocking.cleanup_expired()
        seconds = time.perf_counter() - began
    watch.check(expected)
    there = manager.blocking.count()
    if there != left:
        raise ScaleClaimError(f"after a cleanup {there} sessions were live, not {left}")
    return Cleaned(expected, seconds, Times.of(watch.seconds), Times.of(taken), one_delete)


def undisturbed(waits: Waits, seconds: float) -> Times:
    """What a write takes while nothing else runs, for so long."""
    with waits() as taken:
        time.sleep(seconds)
    return Times.of(taken)


def both_cleanups(
    manager: SessionManager,
    clock: ManualClock,
    sessions: int,
    waits: Waits,
    *,
    others: int = 0,
    one_delete: Callable[[int, float], float] | None = None,
) -> tuple[Cleaned, Cleaned]:
    """A cleanup when a tenth is over, and one when all are. *others*: sessions that came later.

    *one_delete*: what tells how long one DELETE of so many rows takes, at that time.
    """
    tenth, all_over = sessions // 10, sessions + others
    clock.now = TENTH_OVER
    instead = None if one_delete is None else one_delete(tenth, clock.now)
    first = cleaned(manager, tenth, all_over - tenth + WRITERS, waits, instead)
    clock.now = ALL_OVER
    return first, cleaned(manager, all_over - tenth, WRITERS, waits)


# --- one backend ---


@dataclass(frozen=True, slots=True)
class Pauses:
    """Of the garbage collector, in seconds: while sessions were made; while requests came; of a full run."""

    filling: float  # the longest
    steady: Times
    full: float


@dataclass(frozen=True, slots=True)
class Scale:
    """What one backend does with so many sessions. `bytes_each`: by the way it was measured."""

    backend: str
    sessions: int
    payload: int  # bytes of JSON of each
    filled: float  # seconds
    bytes_each: dict[str, float]
    calls: dict[str, Times]
    alone: Times  # a writer, while nothing else runs
    tenth: Cleaned
    rest: Cleaned
    pauses: Pauses | None = None
