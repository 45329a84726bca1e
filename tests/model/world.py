"""Browsers, an attacker, a network and a clock, driven by a schedule against any `system.System`.

Reading order: `Op` (one move of a schedule), `random_schedule` (moves from a seed), `World` (performs them
and shows each step to a `Watch`), `run` (one schedule; a violation or None), `shrink` (the same violation in
fewer moves). Moves pick requests, responses and cookies by number modulo how many there are, so any sublist
of a schedule is a schedule.

A response decided before a login reaches its browser before the login's does: a network that turns the two
round undoes a login whatever a server does (`World.reorders` takes that rule away).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeAlias

from tests.model.system import Action, Fault, Handle, Response, Stored, System

__all__ = ["Failure", "Op", "Violation", "Visit", "Watch", "World", "random_schedule", "run", "shrink"]

Op: TypeAlias = tuple[object, ...]
"""("start", who, actions) ("whole", who, actions): a request and its response undisturbed,
("replay", cookie, actions) ("step", request, fault) ("arrive", response) ("lose", response)
("clock", seconds) ("plant", who, cookie, slot) ("steal", who) ("revoke", session)
("cleanup",) ("noise",): somebody else keeps cycling while the last probe waits."""

START = 1_000_000.0
LONGEST_BACKEND_CALL = 4.0
BROWSERS = ("victim", "other", "attacker")


class Violation(Exception):
    """An invariant that does not hold: its name, and what was seen."""

    def __init__(self, invariant: str, seen: str) -> None:
        super().__init__(f"{invariant}: {seen}")
        self.invariant = invariant


@dataclass(eq=False, slots=True)
class Visit:
    """One request as the driver knows it. Numbers called `at` count the steps of the world."""

    number: int
    who: str
    cookies: tuple[str, ...]
    actions: tuple[Action, ...]
    handle: Handle
    at: int
    clock: float
    where: str = "start"
    called_at: float = 0.0
    answered: bool = False
    decided_at: int = 0
    notes: dict[str, object] = field(default_factory=dict)

    def does(self, *names: str) -> bool:
        """Whether its handler does one of these before the response."""
        return any(action[0] in names for action in self.early)

    @property
    def early(self) -> tuple[Action, ...]:
        """What the handler does before the response starts."""
        cut = self.actions.index(("late",)) if ("late",) in self.actions else len(self.actions)
        return self.actions[:cut]

    @property
    def logs_in(self) -> bool:
        return self.does("login") or any("user_id" in a and "write" in a for a in self.early)

    def __str__(self) -> str:
        return f"#{self.number} {self.who}"


class Watch(Protocol):
    """Judges each step; raises `Violation`."""

    def started(self, visit: Visit, records: Mapping[str, Stored]) -> None: ...
    def stepped(self, visit: Visit | None, records: Mapping[str, Stored], at: int, now: float) -> None: ...
    def probed(self, visit: Visit) -> None: ...


class World:
    """Performs moves. `trace` tells what happened, a line each."""

    def __init__(self, system: System, watch: Watch, *, reorders: bool = False) -> None:
        self.system, self.watch, self.reorders = system, watch, reorders
        self.now = START
        self.at = 0
        self.jars: dict[str, dict[str, str]] = {who: {} for who in BROWSERS}
        self.held: list[str] = []
        self.issued: dict[tuple[str, int], str] = {}
        self.visits: list[Visit] = []
        self.open: list[Visit] = []
        self.outbox: list[Visit] = []
        self.trace: list[str] = []
        self.noise = False
        system.set_clock(self.now)

    # Moves

    def perform(self, op: Op) -> None:  # noqa: C901 - one case a move
        match op:
            case ("start", str(who), tuple(actions)):
                self.start(who, tuple(self.jars[who].values()), actions)
            case ("whole", str(who), tuple(actions)):
                self.put_in_jar(self.whole(who, tuple(self.jars[who].values()), actions))
            case ("replay", int(number), tuple(actions)) if self.held:
                self.start("attacker", (self.held[number % len(self.held)],), actions)
            case ("step", int(number), fault) if self.open:
                self.step(self.open[number % len(self.open)], fault)  # type: ignore[arg-type]
            case ("arrive", int(number)) if self.outbox:
                self.arrive(self.outbox[number % len(self.outbox)])
            case ("lose", int(number)) if self.outbox:
                visit = self.outbox.pop(number % len(self.outbox))
                self.note(f"{visit} never gets its response")
            case ("clock", float(seconds)):
                self.move_clock(seconds)
            case ("plant", str(who), int(number), str(slot)) if self.held:
                self.plant(who, self.held[number % len(self.held)], slot)
            case ("steal", str(who)):
                self.held.extend(c for c in self.jars[who].values() if c not in self.held)
            case ("revoke", int(number)):
                self.revoke(number)
            case ("cleanup",):
                self.system.clean_up()
                self.watch.stepped(None, self.system.peek(), self.at, self.now)
            case ("noise",):
                self.noise = True

    def note(self, line: str) -> None:
        self.trace.append(f"{self.now - START:9.3f}  {line}")

    def start(self, who: str, cookies: tuple[str, ...], actions: tuple[Action, ...]) -> Visit:
        self.at += 1
        handle = self.system.start_request(cookies, actions)
        visit = Visit(len(self.visits), who, cookies, actions, handle, self.at, self.now, called_at=self.now)
        self.visits.append(visit)
        self.open.append(visit)
        self.note(f"{visit} requests {' '.join(map(show, actions))} with {cookies or 'no cookie'}")
        self.watch.started(visit, self.system.peek())
        return visit

    def step(self, visit: Visit, fault: Fault = None) -> None:
        self.at += 1
        was = visit.where
        fault = fault if was.startswith("backend") else None
        where = visit.handle.step(fault)
        visit.where, visit.called_at = where or "done", self.now
        self.note(f"{visit} {was} -> {visit.where}{f' (fails {fault} it applied)' if fault else ''}")
        if visit.handle.done:
            self.open.remove(visit)
        if visit.handle.response is not None and not visit.answered:
            self.answer(visit, visit.handle.response)
        self.watch.stepped(visit, self.system.peek(), self.at, self.now)

    def answer(self, visit: Visit, response: Response) -> None:
        visit.answered, visit.decided_at = True, self.at
        self.outbox.append(visit)
        sent = "removal" if response.removes else response.set_cookie or "no cookie"
        self.note(f"{visit} answers {response.status}, {sent}, lost {visit.handle.lost}")
        if response.set_cookie is not None:
            id_, _, generation, _ = response.set_cookie.split(".")
            if not response.is_promise:
                self.issued[id_, int(generation)] = response.set_cookie

    def arrive(self, visit: Visit) -> None:
        if not self.reorders and (visit.logs_in or visit.does("cycle", "write", "pop", "pop_all")):
            for earlier in [v for v in self.outbox if v.who == visit.who and v.decided_at < visit.decided_at]:
                self.put_in_jar(earlier)
        self.put_in_jar(visit)

    def put_in_jar(self, visit: Visit) -> None:
        self.outbox.remove(visit)
        response = visit.handle.response
        assert response is not None
        self.note(f"{visit} gets its response")
        if response.set_cookie is not None:
            self.jars[visit.who]["own"] = response.set_cookie
            if visit.who == "attacker":
                self.held.append(response.set_cookie)
        elif response.removes:
            self.jars[visit.who].pop("own", None)

    def move_clock(self, seconds: float) -> None:
        """No backend call takes longer than its timeout, and a request that came in is loaded at once."""
        for visit in list(self.open):
            while visit.where.startswith(("start", "backend")) and self.too_long(visit, seconds):
                self.step(visit)
        self.now += seconds
        self.note("the clock moves")
        self.system.set_clock(self.now)

    def too_long(self, visit: Visit, seconds: float) -> bool:
        return abs(self.now + seconds - visit.called_at) > LONGEST_BACKEND_CALL

    def plant(self, who: str, cookie: str, slot: str) -> None:
        self.note(f"the attacker plants {cookie} in {who}'s browser ({slot})")
        self.jars[who][slot] = cookie

    def revoke(self, number: int) -> None:
        ids = sorted(self.system.peek())
        if ids:
            self.note(f"an administrator ends {ids[number % len(ids)]}")
            self.system.revoke(ids[number % len(ids)])
            self.watch.stepped(None, self.system.peek(), self.at, self.now)

    # The end: everything under way arrives, then everybody must be able to write

    def finish(self) -> None:
        while self.open:
            self.step(self.open[0])
        for visit in sorted(self.outbox, key=lambda v: v.decided_at):
            self.put_in_jar(visit)
        self.wait()
        for who in BROWSERS:
            self.probe(who)

    def wait(self) -> None:
        """Longer than any 30 s, in which others may go on."""
        for _ in range(8):
            self.move_clock(5.0)
            if self.noise:
                self.keep_cycling()

    def keep_cycling(self) -> None:
        for id_, record in list(self.system.peek().items()):
            cookie = self.issued.get((id_, record.generation))
            if cookie is not None:
                self.whole("attacker", (cookie,), (("cycle", 0.0),))

    def probe(self, who: str) -> None:
        """A write is saved, at once or, if another browser's cycle came between, after one more wait."""
        jar = self.jars[who]
        write = (("write", "probe", f"p{who}"),)
        writer = self.whole(who, tuple(jar.values()), write)
        if writer.handle.lost:
            self.wait()
            writer = self.whole(who, tuple(jar.values()), write)
        self.put_in_jar(writer)
        self.watch.probed(writer)
        if len(jar) == 1:
            reader = self.whole(who, tuple(jar.values()), (("read",),))
            if reader.handle.seen is None or reader.handle.seen.data.get("probe") != f"p{who}":
                raise Violation("nobody is locked out", f"{who} does not see what {writer} wrote")

    def whole(self, who: str, cookies: tuple[str, ...], actions: tuple[Action, ...]) -> Visit:
        visit = self.start(who, cookies, actions)
        while not visit.handle.done:
            self.step(visit)
        return visit


def show(action: Action) -> str:
    """One action for a trace."""
    name, *arguments = action
    return f"{name}({', '.join(map(str, arguments))})" if arguments else name


# Schedules

USERS = ("vera", "will")
CLOCK_STEPS = (0.001, 0.02, 0.5, 0.5, 2.0, 2.0, 10.0, 29.0, 31.0, 31.0, 130.0, 601.0, -1.0, -0.01)


@dataclass(frozen=True, slots=True)
class Palette:
    """What the handlers of one schedule do. Few kinds of actions meet each other more often than many."""

    kinds: tuple[int, ...]
    late: float
    save: float

    @classmethod
    def draw(cls, random: Random) -> Palette:
        kinds = random.sample(range(32), random.choice((3, 5, 8, 32, 32)))
        return cls(tuple(kinds), random.choice((0.05, 0.05, 0.5)), random.choice((0.03, 0.03, 0.3)))


def random_actions(random: Random, palette: Palette, number: int) -> tuple[Action, ...]:
    """One to three actions of a handler, sometimes more after the response."""
    actions = [random_action(random, palette, number) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    if random.random() < palette.save:
        actions.insert(random.randrange(len(actions) + 1), ("save",))
    if random.random() < 0.03:
        actions.append(("crash",))
    elif random.random() < palette.late:
        actions += [("late",), random_action(random, palette, number + 1000)]
    return tuple(actions)


def random_action(  # noqa: C901, PLR0911, PLR0912 - one case a kind of action
    random: Random, palette: Palette, number: int
) -> Action:
    """`number` makes values and some keys the request's own."""
    match random.choice(palette.kinds):
        case 0 | 1 | 2:
            return ("read",)
        case 3 | 4 | 5 | 6:
            return ("write", random.choice(("a", "b", f"k{number}")), f"v{number}")
        case 7 | 8:
            return ("write", f"k{number}", f"v{number}")
        case 9 | 10:
            return ("inc", "count")
        case 11:
            return ("pop", random.choice(("a", "b")))
        case 12:
            return ("pop_all",)
        case 13 | 14 | 15 | 16:
            return ("cycle", random.choice((30.0, 30.0, 5.0)))
        case 17:
            return ("cycle", 0.0)
        case 18 | 19 | 20 | 21 | 22:
            return ("login", random.choice(USERS))
        case 23 | 24:
            return ("write", "role", random.choice(("clerk", "admin")))
        case 25:
            return ("write", "user_id", random.choice(USERS))
        case 26:
            return ("pop", "user_id")
        case 27 | 28:
            return ("logout",)
        case 29:
            return ("clear",)
        case 30:
            return ("renew",)
        case _:
            return ("expiry", random.choice((60.0, 900.0)))


def random_schedule(random: Random, length: int = 60) -> list[Op]:
    """Moves; mostly steps, so that requests overlap but finish."""
    ops: list[Op] = [("noise",)] if random.random() < 0.3 else []
    palette = Palette.draw(random)
    for number in range(random.choice((0, 1, 2, 2))):
        first: Action = random.choice(
            (("write", "a", f"first{number}"), ("login", random.choice(USERS)), ("read",))
        )
        ops.append(("whole", random.choice(("victim", "attacker")), (first,)))
    return ops + [random_op(random, palette, number) for number in range(random.randrange(10, length))]


def random_op(random: Random, palette: Palette, number: int) -> Op:  # noqa: C901, PLR0911 - one case a move
    match random.randrange(100):
        case n if n < 14:
            who = random.choice(("victim", "victim", "victim", "other"))
            return ("start", who, random_actions(random, palette, number))
        case n if n < 19:
            return ("start", "attacker", random_actions(random, palette, number))
        case n if n < 24:
            return ("replay", random.randrange(64), random_actions(random, palette, number))
        case n if n < 63:
            fault = random.choice(("before", "after")) if random.random() < 0.02 else None
            return ("step", random.randrange(64), fault)
        case n if n < 78:
            return ("arrive", random.randrange(64))
        case n if n < 81:
            return ("lose", random.randrange(64))
        case n if n < 91:
            return ("clock", random.choice(CLOCK_STEPS))
        case n if n < 95:
            slot = random.choice(("own", "own", "planted"))
            return ("plant", random.choice(("victim", "other")), random.randrange(64), slot)
        case n if n < 98:
            return ("steal", random.choice(("victim", "other")))
        case 98:
            return ("revoke", random.randrange(64))
        case _:
            return ("cleanup",)


# Running


@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule that breaks an invariant, and how it went."""

    invariant: str
    message: str
    ops: tuple[Op, ...]
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((self.message, *self.trace))


def run(
    make_system: Callable[[], System],
    make_watch: Callable[[], Watch],
    ops: Sequence[Op],
    *,
    reorders: bool = False,
) -> Failure | None:
    """Perform a schedule to its end. None: every invariant held."""
    world = World(make_system(), make_watch(), reorders=reorders)
    try:
        for op in ops:
            world.perform(op)
        world.finish()
    except Violation as violation:
        return Failure(violation.invariant, str(violation), tuple(ops), tuple(world.trace))
    return None


def shrink(failure: Failure, again: Callable[[Sequence[Op]], Failure | None]) -> Failure:
    """Leave out moves as long as the same invariant breaks; halves first, then one by one."""
    size = max(1, len(failure.ops) // 2)
    while True:
        smaller = next(filter(None, (same(failure, again(ops)) for ops in without(failure.ops, size))), None)
        if smaller is not None:
            failure = smaller
        elif size == 1:
            return failure
        else:
            size //= 2


def without(ops: Sequence[Op], size: int) -> Iterator[tuple[Op, ...]]:
    for start in range(0, len(ops), size):
        yield (*ops[:start], *ops[start + size :])


def same(failure: Failure, other: Failure | None) -> Failure | None:
    return other if other is not None and other.invariant == failure.invariant else None
