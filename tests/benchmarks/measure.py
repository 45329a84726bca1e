"""Interleaved rounds, and what they say.

Reading order: `measure` (n clients at once, CPU and wall time), `Samples` (medians and spread), `ratio`.

In each round every app serves a short slice of each case, forwards in one round and backwards in the next, so
that whatever else the machine does falls on all of them alike. An overhead is taken within a round, app minus
bare app; then comes the median over the rounds; then the ratio of two medians. The garbage collector runs as
it does in a server; what was there before the first slice is out of its sight.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles

from tests.benchmarks.apps import BARE, CASES, Candidate, Case
from tests.benchmarks.checks import check, check_still_signed_in, signed_in
from tests.benchmarks.quiet import Watch, quietest
from tests.benchmarks.traffic import Browser, given_up, running, serve
from tests.benchmarks.wsgi_traffic import WSGIServed

__all__ = ["Effort", "Samples", "Spread", "as_json", "measure", "ratio"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds, and requests of one slice (in a crowd: of each client)."""

    rounds: int
    requests: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Microseconds per request: the median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of *values*, one at least."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(slots=True)
class Samples:
    """Microseconds per request, by app and case, one per round; the rounds of all apps are in step."""

    taken: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    left_out: int = 0  # rounds that others disturbed

    def keep(self, rounds: Sequence[int]) -> None:
        """Leave out all rounds but these."""
        self.left_out = max(map(len, self.taken.values())) - len(rounds)
        self.taken = {key: [values[number] for number in rounds] for key, values in self.taken.items()}

    def add(self, app: str, case: str, microseconds: float) -> None:
        """Note one slice."""
        self.taken.setdefault((app, case), []).append(microseconds)

    def apps(self) -> list[str]:
        """The apps, in the order of their first slice, without the bare one."""
        return [app for app in dict.fromkeys(app for app, _ in self.taken) if app != BARE]

    def bare(self, case: str) -> Spread:
        """What the bare app costs."""
        return Spread.of(self.taken[BARE, case])

    def overhead(self, app: str, case: str) -> Spread:
        """What *app* costs over the bare app, taken round by round."""
        pairs = zip(self.taken[app, case], self.taken[BARE, case], strict=True)
        return Spread.of([with_session - without for with_session, without in pairs])

    def noise(self) -> float:
        """How much slices of one app and case differ: the median of (quartile distance / median)."""
        spreads = [Spread.of(values) for values in self.taken.values()]
        return median((spread.high - spread.low) / spread.median for spread in spreads)


def ratio(samples: Samples, app: str, peer: str, case: str) -> float:
    """The overhead of *app* over that of *peer*, both medians."""
    return samples.overhead(app, case).median / samples.overhead(peer, case).median


@dataclass(frozen=True, slots=True)
class _Ready:
    """A checked app with the visitors who come to it."""

    candidate: Candidate
    visitors: Sequence[Browser]

    def browsers(self, case: Case) -> Sequence[Browser]:
        """Those of *case*: without a cookie where the case has none."""
        return [Browser() for _ in self.visitors] if case in {"none", "new"} else self.visitors


async def measure(
    candidates: Iterable[Candidate], effort: Effort, *, clients: int = 1
) -> tuple[Samples, Samples]:
    """CPU and wall time of each candidate (the bare one is among them), *clients* requests at once.

    Each is checked first, and its visitors afterwards. Raises `ClaimError` for one that does not do what it
    claims.
    """
    cpu, wall = Samples(), Samples()
    async with AsyncExitStack() as stack:
        ready = [await _made_ready(stack, candidate, clients) for candidate in candidates]
        with _settled():
            await _one_round(ready, Effort(1, effort.requests), Samples(), Samples())  # caches fill
            shares = []
            for number in range(effort.rounds):
                watch = Watch()
                await _one_round(ready if number % 2 == 0 else ready[::-1], effort, cpu, wall)
                shares.append(watch.share())
            for samples in (cpu, wall):
                samples.keep(quietest(shares))
        for one in ready:
            await check_still_signed_in(one.candidate, one.visitors)
    return cpu, wall


async def _made_ready(stack: AsyncExitStack, candidate: Candidate, clients: int) -> _Ready:
    await stack.enter_async_context(running(candidate.app))
    await check(candidate)
    return _Ready(candidate, [await signed_in(candidate) for _ in range(clients)])


async def _one_round(ready: Sequence[_Ready], effort: Effort, cpu: Samples, wall: Samples) -> None:
    for case in CASES:
        for one in ready:
            work, requests = _work(one, case, effort.requests)
            began, cpu_began = time.perf_counter(), time.process_time()
            await work()
            cpu_took, took = time.process_time() - cpu_began, time.perf_counter() - began
            cpu.add(one.candidate.name, case, cpu_took / requests * 1e6)
            wall.add(one.candidate.name, case, took / requests * 1e6)


def _work(one: _Ready, case: Case, requests: int) -> tuple[Callable[[], Awaitable[object]], int]:
    """One slice, its scopes made beforehand, and how many requests it is."""
    app, path = one.candidate.app, f"/{case}"
    scopes = [[browser.scope(path) for _ in range(requests)] for browser in one.browsers(case)]
    if isinstance(app, WSGIServed):
        return app.slice_of([scope for own in scopes for scope in own]), requests * len(scopes)
    if len(scopes) == 1:
        return lambda: serve(app, given_up(scopes[0])), requests
    return lambda: asyncio.gather(*(serve(app, given_up(own)) for own in scopes)), requests * len(scopes)


@contextmanager
def _settled() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def as_json(samples: Samples) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Every overhead, by app and case; the bare app's cost is its own."""

    def figures(app: str, case: str) -> Mapping[str, float]:
        spread = samples.bare(case) if app == BARE else samples.overhead(app, case)
        return {"median": spread.median, "low": spread.low, "high": spread.high}

    return {app: {case: figures(app, case) for case in CASES} for app in [BARE, *samples.apps()]}
