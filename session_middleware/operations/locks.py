"""Changes that must not mix with others: `transaction`, `with_session_lock`, `transact`, `bulk_update`.

A **transaction** queues: in this process by `turns`, across processes by a lease in the backend, which is
over some seconds after its holder died. What it saves is fenced twice, so a holder that was away for too long
overwrites nobody: the commit is for the version that was loaded, and where others have written meanwhile, the
lease must still be there. **`transact`** waits for nobody: it is repeated where others were faster.

Neither keeps ordinary commits out (a request's, a job's progress): those go on, and merge with what is saved
here unless they changed the same keys.

Reading order: `transaction`, the other operations, then how the lock is taken, kept, and what is saved under
it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from session_middleware.backends.capabilities import Leases
from session_middleware.changes import changes_of
from session_middleware.core import Held, Lease
from session_middleware.errors import (
    BackendError,
    ConfigurationError,
    SessionConflictError,
    SessionDataError,
    SessionError,
    SessionLockError,
    SessionNotFoundError,
)
from session_middleware.operations.base import OperationsBase, not_found, shown
from session_middleware.plan import is_settled
from session_middleware.policy import Duration, seconds, seconds_or_zero
from session_middleware.record import Record, SessionId
from session_middleware.session import JustEnded, Overtaken, Session
from session_middleware.turns import Turn

__all__ = ["LockOperations"]

T = TypeVar("T")

_FIRST_STEP, _LAST_STEP = 0.002, 0.05  # seconds between two looks whether the session is free
_SAVES = 20  # ordinary commits that may come before that of a transaction, in a row
_DIFFERENT_ORDERS = (
    "two transactions wait for each other's session: take several sessions in the same order everywhere, "
    "such as sorted by id"
)
_TOO_LONG = "the body took longer than the transaction's lease, and others could begin: nothing was saved"
_SAME_KEYS = "others changed the same keys without a transaction: nothing was saved; try again"


class LockOperations(OperationsBase):
    """What has a session to itself, or notices that it had not."""

    @asynccontextmanager
    async def transaction(
        self,
        session_id: str,
        *,
        timeout: Duration = 10.0,  # noqa: ASYNC109  (its own wait, not a cancellation)
        lease: Duration = 30.0,
    ) -> AsyncIterator[Session]:
        """The session, while no other transaction has it, in any process; saved at the end of the body.

        After an exception nothing is saved. Inside one task or thread a second transaction on the same
        session is part of the first one. *timeout*: seconds to wait for others. *lease*: seconds after which
        others may have the session if this process dies; `manager.transaction` renews it while the body runs,
        under `manager.blocking` the body must be done by then.

        Raises `SessionNotFoundError` (also if it ended meanwhile), `SessionLockError` when the time is up,
        when two wait for each other, or when the lease was lost; `SessionConflictError` if somebody else
        changed the same keys without a transaction. Nothing is saved then.
        """
        runner, id_ = self._core.running(), self._id(session_id)
        joined = self._core.held.get((id_, runner))
        if joined is not None:
            yield joined.session
            return
        held = await self._take(id_, runner, seconds_or_zero("timeout", timeout), seconds("lease", lease))
        stop_keeping = self._keep(held.lease)
        try:
            yield held.session
        except BaseException:
            stop_keeping()
            await self._let_go(held, self._release(held.lease))
            raise
        stop_keeping()
        await self._let_go(held, self._save_and_release(held))

    async def with_session_lock(
        self,
        session_id: str,
        operation: Callable[[Session], T | Awaitable[T]],
        *,
        timeout: Duration = 10.0,  # noqa: ASYNC109  (as above)
        lease: Duration = 30.0,
    ) -> T:
        """What *operation* answers, called once, in a `transaction`. May be `async` where this is awaited."""
        async with self.transaction(session_id, timeout=timeout, lease=lease) as session:
            return await _answer_of(operation(session))

    async def transact(
        self, session_id: str, function: Callable[[Session], T | Awaitable[T]], *, attempts: int = 10
    ) -> T:
        """What *function* answers, once its changes were saved on the very state that it saw.

        It is called again, with the session as it is then, where others changed that meanwhile: it should do
        nothing else. Nobody waits for anybody, and no lease is needed. Raises `SessionNotFoundError`, and
        `SessionConflictError` after so many *attempts*; nothing is saved then.
        """
        keys: list[str] = []
        for attempt in range(_number_of(attempts)):
            session = await self._existing(session_id)
            record = _record_of(session)
            answer = await _answer_of(function(session))
            if await self._whole(self._saved_at(session, record.version)):
                return answer
            keys = _changed_keys(session)
            self._emit("session_conflict", record.id, record.user_id, self._core.clock(), keys=keys)
            await self._port.wait(min(_FIRST_STEP * 2**attempt, _LAST_STEP))
        raise SessionConflictError(f"others changed the session each of {attempts} times this was tried")

    async def bulk_update(
        self, session_ids: Iterable[str], operation: Callable[[Session], object], *, attempts: int = 10
    ) -> int:
        """Call `transact` for each of these sessions; for how many it succeeded.

        One that fails harms no other: it is reported by the event `session_data_save_failed`.
        """
        return sum([await self._updated(id_, operation, attempts) for id_ in session_ids])

    # --- inside: many ---

    async def _updated(self, id_: str, operation: Callable[[Session], object], attempts: int) -> bool:
        given: list[Session] = []

        def noted(session: Session) -> object:
            given[:] = [session]
            return operation(session)

        try:
            await self.transact(id_, noted, attempts=attempts)
        except Exception as problem:  # noqa: BLE001  (whatever it is, the others go on; it is reported)
            if not (given and given[0].life.lost):  # else it was reported where it happened
                self._not_updated(id_, problem)
            return False
        return True

    def _not_updated(self, id_: str, problem: Exception) -> None:
        reason = next((word for kind, word in _REASONS if isinstance(problem, kind)), "operation_failed")
        now = self._core.clock()
        self._emit(_NOT_SAVED, shown(id_), None, now, reason=reason, keys=[], exception=problem)

    # --- inside: taking the lock ---

    async def _take(self, id_: SessionId, runner: object, patience: float, length: float) -> Held:
        leases = self._leases()
        if not id_:  # nobody's: it needs no lease to be unknown
            await self._existing(id_)
        turn = self._core.turns.line_up(id_, runner)
        lease = Lease(f"session:{id_}", self._performer.new_name(), length)
        try:
            await self._wait_for(leases, turn, lease, patience)
            session = await self._existing(id_)
            held = Held(session, _record_of(session), lease, turn)
        except BaseException:  # a cancelled wait leaves no lease behind, nor a place in the queue
            try:
                await self._whole(self._release(lease))
            finally:
                self._core.turns.give_up(turn)
            raise
        self._core.held[id_, runner] = held
        return held

    async def _wait_for(self, leases: Leases, turn: Turn, lease: Lease, patience: float) -> None:
        began, step = self._core.monotonic(), _FIRST_STEP
        while not (turn.is_first and await self._acquired(leases, lease)):
            if self._core.turns.waits_for_itself(turn):
                raise SessionLockError(_DIFFERENT_ORDERS)
            left = patience - (self._core.monotonic() - began)
            if left <= 0:
                raise SessionLockError(
                    f"another transaction kept the session for longer than timeout={patience:g} s"
                )
            await self._port.wait(min(step, left))
            step = min(step * 2, _LAST_STEP)
        self._core.turns.begin(turn)

    async def _acquired(self, leases: Leases, lease: Lease) -> bool:
        now = self._core.clock()
        lease.tried = True
        if not await leases.acquire_lease(lease.name, lease.holder, lease.seconds, now):
            return False
        lease.until = now + lease.seconds
        return True

    def _leases(self) -> Leases:
        if not isinstance(self._port, Leases):
            raise self._lacks("give out leases, which transactions need (transact() does without)")
        return self._port

    # --- inside: keeping it ---

    def _keep(self, lease: Lease) -> Callable[[], None]:  # noqa: ARG002  (for who overrides it)
        """Have *lease* renewed beside the body, where there is somebody who can; the answer ends that."""
        return lambda: None

    async def _keep_on(self, lease: Lease) -> None:
        """Renew it again and again, until it is lost or this is cancelled."""
        kept = True
        while kept:
            await self._port.wait(lease.seconds / 3)
            with suppress(BackendError):  # asked again in time, or else it is found out when saving
                kept = await self._renewed_lease(lease)

    async def _renewed_lease(self, lease: Lease) -> bool:
        now = self._core.clock()
        kept = await self._leases().renew_lease(lease.name, lease.holder, lease.seconds, now)
        lease.until = now + lease.seconds if kept else 0.0
        return kept

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """What *work* answers. Once begun it is finished, where there is somebody who can see to that."""
        return await work

    # --- inside: the end of it ---

    async def _let_go(self, held: Held, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* and hold the session no more, even if *work* never begins, as in a loop that ends."""
        try:
            await self._whole(work)
        finally:
            self._core.held.pop((held.turn.session_id, held.turn.runner), None)
            self._core.turns.give_up(held.turn)

    async def _save_and_release(self, held: Held) -> None:
        try:
            await self._save_held(held)
        finally:
            await self._release(held.lease)

    async def _release(self, lease: Lease) -> None:
        if lease.tried:
            with suppress(BackendError):  # it is over by itself soon; what became of the body matters more
                await self._leases().release_lease(lease.name, lease.holder)

    async def _save_held(self, held: Held) -> None:
        """Save on the version that was loaded; where others wrote, on theirs, if the lease is still there."""
        session, now = held.session, self._core.clock()
        if is_settled(session, now):
            return
        version, sure = _record_of(session, held.loaded).version, now < held.lease.until
        for _ in range(_SAVES):
            if not sure and not await self._renewed_lease(held.lease):
                raise self._not_saved(held, "lock_lost", SessionLockError(_TOO_LONG))
            if await self._saved_at(session, version):
                return
            version = await self._version_to_merge_with(held)
            sure = False  # whoever wrote may have had the lease
        problem = SessionConflictError(f"others changed the session {_SAVES} times while it was being saved")
        raise self._not_saved(held, "superseded", problem)

    async def _version_to_merge_with(self, held: Held) -> int:
        """What others made of the session. Raises `SessionConflictError` if they changed the same keys."""
        now = self._core.clock()
        present = await self._load(held.turn.session_id, now)
        if not isinstance(present, Record):
            return 0  # there is no such version: the commit finds out and reports it
        changed = _both_changed(held, present)
        if changed:
            self._emit("session_conflict", present.id, present.user_id, now, keys=changed)
            raise self._not_saved(held, "superseded", SessionConflictError(_SAME_KEYS))
        return present.version

    def _not_saved(self, held: Held, reason: str, problem: SessionError) -> SessionError:
        record, now, keys = held.loaded, self._core.clock(), _changed_keys(held.session)
        self._emit(_NOT_SAVED, record.id, record.user_id, now, reason=reason, keys=keys, exception=problem)
        return problem

    async def _saved_at(self, session: Session, version: int) -> bool:
        """Whether it was saved on this version of the record. Raises where it cannot be saved at all."""
        if not await self._performer.commit_at(session, version, self._core.clock()):
            return False
        match session.life.opening:
            case Overtaken():
                raise SessionConflictError(
                    "somebody signed in meanwhile, or a privilege changed: nothing was saved"
                )
            case JustEnded() if session.life.lost:
                raise not_found()
        return True


_NOT_SAVED = "session_data_save_failed"
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (SessionNotFoundError, "not_found"),
    (SessionConflictError, "superseded"),
    (SessionDataError, "serialization_error"),
    (BackendError, "backend_error"),
)


async def _answer_of(answer: T | Awaitable[T]) -> T:
    if inspect.isawaitable(answer):
        awaited: T = await answer
        return awaited
    return answer


def _record_of(session: Session, otherwise: Record | None = None) -> Record:
    record = session.life.record or otherwise
    if record is None:
        raise not_found()
    return record


def _changed_keys(session: Session) -> list[str]:
    try:
        return sorted(changes_of(session).keys())
    except SessionDataError as problem:
        return [] if problem.key is None else [problem.key]


def _both_changed(held: Held, present: Record) -> list[str]:
    """The keys that the body set or removed, and others too. Counters add up, so they are none."""
    changes = changes_of(held.session)
    known = (held.loaded.data.pairs, held.session.life.loaded.pairs)
    found = present.data.pairs
    return sorted(
        name
        for name in (*changes.assigned, *changes.unset)
        if all(found.get(name) != values.get(name) for values in known)
    )


def _number_of(attempts: object) -> int:
    if type(attempts) is not int or attempts < 1:
        raise ConfigurationError(f"attempts: found {attempts!r}, pass an integer of at least 1")
    return attempts
