"""Races: operations on one session, two or three at a time, in every order of their steps.

    python -m tests.model.races --system memory --seed 1 --count 2000

drives every order of every pair, and `--count` orders of triples drawn by chance, through the real middleware
over `memory`, `sqlite`, `redis` or `postgres`. Exit status 1 if an invariant broke; the order is shown.

Reading order: `OPERATIONS` (each a list of steps: what runs between two suspensions), `Beginning` (how the
session stands when they start), `EveryOrder` and `SomeOrder` (who goes on), `race` (one order, from a new
system to the last probe). The invariants are those of the driver, `RaceLedger` knows the two things that only
happen here: evictions, and deadlines that pass to the second.

The steps of a request are: cookie and load, handler, each backend call of its commit with the response
after the last, arrival of the response where it touches the cookie. So the orders are those of `World`, and
only the choice of them is another: all of them instead of some.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from random import Random
from typing import Any, Protocol, TypeAlias, TypeVar

from session_middleware.backends.base import EndedRecord, LoadAnswer
from session_middleware.backends.capabilities import Admitted, Caps
from session_middleware.record import Committed, CreateResult, Delta, Record, Refused, SessionId
from tests.model.invariants import NO_COMEBACK, Ledger
from tests.model.real import SYSTEMS, RealSystem, Shelf, SteppedPort, shelf_of
from tests.model.system import Action, Fault, Stored, System
from tests.model.tables import IDLE
from tests.model.world import Failure, Violation, Visit, World

__all__ = [
    "BEGINNINGS",
    "OPERATIONS",
    "Beginning",
    "EveryOrder",
    "Figures",
    "Make",
    "Operation",
    "RaceLedger",
    "RacePort",
    "SomeOrder",
    "campaign",
    "every_order_of",
    "fits",
    "main",
    "pairs",
    "race",
    "real_system",
    "some_orders_of",
]

T = TypeVar("T")
Steps: TypeAlias = Iterator[None]
USER = "vera"
A_MOMENT = 1.5  # seconds: two of them are shorter than a backend call may take, so nobody is hurried


class Race(World):
    """A world in which some operations go on at once, each by the step."""

    def visit(self, who: str, *actions: Action) -> Steps:
        """One request of a browser, from the cookies it has then to what it makes of the response."""
        visit = self.start(who, tuple(self.jars[who].values()), actions)
        while not visit.handle.done:
            self.step(visit)
            yield
        response = visit.handle.response
        if visit in self.outbox and response is not None and (response.set_cookie or response.removes):
            self.arrive(visit)
            yield

    def errand(self, name: str, coroutine: Coroutine[Any, Any, object]) -> Steps:
        """What an operator has begun, or the cleaner."""
        errand = Errand(self.system)
        while errand.goes_on(coroutine):
            self.note(f"{name}: at a backend call")
            yield
        self.note(f"{name}: done")
        self.look()
        yield

    def look(self) -> None:
        """Judge what nobody's request has done."""
        self.at += 1
        self.watch.stepped(None, self.system.peek(), self.at, self.now)

    def pass_deadline(self) -> Steps:
        self.move_clock(A_MOMENT)
        yield

    def revoke_user(self) -> Steps:
        if isinstance(self.system, RealSystem):
            yield from self.errand("revoke user", self.system.manager.delete_user_sessions(USER))
        for id_, record in list(self.system.peek().items()):
            if record.user_id == USER and record.deadline > self.now:
                self.system.revoke(id_)
                self.look()
        yield

    def clean_up(self) -> Steps:
        """The deadline passes, then the cleaner comes."""
        yield from self.pass_deadline()
        if isinstance(self.system, RealSystem):
            yield from self.errand("cleanup", self.system.manager.cleanup_expired())
        else:
            self.perform(("cleanup",))
            yield


class Errand:
    """What a backend call is held up for that is no request's. See `real.SteppedPort`."""

    def __init__(self, system: System) -> None:
        self.system: Any = system
        self.fault: Fault = None
        self.lost: list[str] = []
        self.end_failed = False

    def goes_on(self, coroutine: Coroutine[Any, Any, object]) -> bool:
        """Run it to its next backend call; False once it is over."""
        self.system.current = self
        try:
            coroutine.send(None)
        except StopIteration:
            return False
        finally:
            self.system.current = None
        return True


# What may happen


@dataclass(frozen=True, slots=True)
class Operation:
    """`steps(race, n)`: the n-th of those that go on at once. `options`: what the manager is given for it."""

    name: str
    steps: Callable[[Race, int], Steps]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_deadline: bool = False
    """Nothing happens unless the deadline of the session is near."""
    of_model: bool = True
    """The model knows it too."""


def of_victim(name: str, make: Callable[[int], tuple[Action, ...]]) -> Operation:
    return Operation(name, lambda race, n: race.visit("victim", *make(n)))


OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        of_victim("slow read", lambda _: (("read",),)),
        of_victim("slow write", lambda n: (("write", f"k{n}", f"v{n}"), ("inc", "count"))),
        of_victim("renew", lambda _: (("renew",),)),
        of_victim("cycle", lambda n: (("cycle", 30.0), ("write", f"k{n}", f"v{n}"))),
        of_victim("login", lambda n: (("login", USER), ("write", f"k{n}", f"v{n}"))),
        of_victim("logout", lambda _: (("logout",),)),
        Operation("revoke user", lambda race, _: race.revoke_user()),
        Operation(
            "eviction",
            lambda race, _: race.visit("other", ("login", USER)),
            options={"max_sessions_per_user": 1},
            of_model=False,
        ),
        Operation(
            "eviction for room",
            lambda race, n: race.visit("other", ("write", f"k{n}", f"v{n}")),
            options={"max_sessions": 1},
            of_model=False,
        ),
        Operation("expiry", lambda race, _: race.pass_deadline(), needs_deadline=True),
        Operation("cleanup", lambda race, _: race.clean_up(), needs_deadline=True),
    )
}


@dataclass(frozen=True, slots=True)
class Beginning:
    """How the victim's session stands when the race starts."""

    name: str
    first: tuple[Action, ...]
    age: float

    def prepare(self, world: World) -> None:
        """Make it so."""
        world.perform(("whole", "victim", self.first))
        if self.age:
            world.perform(("clock", self.age))

    @property
    def is_late(self) -> bool:
        """Its deadline is so near that it passes during the race."""
        return IDLE - A_MOMENT < self.age < IDLE


ANONYMOUS: tuple[Action, ...] = tuple(("write", key, "first") for key in ("a", "k0", "k1", "k2"))
SIGNED_IN: tuple[Action, ...] = (("login", USER), *ANONYMOUS)
BEGINNINGS = tuple(
    Beginning(f"{who}, {when}", first, age)
    for who, first in (("anonymous", ANONYMOUS), ("signed in", SIGNED_IN))
    for when, age in (("new", 0.0), ("renewal due", 200.0), ("about to expire", IDLE - 1.0))
)


def pairs() -> list[tuple[Operation, Operation]]:
    """Each with each, and with itself."""
    return list(combinations_with_replacement(OPERATIONS.values(), 2))


def fits(beginning: Beginning, operations: Collection[Operation]) -> bool:
    """Whether each of these has something to do there."""
    return beginning.is_late or not any(operation.needs_deadline for operation in operations)


# Who goes on


class Orders(Protocol):
    """Chooses."""

    def choose(self, among: int) -> int: ...


class SomeOrder:
    """One that chance draws."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, among: int) -> int:
        return self._random.randrange(among)


class EveryOrder:
    """Each time another one, depth first, until `is_done`: the next differs in the last choice that could."""

    def __init__(self) -> None:
        self._path: list[tuple[int, int]] = []  # chosen, among how many
        self._at = 0
        self.is_done = False

    def choose(self, among: int) -> int:
        if self._at == len(self._path):
            self._path.append((0, among))
        chosen, of = self._path[self._at]
        assert of == among, "the same choices lead to the same place"
        self._at += 1
        return chosen

    def turn(self) -> None:
        """On to the next order."""
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        self._at, self.is_done = 0, not self._path
        if self._path:
            chosen, among = self._path[-1]
            self._path[-1] = (chosen + 1, among)


# What is judged


class RaceLedger(Ledger):
    """The invariants, where sessions may also be evicted, and a deadline that passed has passed."""

    def __init__(self, port: RacePort | None) -> None:
        super().__init__()
        self._port = port

    def deleted(self, visit: Visit | None, id_: str, old: Stored, at: int, now: float) -> None:
        """A request that never had the session's cookie evicts it: to its visitor as if it was revoked."""
        evicts = visit is not None and self._port is not None and id_ in self._port.evicted
        super().deleted(None if evicts else visit, id_, old, at, now)

    def updated(self, visit: Visit | None, id_: str, old: Stored, new: Stored, at: int, now: float) -> None:
        self.must_live(visit, id_, old)
        super().updated(visit, id_, old, new, at, now)

    def opened(self, visit: Visit, note: Any, id_: str, now: float) -> None:
        if id_ in self.last:
            self.must_live(visit, id_, self.last[id_])
        super().opened(visit, note, id_, now)

    def must_live(self, visit: Visit | None, id_: str, record: Stored) -> None:
        """By the moment that the backend was told, without any slack."""
        if self._port is not None and record.deadline <= self._port.asked_at:
            raise Violation(NO_COMEBACK, f"{visit} finds {id_} after its deadline")


class RacePort(SteppedPort):
    """Also holds up what evicts, what revokes a user, and the cleaner. Notes the last time it was told."""

    def __init__(self, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        self.asked_at = 0.0
        self.evicted: set[str] = set()

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        return await self._held_up("load", lambda: self._told(now, self.real.load(id, now)))

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        def operation() -> Awaitable[Committed | Refused]:
            self._touch(id)
            return self._told(now, self.real.commit(id, delta, now))

        return await self._held_up("commit", operation)

    def _told(self, now: float, operation: Awaitable[T]) -> Awaitable[T]:
        self.asked_at = now
        return operation

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        async def operation() -> Admitted[CreateResult]:
            self._touch(record.id)
            return self._noted(await self._real.create_within(record, now, caps))

        return await self._held_up("create within", operation)

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        async def operation() -> Admitted[Committed | Refused]:
            self._touch(id)
            self.asked_at = now
            return self._noted(await self._real.commit_within(id, delta, now, caps))

        return await self._held_up("commit within", operation)

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        raise NotImplementedError("nobody changes a limit here")

    async def list_user(self, user_id: str, now: float) -> Sequence[Record]:
        raise NotImplementedError("nobody asks for it here")

    async def delete_user(
        self, user_id: str, now: float, reason: str, *, keep: Sequence[SessionId] = (), by: str | None = None
    ) -> Sequence[SessionId]:
        async def operation() -> Sequence[SessionId]:
            self.touched |= self._ids
            ended: Sequence[SessionId] = await self._real.delete_user(user_id, now, reason, keep=keep, by=by)
            return ended

        return await self._held_up("delete user", operation)

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        return await self._held_up("delete expired", lambda: super(RacePort, self).delete_expired(now, limit))

    @property
    def _real(self) -> Any:
        return self.real

    def _noted(self, admitted: Admitted[Any]) -> Admitted[Any]:
        ended = {one.id for one in (*admitted.of_user, *admitted.others)}
        self.evicted |= ended
        self.touched |= ended
        return admitted


# Running

Make: TypeAlias = "Callable[[Mapping[str, Any]], tuple[System, RaceLedger]]"


def real_system(shelf: Shelf, port: type[RacePort] = RacePort) -> Make:
    """Makes the real middleware over this shelf, with the options of the operations."""

    def make(options: Mapping[str, Any]) -> tuple[System, RaceLedger]:
        system = RealSystem(shelf, port=port, **options)
        assert isinstance(system.port, RacePort)
        return system, RaceLedger(system.port)

    return make


def race(make: Make, beginning: Beginning, operations: Sequence[Operation], orders: Orders) -> Failure | None:
    """One order, to its end. None: every invariant held."""
    options = {name: value for operation in operations for name, value in operation.options.items()}
    world = Race(*make(options))
    try:
        beginning.prepare(world)
        going = [operation.steps(world, n) for n, operation in enumerate(operations)]
        while going:
            chosen = going[orders.choose(len(going))]
            if next(chosen, going) is going:
                going.remove(chosen)
        world.finish()
    except Violation as violation:
        names = " and ".join(operation.name for operation in operations)
        where = f"{names}; {beginning.name}: {violation}"
        return Failure(violation.invariant, where, (), tuple(world.trace))
    return None


@dataclass
class Figures:
    """What a campaign came to."""

    races: int = 0
    orders: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, orders: Iterator[Failure | None]) -> None:
        """One race, in these orders."""
        self.races += 1
        for failure in orders:
            self.orders += 1
            if failure is not None:
                self.failures.append(failure)

    def __str__(self) -> str:
        return f"{self.races} races, {self.orders} orders, {len(self.failures)} broken"


def every_order_of(
    make: Make, beginning: Beginning, operations: Sequence[Operation]
) -> Iterator[Failure | None]:
    """Each order, until none is left."""
    orders = EveryOrder()
    while not orders.is_done:
        yield race(make, beginning, operations, orders)
        orders.turn()


def some_orders_of(
    make: Make, beginning: Beginning, operations: Sequence[Operation], random: Random, count: int
) -> Iterator[Failure | None]:
    """As many as *count*; some perhaps twice."""
    for _ in range(count):
        yield race(make, beginning, operations, SomeOrder(random))


def campaign(make: Make, triples: int, random: Random, orders: int | None = None) -> Figures:
    """Every pair at every beginning, in every order or in some (*orders*), then some of triples."""
    figures = Figures()
    for beginning in BEGINNINGS:
        for pair in filter(lambda pair: fits(beginning, pair), pairs()):
            if orders is None:
                figures.add(every_order_of(make, beginning, pair))
            else:
                figures.add(some_orders_of(make, beginning, pair, random, orders))
    for _ in range(triples):
        beginning = random.choice(BEGINNINGS)
        triple = random.choices([one for one in OPERATIONS.values() if fits(beginning, [one])], k=3)
        figures.add(some_orders_of(make, beginning, triple, random, 1))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--system", choices=SYSTEMS, default="memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="triples")
    parser.add_argument("--orders", type=int, help="of each pair; left out: every one")
    given = parser.parse_args()
    began = time.perf_counter()
    with shelf_of(given.system) as shelf:
        figures = campaign(real_system(shelf), given.count, Random(given.seed), given.orders)
    for failure in figures.failures:
        sys.stdout.write(f"{failure}\n\n")
    took = time.perf_counter() - began
    sys.stdout.write(f"{given.system}: {figures}, seed {given.seed}, {took:.0f} s\n")
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
