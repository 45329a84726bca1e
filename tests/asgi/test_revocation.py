"""The WebSockets of a session that was ended close at once, whoever ended it, and wherever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from session_middleware import MemoryBackend, SQLiteBackend
from session_middleware.backends.base import Backend
from session_middleware.backends.urls import backend_from
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import Site, Socket, chat, page, put
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.anyio

SEVERAL_HOSTS = ["postgres", "redis"]
NEVER = 100_000  # seconds between two rounds: none comes while a test runs


@pytest.fixture(params=["memory", "sqlite", *SEVERAL_HOSTS])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backend]:
    """Makes a backend over the same store each time, as another process would."""
    if request.param == "memory":
        backend = MemoryBackend()
        return lambda: backend
    if request.param == "sqlite":
        return lambda: SQLiteBackend(tmp_path / "sessions.db")
    url = request.getfixturevalue(request.param).new_store()
    return lambda: backend_from(url)


@pytest.fixture
async def sites(anyio_backend: str, another: Callable[[], Backend]) -> AsyncIterator[list[Site]]:
    """Two processes, as it were."""
    clock = ManualClock()
    made = [Site(page(), another(), clock, check_interval=NEVER) for _ in range(2)]
    yield made
    for site in made:
        site.manager.heartbeat.relax()
        await site.manager.finisher.drain()
        await site.manager.performer.port.close()
        if site.manager.uses_blocking_port:
            await site.manager.blocking_performer.port.close()


async def open_socket(site: Site) -> Socket:
    site.middleware.app = chat(lambda session, text: None, first=lambda session: session.get("n"))
    return await site.client.connect("/chat")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  (another process, or a server, tells no event)
            await asyncio.sleep(0.005)


async def watching(site: Site) -> None:
    """The site has heard that it is watching."""
    await until(lambda: site.manager.heartbeat._watch.is_told)


def closing_code(socket: Socket) -> int | None:
    codes = [message["code"] for message in socket.sent if message["type"] == "websocket.close"]
    return codes[0] if codes else None


async def test_a_socket_closes_at_once_where_its_session_is_ended(sites: list[Site]) -> None:
    here, _ = sites
    await here.visit(page(put(n=1)))
    sockets = [await open_socket(here), await open_socket(here)]
    await here.manager.delete_session(here.named("session_created")[0].session_id)
    await until(lambda: [closing_code(socket) for socket in sockets] == [1008, 1008])
    for socket in sockets:
        await socket.task


async def test_a_socket_closes_at_once_when_plain_code_ends_its_session(sites: list[Site]) -> None:
    """As a Flask app beside it does, in a thread."""
    here, _ = sites
    await here.visit(page(put(n=1)))
    socket = await open_socket(here)
    id_ = here.named("session_created")[0].session_id
    await asyncio.to_thread(here.manager.blocking.delete_session, id_)
    await until(lambda: closing_code(socket) == 1008)
    await socket.task


async def test_the_socket_of_a_visitor_who_signs_in_elsewhere_closes_and_others_stay_open(
    sites: list[Site],
) -> None:
    here, _ = sites
    await here.visit(page(put(n=1)))
    other = here.new_client()
    await here.visit(page(put(n=2)), other)
    mine, theirs = await open_socket(here), await other.connect("/chat")
    here.clock.advance(60)
    await here.visit(page(lambda session: session.login("ada")), here.client.copy())
    await until(lambda: closing_code(mine) == 1008)
    await mine.task
    assert closing_code(theirs) is None
    await theirs.leave()


ENDINGS: dict[str, Callable[[Site, str], Any]] = {
    "by id": lambda site, id_: site.manager.delete_session(id_),
    "of a user": lambda site, id_: site.manager.delete_user_sessions("ada"),
    "by conditions": lambda site, id_: site.manager.end_sessions(user_id="ada", dry_run=False),
    "before a moment": lambda site, id_: site.manager.end_all_before(site.clock.now),
}


@pytest.mark.parametrize("another", SEVERAL_HOSTS, indirect=True)
@pytest.mark.parametrize("ending", ["by id", "of a user", "by conditions", "before a moment"])
async def test_a_socket_closes_at_once_when_another_process_ends_its_session(
    sites: list[Site], ending: str
) -> None:
    here, there = sites
    await here.visit(page(lambda session: session.login("ada")))
    socket = await open_socket(here)
    await watching(here)
    here.clock.advance(1)
    await ENDINGS[ending](there, str(here.named("session_created")[0].session_id))
    await until(lambda: closing_code(socket) == 1008)
    await socket.task


@pytest.mark.parametrize("another", ["redis"], indirect=True)
async def test_what_ends_while_the_connection_is_lost_is_found_when_it_is_back(
    sites: list[Site], redis: RedisServer
) -> None:
    here, there = sites
    await here.visit(page(put(n=1)))
    socket = await open_socket(here)
    await watching(here)
    redis.ask("ACL", "SETUSER", "default", "-publish")
    try:
        await there.manager.delete_session(str(here.named("session_created")[0].session_id))
    finally:
        redis.ask("ACL", "SETUSER", "default", "+publish")
    assert closing_code(socket) is None  # it was told to nobody
    redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: closing_code(socket) == 1008)
    await socket.task


@pytest.mark.parametrize("another", ["redis"], indirect=True)
async def test_nobody_watches_where_no_socket_is_open(sites: list[Site], redis: RedisServer) -> None:
    here, _ = sites

    def watchers() -> int:
        return int(redis.ask("PUBSUB NUMSUB", "session_middleware:endings")[0][1])

    await here.visit(page(put(n=1)))
    assert watchers() == 0
    socket = await open_socket(here)
    await watching(here)
    assert watchers() == 1
    await socket.leave()
    here.manager.heartbeat.hurry()
    for timer in list(here.manager.heartbeat._timers):
        here.manager.heartbeat._beat(timer)
    await until(lambda: watchers() == 0)
