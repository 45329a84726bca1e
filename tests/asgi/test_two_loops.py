"""Two event loops in two threads, one middleware: what one of them finds out is done in the other's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from session_middleware import Session, SessionManager, SessionMiddleware
from session_middleware.activity import ActiveRequest
from session_middleware.backends.base import Backend
from session_middleware.blocking import run_blocking
from session_middleware.loops import Home
from session_middleware.operations import holding
from session_middleware.record import SessionId, replace
from session_middleware.session import Live
from session_middleware.testing.clock import ManualClock
from session_middleware.turns import Turns
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
        running = [loop for loop in self.loops if not loop.loop.is_closed()]
        for loop in running:
            loop.run(self.manager.finisher.drain())
        running[0].run(self.manager.stop(timeout=0))
        for loop in running:
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


def test_what_a_request_holds_is_renewed_although_the_loop_that_beat_first_is_over(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(idle_timeout=600)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def stay(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].get("n")
        begun.set()
        await go_on.wait()
        await page()(scope, receive, send)

    async def begin() -> asyncio.Task[Any]:
        request = asyncio.ensure_future(client.get())
        await begun.wait()
        return request

    assert site.manager.heartbeat._timers.keys() >= {site.loops[0].loop}  # it served the first visitor
    site.middleware.app, client = stay, site.clients[1]
    request = site.loops[1].run(begin())
    site.loops[0].end()
    site.clock.advance(599)
    assert site.loops[1].run(beat(site.manager, site.loops[1].loop)) == 1
    site.clock.advance(599)
    site.loops[1].loop.call_soon_threadsafe(go_on.set)
    assert site.loops[1].run(asyncio.wait_for(request, PATIENCE)).status == 200
    site.middleware.app = page(lambda session: 200 if "n" in session else 404)
    assert site.loops[1].run(client.get()).status == 200


async def beat(manager: SessionManager, loop: asyncio.AbstractEventLoop) -> int:
    """How many sessions were renewed when the timer of this loop rang."""
    renewed: list[object] = []
    stop = manager.subscribe("session_renewed", renewed.append)
    timer = manager.heartbeat._timers[loop]
    assert timer is not None
    timer.cancel()
    manager.heartbeat._beat(loop)
    while manager.heartbeat._timers[loop] is None:  # noqa: ASYNC110  (it tells no event)
        await asyncio.sleep(0)
    stop()
    return len(renewed)


@pytest.mark.parametrize("backend", ["postgres", "redis"], indirect=True)
def test_a_round_watches_again_when_the_loop_that_watched_is_over(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.sockets()
    site.loops[0].end()
    site.loops[1].run(beat(site.manager, site.loops[1].loop))
    assert site.manager.heartbeat._watch._loop is site.loops[1].loop


def test_a_round_without_a_loop_closes_a_socket_in_its_own(make_site: Callable[..., Site]) -> None:
    """That of the thread which keeps house for a WSGI app beside this one, over the same manager."""
    site = make_site()
    sockets, manager = site.sockets(), site.manager
    manager.heartbeat.relax()
    manager.blocking.delete_session(site.held()[1])
    run_blocking(manager.blocking_heartbeat.round())
    assert site.loops[1].run(closing(sockets[1])) == 1008
    manager.blocking.stop(timeout=0)


def test_a_loop_that_ends_as_it_is_told_keeps_no_socket_of_another_open(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()
    sockets, ending = site.sockets(), site.loops[0].loop
    with monkeypatch.context() as patched:
        patched.setattr(ending, "call_soon_threadsafe", lambda *_: None)  # it takes it in, and runs no more
        site.loops[1].run(site.manager.delete_session(site.held()[1]))
    assert site.loops[1].run(closing(sockets[1])) == 1008


def test_a_socket_that_is_closed_in_the_loop_that_finds_it_is_caught(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: its server cannot be spoken to there, so it stays open."""

    async def run(_: Home, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await work()

    monkeypatch.setattr(Home, "run", run)
    site = make_site()
    sockets, manager = site.sockets(), site.manager
    manager.heartbeat.relax()
    ids = site.held()
    for number in (0, 1):
        site.loops[0].run(manager.delete_session(ids[number]))
    site.loops[0].run(manager.heartbeat.round())
    assert site.loops[0].run(closing(sockets[0])) == 1008
    assert [message["type"] for message in sockets[1].sent] == ["websocket.accept"]


# --- what another thread does between two lines ---


class Elsewhere:
    """Stands for an event loop that is over; another begins to beat while somebody finds that out."""

    def __init__(self, heartbeat: Any) -> None:
        heartbeat._timers[self] = None
        self.heartbeat = heartbeat

    def is_closed(self) -> bool:
        self.heartbeat._timers[object()] = None
        return True


def test_a_loop_that_begins_while_dead_ones_are_forgotten_harms_no_request() -> None:
    middleware = SessionMiddleware(page(put(n=1)), KEY)
    Elsewhere(middleware.manager.heartbeat)
    assert asyncio.run(Client(middleware).get()).status == 200


class Leaving(ActiveRequest):
    """A request that is over when somebody looks at it for the second time."""

    looks = 0

    @property
    def held(self) -> Session | None:  # type: ignore[override]
        self.looks += 1
        return Session() if self.looks == 1 else None

    @property
    def session_id(self) -> SessionId | None:  # type: ignore[override]
        self.looks += 1
        return SessionId("A" * 22) if self.looks == 1 else None


@pytest.fixture
def leaving(manager: SessionManager) -> None:
    manager.activity._holding[Leaving()] = None


@pytest.fixture
def manager() -> SessionManager:
    return SessionManager(secret_key=KEY, max_sessions=10, clock=ManualClock(), log=False)


@pytest.mark.usefixtures("leaving")
def test_a_request_that_leaves_while_a_round_is_planned_harms_nothing(manager: SessionManager) -> None:
    assert manager.heartbeat.pause() == 30.0


@pytest.mark.usefixtures("leaving")
def test_a_request_that_leaves_while_a_session_is_created_is_no_obstacle(manager: SessionManager) -> None:
    caps = manager._caps_now()
    assert caps is not None
    assert caps.held == [SessionId("A" * 22)]


def test_a_commit_that_comes_while_a_renewal_is_noted_is_not_undone(
    manager: SessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with manager.blocking.track_request(manager.blocking.create_session().id or "") as session:
        record = session.life.record
        assert record is not None
        newer = Live(record, admitted=7)

        def noted(opening: Any, **changes: Any) -> Any:
            session.life.opening = newer
            return replace(opening, **changes)

        monkeypatch.setattr(holding, "replace", noted)
        manager.clock.advance(manager.policy.idle_timeout - 1)  # type: ignore[attr-defined]
        assert run_blocking(manager.hold_on(session, manager.clock()))
        assert session.life.opening is newer


def test_who_gives_up_its_turn_while_another_looks_whom_it_waits_for_harms_nothing() -> None:
    turns = Turns()
    turns.line_up(SessionId("one"), "first")
    mine = turns.line_up(SessionId("one"), "mine")
    other = turns.line_up(SessionId("two"), "first")
    other.queue.clear()  # given up, in its own thread
    assert not turns.waits_for_itself(mine)


def test_what_is_to_be_looked_at_while_a_look_begins_is_looked_at_by_the_next(
    manager: SessionManager,
) -> None:
    heartbeat, loop = manager.heartbeat, object()
    wanted = heartbeat._wanted[loop] = {None}
    heartbeat._look(loop)
    wanted.add(SessionId("one"))  # by a thread that had found the set before
    assert heartbeat._wanted[loop] == {"one"}
