"""Whoever watches for endings can be stopped at any moment."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from session_middleware.backends.urls import backend_from
from tests.security.interrupting import LAST, Steps

PATIENCE = 10.0  # seconds: what has not ended by then never does


@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_a_watch_ends_wherever_it_is_cancelled(server: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(server).new_store()

    async def main() -> int:
        port: Any = backend_from(url).port("async")
        await port.open()
        for at in range(1, LAST):
            if not await cancelled_at(port, at):
                break
        await port.close()
        return at

    assert asyncio.run(main()) > 3, "it was cancelled while it connected, too"


async def cancelled_at(port: Any, at: int) -> bool:
    """At this suspension, or else when it has begun to listen: False."""
    steps, listens = Steps(at), asyncio.Event()

    async def watch() -> None:
        async with aclosing(port.watch()) as told:
            async for _ in told:
                listens.set()

    async with steps.counting():
        task = asyncio.create_task(watch())
        steps.act = task.cancel
        task.add_done_callback(lambda _: listens.set())
        await listens.wait()
    if not steps.was_hit:
        task.cancel()
    await asyncio.wait({task}, timeout=PATIENCE)
    ended = task.cancelled()
    task.cancel()  # else the loop would not end either
    await asyncio.wait({task})
    assert ended, f"cancelled at suspension {at}, it goes on"
    return steps.was_hit
