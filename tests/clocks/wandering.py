"""Wall clocks that jump, of two workers over one store, and visitors who come all the while.

    python -m tests.clocks.wandering --backend sqlite --seed 1 --count 500

A schedule is a seeded series of moves: true time passes, a worker's wall clock is set a second, an hour or a
year ahead or back (and right again), visitors read, write, sign in, cycle and sign out at either worker, old
cookies are tried again, a worker cleans up. A model knows, by the clock of the worker that is asked, who must
be served and what must not be removed. In the end time runs on: nothing may be left. Prints one line.

What holds: a session is served exactly while its deadline is ahead of the clock that is asked, so who was
served before a clock went back is served after it; a deadline moves forward only, up to the limit, which only
a login sets; a cleanup removes nothing in the run after a jump, and never what lives by its own clock; each
session ends once; a cookie that a login replaced never opens anything again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from session_middleware import MemoryBackend, SessionEvent, SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend
from session_middleware.backends.urls import backend_from
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import KEY, Client, page
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_server

__all__ = ["BASES", "IDLE", "Figures", "address", "schedules", "stores", "wander"]

IDLE, ABSOLUTE = 1800.0, 3600.0  # seconds
RENEW_AFTER = 0.2  # the policy's default: the share of the idle timeout after which a read renews
YEAR = 365.25 * 86_400
OFFSETS = (0.0, 0.0, 1.0, -1.0, 3600.0, -3600.0, YEAR, -YEAR)
LATEST_REMOVAL = 2 * 3600.0  # seconds past its deadline after which a cleanup must have removed a session
GUARD = 60.0  # seconds that the wall clock may jump between two cleanups
BASES = {  # seconds since the epoch at which a schedule may begin
    "now": 1_760_000_000.0,
    "1971": 400 * 86_400.0,
    "2038": 2**31 - 1800.0,
    "2106": 2**32 - 1800.0,
    "2999": 32_472_144_000.0,
}

MakeBackend = Callable[[], Backend]


class Broken(Exception):
    """Something that must hold did not."""


@dataclass
class Visitor:
    """One browser, and what must be known of its session."""

    client: Client
    number: int
    id: str | None = None
    deadline: float = 0.0
    limit: float = 0.0
    n: int = 0
    replaced: list[dict[str, str]] = field(default_factory=list)  # cookies from before a login


class Worker:
    """One process, as it were: a manager with a wall clock of its own."""

    def __init__(self, backend: Backend, true: ManualClock) -> None:
        self.true = true
        self.wall = ManualClock(true.now)
        self.manager = SessionManager(
            backend,
            secret_key=KEY,
            clock=self.wall,
            monotonic=true,
            idle_timeout=IDLE,
            absolute_timeout=ABSOLUTE,
            cleanup_interval=1e9,  # when this harness says so
            log=False,
        )
        self.middleware = SessionMiddleware(page(), manager=self.manager, monitor=False)
        self.expired: list[str] = []
        self.skipped = 0
        self.manager.subscribe("session_expired", lambda event: self.expired.append(str(event.session_id)))
        self.manager.subscribe("sessions_cleanup_failed", self._note_skipped)
        self.seen = (self.wall.now, true.now)

    def _note_skipped(self, event: SessionEvent) -> None:
        self.skipped += "jumped" in str(event.fields["exception"])

    @property
    def offset(self) -> float:
        """Seconds by which its wall clock is ahead."""
        return self.wall.now - self.true.now

    def jump(self) -> float:
        """Seconds by which the wall clock jumped since this was last asked."""
        (wall, true), self.seen = self.seen, (self.wall.now, self.true.now)
        return (self.wall.now - wall) - (self.true.now - true)


class World:
    """Two workers over one store, some visitors, and the sessions they left behind."""

    def __init__(self, make: MakeBackend, base: float, figures: Counter[str]) -> None:
        self.true = ManualClock(base)
        self.workers = [Worker(make(), self.true) for _ in range(2)]
        self.figures = figures
        self.visitors = [Visitor(Client(self.workers[0].middleware), number) for number in range(4)]
        self.deadlines: dict[str, float] = {}  # of every session that is stored
        self.ended: set[str] = set()

    # --- moves ---

    def pass_time(self, seconds: float) -> None:
        for clock in (self.true, *(worker.wall for worker in self.workers)):
            clock.advance(seconds)

    def set_clock(self, worker: Worker, offset: float) -> None:
        self.figures["clocks set"] += offset != worker.offset
        worker.wall.now = self.true.now + offset

    async def visit(self, worker: Worker, visitor: Visitor, verb: str) -> None:
        """One request, and what the model says of it."""
        now = worker.wall.now
        lives = self._lives(visitor.id, now)
        seen = await self._request(worker, visitor.client, verb, visitor.number)
        expected = visitor.n if lives else None
        if seen != (visitor.id if lives else None, expected):
            raise Broken(f"{verb} saw {seen}, expected {visitor.id if lives else None, expected}")
        self.figures["served" if lives else "anonymous"] += 1
        if lives:
            self._go_on(visitor, verb, now)
        elif verb in {"write", "login"}:
            self._begin(visitor, verb, now)

    async def replay(self, worker: Worker, visitor: Visitor) -> None:
        """A cookie from before a login is tried again."""
        for cookies in visitor.replaced[-2:]:
            old = Client(worker.middleware)
            old.cookies = dict(cookies)
            seen = await self._request(worker, old, "read", visitor.number)
            if seen != (None, None):
                raise Broken(f"a cookie that a login replaced opened {seen}")
            self.figures["replayed"] += 1

    async def clean_up(self, worker: Worker) -> None:
        now, jump = worker.wall.now, worker.jump()
        gone, skipped = len(worker.expired), worker.skipped
        await worker.manager.cleaner.run_once()
        removed = worker.expired[gone:]
        if abs(jump) > GUARD and removed:
            raise Broken(f"after a jump of {jump:.0f} s a cleanup removed {len(removed)} sessions")
        if (abs(jump) > GUARD) is not (worker.skipped > skipped):
            raise Broken(f"after a jump of {jump:.0f} s {worker.skipped - skipped} cleanups were skipped")
        for id_ in removed:
            if self.deadlines.get(id_, float("inf")) > now:
                raise Broken(f"a cleanup removed a session {self.deadlines.get(id_, 0) - now:.0f} s too soon")
            self._end(id_)
        if abs(jump) <= GUARD and any(due < now - LATEST_REMOVAL for due in self.deadlines.values()):
            raise Broken("a cleanup left what is long over")
        self.figures["removed"] += len(removed)
        self.figures["cleanups skipped" if abs(jump) > GUARD else "cleanups run"] += 1

    async def finish(self) -> None:
        """All clocks agree on the latest of them, time runs on, and nothing may be left."""
        latest = max(worker.wall.now for worker in self.workers)
        if any(due - latest > 2 * YEAR + ABSOLUTE for due in self.deadlines.values()):
            raise Broken("a session that outlives every limit")
        latest = max(latest, *self.deadlines.values(), 0.0) + LATEST_REMOVAL + 1
        for worker in self.workers:
            worker.wall.now = latest
            await self.clean_up(worker)  # skipped, where that is a jump
        for worker in self.workers:
            await self.clean_up(worker)
        if self.deadlines:
            raise Broken(f"{len(self.deadlines)} sessions never end")

    # --- the model ---

    def _lives(self, id_: str | None, now: float) -> bool:
        return id_ is not None and id_ in self.deadlines and now < self.deadlines[id_]

    def _begin(self, visitor: Visitor, verb: str, now: float) -> None:
        visitor.id = str(self.created.pop())
        visitor.limit, visitor.n = now + ABSOLUTE, int(verb == "write")
        visitor.replaced.clear()
        self.deadlines[visitor.id] = min(now + IDLE, visitor.limit)

    def _go_on(self, visitor: Visitor, verb: str, now: float) -> None:
        id_ = str(visitor.id)
        if verb == "logout":
            self._end(id_)
            return
        visitor.n += verb == "write"
        deadline, renewed = self.deadlines[id_], now + IDLE
        if verb == "login":
            visitor.limit = now + ABSOLUTE
        elif deadline - now >= (1 - RENEW_AFTER) * IDLE:
            renewed = deadline  # not due
        self.deadlines[id_] = min(max(deadline, renewed), visitor.limit)

    def _end(self, id_: str) -> None:
        if id_ in self.ended:
            raise Broken("a session that ended twice")
        self.ended.add(id_)
        del self.deadlines[id_]

    # --- the product ---

    async def _request(
        self, worker: Worker, client: Client, verb: str, number: int
    ) -> tuple[str | None, int | None]:
        seen: list[Any] = []
        before = dict(client.cookies)

        def act(session: Any) -> None:
            seen[:] = session.id, session.get("n", 0 if session.id else None)
            match verb:
                case "write":
                    session["n"] = session.get("n", 0) + 1
                case "login":
                    session.login(f"user{number}")
                case "cycle":
                    session.cycle()
                case "logout":
                    session.logout()

        client.app = worker.middleware
        worker.middleware.app = page(act)
        self.created: list[Any] = []
        stop = worker.manager.subscribe(
            "session_created", lambda event: self.created.append(event.session_id)
        )
        answer = await client.get()
        stop()
        if answer.status != 200:
            raise Broken(f"{verb} was answered {answer.status}")
        self._check_cookie(answer.set_cookie)
        if verb == "login" and seen[0] is not None:
            self.visitors[number].replaced.append(before)
        return seen[0], seen[1]

    def _check_cookie(self, cookie: str | None) -> None:
        for part in (cookie or "").split("; "):
            name, _, value = part.partition("=")
            if name == "Max-Age" and not 0 <= int(value) <= 14 * 86_400:
                raise Broken(f"Max-Age={value}")


VERBS = ("read", "read", "read", "write", "write", "login", "login", "cycle", "logout")


async def wander(
    make: MakeBackend, seed: object, base: float, figures: Counter[str], moves: int = 60
) -> None:
    """One schedule. Raises `Broken`."""
    chance = random.Random(f"wandering {seed}")
    async with _world(make, base, figures) as world:
        for _ in range(moves):
            figures["moves"] += 1
            worker, visitor = chance.choice(world.workers), chance.choice(world.visitors)
            draw = chance.random()
            if draw < 0.12:
                world.set_clock(worker, chance.choice(OFFSETS))
            elif draw < 0.25:
                world.pass_time(chance.choice((0.5, 20.0, 400.0, 1700.0, 1900.0)))
            elif draw < 0.33:
                await world.clean_up(worker)
            elif draw < 0.42:
                await world.replay(worker, visitor)
            else:
                await world.visit(worker, visitor, chance.choice(VERBS))
        await world.finish()


@asynccontextmanager
async def _world(make: MakeBackend, base: float, figures: Counter[str]) -> AsyncIterator[World]:
    world = World(make, base, figures)
    async with AsyncExitStack() as stack:
        for worker in world.workers:
            await stack.enter_async_context(worker.manager)
            worker.jump()
        yield world


@dataclass
class Figures:
    """What a campaign came to."""

    counted: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


async def schedules(make: MakeBackend, seed: int, numbers: range) -> Figures:
    """These schedules of this seed, each beginning at one of `BASES`."""
    figures, bases = Figures(), list(BASES.values())
    for number in numbers:
        try:
            await wander(make, f"{seed} {number}", bases[number % len(bases)], figures.counted)
        except Broken as fault:
            figures.faults.append(f"schedule {number} of seed {seed}: {fault}")
    return figures


@contextmanager
def stores(name: str) -> Iterator[MakeBackend]:
    """Makes backends over one store, as several processes would."""
    if name == "memory":
        backend = MemoryBackend()
        yield lambda: backend
        return
    with address(name) as url:
        yield lambda: backend_from(url)


@contextmanager
def address(name: str) -> Iterator[str]:
    """Of a new store of this kind, on a server of its own."""
    with ExitStack() as stack:
        if name == "sqlite":
            yield f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/sessions.db"
        else:
            server: Any = {"redis": redis_server, "postgres": postgres_server}[name]
            yield stack.enter_context(server()).new_store()


def main() -> int:
    """Run them; prints one line of figures, and each fault. 0: there was none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("memory", "sqlite", "redis", "postgres"), default="memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=500)
    given = parser.parse_args()
    with stores(given.backend) as make:
        figures = asyncio.run(schedules(make, given.seed, range(given.count)))
    sys.stdout.write("".join(f"{fault}\n" for fault in figures.faults))
    told = {"backend": given.backend, "schedules": given.count, **figures.counted}
    sys.stdout.write(f"{json.dumps({**told, 'faults': len(figures.faults)})}\n")
    return int(bool(figures.faults))


if __name__ == "__main__":
    raise SystemExit(main())
