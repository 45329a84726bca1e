"""Another connection holds the file's write lock, while visitors come over ASGI."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from session_middleware import SQLiteBackend
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import Site, page, put

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def locked(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def visited(file: Path, busy_timeout: float) -> Site:
    """A site whose visitor has a session with n=1."""
    site = Site(page(), SQLiteBackend(file, busy_timeout=busy_timeout), ManualClock(), log=False)
    assert (await site.visit(page(put(n=1)))).status == 200
    return site


async def test_a_lock_that_outlasts_the_patience_is_503_and_the_loop_goes_on(tmp_path: Path) -> None:
    site = await visited(tmp_path / "sessions.db", 0.05)
    with locked(tmp_path / "sessions.db"):
        writing = asyncio.ensure_future(site.visit(page(put(n=2)), site.client.copy()))
        turns = 0
        while not writing.done():
            await asyncio.sleep(0)
            turns += 1
        refused = await writing
        assert (refused.status, refused.header("retry-after"), refused.set_cookie) == (503, "2", None)
        assert turns > 100  # a loop that the lock blocks makes a handful
        assert await site.value("n") == 1
    assert len(site.named("backend_unavailable")) == 1
    assert (await site.visit(page(put(n=3)))).status == 200
    assert await site.value("n") == 3
    await site.manager.performer.port.close()


async def test_a_lock_that_is_given_back_in_time_delays_and_refuses_nobody(tmp_path: Path) -> None:
    site = await visited(tmp_path / "sessions.db", 60)
    with locked(tmp_path / "sessions.db") as other:
        writing = asyncio.ensure_future(site.visit(page(put(n=2)), site.client.copy()))
        port: Any = site.manager.performer.port
        while not port._lanes_here().writer.is_busy:  # noqa: ASYNC110  (nobody sets an event when it begins)
            await asyncio.sleep(0)
        assert await site.value("n") == 1  # readers do not mind
        assert not writing.done()
        other.execute("ROLLBACK")
        assert (await writing).status == 200
    assert await site.value("n") == 2
    await site.manager.performer.port.close()
