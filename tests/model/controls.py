"""Systems that are wrong on purpose: each must be caught by the invariant beside its name.

Reading order: `AS_WRITTEN`, the tables as they stood before the model mended them; `BROKEN`, mistakes seen in
other libraries and mistakes that are easy to make here. A control that no schedule catches means that the
driver does not look there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.model.invariants import (
    BEFORE_LOGIN,
    DUE,
    LIMIT,
    LOCKED_OUT,
    LOGIN_ACKNOWLEDGED,
    LOGOUT,
    LOST_RESPONSE,
    LOST_UPDATE,
    NO_COMEBACK,
    REMOVAL,
    SILENT,
    UNDONE,
)
from tests.model.request import ModelSystem, Request, Steps, cookie_of
from tests.model.tables import (
    ABSOLUTE,
    GRACE,
    Anonymous,
    CommitAnswer,
    Committed,
    Cookie,
    Delta,
    Ended,
    Grace,
    Intent,
    JustEnded,
    Live,
    Nothing,
    Opened,
    Overtaken,
    Plan,
    Record,
    Store,
    Tables,
)
from tests.model.world import Op

__all__ = ["AS_WRITTEN", "BROKEN", "Control"]


@dataclass(frozen=True, slots=True)
class Control:
    """A wrong system and the invariants, any of which may catch it."""

    name: str
    caught_by: tuple[str, ...]
    tables: type[Tables] = Tables
    store: type[Store] = Store
    request: type[Request] = Request
    eager: bool = False
    ops: tuple[Op, ...] = ()
    """A schedule that catches it, where random ones rarely come by; empty: random ones."""

    def system(self) -> ModelSystem:
        return ModelSystem(self.tables(), self.store(), self.request, eager=self.eager)


# The tables as first written


class NoTolerance(Tables):
    def recent(self, now: float, then: float) -> bool:
        return 0 <= now - then < GRACE


class CreationKept(Tables):
    def first_floor_above(self, generation: int, floors: Sequence[int]) -> int | None:
        return next((floor for floor in floors if floor > generation), None)


class LogoutInConflictDoesNothing(Tables):
    def plan_anonymous(self, opened: Anonymous, intent: Intent) -> Plan:
        wrote = intent.login or intent.wrote
        return super().plan_anonymous(opened, intent) if wrote else Nothing()


class AnyCycleClearsDue(Store):
    def cycled(self, record: Record, generation: int, grace: float) -> Record:
        return replace(super().cycled(record, generation, grace), cycle_due=None)


class CreateForgetsEndings(Store):
    def create(self, record: Record, now: float) -> bool:
        if self.alive(record.id, now):
            return False
        self.records[record.id] = record
        return True


class SaveBringsBack(Tables):
    def grace_starts(self, live: Live) -> bool:
        return super().grace_starts(replace(live, saved=False, send_again=live.send_again and not live.saved))


class PromiseOpensLogin(Request):
    def generation_under(self, promise: Cookie, intent: Intent, now: float) -> int:
        return promise.generation


class ExistsAnotherId(Request):
    def promise_was_taken(self, promise: Cookie, intent: Intent) -> Steps:
        self.opened = Anonymous()
        yield from self.commit(intent)


class EarlySaveIsSent(Request):
    def save(self, intent: Intent) -> Steps:
        yield from self.commit(intent)


class EarlySaveIsSentUnlessRefused(Request):
    """Only the removal of an early save is wrong."""

    def save(self, intent: Intent) -> Steps:
        removes = self.removes
        yield from super().save(intent)
        self.removes = removes or (isinstance(self.opened, JustEnded) and intent.ended)


CONFLICT: tuple[Op, ...] = (
    ("whole", "victim", (("login", "vera"),)),
    ("whole", "attacker", (("login", "will"),)),
    ("plant", "victim", 0, "planted"),
    ("whole", "victim", (("logout",),)),
)

SAVED_EARLY: tuple[Op, ...] = (
    ("whole", "victim", (("write", "a", "first"),)),
    ("start", "victim", (("cycle", 30.0),)),
    ("start", "victim", (("write", "b", "v"), ("save",), ("write", "c", "w"))),
    *[("step", 0, None)] * 2,
    *[("step", 1, None)] * 2,
    *[("step", 0, None)] * 6,
    *[("lose", 0)] * 2,
    ("clock", 31.0),
    ("whole", "victim", (("read",),)),
)

OVERTAKEN_AFTER_SAVE: tuple[Op, ...] = (
    ("whole", "victim", (("write", "a", "first"),)),
    ("start", "victim", (("renew",), ("save",))),
    *[("step", 0, None)] * 4,
    ("whole", "victim", (("login", "vera"),)),
    ("step", 0, None),
)

AS_WRITTEN = (
    Control("0 <= now - then", (UNDONE, LOST_RESPONSE, LOGOUT), tables=NoTolerance),
    Control("creation is the oldest floor kept", (LOCKED_OUT,), tables=CreationKept),
    Control("a logout while cookies conflict", (LOGOUT,), tables=LogoutInConflictDoesNothing, ops=CONFLICT),
    Control("an early save starts the grace", (LOST_RESPONSE,), tables=SaveBringsBack, ops=SAVED_EARLY),
    Control("any cycle clears cycle_due", (DUE,), store=AnyCycleClearsDue),
    Control("create under an id that just ended", (NO_COMEBACK,), store=CreateForgetsEndings, eager=True),
    Control("a promise opens a login", (BEFORE_LOGIN,), request=PromiseOpensLogin, eager=True),
    Control("EXISTS: another id", (UNDONE,), request=ExistsAnotherId, eager=True),
    Control("the cookie of an early save", (UNDONE,), request=EarlySaveIsSent, ops=OVERTAKEN_AFTER_SAVE),
    Control("the removal of an early save", (UNDONE, REMOVAL), request=EarlySaveIsSentUnlessRefused),
)


# Mistakes


class Upsert(Store):
    def commit(self, id_: str, delta: Delta, now: float) -> CommitAnswer:
        if self.alive(id_, now) is None and delta.sets:
            g = delta.admitted
            self.records[id_] = Record(id_, "x" + id_[1:], g, (g,), now, now + 600, now + ABSOLUTE)
        return super().commit(id_, delta, now)


class LastWriteWins(Request):
    """Writes the whole dict back, as it was loaded and changed."""

    def commit(self, intent: Intent) -> Steps:
        if isinstance(self.opened, Live) and intent.changed and not intent.ended:
            blob = {k: v for k, v in self.data.items() if k not in intent.unsets}
            intent.sets = blob | intent.sets
        yield from super().commit(intent)


class CountsFromLoaded(Request):
    def commit(self, intent: Intent) -> Steps:
        for key, by in intent.increments.items():
            intent.sets[key] = int(self.data.get(key, 0)) + by
        intent.increments = {}
        yield from super().commit(intent)


class LoginWithoutFloor(Store):
    def with_cycle(self, record: Record, delta: Delta, now: float) -> Record:
        new = super().with_cycle(record, delta, now)
        return replace(new, floors=record.floors)


class LoginKeepsAccepted(Store):
    def with_cycle(self, record: Record, delta: Delta, now: float) -> Record:
        new = super().with_cycle(record, delta, now)
        if new.floors == record.floors:
            return new
        return replace(new, accepted={record.generation: Grace(30.0)})


class IgnoresAdmitted(Store):
    def commit(self, id_: str, delta: Delta, now: float) -> CommitAnswer:
        record = self.alive(id_, now)
        admitted = delta.admitted if record is None else max(delta.admitted, record.floor)
        return super().commit(id_, replace(delta, admitted=admitted), now)


class CycleWithoutAccepted(Store):
    def cycled(self, record: Record, generation: int, grace: float) -> Record:
        return replace(super().cycled(record, generation, grace), accepted={})


class GraceStartsAtCycle(Store):
    def cycled(self, record: Record, generation: int, grace: float) -> Record:
        new = super().cycled(record, generation, grace)
        until = generation / 1000 + grace
        return replace(new, accepted={g: Grace(w.seconds, w.until or until) for g, w in new.accepted.items()})


class RenewalMovesLimit(Store):
    def with_deadlines(self, record: Record, delta: Delta) -> Record:
        if delta.renew_to is not None and delta.limit is None:
            record = replace(record, limit=max(record.limit, delta.renew_to + ABSOLUTE))
        return super().with_deadlines(record, delta)


class LoginKeepsLimit(Tables):
    def new_limit(self, intent: Intent, now: float) -> float | None:
        return None


class PlainLoginOverAnother(Tables):
    """A login over another user goes into the same record."""

    def plan_live(self, live: Live, intent: Intent, now: float) -> Plan:
        if intent.login and not intent.ended:
            return self.plan_commit(live, intent, now)
        return super().plan_live(live, intent, now)


class NoOvertaken(Tables):
    """Every stale cookie is an anonymous visitor at once."""

    def open_record(self, cookie: Cookie, record: Record, now: float) -> Opened:
        opened = super().open_record(cookie, record, now)
        return Anonymous("superseded_cookie") if isinstance(opened, Overtaken) else opened


class OvertakenForEver(Tables):
    def open_record(self, cookie: Cookie, record: Record, now: float) -> Opened:
        opened = super().open_record(cookie, record, now)
        stale = isinstance(opened, Anonymous) and opened.event == "superseded_cookie"
        return Overtaken(record) if stale else opened


class NoJustEnded(Tables):
    def open_with(self, cookie: Cookie, answer: Record | Ended | None, now: float) -> Opened:
        opened = super().open_with(cookie, answer, now)
        return Anonymous() if isinstance(opened, JustEnded) else opened


class OpensTheEnded(Store):
    """A read replica that lags: what was deleted is still loaded for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[str, Record] = {}

    def load(self, id_: str, now: float) -> Record | Ended | None:
        answer = super().load(id_, now)
        if isinstance(answer, Record):
            self.copies[id_] = answer
        return self.copies.get(id_, answer) if isinstance(answer, Ended) else answer


class RemovesStaleCookies(Request):
    def commit(self, intent: Intent) -> Steps:
        yield from super().commit(intent)
        self.removes = self.removes or isinstance(self.opened, Overtaken)


class CreatesAfterConflict(Request):
    """A change that was refused becomes a new session."""

    def nothing_saved(self, intent: Intent, opened: Opened) -> None:
        super().nothing_saved(intent, opened)
        if intent.wrote and not intent.ended:
            record = self.fresh(intent, None, None, self.system.now)
            self.store.records[record.id] = record
            self.set_cookie = cookie_of(record)


class LogoutChecksGeneration(Request):
    """Deletes only what is still as it was loaded."""

    def delete(self, id_: str, now: float, reason: str) -> bool:
        record = self.store.alive(id_, now)
        if isinstance(self.opened, Live) and record is not None and record.generation > self.opened.admitted:
            return False
        return super().delete(id_, now, reason)


class SwallowsFailedDelete(Request):
    def end(self, ids: Sequence[str], intent: Intent, now: float) -> Steps:
        for id_ in ids:
            yield "backend: delete"
            self.removes |= self.fault is not None or self.delete(id_, now, "logout")
        self.nothing_saved(intent, JustEnded())


class ForgetsToReport(Request):
    def nothing_saved(self, intent: Intent, opened: Opened) -> None:
        self.opened, self.set_cookie = opened, None


class LoginConflictIsPlain(Request):
    """A refused login is treated like any refused change."""

    def login_conflict(self, old: Record, intent: Intent) -> Steps:
        self.nothing_saved(intent, Overtaken(old))
        yield from ()


class DueIsForgotten(Tables):
    def plan_commit(self, live: Live, intent: Intent, now: float) -> Plan:
        return super().plan_commit(replace(live, record=replace(live.record, cycle_due=None)), intent, now)


class AnswersOldGeneration(Store):
    """Names the generation that the request had, so the client is never told the current one."""

    def commit(self, id_: str, delta: Delta, now: float) -> CommitAnswer:
        answer = super().commit(id_, delta, now)
        return replace(answer, generation=delta.admitted) if isinstance(answer, Committed) else answer


BROKEN = (
    Control("commit that upserts", (NO_COMEBACK,), store=Upsert),
    Control("a read replica that lags", (NO_COMEBACK,), store=OpensTheEnded),
    Control("last write wins", (LOST_UPDATE, NO_COMEBACK), request=LastWriteWins),
    Control("read, modify, write of counters", (LOST_UPDATE, SILENT), request=CountsFromLoaded),
    Control("login without a floor", (BEFORE_LOGIN,), store=LoginWithoutFloor),
    Control("grace accepted after login", (BEFORE_LOGIN,), store=LoginKeepsAccepted),
    Control("commit ignores admitted", (BEFORE_LOGIN,), store=IgnoresAdmitted),
    Control("cycle without accepted", (LOST_RESPONSE,), store=CycleWithoutAccepted),
    Control("grace starts at the cycle", (LOST_RESPONSE,), store=GraceStartsAtCycle),
    Control("renewal moves the limit", (LIMIT,), store=RenewalMovesLimit),
    Control("login keeps the limit", (LIMIT,), tables=LoginKeepsLimit),
    Control("stale cookies are anonymous at once", (UNDONE, LOGOUT), tables=NoOvertaken),
    Control("stale cookies are locked out", (LOCKED_OUT,), tables=OvertakenForEver),
    Control("a write just after the end creates", (UNDONE,), tables=NoJustEnded),
    Control("removal cookie for a stale session", (REMOVAL,), request=RemovesStaleCookies),
    Control("a refused change creates", (UNDONE,), request=CreatesAfterConflict),
    Control("logout gives way to a cycle", (LOGOUT,), request=LogoutChecksGeneration),
    Control("logout hides a failed delete", (LOGOUT, REMOVAL), request=SwallowsFailedDelete),
    Control("a lost change is not reported", (SILENT,), request=ForgetsToReport),
    Control("a refused login is dropped", (LOGIN_ACKNOWLEDGED,), request=LoginConflictIsPlain),
    Control("a due cycle is forgotten", (DUE,), tables=DueIsForgotten),
    Control("the cookie names the old generation", (UNDONE, LOGIN_ACKNOWLEDGED), store=AnswersOldGeneration),
)
