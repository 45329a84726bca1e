"""A million sessions in memory.

Reading order: `measure_memory`, `_filled` (created by the manager, as a sign-in does), `bytes_traced` and
`resident` (what they take), `_pauses` (the garbage collector), `_writing` (a writer in another thread).
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from resource import getpagesize

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.backends.memory import MemoryBackend
from session_middleware.record import SessionId
from session_middleware.testing import ManualClock
from tests.benchmarks.apps import handlers
from tests.benchmarks.scale import (
    ALL_OVER,
    START,
    Pauses,
    Scale,
    Times,
    both_cleanups,
    created_at,
    made_manager,
    owner,
    payload,
    payload_size,
    sample,
    timings,
    undisturbed,
    write,
    written_to,
)
from tests.benchmarks.traffic import Browser, exchange, serve

__all__ = ["bytes_traced", "measure_memory", "resident"]

_TRACED = 20_000  # sessions; tracing a million would take as long as everything else
_REQUESTS = 5_000  # of each kind while the collector is watched, beside the sessions
_PAUSE = 0.001  # seconds between two writes
_ALONE = 1.0  # seconds


def measure_memory(sessions: int, backend: MemoryBackend | None = None, *, alone: float = _ALONE) -> Scale:
    """Everything about the memory backend, in this process: give it one of its own.

    *backend*: an empty one, to measure instead of a new one. *alone*: seconds that a writer has to itself.
    """
    gc.collect()
    manager, clock = made_manager(backend or MemoryBackend(max_records=2 * sessions + 100_000))
    before, began = resident(), time.perf_counter()
    with _watched() as while_filling:
        ids = _filled(manager, clock, sessions)
    filled, after, some = time.perf_counter() - began, resident(), sample(ids)
    calls = timings(manager, some, [owner(number, sessions) for number in range(len(some))])
    steady, full, visits = _pauses(manager)
    pauses = Pauses(max(while_filling, default=0.0), Times.of(steady), full)
    port = manager.blocking._operations._port
    waits = partial(_writing, port, written_to(manager, clock), ALL_OVER)
    by_itself = undisturbed(waits, alone)
    tenth, rest = both_cleanups(manager, clock, sessions, waits, others=visits)
    each = {} if before is None or after is None else {"resident": (after - before) / sessions}
    each["traced"] = bytes_traced(min(sessions, _TRACED))  # last: what it frees would be taken again unseen
    return Scale("memory", sessions, payload_size(), filled, each, calls, by_itself, tenth, rest, pauses)


def bytes_traced(sessions: int) -> float:
    """What Python has allocated for each of so many sessions, indexes included."""
    manager, clock = made_manager(MemoryBackend())
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        _fill(manager, clock, sessions)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / sessions
    finally:
        tracemalloc.stop()


def resident() -> int | None:
    """Bytes of this process in memory; None where the system does not tell."""
    told = Path("/proc/self/statm")
    return int(told.read_text(encoding="ascii").split()[1]) * getpagesize() if told.exists() else None


def _filled(manager: SessionManager, clock: ManualClock, sessions: int) -> list[SessionId]:
    """The ids, which the backend's own records hold already."""
    _fill(manager, clock, sessions)
    return list(manager.backend._records)  # type: ignore[attr-defined]


def _fill(manager: SessionManager, clock: ManualClock, sessions: int) -> None:
    create = manager.blocking.create_session
    for number in range(sessions):
        clock.now = created_at(number, sessions)
        create(owner(number, sessions), payload(number))
    clock.now = START


# --- the garbage collector ---


@contextmanager
def _watched() -> Iterator[list[float]]:
    """Within it each run of the collector is noted, in seconds."""
    pauses: list[float] = []
    began = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            pauses.append(time.perf_counter() - began)

    gc.callbacks.append(note)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(note)


def _pauses(manager: SessionManager) -> tuple[list[float], float, int]:
    """Pauses while requests come, that of a full run, and how many sessions the requests have begun."""
    app = SessionMiddleware(handlers(), manager=manager)

    async def visited() -> None:
        visitor = Browser()
        await exchange(app, visitor, "/seed")
        for path in ("/read", "/write"):
            await serve(app, (visitor.scope(path) for _ in range(requests)))
        await serve(app, (Browser().scope("/new") for _ in range(requests)))

    there = manager.blocking.count()
    requests = min(_REQUESTS, max(there, 1_000))
    with _watched() as steady:
        asyncio.run(visited())
    with _watched() as full:
        gc.collect()
    return steady, max(full), manager.blocking.count() - there


# --- a writer beside ---


@contextmanager
def _writing(port: MemoryBackend, ids: list[SessionId], now: float) -> Iterator[list[float]]:
    """Within it a thread writes to *ids* in turn; it has begun. What it raised is raised."""
    taken: list[float] = []
    problems: list[BaseException] = []
    has_begun, is_over = threading.Event(), threading.Event()

    def run() -> None:
        try:
            for id_ in cycle(ids):
                taken.append(write(port, id_, now))
                has_begun.set()
                if is_over.wait(_PAUSE):
                    return
        except BaseException as problem:  # noqa: BLE001  (raised below)
            problems.append(problem)
            has_begun.set()

    thread = threading.Thread(target=run)
    thread.start()
    has_begun.wait()
    try:
        yield taken
    finally:
        is_over.set()
        thread.join()
    if problems:
        raise problems[0]
