"""Random operations of a manager beside a model of what must come of them.

Reading order: `Known` (what the model knows of one session), `ManagerMachine` (one rule per operation; after
each, the newest sessions are compared with what is stored), `machine_for` (of one backend and colour).

Several machines may work on one store: each touches only the sessions it made, whose users have names of its
own. `alone` tells whether it may expect to see no others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from session_middleware import SessionCapacityError, SessionManager, SessionNotFoundError
from session_middleware.backends.base import Backend, Colour
from session_middleware.jobs import ERROR, ITEM, MOVED_AT, PROGRESS
from session_middleware.testing.clock import ManualClock
from tests.test_manager import Driven

IDLE, ABSOLUTE = 1000.0, 4000.0  # seconds; a commit renews once less than 800 are left
START = 1_760_000_000.0
KEYS = st.sampled_from("abc")
VALUES = st.one_of(
    st.none(), st.integers(-9, 9), st.text(max_size=3), st.lists(st.integers(0, 3), max_size=2)
)
USERS = st.sampled_from([None, "ann", "bob"])
STEPS = st.sampled_from([0.0, 1.0, 61.0, 250.0, IDLE - 1, IDLE, 1500.0])
RETENTION = {"failed": 300.0, "completed": 2000.0}  # seconds
STATUSES = st.sampled_from(["pending", "processing", "failed", "completed"])
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.sampled_from(["ann", "bob"]),
        "status": STATUSES,
        "created_before": st.sampled_from([START + 1, START + 300, START + 2000]),
        "seen_after": st.sampled_from([START, START + 61, START + 1500]),
    },
)
_runs = itertools.count(1)
NUMBERS = st.integers(0, 10_000)  # which session: taken modulo how many there are


@dataclass
class Known:
    """What the model knows of one session."""

    values: dict[str, Any]
    user: str | None
    created_at: float
    deadline: float
    limit: float
    seen_at: float
    ended: str | None = None  # why, once it was ended on purpose
    ended_at: float = 0.0
    by_epoch: bool = False  # ended without being touched: it is stored until a cleanup
    cleaned: bool = False
    priority: int = 0
    status: str | None = None
    retained_until: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def is_live(self, now: float) -> bool:
        return self.ended is None and self.deadline > now

    @property
    def latest(self) -> float:
        return self.limit if self.retained_until is None else min(self.limit, self.retained_until)

    def renew(self, now: float) -> None:
        self.deadline = max(self.deadline, min(now + IDLE, self.latest))

    def commit(self, now: float, *, changed: bool) -> None:
        """What a commit does besides the change: a renewal that is due, and a note of the visit."""
        is_due = self.deadline - now < 0.8 * IDLE and min(now + IDLE, self.latest) > self.deadline
        if is_due:
            self.renew(now)
        if changed or is_due:
            self.seen_at = max(self.seen_at, now)

    def move(self, now: float, **values: Any) -> None:
        """What a job's sign of life does."""
        self.values |= {**values, MOVED_AT: now}
        self.commit(now, changed=True)

    def set_status(self, status: str, now: float, error: str | None) -> None:
        self.values.pop(ERROR, None)
        self.move(now, **({} if error is None else {ERROR: error}))
        was_retained, length = self.retained_until is not None, RETENTION.get(status)
        self.status, self.retained_until = status, None if length is None else now + length
        if was_retained:  # the idle timeout begins anew
            self.deadline = max(self.deadline, min(now + IDLE, self.limit))
        self.deadline = min(self.deadline, self.latest)


class ManagerMachine(RuleBasedStateMachine):
    """Rules over one manager; `make_backend` and `colour` come with `machine_for`."""

    make_backend: Callable[[], Backend]  # once for each run
    colour: ClassVar[Colour]
    options: ClassVar[dict[str, Any]] = {}
    name: ClassVar[str] = ""
    alone: ClassVar[bool] = True
    total: ClassVar[int] = 1_000_000
    per_user: ClassVar[int] = 1_000_000

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(START)
        settings = {
            "idle_timeout": IDLE,
            "absolute_timeout": ABSOLUTE,
            "retention": RETENTION,
            **self.options,
        }
        manager = SessionManager(
            self.make_backend(), clock=self.clock, monotonic=self.clock, log=False, **settings
        )
        self.driven = Driven(manager, self.colour, self.clock)
        self.run = f"{self.name}{next(_runs)}-"  # earlier runs may have left sessions in the same store
        self.known: dict[str, Known] = {}

    def teardown(self) -> None:
        self.driven.close()

    # --- one session ---

    @initialize()
    def begin(self) -> None:
        self.create("ann", {"a": 1}, 0)

    @rule(user=USERS, values=st.dictionaries(KEYS, VALUES, max_size=3), priority=st.sampled_from([0, 0, 1]))
    def create(self, user: str | None, values: dict[str, Any], priority: int) -> None:
        now, whose = self.clock(), self._user(user)
        evicted = self._evicted_for(whose, priority)
        if evicted is None:
            with pytest.raises(SessionCapacityError):
                self.driven.create_session(whose, values, priority=priority)
            self._note_cleaned()
            return
        made = self.driven.create_session(whose, values, priority=priority)
        for id_ in evicted:
            self._end(self.known[id_], "evicted")
        self._note_cleaned()
        self.known[made.id] = Known(
            dict(values),
            whose,
            now,
            now + min(IDLE, ABSOLUTE),
            now + ABSOLUTE,
            seen_at=now,
            priority=priority,
        )

    @rule(number=NUMBERS, values=st.dictionaries(KEYS, VALUES, max_size=2), unset=st.sets(KEYS, max_size=2))
    def update(self, number: int, values: dict[str, Any], unset: set[str]) -> None:
        id_, known = self._one(number)
        if not known.is_live(self.clock()):
            self._is_not_found("update_session", id_, values)
            return
        self.driven.update_session(id_, values, unset=unset)
        after = {name: value for name, value in {**known.values, **values}.items() if name not in unset}
        known.commit(self.clock(), changed=after != known.values)
        known.values = after

    @rule(number=NUMBERS, by=st.integers(-3, 3))
    def count_up(self, number: int, by: int) -> None:
        id_, known = self._one(number)
        session = self.driven.get_session(id_)
        if session is None:
            assert not known.is_live(self.clock())
            return
        session.increment("n", by)
        assert self.driven.save(session) is True
        known.values["n"] = known.values.get("n", 0) + by
        known.commit(self.clock(), changed=True)

    @rule(number=NUMBERS)
    def renew(self, number: int) -> None:
        id_, known = self._one(number)
        if not known.is_live(self.clock()):
            self._is_not_found("renew_session", id_)
            return
        known.renew(self.clock())
        known.seen_at = max(known.seen_at, self.clock())
        assert self.driven.renew_session(id_) == known.deadline

    @rule(number=NUMBERS, reason=st.sampled_from(["deleted", "revoked", "logout"]))
    def delete(self, number: int, reason: str) -> None:
        id_, known = self._one(number)
        was_live = known.is_live(self.clock())
        assert self.driven.delete_session(id_, reason) is was_live
        if was_live:
            self._end(known, reason)

    @rule(number=NUMBERS, key=KEYS, value=VALUES, fails=st.booleans())
    def change_in_a_transaction(self, number: int, key: str, value: Any, fails: bool) -> None:
        id_, known = self._one(number)
        if not known.is_live(self.clock()):
            with pytest.raises(SessionNotFoundError), self.driven.transaction(id_):
                raise AssertionError("a transaction began in a session that is over")
            return
        end = pytest.raises(TimeoutError) if fails else nullcontext()
        with end, self.driven.transaction(id_) as session:
            assert dict(session) == known.values
            session[key] = value
            if fails:
                raise TimeoutError
        if fails:
            return
        changed = key not in known.values or known.values[key] != value
        known.values[key] = value
        known.commit(self.clock(), changed=changed)

    @rule(number=NUMBERS)
    def swap_by_transact(self, number: int) -> None:
        def swap(session: Any) -> int:
            session["a"], session["b"] = session.get("b"), session.get("a")
            return len(session)

        id_, known = self._one(number)
        if not known.is_live(self.clock()):
            self._is_not_found("transact", id_, swap)
            return
        after = {**known.values, "a": known.values.get("b"), "b": known.values.get("a")}
        assert self.driven.transact(id_, swap) == len(after)
        known.commit(self.clock(), changed=after != known.values)
        known.values = after

    # --- jobs ---

    @rule(number=NUMBERS, status=STATUSES, error=st.sampled_from([None, "why"]))
    def set_status(self, number: int, status: str, error: str | None) -> None:
        id_, known = self._one(number)
        if not known.is_live(self.clock()):
            self._is_not_found("set_status", id_, status, error)
            return
        self.driven.set_status(id_, status, error)
        known.set_status(status, self.clock(), error)

    @rule(number=NUMBERS, step=st.integers(0, 4))
    def set_progress(self, number: int, step: int) -> None:
        id_, known = self._one(number)
        if not known.is_live(self.clock()):
            self._is_not_found("set_progress", id_, step, 4, "half")
            return
        self.driven.set_progress(id_, step, 4, "half")
        said = {"current_step": step, "total_steps": 4, "percentage": 25.0 * step, "description": "half"}
        known.move(self.clock(), **{PROGRESS: said})
        job = self.driven.get_job(id_)
        assert job is not None
        assert job.progress == said

    @rule(number=NUMBERS, item=st.integers(0, 3), value=VALUES)
    def put_item(self, number: int, item: int, value: Any) -> None:
        id_, known = self._one(number)
        if not known.is_live(self.clock()):
            self._is_not_found("put_item", id_, item, value)
            return
        self.driven.put_item(id_, item, value)
        known.move(self.clock(), **{f"{ITEM}{item}": value})

    # --- several ---

    @rule(conditions=CONDITIONS, limit=st.integers(1, 4))
    def find(self, conditions: dict[str, Any], limit: int) -> None:
        where = self._where(conditions)
        found: list[str] = []
        page = self.driven.get_sessions(limit=limit, **where)
        while page:
            found += [session.id for session in page]
            page = self.driven.get_sessions(limit=limit, after=page[-1], **where)
        assert [id_ for id_ in found if id_ in self.known] == self._matching(conditions)
        assert len(set(found)) == len(found)

    @rule(conditions=CONDITIONS)
    def end_what_is_found(self, conditions: dict[str, Any]) -> None:
        where, ids = self._where(conditions), self._matching(conditions)
        assert self.driven.end_sessions(ids=list(self.known), **where) == len(ids)
        assert self.driven.end_sessions(
            ids=list(self.known), dry_run=False, reason="suspect", **where
        ) == len(ids)
        for id_ in ids:
            self._end(self.known[id_], "suspect")

    @rule(number=NUMBERS)
    def ask_why_it_ended(self, number: int) -> None:
        self._ask_why(*self._one(number))

    def _ask_why(self, id_: str, known: Known) -> None:
        why = self.driven.why_ended(id_)
        if known.is_live(self.clock()):
            assert why is None
        elif known.ended is not None and self.clock() - known.ended_at <= 600:
            assert why is not None
            assert why.reason == known.ended
            assert why.at == known.ended_at or known.by_epoch

    @rule(user=USERS.filter(bool))
    def export(self, user: str) -> None:
        whose = self._user(user)
        exported = {one["session_id"]: one["data"] for one in self.driven.export_user(whose)["sessions"]}
        assert exported == {id_: known.values for id_, known in self._live() if known.user == whose}

    @precondition(lambda self: self.alone)  # as for `clean_up`
    @rule(user=USERS.filter(bool))
    def erase(self, user: str) -> None:
        whose = self._user(user)
        ended = [known for _, known in self._live() if known.user == whose]
        assert self.driven.erase_user(whose) == len(ended)
        for known in ended:
            self._end(known, "erased")
        self._note_cleaned()

    @rule(user=USERS.filter(bool), keep=NUMBERS)
    def delete_of_user(self, user: str, keep: int) -> None:
        kept, _ = self._one(keep)
        whose = self._user(user)
        ended = [
            known
            for id_, known in self.known.items()
            if known.user == whose and known.is_live(self.clock()) and id_ != kept
        ]
        assert self.driven.delete_user_sessions(whose, keep=[kept]) == len(ended)
        for known in ended:
            self._end(known, "revoked")

    @rule(user=USERS.filter(bool))
    def list_of_user(self, user: str) -> None:
        whose = self._user(user)
        expected = [id_ for id_, known in self._live() if known.user == whose]
        expected.sort(key=lambda id_: (self.known[id_].created_at, id_), reverse=True)
        assert [session.id for session in self.driven.get_user_sessions(whose)] == expected

    @rule()
    def count(self) -> None:
        counted = self.driven.count()
        assert counted == len(self._live()) if self.alone else counted >= len(self._live())

    @precondition(lambda self: self.alone)  # elsewhere it is not as late as it is here
    @rule()
    def clean_up(self) -> None:
        now = self.clock()
        newly = [known for known in self._stored() if not known.is_live(now)]
        removed = self.driven.cleanup_expired()
        # A coarse slot that has not passed yet may keep some for the next run.
        surely = [known for known in newly if known.by_epoch or known.deadline <= now - 60]
        assert len(surely) <= removed <= len(newly)
        self._note_cleaned()
        told = [event.session_id for event in self.driven.heard("session_expired")]
        assert len(told) == len(set(told)), "an expiry was told twice"

    @precondition(lambda self: self.alone)  # the others' sessions are of before, too
    @rule(back=st.sampled_from([0.0, 1.0, 300.0]))
    def end_all_before(self, back: float) -> None:
        now = self.clock()
        moment = now - back
        self.driven.end_all_before(moment, reason="leaked")
        for _, known in self._live():
            if known.created_at < moment:
                self._end(known, "leaked")
                known.by_epoch = True

    # --- time ---

    @rule(seconds=STEPS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # --- what is stored ---

    @invariant()
    @precondition(lambda self: self.known)
    def the_session_touched_last_is_as_known(self) -> None:
        for id_ in list(self.known)[-2:]:
            self._compare(id_, self.known[id_])

    @rule(number=NUMBERS)
    def look(self, number: int) -> None:
        self._compare(*self._one(number))

    def _compare(self, id_: str, known: Known) -> None:
        session = self.driven.get_session(id_)
        if not known.is_live(self.clock()):
            assert session is None
            self._ask_why(id_, known)
            return
        assert session is not None
        assert dict(session) == known.values
        stored = self.driven.record(id_)
        assert stored is not None
        assert (session.user_id, session.created_at) == (known.user, known.created_at)
        assert (session.status, stored.retained_until) == (known.status, known.retained_until)
        assert (stored.deadline, stored.limit) == (known.deadline, known.limit)
        assert stored.last_seen_at == known.seen_at

    # --- inside ---

    def _user(self, user: str | None) -> str | None:
        return user and self.run + user

    def _one(self, number: int) -> tuple[str, Known]:
        ids = list(self.known)
        id_ = ids[number % len(ids)]
        return id_, self.known[id_]

    def _stored(self) -> list[Known]:
        return [k for k in self.known.values() if not k.cleaned and (k.ended is None or k.by_epoch)]

    def _note_cleaned(self) -> None:
        told = self.driven.heard("session_expired") + self.driven.heard("session_deleted")
        ids = {event.session_id for event in told}
        for id_, known in self.known.items():
            known.cleaned = known.cleaned or id_ in ids

    def _evicted_for(self, user: str | None, priority: int) -> list[str] | None:
        """Who has to go for one more session; None: nobody may, and there is no room."""
        of_user = [] if user is None else [(k.created_at, id_) for id_, k in self._live() if k.user == user]
        gone = [id_ for _, id_ in sorted(of_user)[: max(0, len(of_user) + 1 - self.per_user)]]
        stored = self._stored()
        dead = [known for known in stored if not known.is_live(self.clock())]
        short = len(stored) + 1 - len(gone) - len(dead) - self.total
        ranks = sorted(
            (k.priority, k.user is not None, k.seen_at, id_) for id_, k in self._live() if id_ not in gone
        )
        lowest = [rank[-1] for rank in ranks if rank[0] <= priority][: max(0, short)]
        return None if len(lowest) < short else [*gone, *lowest]

    def _live(self) -> list[tuple[str, Known]]:
        return [(id_, known) for id_, known in self.known.items() if known.is_live(self.clock())]

    def _where(self, conditions: dict[str, Any]) -> dict[str, Any]:
        where = dict(conditions)
        if "user_id" in where:
            where["user_id"] = self._user(where["user_id"])
        return where

    def _matching(self, conditions: dict[str, Any]) -> list[str]:
        """The live sessions that meet the conditions, newest first."""
        where = self._where(conditions)
        ids = [
            id_
            for id_, known in self._live()
            if where.get("user_id", known.user) == known.user
            and where.get("status", known.status) == known.status
            and known.created_at < where.get("created_before", known.created_at + 1)
            and known.seen_at >= where.get("seen_after", known.seen_at)
        ]
        return sorted(ids, key=lambda id_: (self.known[id_].created_at, id_), reverse=True)

    def _end(self, known: Known, reason: str) -> None:
        known.ended, known.ended_at = reason, self.clock()

    def _is_not_found(self, operation: str, *arguments: Any) -> None:
        try:
            getattr(self.driven, operation)(*arguments)
        except SessionNotFoundError:
            return
        raise AssertionError(f"{operation} found a session that is over")


def limited(machine: type[ManagerMachine], *, total: int, per_user: int) -> type[ManagerMachine]:
    """The same where sessions are limited."""
    options = {"max_sessions": total, "max_sessions_per_user": per_user}
    return type("Limited", (machine,), {"options": options, "total": total, "per_user": per_user})


def machine_for(
    make: Callable[[], Backend], colour: Colour, *, name: str = "", alone: bool = True
) -> type[ManagerMachine]:
    """A machine over what *make* makes; on a store of others it has a *name*, and is not alone."""
    attributes = {"make_backend": staticmethod(make), "colour": colour, "name": name, "alone": alone}
    return type(f"Machine_{colour}", (ManagerMachine,), attributes)
