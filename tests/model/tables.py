"""The two tables of the session design as code: which cookie opens what, and what a commit does.

Reading order: `Record` and `Delta` (what is kept, what changes), `Store` (the backend contract, each
operation atomic), `Tables.open_with` (second table), `Intent` (what a handler did), `Tables.plan` (first
table, performed by `request`). Nothing here imports the product, so that the two can disagree.

A comment that begins with MEND marks where the tables as first written had a hole which the model found.
Times are seconds since the epoch, durations seconds, generations milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from tests.model.system import Action

__all__ = [
    "ABSOLUTE",
    "GRACE",
    "IDLE",
    "PRIVILEGE_KEY",
    "USER_KEY",
    "Anonymous",
    "Commit",
    "Committed",
    "Cookie",
    "Create",
    "Cycle",
    "Delta",
    "End",
    "Ended",
    "Grace",
    "Intent",
    "JustEnded",
    "Live",
    "LoginConflict",
    "Nothing",
    "Opened",
    "Overtaken",
    "Plan",
    "Record",
    "Replace",
    "Store",
    "Tables",
    "follow",
    "milliseconds",
]

GRACE: Final = 30.0
IDLE: Final = 600.0
ABSOLUTE: Final = 3600.0
RENEW_BELOW: Final = 0.8 * IDLE
ENDINGS_KEPT: Final = 600.0
PRIVILEGE_KEY: Final = "role"
USER_KEY: Final = "user_id"

Value: TypeAlias = str | int
Changes: TypeAlias = Mapping[str, Value]


# What is kept, what changes


@dataclass(frozen=True, slots=True)
class Grace:
    """How long a superseded generation is good for; `until`: None while nobody brought the new cookie."""

    seconds: float
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What a backend keeps for a session. `floors[0]` is the generation of creation."""

    id: str
    secret: str
    generation: int
    floors: tuple[int, ...]
    created_at: float
    deadline: float
    limit: float
    accepted: Mapping[int, Grace] = field(default_factory=dict)
    cycle_due: float | None = None
    authenticated_at: float | None = None
    user_id: str | None = None
    data: Changes = field(default_factory=dict)
    idle: float = IDLE
    version: int = 1

    @property
    def floor(self) -> int:
        """The generation of the last cycle without grace: nothing admitted below it is saved."""
        return self.floors[-1]


@dataclass(frozen=True, slots=True)
class Ended:
    """A backend's memory of an ending."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Cycle:
    """A new generation; `grace` 0 is a cycle without grace."""

    grace: float


@dataclass(frozen=True, slots=True)
class Delta:
    """What one commit changes. None or empty: leave it."""

    admitted: int
    sets: Changes = field(default_factory=dict)
    unsets: frozenset[str] = frozenset()
    increments: Mapping[str, int] = field(default_factory=dict)
    renew_to: float | None = None
    expire_at: float | None = None
    idle: float | None = None
    user: str | None = None
    unbind: bool = False
    limit: float | None = None
    cycle: Cycle | None = None
    start_grace: bool = False
    cycle_due: float | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """The generation after the commit, and whether this commit made it."""

    generation: int
    record: Record


CommitAnswer: TypeAlias = Committed | Literal["GONE", "CONFLICT"]


def milliseconds(now: float) -> int:
    """`now` as a generation."""
    return int(now * 1000)


# The backend contract


class Store:
    """Records in a dict. Each method is one atomic operation; `deadline <= now` does not exist."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.endings: dict[str, Ended] = {}

    def load(self, id_: str, now: float) -> Record | Ended | None:
        record = self.records.get(id_)
        if record is not None:
            return record if record.deadline > now else self.expiry(record)
        ended = self.endings.get(id_)
        return ended if ended is not None and now - ended.at < ENDINGS_KEPT else None

    @staticmethod
    def expiry(record: Record) -> Ended:
        reason = "absolute_timeout" if record.deadline >= record.limit else "idle_timeout"
        return Ended(reason, record.deadline)

    def alive(self, id_: str, now: float) -> Record | None:
        record = self.records.get(id_)
        return record if record is not None and record.deadline > now else None

    def create(self, record: Record, now: float) -> bool:
        """False for EXISTS. An ending that is still remembered counts as EXISTS.

        MEND: else a request that loaded "nothing" under a promise, while a parallel one created, used and
        ended that very id, creates it again: what was ended comes back.
        """
        if self.load(record.id, now) is not None:
            return False
        self.records[record.id] = record
        return True

    def commit(self, id_: str, delta: Delta, now: float) -> CommitAnswer:
        record = self.alive(id_, now)
        if record is None:
            return "GONE"
        if delta.admitted < record.floor:
            return "CONFLICT"
        record = self.with_data(record, delta)
        record = self.with_deadlines(record, delta)
        record = self.with_user(record, delta)
        record = self.with_grace_started(record, delta, now)
        record = self.with_cycle(record, delta, now)
        self.records[id_] = record = replace(record, version=record.version + 1)
        return Committed(record.generation, record)

    def with_data(self, record: Record, delta: Delta) -> Record:
        if not (delta.sets or delta.unsets or delta.increments):
            return record
        data = {key: value for key, value in record.data.items() if key not in delta.unsets} | dict(
            delta.sets
        )
        for key, by in delta.increments.items():
            data[key] = int(data.get(key, 0)) + by
        return replace(record, data=data)

    def with_deadlines(self, record: Record, delta: Delta) -> Record:
        limit = record.limit if delta.limit is None else delta.limit
        idle = record.idle if delta.idle is None else delta.idle
        deadline = record.deadline
        if delta.renew_to is not None:
            deadline = max(deadline, delta.renew_to)
        if delta.expire_at is not None:
            deadline = delta.expire_at
        deadline = min(deadline, limit)
        if (limit, idle, deadline) == (record.limit, record.idle, record.deadline):
            return record
        return replace(record, limit=limit, idle=idle, deadline=deadline)

    def with_user(self, record: Record, delta: Delta) -> Record:
        if delta.unbind:
            return replace(record, user_id=None)
        return record if delta.user is None else replace(record, user_id=delta.user)

    def with_grace_started(self, record: Record, delta: Delta, now: float) -> Record:
        if not delta.start_grace:
            return record
        accepted = {
            generation: Grace(grace.seconds, now + grace.seconds)
            if grace.until is None and generation < delta.admitted
            else grace
            for generation, grace in record.accepted.items()
        }
        return replace(record, accepted=accepted)

    def with_cycle(self, record: Record, delta: Delta, now: float) -> Record:
        if delta.cycle_due is not None:
            dues = [due for due in (record.cycle_due, delta.cycle_due) if due is not None]
            record = replace(record, cycle_due=min(dues))
        if delta.cycle is None:
            return record
        generation = max(record.generation + 1, milliseconds(now))
        if delta.cycle.grace > 0:
            if record.generation != delta.admitted:
                return record
            return self.cycled(record, generation, delta.cycle.grace)
        floors = (record.floors[0], *(*record.floors[1:], generation)[-4:])
        return replace(record, generation=generation, floors=floors, accepted={}, cycle_due=None)

    def cycled(self, record: Record, generation: int, grace: float) -> Record:
        accepted = dict(record.accepted) | {record.generation: Grace(grace)}
        newest = sorted(accepted)[-4:]
        # MEND: "any cycle clears cycle_due" let a parallel cycle with grace swallow a due one without grace,
        # and the old cookie kept the changed privilege. With grace clears only with grace.
        due = 0.0 if record.cycle_due == 0.0 else None
        return replace(
            record, generation=generation, accepted={g: accepted[g] for g in newest}, cycle_due=due
        )

    def delete(self, id_: str, now: float, reason: str) -> bool:
        record = self.records.get(id_)
        if record is None:
            return False
        was_alive = record.deadline > now
        del self.records[id_]
        self.endings[id_] = Ended(reason, now) if was_alive else self.expiry(record)
        return was_alive

    def delete_expired(self, now: float) -> None:
        for record in [r for r in self.records.values() if r.deadline <= now]:
            self.delete(record.id, now, "idle_timeout")


# Which cookie opens what


@dataclass(frozen=True, slots=True)
class Cookie:
    """A verified cookie. A promise names an id that nothing was stored under yet."""

    id: str
    secret: str
    generation: int
    is_promise: bool = False

    def __str__(self) -> str:
        return f"{self.id}.{self.secret}.{self.generation}.{'promise' if self.is_promise else 'signed'}"

    @classmethod
    def parse(cls, text: str) -> Cookie:
        id_, secret, generation, signature = text.split(".")
        return cls(id_, secret, int(generation), signature == "promise")


@dataclass(frozen=True, slots=True)
class Live:
    """Opened. `send_again`: the client holds an older cookie. `others`: live sessions of its other cookies.
    `saved`: the request made a commit of its own, so `admitted` is no longer what its cookie named."""

    record: Record
    admitted: int
    send_again: bool = False
    others: tuple[Record, ...] = ()
    saved: bool = False


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A parallel request from before a login or a changed privilege: sees nothing, saves nothing."""

    record: Record
    others: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class JustEnded:
    """A parallel request from before a logout: sees nothing, saves nothing, but may log in."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A visitor like any other. `promise` gives the first write its id; `others` are conflicting sessions."""

    event: str | None = None
    promise: Cookie | None = None
    others: tuple[Record, ...] = ()


Opened: TypeAlias = Live | Overtaken | JustEnded | Anonymous


# What a handler did


@dataclass(slots=True)
class Intent:
    """What one phase of a handler asks for, in the order that decides: the last of end and login wins."""

    sets: dict[str, Value] = field(default_factory=dict)
    unsets: set[str] = field(default_factory=set)
    increments: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    login: str | None = None
    unbind: bool = False
    cycle: float | None = None
    renew: bool = False
    expiry: float | None = None

    @property
    def wrote(self) -> bool:
        return bool(self.sets or self.increments)

    @property
    def changed(self) -> bool:
        return bool(self.sets or self.unsets or self.increments)

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.sets, *self.increments)

    def end(self) -> None:
        self.sets, self.unsets, self.increments = {}, set(), {}
        self.ended, self.login, self.unbind, self.cycle = True, None, False, None
        self.renew, self.expiry = False, None

    def only_the_end(self) -> Intent:
        """What is left of it after an unhandled exception."""
        return Intent(ended=self.ended)


def follow(intent: Intent, action: Action, loaded: Changes) -> None:  # noqa: C901 - one case an action
    """Take one handler action into the intent. `loaded` is what the handler was shown."""
    shown = {} if intent.ended else loaded
    match action:
        case ("write", str(key), str(value)):
            write(intent, key, value, shown)
        case ("inc", str(key)):
            intent.increments[key] = intent.increments.get(key, 0) + 1
        case ("pop", str(key)):
            drop(intent, key, shown)
        case ("pop_all",):
            for key in {*shown, *intent.sets, *intent.increments}:
                drop(intent, key, shown)
        case ("cycle", float(grace)):
            intent.cycle = grace if intent.cycle is None else min(intent.cycle, grace)
        case ("login", str(user)):
            intent.login, intent.unbind = user, False
        case ("logout",) | ("clear",):
            intent.end()
        case ("renew",):
            intent.renew = True
        case ("expiry", float(seconds)):
            intent.expiry = seconds


def write(intent: Intent, key: str, value: str, shown: Changes) -> None:
    if shown.get(key) == value and key not in intent.unsets:
        intent.sets.pop(key, None)
        return
    intent.sets[key] = value
    intent.unsets.discard(key)
    intent.increments.pop(key, None)
    if key == PRIVILEGE_KEY:
        intent.cycle = 0.0
    if key == USER_KEY:
        intent.login, intent.unbind = value, False


def drop(intent: Intent, key: str, shown: Changes) -> None:
    intent.sets.pop(key, None)
    intent.increments.pop(key, None)
    if key not in shown:
        return
    intent.unsets.add(key)
    if key == PRIVILEGE_KEY:
        intent.cycle = 0.0
    if key == USER_KEY:
        intent.unbind, intent.cycle, intent.login = True, 0.0, None


# The decisions


@dataclass(frozen=True, slots=True)
class Nothing:
    """No backend call, no cookie."""


@dataclass(frozen=True, slots=True)
class Create:
    """A new session; `user` None is an anonymous one."""

    user: str | None


@dataclass(frozen=True, slots=True)
class Commit:
    """Update in place; `set_cookie` when it succeeds."""

    delta: Delta
    set_cookie: bool


@dataclass(frozen=True, slots=True)
class Replace:
    """Create a new session, then delete the old one. `keep`: the new one stays if nothing was alive."""

    user: str | None
    old: Record
    reason: str
    keep: bool


@dataclass(frozen=True, slots=True)
class End:
    """Delete; removal cookie if it was alive."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoginConflict:
    """A login from before somebody else's: look again, then decide."""

    old: Record


Plan: TypeAlias = Nothing | Create | Commit | Replace | End | LoginConflict


class Tables:
    """Both tables as pure functions. Controls override single methods."""

    def recent(self, now: float, then: float) -> bool:
        """Less than 30 s ago.

        MEND: was `0 <= now - then`. A request reads its clock, waits for its load, and meets a login of later
        time; or another process' clock is a millisecond ahead. It must count as just now, else the slow
        request's write creates a session whose cookie replaces the login's.
        """
        return -GRACE < now - then < GRACE

    def in_time(self, grace: Grace, now: float) -> bool:
        """Whether a superseded generation still opens its session; the same tolerance as `recent`."""
        return grace.until is None or (self.recent(now, grace.until - grace.seconds) and now < grace.until)

    def first_floor_above(self, generation: int, floors: Sequence[int]) -> int | None:
        """None if it is below the oldest kept.

        MEND: creation is always kept, so "below the oldest kept" never held, and logins repeated every few
        seconds locked a stale cookie out for as long as they went on. Once four are kept, others may be
        missing between creation and the oldest of the four.
        """
        above = [floor for floor in floors if floor > generation]
        missing = len(floors) == 5 and above[0] == floors[1]
        return None if missing else above[0]

    def open_with(self, cookie: Cookie, answer: Record | Ended | None, now: float) -> Opened:
        """The second table: one cookie that verified, and what the backend answered."""
        match answer:
            case None:
                return Anonymous(promise=cookie if cookie.is_promise else None)
            case Ended(reason, at):
                parallel = reason in ("logout", "superseded") and self.recent(now, at)
                return JustEnded() if parallel else Anonymous()
            case Record():
                return self.open_record(cookie, answer, now)

    def open_record(self, cookie: Cookie, record: Record, now: float) -> Opened:
        generation = cookie.generation
        if cookie.secret != record.secret or generation > record.generation:
            return Anonymous("unknown_generation")
        if generation == record.generation:
            return Live(record, generation, send_again=cookie.is_promise)
        grace = record.accepted.get(generation)
        if grace is not None and self.in_time(grace, now):
            return Live(record, generation, send_again=True)
        if generation < record.floor:
            floor = self.first_floor_above(generation, record.floors)
            if floor is not None and self.recent(now, floor / 1000):
                return Overtaken(record)
        return Anonymous("superseded_cookie")

    def choose(self, opened: Sequence[Opened]) -> Opened:
        """Several cookies of our name with several ids: what the request is."""
        live = [one for one in opened if isinstance(one, Live)]
        bound = [one for one in live if one.record.user_id is not None]
        if live:
            chosen = live[0] if len(live) == 1 else bound[0] if len(bound) == 1 else None
            others = tuple(one.record for one in live if one is not chosen)
            if chosen is None:
                return Anonymous("cookie_conflict", others=others)
            return replace(chosen, others=others)
        overtaken = [one.record for one in opened if isinstance(one, Overtaken)]
        if overtaken:
            return Overtaken(overtaken[0], tuple(overtaken[1:]))
        for one in opened:
            if isinstance(one, JustEnded):
                return one
        promises = [one for one in opened if isinstance(one, Anonymous) and one.promise is not None]
        return promises[0] if promises else opened[0] if opened else Anonymous()

    def plan(self, opened: Opened, intent: Intent, now: float) -> Plan:
        """The first table, down to what depends on the backend's answer."""
        match opened:
            case Anonymous():
                return self.plan_anonymous(opened, intent)
            case JustEnded():
                return Create(intent.login) if intent.login else Nothing()
            case Overtaken():
                return self.plan_overtaken(opened, intent)
            case Live():
                return self.plan_live(opened, intent, now)

    def plan_anonymous(self, opened: Anonymous, intent: Intent) -> Plan:
        if intent.login or intent.wrote:
            return Create(intent.login)
        if intent.ended and opened.others:
            # MEND: a logout while cookies conflict was acknowledged and ended nothing; when the other cookie
            # died, the session opened again. It ends every session that its cookies opened.
            return End(tuple(record.id for record in opened.others))
        return Nothing()

    def plan_overtaken(self, opened: Overtaken, intent: Intent) -> Plan:
        record = opened.record
        if intent.ended and intent.login:
            return Replace(intent.login, record, "logout", keep=True)
        if intent.ended:
            return End((record.id, *(other.id for other in opened.others)))
        return LoginConflict(record) if intent.login else Nothing()

    def plan_live(self, live: Live, intent: Intent, now: float) -> Plan:
        record = live.record
        if intent.ended:
            if intent.login or intent.wrote:
                return Replace(intent.login, record, "logout", keep=intent.login is not None)
            return End((record.id,))
        if intent.login and record.user_id not in (None, intent.login):
            return Replace(intent.login, record, "superseded", keep=True)
        return self.plan_commit(live, intent, now)

    def plan_commit(self, live: Live, intent: Intent, now: float) -> Plan:
        record = live.record
        cycle = self.cycle_of(live, intent)
        renewed = self.renewal_is_due(record, intent, now)
        idle = record.idle if intent.expiry is None else intent.expiry
        delta = Delta(
            live.admitted,
            sets=dict(intent.sets),
            unsets=frozenset(intent.unsets),
            increments=dict(intent.increments),
            renew_to=now + idle if renewed else None,
            expire_at=None if intent.expiry is None else now + idle,
            idle=intent.expiry,
            user=intent.login,
            unbind=intent.unbind,
            limit=self.new_limit(intent, now),
            cycle=cycle,
            start_grace=self.grace_starts(live),
        )
        set_cookie = live.send_again or renewed or cycle is not None
        needed = set_cookie or intent.changed or delta.start_grace
        return Commit(delta, set_cookie) if needed else Nothing()

    def cycle_of(self, live: Live, intent: Intent) -> Cycle | None:
        wanted = [
            grace
            for grace in (0.0 if intent.login else None, intent.cycle, live.record.cycle_due)
            if grace is not None
        ]
        return Cycle(min(wanted)) if wanted else None

    def renewal_is_due(self, record: Record, intent: Intent, now: float) -> bool:
        left = record.deadline - now
        # At the limit a renewal would change nothing, and would be due on every request.
        due = left < RENEW_BELOW / IDLE * record.idle and record.deadline < record.limit
        return due or intent.renew or intent.expiry is not None or intent.login is not None

    def new_limit(self, intent: Intent, now: float) -> float | None:
        return None if intent.login is None else now + ABSOLUTE

    def grace_starts(self, live: Live) -> bool:
        """MEND: "admitted under the generation that the commit returned" is not "came back": after an early
        save, a request that came with the old cookie began the 30 s; lost responses were not recovered."""
        waiting = live.record.accepted.items()
        return not (live.send_again or live.saved) and any(
            g < live.admitted and w.until is None for g, w in waiting
        )
