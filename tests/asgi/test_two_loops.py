"""Two event loops in two threads, one middleware: what one of them finds out is done in the other's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend
from session_middleware.blocking import run_blocking
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import KEY, Client, Message, Socket, chat, page, put

T = TypeVar("T")
NEVER = 100_000  # seconds between two rounds: none comes by itself while a test runs
PATIENCE = 20.0  # seconds after which a promise counts as broken


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What *work* comes to in this loop, which a plain thread waits for."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def end(self) -> None:
        """Stop it, cancel what it still runs, close it: as `asyncio.run` does."""
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            _, late = self.loop.run_until_complete(asyncio.wait({task}, timeout=PATIENCE))
            assert not late
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class LoopBoundSocket(Socket):
    """A WebSocket of a server that may be spoken to in its own event loop only, as all of them are."""

    async def _send(self, message: Message) -> None:
        assert asyncio.get_running_loop() is self.task.get_loop()
        await super()._send(message)


async def connected(client: Client) -> LoopBoundSocket:
    socket = LoopBoundSocket(client, "/")
    await socket.next()
    return socket


async def closing(socket: Socket) -> int:
    """The code with which the socket is closed, and its request over."""
    while (message := await socket.next())["type"] != "websocket.close":
        pass
    await socket.task
    code: int = message["code"]
    return code


class Site:
    """One middleware, two loops, a visitor of each with a session."""

    def __init__(self, backend: Backend, **options: Any) -> None:
        self.clock = ManualClock()
        options = {"check_interval": NEVER, **options}
        self.manager = SessionManager(
            backend, secret_key=KEY, clock=self.clock, monotonic=self.clock, log=False, **options
        )
        self.middleware = SessionMiddleware(page(put(n=1)), manager=self.manager)
        self.loops = (Loop(), Loop())
        self.clients = [self.visited(loop) for loop in self.loops]
        self.middleware.app = chat(lambda *_: None, first=lambda session: session.get("n"))

    def visited(self, loop: Loop) -> Client:
        client = Client(self.middleware)
        assert loop.run(client.get()).status == 200
        return client

    def sockets(self) -> list[LoopBoundSocket]:
        """One in each loop."""
        return [loop.run(connected(client)) for loop, client in zip(self.loops, self.clients, strict=True)]

    def held(self) -> list[str]:
        """The sessions that are held, by loop."""
        return [str(request.session_id) for request in self.manager.active_requests()]

    def close(self) -> None:
        for loop in self.loops:
            if not loop.loop.is_closed():
                loop.run(self.manager.finisher.drain())
        self.loops[0].run(self.manager.stop(timeout=0))
        for loop in self.loops:
            loop.end()


@pytest.fixture
def make_site(backend: Backend) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**options: Any) -> Site:
        made.append(Site(backend, **options))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.mark.parametrize("ended_in", [0, 1])
@pytest.mark.parametrize("socket_in", [0, 1])
def test_a_socket_is_closed_in_its_own_loop_wherever_its_session_ends(
    make_site: Callable[..., Site], socket_in: int, ended_in: int
) -> None:
    site = make_site()
    sockets = site.sockets()
    site.loops[ended_in].run(site.manager.delete_session(site.held()[socket_in]))
    assert site.loops[socket_in].run(closing(sockets[socket_in])) == 1008


@pytest.mark.parametrize("socket_in", [0, 1])
@pytest.mark.parametrize("round_in", [0, 1])
def test_a_round_of_one_loop_closes_a_socket_of_another_in_its_own(
    make_site: Callable[..., Site], round_in: int, socket_in: int
) -> None:
    site = make_site()
    sockets, manager = site.sockets(), site.manager
    manager.heartbeat.relax()  # as where another process ended it, and nobody tells
    site.loops[1 - round_in].run(manager.delete_session(site.held()[socket_in]))
    site.loops[round_in].run(manager.heartbeat.round())
    assert site.loops[socket_in].run(closing(sockets[socket_in])) == 1008


def test_a_round_without_a_loop_closes_a_socket_in_its_own(make_site: Callable[..., Site]) -> None:
    """That of the thread which keeps house for a WSGI app beside this one, over the same manager."""
    site = make_site()
    sockets, manager = site.sockets(), site.manager
    manager.heartbeat.relax()
    manager.blocking.delete_session(site.held()[1])
    run_blocking(manager.blocking_heartbeat.round())
    assert site.loops[1].run(closing(sockets[1])) == 1008
    manager.blocking.stop(timeout=0)
