"""One request of the model: a generator that suspends where a real one may be overtaken.

Reading order: `ModelSystem` (the server side), `Request.run` (the course of a request), `Request.commit` (one
plan performed, with what depends on the backend's answer), `Request.late` (changes after the response).
The clock is read once a phase, before the backend call is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

from tests.model.system import Action, Fault, Response, Seen, Unavailable
from tests.model.tables import (
    ABSOLUTE,
    IDLE,
    PRIVILEGE_KEY,
    USER_KEY,
    Anonymous,
    Commit,
    Committed,
    Cookie,
    Create,
    Delta,
    End,
    Intent,
    JustEnded,
    Live,
    LoginConflict,
    Nothing,
    Opened,
    Overtaken,
    Record,
    Replace,
    Store,
    Tables,
    follow,
    milliseconds,
)

__all__ = ["ModelSystem", "Request"]

T = TypeVar("T")
Steps: TypeAlias = Generator[str, None, None]


class ModelSystem:
    """The tables over a store; a control passes broken ones."""

    def __init__(
        self,
        tables: Tables | None = None,
        store: Store | None = None,
        request: type[Request] | None = None,
        *,
        eager: bool = False,
    ) -> None:
        self.tables = tables or Tables()
        self.store = store or Store()
        self.request = request or Request
        self.eager = eager
        self.now = 0.0
        self._ids = 0

    def start_request(self, cookies: Sequence[str], actions: Sequence[Action]) -> Request:
        return self.request(self, cookies, actions)

    def set_clock(self, now: float) -> None:
        self.now = now

    def peek(self) -> Mapping[str, Record]:
        return self.store.records

    def revoke(self, session_id: str) -> None:
        self.store.delete(session_id, self.now, "revoked")

    def clean_up(self) -> None:
        self.store.delete_expired(self.now)

    def new_id(self) -> tuple[str, str]:
        """A new id and secret."""
        self._ids += 1
        return f"s{self._ids}", f"x{self._ids}"


class Request:
    """See `system.Handle`."""

    def __init__(self, system: ModelSystem, cookies: Sequence[str], actions: Sequence[Action]) -> None:
        self.system, self.tables, self.store = system, system.tables, system.store
        self.cookies = [Cookie.parse(text) for text in cookies]
        self.actions = list(actions)
        self.seen: Seen | None = None
        self.response: Response | None = None
        self.lost: list[str] = []
        self.done = False
        self.opened: Opened = Anonymous()
        self.others: tuple[Record, ...] = ()
        self.conflicts = False
        self.set_cookie: str | None = None
        self.removes = False
        self.fault: Fault = None
        self._steps = self.run()

    def step(self, fault: Fault = None) -> str | None:
        self.fault = fault
        try:
            return next(self._steps)
        except StopIteration:
            self.done = True
            return None

    def run(self) -> Steps:
        """Load, handler, commit, response; then what comes after the response."""
        try:
            yield from self.load()
            self.seen = self.view()
            yield "handler"
            status = yield from self.early()
        except Unavailable:
            status, self.set_cookie, self.removes = 503, None, False
        promise = self.promise() if status == 200 else None
        self.response = Response(status, self.set_cookie or promise, self.removes, promise is not None)
        if self.actions and status == 200:
            yield "late"
            try:
                yield from self.late()
            except Unavailable:
                self.lost.extend(["late"])

    def call(self, operation: Callable[[], T]) -> T:
        """One backend operation, which a fault may hit before or after it applied."""
        fault, self.fault = self.fault, None
        if fault == "before":
            raise Unavailable
        answer = operation()
        if fault == "after":
            raise Unavailable
        return answer

    # Opening

    def load(self) -> Steps:
        now = self.system.now
        opened = []
        for cookie in self.best_cookies():
            yield "backend: load"
            opened.append(self.open(cookie, now))
        self.opened = self.tables.choose(opened)
        if isinstance(self.opened, Live | Anonymous):
            self.others = self.opened.others
            self.conflicts = isinstance(self.opened, Anonymous)

    def open(self, cookie: Cookie, now: float) -> Opened:
        answer = self.call(lambda: self.store.load(cookie.id, now))
        return self.tables.open_with(cookie, answer, now)

    def best_cookies(self) -> list[Cookie]:
        """Of each id the highest generation; an ordinary cookie before a promise."""
        best: dict[str, Cookie] = {}
        for cookie in sorted(self.cookies, key=lambda c: (c.generation, not c.is_promise)):
            best[cookie.id] = cookie
        return list(best.values())

    def view(self) -> Seen:
        if not isinstance(self.opened, Live):
            return Seen(None, None, {})
        record = self.opened.record
        return Seen(record.id, record.user_id, record.data)

    # The handler

    def early(self) -> Generator[str, None, int]:
        intent = Intent()
        while self.actions:
            action = self.actions.pop(0)
            if action == ("late",):
                break
            if action == ("crash",):
                self.actions.clear()
                self.lost.extend(intent.keys)
                yield from self.crash(intent)
                return 500
            if action == ("save",):
                yield from self.save(intent)
                intent = Intent()
                yield "handler"
            else:
                follow(intent, action, self.data)
        yield from self.commit(intent)
        return 200

    def crash(self, intent: Intent) -> Steps:
        """Changes are not saved, an ending is; a cookie made by an early save is still confirmed."""
        if intent.ended or (isinstance(self.opened, Live) and self.opened.send_again):
            yield from self.commit(intent.only_the_end())

    @property
    def data(self) -> Mapping[str, str | int]:
        return self.opened.record.data if isinstance(self.opened, Live) else {}

    def save(self, intent: Intent) -> Steps:
        """A commit in the middle of the handler.

        MEND: "one made by an early save is sent whatever the response's status" let a response leave with a
        cookie decided long before, over a login's. So the final commit confirms it (an empty one if nothing
        changed; none on CONFLICT or GONE), and a removal decided early is not sent at all.
        """
        before = self.set_cookie
        yield from self.commit(intent)
        self.removes = False
        if self.set_cookie != before and isinstance(self.opened, Live):
            self.opened = replace(self.opened, send_again=True)
        self.set_cookie = None

    def promise(self) -> str | None:
        """Eager: who has nothing that opens, and nothing that was just overtaken, gets a promise."""
        if not self.system.eager or self.set_cookie or self.removes or not isinstance(self.opened, Anonymous):
            return None
        if self.opened.promise is not None or self.opened.others:
            return None
        id_, secret = self.system.new_id()
        return str(Cookie(id_, secret, milliseconds(self.system.now), is_promise=True))

    # Performing a plan

    def commit(self, intent: Intent) -> Steps:
        now = self.system.now
        plan = self.tables.plan(self.opened, intent, now)
        match plan:
            case Nothing():
                self.lost.extend(intent.keys)
            case End(ids):
                yield from self.end(ids, intent, now)
            case Create(user):
                yield from self.create(intent, user, now)
                yield from self.end_others(intent, now)
            case Replace():
                yield from self.replace(plan, intent, now)
            case LoginConflict(old):
                yield from self.login_conflict(old, intent)
            case Commit():
                yield from self.update(plan, intent, now)

    def end(self, ids: Sequence[str], intent: Intent, now: float) -> Steps:
        found = True
        for id_ in ids:
            yield "backend: delete"
            found &= self.delete(id_, now, "logout")
        self.removes = found  # of several, one that a parallel request ended may have become a login
        self.set_cookie = None
        self.nothing_saved(intent, JustEnded())

    def delete(self, id_: str, now: float, reason: str) -> bool:
        return self.call(lambda: self.store.delete(id_, now, reason))

    def nothing_saved(self, intent: Intent, opened: Opened) -> None:
        self.lost.extend(intent.keys)
        self.opened, self.set_cookie = opened, None

    def create(self, intent: Intent, user: str | None, now: float) -> Steps:
        promise = self.opened.promise if isinstance(self.opened, Anonymous) else None
        record = self.fresh(intent, user, promise, now)
        yield "backend: create"
        created = self.call(lambda: self.store.create(record, now))
        if not created:
            assert promise is not None, "ids do not repeat"
            yield from self.promise_was_taken(promise, intent)
            return
        self.opened = Live(record, record.generation)
        self.set_cookie, self.removes = cookie_of(record), False

    def promise_was_taken(self, promise: Cookie, intent: Intent) -> Steps:
        """MEND: a parallel request kept the promise first. "EXISTS: another id" would split the data
        over two sessions, or replace the cookie of a login; so the promise is opened like any cookie. If
        it no longer opens, this request was overtaken: as after CONFLICT or GONE."""
        now = self.system.now
        yield "backend: load"
        self.opened = self.open(promise, now)
        if isinstance(self.opened, Anonymous):
            self.opened = JustEnded()
        yield from self.commit(intent)

    def fresh(self, intent: Intent, user: str | None, promise: Cookie | None, now: float) -> Record:
        id_, secret = (promise.id, promise.secret) if promise else self.system.new_id()
        generation = self.generation_under(promise, intent, now) if promise else milliseconds(now)
        floors = (generation,) if promise is None else tuple(sorted({promise.generation, generation}))
        idle = IDLE if intent.expiry is None else intent.expiry
        return Record(
            id_, secret, generation, floors, now, min(now + idle, now + ABSOLUTE), now + ABSOLUTE,
            authenticated_at=None if user is None else now,
            user_id=user, data={**intent.sets, **intent.increments}, idle=idle,
        )  # fmt: skip

    def generation_under(self, promise: Cookie, intent: Intent, now: float) -> int:
        """MEND: "the promise opens the session as long as it was never cycled" let a planted promise open
        what a login, as the first write, created under its id. Such a creation is a cycle without grace."""
        if intent.login is None and intent.cycle != 0.0:
            return promise.generation
        return max(promise.generation + 1, milliseconds(now))

    def end_others(self, intent: Intent, now: float) -> Steps:
        """A login ends every other live session that the request's cookies opened; so does a logout when
        they conflict (see `Tables.plan_anonymous`) and something was written after it."""
        if intent.login is None and not (intent.ended and self.conflicts):
            return
        found = True
        for record in self.others:
            yield "backend: delete"
            found &= self.delete(record.id, now, "superseded" if intent.login else "logout")
        if intent.login is None and not found and isinstance(self.opened, Live):
            # As in the row "the same, then wrote": a parallel request was quicker, perhaps a login.
            self.delete(self.opened.record.id, now, "superseded")
            self.nothing_saved(intent, JustEnded())

    def replace(self, plan: Replace, intent: Intent, now: float) -> Steps:
        """Create, then delete; a failing delete takes the new one away again."""
        yield from self.create(intent, plan.user, now)
        assert isinstance(self.opened, Live)
        new = self.opened.record
        yield "backend: delete"
        try:
            found = self.delete(plan.old.id, now, plan.reason)
        except Unavailable:
            self.delete(new.id, now, "superseded")
            raise
        if not found and not plan.keep:
            self.delete(new.id, now, "superseded")
            self.nothing_saved(intent, JustEnded())
        yield from self.end_others(intent, now)

    def login_conflict(self, old: Record, intent: Intent) -> Steps:
        """The last row: look who is bound now."""
        now = self.system.now
        yield "backend: load"
        answer = self.call(lambda: self.store.load(old.id, now))
        if not isinstance(answer, Record) or answer.user_id not in (None, intent.login):
            self.opened = JustEnded()
            yield from self.create(intent, intent.login, now)
            yield from self.end_others(intent, now)
        elif answer.user_id is None:
            yield from self.replace(Replace(intent.login, answer, "superseded", keep=True), intent, now)
        else:
            self.nothing_saved(intent, Live(answer, answer.generation))
            self.set_cookie = cookie_of(answer)
            yield from self.end_others(intent, now)

    def update(self, plan: Commit, intent: Intent, now: float) -> Steps:
        assert isinstance(self.opened, Live)
        record = self.opened.record
        yield "backend: commit"
        answer = self.call(lambda: self.store.commit(record.id, plan.delta, now))
        if not isinstance(answer, Committed):
            if intent.login is not None:
                yield from self.login_conflict(record, intent)
            else:
                self.nothing_saved(intent, JustEnded() if answer == "GONE" else Overtaken(record))
            return
        self.opened = Live(answer.record, answer.generation, saved=True)
        if plan.set_cookie:
            self.set_cookie = str(Cookie(record.id, record.secret, answer.generation))
        yield from self.end_others(intent, now)

    # After the response

    def late(self) -> Steps:
        intent = Intent()
        for action in self.actions:
            follow(intent, action, self.data)
        self.refuse_late_privileges(intent)
        now = self.system.now
        match self.opened:
            case Live(record) | Overtaken(record) if intent.ended:
                yield "backend: delete"
                self.delete(record.id, now, "logout")
                self.lost.extend(intent.keys)
            case Live() if intent.changed or intent.cycle is not None:
                yield "backend: commit"
                self.commit_late(self.opened, intent, now)
            case _:
                self.lost.extend(intent.keys)

    def refuse_late_privileges(self, intent: Intent) -> None:
        """A late login always; a late privilege key where nobody is signed in."""
        refused = {USER_KEY}
        if not (isinstance(self.opened, Live) and self.opened.record.user_id is not None):
            refused.add(PRIVILEGE_KEY)
        for key in refused & {*intent.sets, *intent.unsets}:
            intent.sets.pop(key, None)
            intent.unsets.discard(key)
            self.lost.append(key)
        if intent.login is not None:
            self.lost.append("login")

    def commit_late(self, live: Live, intent: Intent, now: float) -> None:
        delta = Delta(
            live.admitted,
            sets=intent.sets,
            unsets=frozenset(intent.unsets),
            increments=intent.increments,
            cycle_due=intent.cycle,
        )
        answer = self.call(lambda: self.store.commit(live.record.id, delta, now))
        if not isinstance(answer, Committed):
            self.lost.extend(intent.keys)


def cookie_of(record: Record) -> str:
    """The ordinary cookie of a record as it is now."""
    return str(Cookie(record.id, record.secret, record.generation))
