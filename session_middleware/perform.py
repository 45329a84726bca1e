"""The few functions that touch a backend for a request: open its session, commit it.

Written once, as coroutines that await the methods of a port and nothing else, so that an event loop and a
plain thread run the same code. Reading order: `Performer.open`, `Performer.commit` and `commit_late`, then
what each `Plan` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Caps
from session_middleware.budget import Budget
from session_middleware.changes import changes_of
from session_middleware.errors import (
    BackendError,
    BackendUnavailable,
    SessionCapacityError,
    SessionDataError,
    SessionError,
)
from session_middleware.limits import Limits
from session_middleware.opening import choose, open_promised, open_with
from session_middleware.plan import (
    NOTHING,
    Create,
    End,
    Keep,
    Lost,
    Mint,
    Nothing,
    Plan,
    Relogin,
    Swap,
    Write,
    is_settled,
    new_record,
    plan_commit,
    plan_late,
    plan_refused,
)
from session_middleware.policy import Policy
from session_middleware.record import (
    CONFLICT,
    EXISTS,
    GONE,
    Committed,
    Ended,
    Record,
    Refused,
    SessionId,
    apply_to_header,
    replace,
)
from session_middleware.reporting import Reporter
from session_middleware.session import (
    Fresh,
    JustEnded,
    Life,
    Live,
    Opening,
    Overtaken,
    RemoveCookie,
    Session,
    SetCookie,
    user_of,
)
from session_middleware.settling import note_planned, settle, settle_failed, show_only
from session_middleware.values import NO_VALUES

__all__ = ["Claims", "Performer"]

T = TypeVar("T")
_Planner: TypeAlias = Callable[[Session, float], T]
_TRIES = 3  # ids of 128 random bits that must all be taken before a creation gives up


class Claims(Protocol):
    """What the cookies of a request claim, once verified. `cookies.CookieReading` is one."""

    @property
    def credentials(self) -> Sequence[tuple[SessionId, str, int]]: ...
    @property
    def promises(self) -> Sequence[tuple[SessionId, str, int]]: ...


class Performer:
    """Opens and commits sessions over one port."""

    def __init__(
        self,
        port: Port,
        policy: Callable[[], Policy],
        reporter: Reporter,
        mint: Mint,
        *,
        manager: object,
        cookie_ages: bool,
        unknown: Callable[[int, float], None],
        caps: Callable[[], Caps | None],
        budget: Budget,
    ) -> None:
        """*policy* and *caps* are asked anew each time.

        *unknown* hears of signed cookies of nobody (generation, now). *budget* counts the writes.
        """
        self.port = port
        self._policy = policy
        self._reporter = reporter
        self._emit = reporter.emit
        self._mint = mint
        self._manager = manager
        self._cookie_ages = cookie_ages
        self._unknown = unknown
        self._budget = budget
        self.before_open: list[Callable[[SessionId], Awaitable[object]]] = []
        """Awaited with the id of each session that a request is about to open: what waits goes first."""
        self.limits = Limits(port, caps, reporter)
        self._steps: dict[type[Plan], Callable[[Session, Any, float], Awaitable[None]]] = {
            Write: self._write,
            Create: self._create,
            Swap: self._swap,
            End: self._end,
            Relogin: self._relogin,
            Keep: self._keep,
            Lost: self._lose_all,
            Nothing: self._do_nothing,
        }

    # --- open ---

    async def open(self, claims: Claims, now: float) -> Life:
        """The session these cookies open. Raises `BackendError` if the backend cannot say."""
        credentials = claims.credentials
        if len(credentials) == 1:  # nearly always
            claim = credentials[0]
            if self.before_open:
                await self._write_first(claim[0])
            try:  # as `_load`, without its coroutine: nearly every look at a session comes here
                answer = await self.port.load(claim[0], now)
            except SessionDataError:
                answer = self._undecodable(claim[0], now)
            opening, suspicion = open_with(claim, answer, now)
            if type(opening) is not Live:
                opening = self._judged(claim, opening, suspicion, now)
            return Life(self._policy(), self._manager, opening)
        return await self._open_of_many(claims, now)

    async def _open_of_many(self, claims: Claims, now: float) -> Life:
        reading, judge = (
            (claims.credentials, open_with) if claims.credentials else (claims.promises, open_promised)
        )
        opened: list[Opening] = []
        for claim in reading:
            await self._write_first(claim[0])
            answer = await self._load(claim[0], now)
            opened.append(self._judged(claim, *judge(claim, answer, now), now))
        opening, others, conflict = choose(opened) if len(opened) != 1 else (opened[0], (), False)
        if conflict:
            self._suspicious("cookie_conflict", None, now, count=len(others))
        life = Life(self._policy(), self._manager, opening)
        life.others = others
        return life

    async def open_as(self, id_: SessionId, generation: int, now: float) -> Life:
        """What a cookie of this session and generation would open. Raises `BackendError`."""
        answer = await self._load(id_, now)
        if answer is None:
            return self.nobody()
        claim = (id_, answer.secret if isinstance(answer, Record) else "", generation)
        opening = self._judged(claim, *open_with(claim, answer, now), now)
        return Life(self._policy(), self._manager, opening)

    def nobody(self) -> Life:
        """An anonymous visitor's."""
        return Life(self._policy(), self._manager)

    @property
    def mint(self) -> Mint:
        """Makes a new id and secret."""
        return self._mint

    @property
    def grace(self) -> float:
        """Seconds for which a superseded cookie still opens its session, by the policy."""
        return self._policy().grace

    def fill(self, session: Session, life: Life, now: float) -> None:
        """Let *session* show what was opened. Values that cannot be decoded make the visitor anonymous."""
        try:
            session.open(life)
        except SessionDataError:
            self._undecodable(session_id_of(life.opening), now)
            session.open(Life(life.policy, life.manager))
        record = session.life.record
        if record is not None and self._reporter.wants("session_data_retrieved"):
            self._emit(
                "session_data_retrieved", record.id, record.user_id, now, data_keys=sorted(dict.keys(session))
            )

    async def _write_first(self, id_: str) -> None:
        for write in self.before_open:
            await write(SessionId(id_))

    async def _load(self, id_: str, now: float) -> Record | Ended | None:
        try:
            return await self.port.load(SessionId(id_), now)
        except SessionDataError:
            return self._undecodable(id_, now)

    def _undecodable(self, id_: str | None, now: float) -> Ended:
        """Report it; what such a session is for a visitor."""
        self._emit(_NOT_RETRIEVED, id_, None, now, reason="undecodable")
        return Ended("undecodable", 0.0)

    def _judged(
        self, claim: tuple[str, str, int], opening: Opening, suspicion: str | None, now: float
    ) -> Opening:
        if suspicion is not None:
            self._suspicious(suspicion, claim[0], now)
        if suspicion == "unknown_id":
            self._unknown(claim[2], now)
        if isinstance(opening, Fresh) and opening.promised is None and opening.ended_because != "undecodable":
            self._emit(_NOT_RETRIEVED, claim[0], None, now, reason="not_found_or_expired")
        return opening

    def _suspicious(self, activity_type: str, id_: str | None, now: float, **details: object) -> None:
        self._emit(
            "session_suspicious_activity", id_, None, now, activity_type=activity_type, details=details
        )

    # --- commit ---

    async def commit(self, session: Session, now: float, *, failed: bool = False) -> None:
        """Make the backend agree with *session*; what follows for the cookie is in `session.life.owed`.

        *failed*: the response is 500 or above. Raises `SessionDataError` for values that cannot be held and
        `BackendError` if the backend failed; both were reported.
        """
        life = session.life
        failed = life.failed = failed and not life.policy.save_on_error
        if life.degraded and life.metadata:
            raise BackendUnavailable("the session backend is down: metadata cannot be saved")
        if isinstance(life.owed, RemoveCookie):
            life.owed = None  # of an early `save`: by now it could remove the cookie of a later login
            life.ended_early = True
        plan, problem = self._plan_or_end(session, self._plan_failed if failed else self._plan, now)
        if plan is not NOTHING:
            await self._carry_out(session, plan, now)
        if problem is not None:
            raise problem

    async def commit_late(self, session: Session, now: float, *, failed: bool = False) -> None:
        """The same after the response has left: what can still be saved is saved, the rest is reported."""
        failed = session.life.failed or (failed and not session.life.policy.save_on_error)
        if (failed and not session.life.ended) or is_settled(session, now):
            return
        plan, problem = self._plan_or_end(session, self._plan_failed if failed else self._plan_late, now)
        if plan is not NOTHING:
            await self._carry_out(session, plan, now)
        if problem is not None:
            raise problem

    async def commit_at(self, session: Session, version: int, now: float) -> bool:
        """As `commit_late`, but only on this version of the record: False, and nothing done, on another."""
        session.life.lost = False
        if is_settled(session, now):
            return True
        plan = self._planned(session, now, self._plan_late)
        if not isinstance(plan, Write):
            await self._carry_out(session, plan, now)
            return True
        return await self._write_at(session, plan, version, now)

    async def _write_at(self, session: Session, plan: Write, version: int, now: float) -> bool:
        note_planned(session, plan.shown)
        self._budget.writes += 1
        try:
            answer = await self.port.commit(plan.record.id, replace(plan.delta, if_version=version), now)
            if answer is CONFLICT:
                found = await self._load(plan.record.id, now)
                if isinstance(found, Record) and (plan.delta.admitted or found.floor) >= found.floor:
                    settle_failed(session)
                    return False
                answer = CONFLICT if isinstance(found, Record) else GONE
        except BaseException as problem:
            self._failed(session, plan, problem, now)
            raise
        await self._written(session, plan, answer, now)
        return True

    def new_name(self) -> str:
        """A name that nobody else has, in any process."""
        return self._mint()[0]

    def report_lost(self, session: Session, now: float) -> None:
        """Name the keys that a request changed after its response had left, but before it failed."""
        if session.life.ended or session.life.failed or is_settled(session, now):
            return
        try:
            keys = tuple(sorted(changes_of(session).keys()))
        except SessionDataError as problem:
            keys = () if problem.key is None else (problem.key,)
        if keys:
            self._not_saved(session, session_id_of(session.life.opening), keys, "response_started", now)

    def _plan_or_end(
        self, session: Session, plan: _Planner[Plan], now: float
    ) -> tuple[Plan, SessionDataError | None]:
        """The plan; an ending is always carried out, and then comes the problem with what was to follow."""
        session.life.lost = False
        try:
            return self._planned(session, now, plan), None
        except SessionDataError as problem:
            if session.life.ended:
                return self._plan_failed(session, now), problem
            raise

    def _plan(self, session: Session, now: float) -> Plan:
        _write_back(session)
        return plan_commit(session, now, self._mint, cookie_ages=self._cookie_ages)

    def _plan_failed(self, session: Session, now: float) -> Plan:
        return plan_commit(session, now, self._mint, failed=True, cookie_ages=self._cookie_ages)

    def _plan_late(self, session: Session, now: float) -> Plan:
        _write_back(session)
        return plan_late(session, now, self._mint)

    def _planned(self, session: Session, now: float, plan: _Planner[T]) -> T:
        try:
            return plan(session, now)
        except SessionDataError as problem:
            bare = problem.with_traceback(None)  # its frames hold the session's values
            bare.__cause__ = None
            keys = () if bare.key is None else (bare.key,)
            self._not_saved(
                session, session_id_of(session.life.opening), keys, "serialization_error", now, bare
            )
            raise bare from None

    async def _carry_out(self, session: Session, plan: Plan, now: float) -> None:
        try:
            await self._do(session, plan, now)
        except BaseException as problem:
            self._failed(session, plan, problem, now)
            raise

    def _do(self, session: Session, plan: Plan, now: float) -> Awaitable[None]:
        note_planned(session, plan.shown)
        return self._steps[type(plan)](session, plan, now)

    def _failed(self, session: Session, plan: Plan, problem: BaseException, now: float) -> None:
        settle_failed(session)
        if not isinstance(problem, SessionError):
            return
        id_, user_id = session_id_of(session.life.opening), session.user_id
        reason = next((why for kind, why in _REASONS.items() if isinstance(problem, kind)), "backend_error")
        if isinstance(plan, Create):
            self._emit("session_creation_failed", id_, user_id, now, exception=problem)
        elif isinstance(plan, End):
            self._emit("session_deletion_failed", id_, user_id, now, reason=reason)
        else:
            keys = tuple(sorted(changes_of(session).keys()))
            self._not_saved(session, id_, keys, reason, now, problem)

    async def create(self, session: Session, now: float, *, priority: int = 0) -> None:
        """Store *session* as a new one, empty or not; from then on it has no response to carry a cookie."""
        plan = self._planned(session, now, self._plan_creation)
        await self._carry_out(session, replace(plan, record=replace(plan.record, priority=priority)), now)
        session.life.late = True
        session.life.owed = None

    def _plan_creation(self, session: Session, now: float) -> Create:
        changes = changes_of(session)
        user_id = session.life.login or user_of(session, session.life.policy)
        return Create(new_record(session, changes.alone(), user_id, now, self._mint), shown=changes.shown)

    # --- what each plan does ---

    async def _create(self, session: Session, plan: Create, now: float) -> None:
        record = await self._insert(session, plan.record, now)
        if record is not None:
            self._settle_new(session, record, now)
            await self.end_others(plan.also_end, now)

    async def _insert(self, session: Session, record: Record, now: float) -> Record | None:
        """The record under an id that was free. None: a promised session existed by now, and was written."""
        for _ in range(_TRIES):
            self._budget.writes += 1
            if await self.limits.create(record, now) is not EXISTS:
                return record
            if isinstance(session.life.opening, Fresh) and session.life.opening.promised is not None:
                await self._join_promised(session, record, now)
                return None
            id_, secret = self._mint()
            record = replace(record, id=id_, secret=secret)
        raise BackendError("every new session id was taken: the source of randomness is broken")

    async def _join_promised(self, session: Session, record: Record, now: float) -> None:
        """Another request wrote to the promised session first: do what its cookie would do now."""
        claim = (record.id, record.secret, record.generation)
        opening, _ = open_promised(claim, await self._load(record.id, now), now)
        # Not opened any more: it was overtaken. Under another id its cookie would replace a login's.
        session.life.opening = JustEnded(record.id, "superseded") if isinstance(opening, Fresh) else opening
        await self._do(session, self._plan(session, now), now)

    async def _write(self, session: Session, plan: Write, now: float) -> None:
        commit = self.port.commit if plan.user_id is None else self.limits.bind
        self._budget.writes += 1
        answer = await commit(plan.record.id, plan.delta, now)
        if plan.also_end or type(answer) is not Committed:
            await self._written(session, plan, answer, now)
        else:  # as there, without its coroutine
            self._note_written(session, plan, answer, now)

    async def _written(self, session: Session, plan: Write, answer: Committed | Refused, now: float) -> None:
        if isinstance(answer, Refused):
            session.life.owed = None  # what an early `save` owed was overtaken
            await self._refused(session, await self._after_refusal(plan, answer, now), now)
            return
        self._note_written(session, plan, answer, now)
        await self.end_others(plan.also_end, now)

    def _note_written(self, session: Session, plan: Write, answer: Committed, now: float) -> None:
        self._settle_written(session, plan, answer, now)
        self._report_write(session, plan, answer, now)

    async def _after_refusal(self, plan: Write, answer: Refused, now: float) -> Record | Ended | None:
        if answer is GONE:
            return None
        return plan.record if plan.user_id is None else await self._load(plan.record.id, now)

    async def _refused(self, session: Session, answer: Record | Ended | None, now: float) -> None:
        await self._do(session, plan_refused(session, answer, now, self._mint), now)

    async def _swap(self, session: Session, plan: Swap, now: float) -> None:
        record = await self._insert(session, plan.record, now)
        if record is None:
            return
        try:
            alive = await self._delete(plan.old, now, plan.reason, by=record.user_id)
        except BackendError:
            await self._delete(record.id, now, "superseded")
            raise
        if plan.needs_old_alive and not alive and not await self._never_was(session, plan.old, now):
            await self._delete(record.id, now, "superseded")
            self._lose(session, plan.old, tuple(sorted(record.data)), "gone", now)
            return
        if alive:
            self._emit("session_deleted", plan.old, _owner(session.life, plan.old), now, reason=plan.reason)
        self._settle_new(session, record, now)
        await self.end_others(plan.also_end, now)

    async def _never_was(self, session: Session, id_: SessionId, now: float) -> bool:
        """A promise that nobody took: what is not alive has not ended either."""
        return isinstance(session.life.opening, Fresh) and await self._load(id_, now) is None

    async def _end(self, session: Session, plan: End, now: float) -> None:
        alive = [await self._end_one(session.life, id_, now) for id_ in (plan.id, *plan.others)]
        overtaken = isinstance(session.life.opening, Overtaken) or not any(alive)
        opening = JustEnded(plan.id, "logout") if overtaken else Fresh()
        settle(session, opening, None if plan.lost else NO_VALUES)
        session.life.others = ()
        session.life.owed = RemoveCookie() if any(alive) and not session.life.late else None
        if plan.lost:
            self._not_saved(session, plan.id, plan.lost, plan.why_lost, now)

    async def _end_one(self, life: Life, id_: SessionId, now: float) -> bool:
        by = None if life.record is None else life.record.user_id
        alive = await self._delete(id_, now, "logout", by=by)
        if alive:
            self._emit("session_deleted", id_, _owner(life, id_), now, reason="logout")
        else:
            self._emit("session_deletion_failed", id_, _owner(life, id_), now, reason="not_found")
        return alive

    def _delete(self, id_: SessionId, now: float, reason: str, by: str | None = None) -> Awaitable[bool]:
        self._budget.writes += 1
        return self.port.delete(id_, now, reason, by=by)

    async def end_others(self, ids: Iterable[SessionId], now: float) -> None:
        """End these sessions, which another one has taken the place of."""
        for id_ in ids:
            if await self._delete(id_, now, "superseded"):
                self._emit("session_deleted", id_, None, now, reason="superseded")

    async def _relogin(self, session: Session, plan: Relogin, now: float) -> None:
        await self._refused(session, await self._load(plan.id, now), now)

    async def _keep(self, session: Session, plan: Keep, now: float) -> None:
        settle(session, Live(plan.record, plan.record.generation))
        session.life.owed = _cookie_of(plan.record)
        if plan.lost:
            self._not_saved(session, plan.record.id, plan.lost, "superseded", now)

    async def _lose_all(self, session: Session, plan: Lost, now: float) -> None:
        self._lose(session, plan.id, plan.keys, plan.reason, now)

    async def _do_nothing(self, session: Session, plan: Nothing, now: float) -> None:
        """The backend has what it should have."""

    def _lose(
        self, session: Session, id_: SessionId | None, keys: tuple[str, ...], reason: str, now: float
    ) -> None:
        session.life.owed = None  # what an early `save` owed was overtaken
        record = session.life.record
        if reason == "superseded" and record is not None:
            settle(session, Overtaken(record))
        elif reason == "gone" and id_ is not None:
            settle(session, JustEnded(id_, reason))
        else:
            settle(session, session.life.opening)
        if keys:
            self._not_saved(session, id_, keys, reason, now)
        else:  # a renewal, or a cycle, that came too late
            user_id = None if record is None else record.user_id
            self._emit("session_renewal_failed", id_, user_id, now, reason=reason)

    # --- what the session is afterwards ---

    def _settle_new(self, session: Session, record: Record, now: float) -> None:
        life = session.life
        show_only(session, record.data)
        settle(session, Live(record, record.generation), record.data)
        life.others = ()
        life.owed = None if life.late else _cookie_of(record)
        self._emit("session_created", record.id, record.user_id, now)
        if record.user_id is not None:
            self._emit("session_user_bound", record.id, record.user_id, now)
        if record.data:
            self._saved(record, record.data, (), now)

    def _settle_written(self, session: Session, plan: Write, answer: Committed, now: float) -> None:
        record = apply_to_header(plan.record, plan.delta, now)
        if answer.version != record.version or answer.generation != record.generation:
            record = replace(record, generation=answer.generation, version=answer.version)
        late, owed = session.life.late, session.life.owed
        settle(session, Live(record, answer.generation))
        if plan.sends_cookie and not late:
            owed = _cookie_of(record)
        session.life.owed = owed

    def _report_write(self, session: Session, plan: Write, answer: Committed, now: float) -> None:
        record, delta = session.life.record or plan.record, plan.delta
        if delta.set or delta.unset or delta.increments:
            self._saved(record, {*delta.set, *delta.increments}, delta.unset, now)
        if plan.user_id is None and (delta.renew_to is not None or delta.expire_at is not None):
            self._emit("session_renewed", record.id, record.user_id, now, expires_at=record.deadline)
        if answer.cycled:
            asked = plan.asked_cycle or delta.cycle != 0
            reason = "login" if plan.user_id else ("requested" if asked else "privilege")
            self._emit("session_cycled", record.id, record.user_id, now, reason=reason)
        if plan.user_id is not None:
            self._emit("session_user_bound", record.id, plan.user_id, now)
        elif delta.user_id is None:
            self._emit("session_user_unbound", record.id, plan.record.user_id, now)
        if plan.refused:
            self._not_saved(session, record.id, plan.refused, "response_started", now)

    def _saved(self, record: Record, keys: Iterable[str], deleted: Sequence[str], now: float) -> None:
        if not self._reporter.wants("session_data_saved"):
            self._reporter.count("session_data_saved")
            return
        keys = {"saved_keys": sorted(keys), "deleted_keys": list(deleted)}
        self._emit("session_data_saved", record.id, record.user_id, now, **keys)

    def _not_saved(
        self,
        session: Session,
        id_: str | None,
        keys: tuple[str, ...],
        reason: str,
        now: float,
        exception: Exception | None = None,
    ) -> None:
        session.life.lost = True
        user_id = None if (record := session.life.record) is None else record.user_id
        self._emit(
            "session_data_save_failed", id_, user_id, now, reason=reason, keys=list(keys), exception=exception
        )


_NOT_RETRIEVED = "session_data_retrieval_failed"
_REASONS: dict[type[SessionError], str] = {
    SessionDataError: "serialization_error",
    SessionCapacityError: "no_room",
}


def session_id_of(opening: Opening) -> SessionId | None:
    """The session an opening is about, None where there is none."""
    match opening:
        case Live(record) | Overtaken(record):
            return record.id
        case JustEnded(id_):
            return id_
    return None


def _write_back(session: Session) -> None:
    for write_back in session.life.before_commit:
        write_back()


def _owner(life: Life, id_: SessionId) -> str | None:
    """The user of one of the sessions that this request's cookies opened."""
    opened = [life.opening.record] if isinstance(life.opening, Live | Overtaken) else []
    return next((record.user_id for record in (*opened, *life.others) if record.id == id_), None)


def _cookie_of(record: Record) -> SetCookie:
    return SetCookie(record.id, record.secret, record.generation, record.deadline)
