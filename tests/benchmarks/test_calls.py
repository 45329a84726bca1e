"""How many calls a request costs: a guard that no machine's speed moves.

A call is what the interpreter's profiler hears: of a Python function, or of one written in C. Time follows it
closely here, where nothing but the interpreter works. The bounds are what was counted under CPython 3.11, and
a twentieth; a change that needs more has a reason, which belongs beside the bound.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from types import FrameType

import pytest

from tests.benchmarks.apps import BARE, OURS, Candidate, Case, in_memory
from tests.benchmarks.checks import signed_in
from tests.benchmarks.traffic import Browser, running, serve

REQUESTS = 50
BOUNDS: dict[Case, int] = {
    "none": 24,  # one object, entered and left; nobody asks for the session
    "untouched": 24,  # the same: a cookie nobody looks at is not looked for
    "read": 96,  # the cookie found and known, one record looked up, its values decoded, and compared twice
    "write": 207,  # besides: a plan, one commit, one event, and what the session is afterwards
    "new": 251,  # besides: chance for an id, a signature, what is known of the client, two events
}


async def calls_of(candidate: Candidate, case: Case) -> float:
    """Calls per request of this app, caches filled."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(candidate.app))
        visitor = await signed_in(candidate)
        browser = Browser() if case in {"none", "new"} else visitor
        await serve(candidate.app, [browser.scope(f"/{case}") for _ in range(REQUESTS)])
        return await counted(serve(candidate.app, [browser.scope(f"/{case}") for _ in range(REQUESTS)]))


async def counted(work: Awaitable[object]) -> float:
    calls = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await work
    finally:
        sys.setprofile(before)
    return calls / REQUESTS


def overhead(case: Case) -> float:
    """Calls per request over those of the bare app."""
    candidates = {candidate.name: candidate for candidate in in_memory()}
    ours, bare = (asyncio.run(calls_of(candidates[name], case)) for name in (OURS, BARE))
    return ours - bare


@pytest.mark.parametrize("case", BOUNDS)
def test_a_request_costs_no_more_calls_than_it_did(case: Case) -> None:
    assert 0.5 * BOUNDS[case] < overhead(case) <= BOUNDS[case]


def test_one_more_call_per_request_is_noticed() -> None:
    async def wasteful() -> None:
        for _ in range(REQUESTS):
            len(())

    async def idle() -> None:
        for _ in range(REQUESTS):
            pass

    assert asyncio.run(counted(wasteful())) - asyncio.run(counted(idle())) == 1
