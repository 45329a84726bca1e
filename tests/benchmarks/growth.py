"""How costs grow: with the size of a value, the number of keys, of sessions, of requests at once.

Reading order: `Curve` and `law_of` (what is measured, and what it follows), `measure_growth`, then one
function for each curve. All over sessions in memory, in the default configuration; SQLite beside them for the
number of sessions.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import median
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from session_middleware import SessionMiddleware
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.sqlite import SQLiteBackend
from tests.benchmarks.apps import PAGES, handlers, ignore
from tests.benchmarks.scale import START, Times, created_at, made_manager, owner, payload, sample, timings
from tests.benchmarks.scale_sqlite import fill
from tests.benchmarks.traffic import Browser, exchange, given_up, live, running, serve

__all__ = ["Curve", "Law", "law_of", "measure_growth"]

_KEY: Final = "k" * 40
_ROUNDS: Final = 7
_REQUESTS: Final = 300
_SIZES: Final = (
    1,
    16,
    256,
    1024,
    4096,
    16_384,
    61_440,
)  # bytes of one value; 64 KiB is the most of a session
_KEYS: Final = (1, 3, 10, 30, 100, 300, 1000)
_CROWDS: Final = (10, 100, 1000, 10_000)
_AT_LEAST: Final = 2_000  # requests of a crowd that are measured, in as many crowds as that takes
_FEW: Final = (10, 100, 500)
_SESSIONS: Final = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Curve:
    """What is measured (*y*, with its unit) against what grows (*x*), by the name of a case."""

    name: str
    x: str
    y: str
    points: dict[str, list[tuple[float, float]]]
    by_logarithm: bool = False  # what grows is passed through by a tree or a table, if at all


@dataclass(frozen=True, slots=True)
class Law:
    """`base + slope * x` (or of the logarithm of x), and how much of the variation that explains (0 to 1)."""

    base: float
    slope: float
    explained: float


def law_of(points: Sequence[tuple[float, float]], *, by_logarithm: bool = False) -> Law:
    """The straight line closest to the points, by least squares."""
    xs = [log10(x) if by_logarithm else x for x, _ in points]
    ys = [y for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    base = mean_y - slope * mean_x
    missed = sum((y - base - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    whole = sum((y - mean_y) ** 2 for y in ys)
    return Law(base, slope, 1.0 if whole == 0 else 1.0 - missed / whole)


def measure_growth(folder: Path, *, quick: bool = False) -> list[Curve]:
    """Every curve. *folder*: for SQLite's files. *quick*: a few points of each, to see that it runs."""
    first = 3 if quick else None
    return [
        asyncio.run(
            _of_contents("value", "bytes in one value", ((n, {"v": "x" * n}) for n in _SIZES[:first]))
        ),
        asyncio.run(_of_contents("keys", "keys", ((n, _keyed(n)) for n in _KEYS[:first]))),
        asyncio.run(_of_crowds(_FEW if quick else _CROWDS)),
        _of_sessions(_FEW if quick else _SESSIONS, folder),
    ]


def _keyed(number: int) -> dict[str, int]:
    return {f"key{index:04d}": index for index in range(number)}


# --- what a session holds ---


async def _of_contents(name: str, x: str, contents: Iterable[tuple[int, dict[str, Any]]]) -> Curve:
    """Read one value, write another one, in a session that holds so much."""
    points: dict[str, list[tuple[float, float]]] = {"read": [], "write": []}
    for size, values in contents:

        def seed(request: Request, values: dict[str, Any] = values) -> bytes:
            request.session.update({"n": 0, "user": "u", **values})
            return b""

        app = SessionMiddleware(handlers(pages={**PAGES, "/seed": seed}), _KEY, max_keys=2000)
        bare = handlers(pages=dict.fromkeys(PAGES, ignore))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(app))
            visitor = Browser()
            await exchange(app, visitor, "/seed")
            for case, found in points.items():
                costs = [await _cost(one, visitor, case) for one in (app, bare)]
                found.append((size, costs[0] - costs[1]))
    return Curve(name, x, "µs of CPU over the bare app", points)


async def _cost(app: ASGIApp, visitor: Browser, case: str) -> float:
    """Microseconds of CPU per request: of the best round, which nothing else disturbed."""
    spent = []
    for _ in range(_ROUNDS):
        scopes = [visitor.scope(f"/{case}") for _ in range(_REQUESTS)]
        began = time.process_time()
        await serve(app, given_up(scopes))
        spent.append(time.process_time() - began)
    return min(spent) / _REQUESTS * 1e6


# --- how many requests and sockets are open ---


class _Gate:
    """An app whose requests look at their session and wait until all are there."""

    def __init__(self) -> None:
        self.inside = self.wanted = 0
        self.full, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        if scope["path"] == "/seed":
            scope["session"]["user"] = "u"
        else:
            scope["session"].get("user")
            await self.pass_through()
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    async def pass_through(self) -> None:
        self.inside += 1
        if self.inside == self.wanted:
            self.full.set()
        await self.open.wait()

    def begin(self, wanted: int) -> None:
        self.inside, self.wanted = 0, wanted
        self.full.clear()
        self.open.clear()


async def _of_crowds(crowds: Sequence[int]) -> Curve:
    """So many requests, or WebSockets, open at once, each with a session of its own."""
    points: dict[str, list[tuple[float, float]]] = {"requests": [], "WebSockets": []}
    gate = _Gate()
    app = SessionMiddleware(gate, _KEY, max_concurrent_requests=None)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(app))
        visitors = [Browser() for _ in range(max(crowds))]
        for visitor in visitors:
            await exchange(app, visitor, "/seed")
        for crowd in crowds:
            for kind, make in (("requests", _request), ("WebSockets", _socket)):
                spent = [await _together(app, gate, visitors[:crowd], make) for _ in range(3)]
                points[kind].append((crowd, median(spent)))
    return Curve("crowd", "open at once", "µs of CPU each, from opening to its end", points)


async def _together(
    app: ASGIApp, gate: _Gate, visitors: Sequence[Browser], make: Callable[[Browser], Scope]
) -> float:
    crowds = [[make(visitor) for visitor in visitors] for _ in range(max(1, _AT_LEAST // len(visitors)))]
    gc.collect()
    began = time.process_time()
    for scopes in crowds:
        gate.begin(len(scopes))
        tasks = [asyncio.ensure_future(app(scope, _receive, _send)) for scope in scopes]
        await gate.full.wait()
        gate.open.set()
        await asyncio.gather(*tasks)
    return (time.process_time() - began) / (len(crowds) * len(visitors)) * 1e6


def _request(visitor: Browser) -> Scope:
    return visitor.scope("/hold")


def _socket(visitor: Browser) -> Scope:
    return {**visitor.scope("/hold"), "type": "websocket", "scheme": "wss", "subprotocols": []}


async def _receive() -> Message:
    return {"type": "websocket.disconnect", "code": 1000}


async def _send(_: Message) -> None:
    """The answers go nowhere."""


# --- how many sessions there are ---


def _of_sessions(numbers: Sequence[int], folder: Path) -> Curve:
    """One call of the backend beside so many sessions."""
    points: dict[str, list[tuple[float, float]]] = {}
    for number in numbers:
        for where, found in (("memory", _in_memory(number)), ("SQLite", _in_sqlite(number, folder))):
            for call in ("load", "commit"):
                points.setdefault(f"{where}: {call}", []).append((number, found[call].p50 * 1e6))
        gc.collect()
    return Curve("sessions", "sessions", "µs of a call, median", points, by_logarithm=True)


def _in_memory(number: int) -> dict[str, Times]:
    manager, clock = made_manager(MemoryBackend(max_records=2 * number))
    for index in range(number):
        clock.now = created_at(index, number)
        manager.blocking.create_session(owner(index, number), payload(index))
    clock.now = START
    return timings(manager, sample(list(manager.backend._records)), [owner(0, number)])  # type: ignore[attr-defined]


def _in_sqlite(number: int, folder: Path) -> dict[str, Times]:
    backend = SQLiteBackend(folder / f"{number}.db")
    manager, _ = made_manager(backend)
    with manager.blocking:
        return timings(manager, sample(fill(backend, number)), [owner(0, number)])
