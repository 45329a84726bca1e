"""Whole requests, and calls of the manager, interrupted at every suspension point there is.

After each interruption everything is looked at:

* what is stored is as before or as afterwards, never half (or as `Operation.between` says);
* no request, lock, task, thread, file descriptor or connection is left over, no transaction is open;
* the next requests are right, each visitor's own, and so is a transaction on the same session.

`python -m tests.security.interrupted --backend redis://… --count 100` does it for every operation in every
way, with a hundred requests after each interruption, and prints figures.

Reading order: `OPERATIONS` (what is interrupted), `World` (where), `Experiment`; and `at_rest`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from session_middleware import MemoryBackend, Session, SessionManager
from session_middleware.backends.urls import backend_from
from session_middleware.jobs import MOVED_AT, moved_at
from session_middleware.record import Record, SessionId, replace
from session_middleware.testing.clock import ManualClock
from session_middleware.values import Values
from tests.asgi.harness import App, Client, Site, chat, page
from tests.asgi.test_cancellation import request
from tests.manager.damage import write
from tests.security.at_rest import at_rest
from tests.security.interrupting import LAST, WAYS, Way, ended_loop, uninterrupted
from tests.servers.processes import until

__all__ = ["OPERATIONS", "Experiment", "Figures", "Operation", "World", "main"]

State: TypeAlias = dict[str, Any]
Act: TypeAlias = Callable[[Session], Any]
LOOP_ENDED = "loop ended"
THREADS_OF_SQLITE = 4  # two connections, and who waits for the end of their threads
DEADLINE = 30.0  # seconds: what is not over by then never is


def nothing(_: Session) -> None:
    """Looks."""


def handler(first: Act = nothing, streamed: Act = nothing, afterwards: Act = nothing) -> App:
    """An app that suspends wherever one may, and acts before, within and after its response."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        session.mark_accessed()
        await asyncio.sleep(0)
        first(session)
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        streamed(session)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"two"})
        afterwards(session)
        await asyncio.sleep(0)

    return app


def change(session: Session) -> None:
    session.update(a=2, b=2)


def count_up(session: Session) -> None:
    session.increment("n")
    session.increment("new", 5)


def leave(session: Session) -> None:
    session.logout()


def leave_and_begin(session: Session) -> None:
    session.logout()
    session["c"] = 3


def sign_in(session: Session) -> None:
    session.login("bob")


def call(session: Session, text: str) -> None:
    session[text] = 2


class Operation(NamedTuple):
    """What is interrupted, and which states it may leave besides that before and that afterwards."""

    name: str
    make: Callable[[World], Coroutine[Any, Any, Any]]
    between: tuple[Callable[[World], Coroutine[Any, Any, Any]], ...] = ()
    each_for_itself: bool = False  # several sessions, of which some may be done and others not
    later: float = 60  # seconds after the sessions were seen last
    prepare: Callable[[World], object] = bool


def visit(
    app: App, who: str = "ada", send: Callable[[World, Client], Coroutine[Any, Any, None]] | None = None
) -> Callable[[World], Coroutine[Any, Any, None]]:
    def make(world: World) -> Coroutine[Any, Any, None]:
        world.site.middleware.app = app
        return (send or (lambda _, client: request(client)))(world, world.clients[who])

    return make


async def converse(_: World, client: Client) -> None:
    """A WebSocket on which two texts come."""
    texts = iter(("a", "b"))
    first = iter(({"type": "websocket.connect"},))

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        for message in first:
            return message
        text = next(texts, None)
        if text is None:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "text": text}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    await client.app(client.scope(kind="websocket"), receive, send)


async def saves_early(world: World, client: Client) -> None:
    """A handler that saves what it has before it goes on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        change(scope["session"])
        await world.manager.save(scope["session"])
        await asyncio.sleep(0)
        await handler()(scope, receive, send)

    world.site.middleware.app = app
    await request(client)


REQUESTS = [
    Operation("read", visit(handler())),
    Operation("write", visit(handler(change))),
    Operation("new", visit(handler(change), "nobody")),
    Operation("login of somebody new", visit(handler(sign_in), "nobody")),
    Operation("login", visit(handler(sign_in), "anonymous")),
    Operation("login over another user", visit(handler(sign_in))),
    Operation("logout", visit(handler(leave))),
    Operation("logout and a new session", visit(handler(leave_and_begin)), (visit(handler(leave)),)),
    Operation("cycle", visit(handler(lambda session: session.cycle()))),
    Operation("renew", visit(handler(lambda session: session.renew()))),
    Operation("increment", visit(handler(count_up))),
    Operation("streaming", visit(handler(change, count_up)), (visit(handler(change)),)),
    Operation("background", visit(handler(afterwards=change))),
    Operation("early save", visit(handler(), send=saves_early)),
    Operation("WebSocket", visit(chat(call), send=converse)),
]


# --- calls of the manager ------------------------------------------------------------------------------


def called(
    call: Callable[[World, str], Coroutine[Any, Any, Any]],
) -> Callable[[World], Coroutine[Any, Any, Any]]:
    """With the id of ada's session."""
    return lambda world: call(world, world.ids["ada"])


async def save(world: World, id_: str) -> None:
    session = await world.manager.get_session(id_)
    assert session is not None
    change(session)
    await world.manager.save(session)


async def changed_within(held: Any) -> None:
    async with held as session:
        await asyncio.sleep(0)
        change(session)
        await asyncio.sleep(0)


async def changed(session: Session) -> None:
    await asyncio.sleep(0)
    change(session)


async def live(world: World) -> None:
    """From start to stop, with a request."""
    async with world.manager:
        await visit(handler(change))(world)


def damaged(world: World) -> None:
    """What ada's session holds cannot be read."""
    id_, port = SessionId(world.ids["ada"]), world.manager.performer.port
    if isinstance(world.manager.backend, MemoryBackend):
        records: Any = getattr(port, "_records")  # noqa: B009  (past the port)
        records[id_] = replace(records[id_], data=Values(b'{"a":1,'))
    else:
        write(world.manager.backend, "data", b'{"a":1,', id_)


def calls() -> Iterator[Operation]:
    """One of each kind; several sessions are done one by one, or all in one step of the backend."""

    def one(name: str, call: Callable[[SessionManager, str], Any], *, each: bool = False) -> Operation:
        make = called(lambda world, id_: call(world.manager, id_))
        return Operation(name, make, each_for_itself=each)

    yield Operation("start and stop", live)
    yield one("create_session", lambda manager, _: manager.create_session("eve", {"e": 1}))
    yield one("get_session", lambda manager, id_: manager.get_session(id_, touch=True))
    yield one("update_session", lambda manager, id_: manager.update_session(id_, a=2, b=2))
    yield Operation("save", called(save))
    yield one("transaction", lambda manager, id_: changed_within(manager.transaction(id_)))
    yield one("with_session_lock", lambda manager, id_: manager.with_session_lock(id_, changed))
    yield one("transact", lambda manager, id_: manager.transact(id_, changed))
    yield one("track_request", lambda manager, id_: changed_within(manager.track_request(id_)))
    yield Operation(
        "bulk_update", lambda world: world.manager.bulk_update(world.ids.values(), change), (), True
    )
    yield one("renew_session", lambda manager, id_: manager.renew_session(id_))
    yield one("cycle_session", lambda manager, id_: manager.cycle_session(id_))
    yield one("delete_session", lambda manager, id_: manager.delete_session(id_))
    yield one("delete_user_sessions", lambda manager, _: manager.delete_user_sessions("ada"))
    yield one(
        "end_sessions", lambda manager, _: manager.end_sessions(user_id="ada", dry_run=False), each=True
    )
    yield one("end_all_before", lambda manager, _: manager.end_all_before(manager.clock()))
    yield one("erase_user", lambda manager, _: manager.erase_user("ada"), each=True)
    yield Operation(
        "recover_session", called(lambda world, id_: world.manager.recover_session(id_)), prepare=damaged
    )
    yield one("set_status", lambda manager, id_: manager.set_status(id_, "processing"))
    yield one("set_progress", lambda manager, id_: manager.set_progress(id_, 1, 2))
    yield one("put_item", lambda manager, id_: manager.put_item(id_, 1, "item"))
    yield one("set_items", lambda manager, id_: manager.set_items(id_, ["one", "two"]))
    yield Operation("cleanup_expired", lambda world: world.manager.cleanup_expired(), (), True, 15 * 86_400)
    yield one("reconfigure", lambda manager, _: manager.reconfigure(idle_timeout=3600), each=True)


OPERATIONS = {operation.name: operation for operation in (*REQUESTS, *calls())}


# --- where ---------------------------------------------------------------------------------------------


class World:
    """A site over a backend, with an event loop that lasts; each round begins with visitors of its own."""

    def __init__(self, backend: Any) -> None:
        self.clock = ManualClock()
        self.site = Site(page(), backend, self.clock, entrance={"monitor": False}, log=False)
        self.manager = self.site.manager
        self.clients: dict[str, Client] = {}
        self.ids: dict[str, str] = {}
        self.problems: list[str] = []
        self.forget_events()
        self._runner = asyncio.Runner()
        self.threads = threading.active_count() + (
            THREADS_OF_SQLITE if "sqlite" in self.manager.backend.url else 0
        )
        self.run(self.manager.open())
        self._runner.get_loop().set_exception_handler(self._note)
        self._hook, threading.excepthook = threading.excepthook, self._note_in_thread
        gc.collect()
        gc.freeze()  # what is there so far needs no second look

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def _note(self, _: object, context: dict[str, Any]) -> None:
        self.problems.append(str(context))

    def _note_in_thread(self, died: Any) -> None:
        """A worker of aiosqlite that answers a loop that has ended dies of it, and is replaced."""
        if not (died.exc_type is RuntimeError and "loop is closed" in str(died.exc_value)):
            self.problems.append(f"{died.thread}: {died.exc_value!r}")

    async def begin(self) -> None:
        """ada has two sessions, with values; somebody has one without a name; nobody has none."""
        self.clock.advance(86_400)
        await self.manager.reconfigure(idle_timeout=14 * 86_400)
        self.clients = {who: self.site.new_client() for who in ("ada", "ada too", "anonymous", "nobody")}
        for who in ("ada", "ada too", "anonymous"):
            await self.site.visit(page(partial(_moves_in, who=who)), self.clients[who])
            self.ids[who] = self.clients[who].cookies["session"].partition(".")[0]

    async def look(self) -> State:
        """What is stored, without what chance chose."""
        await self.manager.open()
        known = {id_: who for who, id_ in self.ids.items()}
        live = {}
        for session in await self.manager.get_sessions(limit=1000):
            record = session.life.record
            assert record is not None
            who = known.get(record.id) or f"new {len(live)}"
            live[who] = self._facts(record)
        live |= {who: await self._ended(id_) for id_, who in known.items() if who not in live}
        return live | {"idle_timeout": self.manager.policy.idle_timeout}

    async def _ended(self, id_: str) -> Any:
        ended = await self.manager.why_ended(id_)
        return None if ended is None else ended.reason

    def _facts(self, record: Record) -> State:
        """Times as seconds from now."""
        now = self.clock()
        facts: State = {name: getattr(record, name) for name in ("version", "user_id", "status", "cycle_due")}
        for name in ("created_at", "deadline", "limit", "last_seen_at"):
            facts[name] = round(getattr(record, name) - now, 3)
        facts["generation"] = round(record.generation / 1000 - now, 3)
        facts["floors"] = [round(floor / 1000 - now, 3) for floor in record.floors]
        facts["accepted"] = len(record.accepted)
        facts["moved_at"] = round(moved_at(record) - now, 3)
        facts["data"] = {name: value for name, value in record.data.pairs.items() if name != MOVED_AT}
        return facts

    async def go_on(self, count: int) -> None:
        """So many requests, each right; and nobody holds ada's session, or not for longer than its lease."""
        for number in range(-(-count // 2)):
            client, seen = self.site.new_client(), []
            await self.site.visit(page(partial(_writes, number=number)), client)
            await self.site.visit(page(lambda session, seen=seen: seen.append(dict(session))), client)
            assert seen == [{"mine": number}], f"after it a visitor sees {seen}"
        self.clock.advance(31)
        if await self.manager.get_session(self.ids["ada"]) is not None:
            async with self.manager.transaction(self.ids["ada"], timeout=0) as session:
                session["was here"] = 1

    async def clear(self) -> None:
        await self.manager.delete_all(confirm=True)
        await self.settle()

    def forget_events(self) -> None:
        """From now on keep none: a long run makes hundreds of thousands."""
        self.manager.subscribe(None, lambda _: self.site.events.clear())

    async def settle(self) -> None:
        """Until what was begun is finished; the heartbeat's timer comes now."""
        heartbeat = self.manager.heartbeat
        for loop in list(heartbeat._timers):
            heartbeat._beat(loop)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            done, pending = await asyncio.wait(others, timeout=DEADLINE)
            assert done, f"left over: {pending}"

    def close(self) -> None:
        """Nothing may be left."""
        try:
            self.run(self.manager.stop())
        finally:
            self._runner.close()
            threading.excepthook = self._hook
            gc.unfreeze()
        gc.collect()
        assert self.problems == []


def _moves_in(session: Session, who: str) -> None:
    session.update(a=1, b=1, n=1)
    if who != "anonymous":
        session.login("ada")


def _writes(session: Session, number: int) -> None:
    session["mine"] = number


# --- the experiment ------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What it came to."""

    operations: int = 0
    interruptions: int = 0
    done: int = 0  # of these, how often the operation was carried out all the same
    requests: int = 0  # afterwards

    def __str__(self) -> str:
        return (
            f"{self.operations} operations, {self.interruptions} interruptions ({self.done} left it done), "
            f"{self.requests} requests afterwards: whole or not at all, nothing left over, each right"
        )


class Experiment:
    """One operation, interrupted in one way at every suspension, or at every *stride*-th."""

    def __init__(
        self, world: World, operation: Operation, way: str, figures: Figures, after: int = 2
    ) -> None:
        self.world = world
        self.operation = operation
        self.way = way
        self.figures = figures
        self.after = after

    def run(self, stride: int = 1, first: int = 1) -> None:
        """Raises `AssertionError`, which names the suspension."""
        if self.way == "closed" and self.operation not in REQUESTS:
            return  # what is within an `async with` of a generator, Python cannot close
        allowed = [self._reached(make) for make in (self.operation.make, *self.operation.between)]
        gc.collect()  # psycopg leaves a connection that was being made to it
        rest = self.world.run(at_rest(self.world.manager))
        self.figures.operations += 1
        for at in range(first, LAST, stride):
            hit = self._round(at, allowed, rest)
            if not hit:
                return
        raise AssertionError(f"{self} never ends")

    def __str__(self) -> str:
        return f"{self.operation.name}, {self.way}"

    def _reached(self, make: Callable[[World], Any]) -> State:
        """What is stored when nothing interrupts it."""
        self._begin()
        self.world.run(uninterrupted(lambda: make(self.world), 0))
        return self._end()

    def _begin(self) -> State:
        world = self.world
        world.run(world.begin())
        world.clock.advance(self.operation.later)
        self.operation.prepare(world)
        before: State = world.run(world.look())
        return before

    def _end(self) -> State:
        world = self.world
        world.run(world.settle())
        state: State = world.run(world.look())
        world.run(world.go_on(self.after))
        self.figures.requests += self.after
        world.run(world.clear())
        return state

    def _round(self, at: int, allowed: list[State], rest: dict[str, Any]) -> bool:
        before = self._begin()
        hit = self._interrupt(at)
        state = self._end()
        where = f"{self}, at suspension {at}"
        allowed = [before, *allowed, *([_made_in_vain(before, allowed[0])] if self.way == LOOP_ENDED else ())]
        assert self._is_allowed(state, allowed), f"{where}: half done\n{_told(state, allowed)}"
        until(lambda: threading.active_count() <= self.world.threads, f"{where}: threads have ended")
        left = self.world.run(at_rest(self.world.manager))
        if left != rest and gc.collect():  # as above
            left = self.world.run(at_rest(self.world.manager))
        assert left == rest, f"{where}: left over\n{_told(left, [rest])}"
        assert not self.world.problems, f"{where}: {self.world.problems}"
        if hit:
            self.figures.interruptions += 1
            self.figures.done += state != before
        return hit

    def _interrupt(self, at: int) -> bool:
        if self.way == LOOP_ENDED:
            return ended_loop(lambda: self.operation.make(self.world), at)
        way: Way = WAYS[self.way]
        hit: bool = self.world.run(way(lambda: self.operation.make(self.world), at))
        return hit

    def _is_allowed(self, state: State, allowed: list[State]) -> bool:
        if not self.operation.each_for_itself:
            return state in allowed
        labels = {label for one in (state, *allowed) for label in one}
        return all(any(state.get(label) == one.get(label) for one in allowed) for label in labels)


def _made_in_vain(before: State, after: State) -> State:
    """A session takes another one's place in two steps: one that nobody has the cookie of is made first."""
    return before | {label: facts for label, facts in after.items() if label.startswith("new")}


def _told(found: dict[str, Any], allowed: list[dict[str, Any]]) -> str:
    """Only what differs."""
    names = [name for one in (found, *allowed) for name in one]
    odd = dict.fromkeys(name for name in names if any(found.get(name) != one.get(name) for one in allowed))
    lines = [f"{name}: {found.get(name)}, allowed: {[one.get(name) for one in allowed]}" for name in odd]
    return "\n".join(lines)


def leave(backend: Any, stride: int) -> None:
    """Interrupt requests by ends of their event loops, and end with nothing closed."""
    world = World(backend)
    for operation in REQUESTS:
        for at in range(1, LAST, stride):
            world.run(world.begin())
            if not ended_loop(partial(operation.make, world), at):
                break


def main() -> int:
    """Exit status 0: nothing was ever half done or left over."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default="memory://")
    parser.add_argument("--count", type=int, default=100, help="requests after each interruption")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--way", choices=(*WAYS, LOOP_ENDED), action="append")
    parser.add_argument("--operation", choices=tuple(OPERATIONS), action="append")
    parser.add_argument(
        "--leave", action="store_true", help="end with nothing closed, and see whether it ends"
    )
    given = parser.parse_args()
    if given.leave:
        leave(backend_from(given.backend), given.stride)
        return 0
    began, figures = time.perf_counter(), Figures()
    world = World(backend_from(given.backend))
    for way in given.way or (*WAYS, LOOP_ENDED):
        for name in given.operation or OPERATIONS:
            Experiment(world, OPERATIONS[name], way, figures, given.count).run(given.stride)
    world.close()
    sys.stdout.write(f"{given.backend}: {figures}, {time.perf_counter() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
