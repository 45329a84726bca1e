"""Long jobs: their status, how far they are, what they have made. All of it readable while they run.

Each call is one commit of its own that merges with whatever else changes the session, so several workers may
report on one job. What is stored, and how to read it: `jobs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from session_middleware.errors import ConfigurationError
from session_middleware.jobs import ERROR, ITEM, MOVED_AT, PROGRESS, JobState, results_of, state_of
from session_middleware.operations.base import OperationsBase, not_found
from session_middleware.record import UNSET, Committed, Delta, Record, UnsetType, replace
from session_middleware.values import JsonValue, check_size, encode_value

__all__ = ["JobOperations"]


class JobOperations(OperationsBase):
    """What a job tells of itself. Each of these raises `SessionNotFoundError` for an id of no live session,
    `SessionDataError` for a value that cannot be held or a session grown too large, and `BackendError`.
    """

    async def set_status(self, session_id: str, status: str, error_message: str | None = None) -> None:
        """Give the session this status: any text. `pending, processing, completed, failed` are known.

        The policy's `retention` limits its life from this moment; the next status lifts that, and what the
        session then has is an idle timeout from now. *error_message* is kept beside it until the next status.
        """
        wanted = _text("status", status)
        if not wanted:
            raise ConfigurationError("status: found empty text, pass a word such as 'processing'")
        now = self._core.clock()
        record = await self._job(session_id, now)
        kept = {} if error_message is None else {ERROR: _text("error_message", error_message)}
        delta = self._moves(record, now, kept, () if kept else (ERROR,))
        committed = await self._commit_job(record, self._retained(record, delta, wanted, now), now)
        self._report_job(record, committed, now)
        self._emit("session_status_changed", record.id, record.user_id, now, old=record.status, new=wanted)

    async def fail(self, session_id: str, error_message: str) -> None:
        """`set_status(id, "failed", error_message)`."""
        await self.set_status(session_id, "failed", error_message)

    async def complete(self, session_id: str) -> None:
        """`set_status(id, "completed")`."""
        await self.set_status(session_id, "completed")

    async def set_progress(
        self, session_id: str, current_step: int, total_steps: int, description: str = ""
    ) -> None:
        """Say how far the job is; `percentage` follows, with one decimal and at most 100."""
        now = self._core.clock()
        progress = {
            "current_step": _steps("current_step", current_step),
            "total_steps": _steps("total_steps", total_steps),
            "percentage": _percentage(current_step, total_steps),
            "description": _text("description", description),
        }
        record = await self._job(session_id, now)
        await self._commit_job(record, self._moves(record, now, {PROGRESS: progress}), now)
        self._emit("session_progress", record.id, record.user_id, now, **progress)

    async def put_item(self, session_id: str, number: int, item: JsonValue) -> None:
        """Add a result under its number, or replace the one that has it."""
        now = self._core.clock()
        name = _item(number)
        record = await self._job(session_id, now)
        delta = await self._commit_job(record, self._moves(record, now, {name: item}), now)
        self._report_job(record, delta, now)

    async def set_items(self, session_id: str, items: Mapping[int, JsonValue] | Iterable[JsonValue]) -> None:
        """Make these all the results there are, in one commit: by number, or in order, the first being 1."""
        now = self._core.clock()
        numbered = items if isinstance(items, Mapping) else dict(enumerate(items, start=1))
        kept = {_item(number): item for number, item in numbered.items()}
        record = await self._job(session_id, now)
        gone = tuple(name for number in results_of(record) if (name := _item(number)) not in kept)
        delta = await self._commit_job(record, self._moves(record, now, kept, gone), now)
        self._report_job(record, delta, now)

    async def get_job(self, session_id: str) -> JobState | None:
        """How the session's job is now; None if the session ended or never was."""
        record = await self._load(session_id, self._core.clock())
        return state_of(record) if isinstance(record, Record) else None

    # --- inside ---

    async def _job(self, session_id: str, now: float) -> Record:
        record = await self._load(session_id, now)
        if not isinstance(record, Record):
            raise not_found()
        return record

    def _moves(
        self, record: Record, now: float, values: Mapping[str, JsonValue], unset: tuple[str, ...] = ()
    ) -> Delta:
        """What a sign of life of the job changes: these values, its time, and the idle deadline if due."""
        policy = self._core.policy
        encoded = {name: encode_value(name, value) for name, value in {**values, MOVED_AT: now}.items()}
        pairs = {name: value for name, value in record.data.pairs.items() if name not in unset}
        check_size({**pairs, **encoded}, max_bytes=policy.max_bytes, max_keys=policy.max_keys)
        if not policy.open_requests_renew:  # only what the visitor does counts as activity
            return Delta(set=encoded, unset=unset)
        renewed = policy.renewal(
            deadline=record.deadline, limit=record.latest, own=record.idle_timeout, now=now
        )
        return Delta(set=encoded, unset=unset, renew_to=renewed, seen_at=now)

    def _retained(self, record: Record, delta: Delta, status: str, now: float) -> Delta:
        policy = self._core.policy
        length = policy.retention.get(status)
        until: float | UnsetType | None = None if length is None else now + length
        if until is None and record.retained_until is None:
            return replace(delta, status=status, retained_until=UNSET)
        if record.retained_until is None:
            return replace(delta, status=status, retained_until=until)
        # The deadline still is the end of the former retention. What it was without is not known any more:
        # the idle timeout begins anew, which is never less.
        renewed = min(now + policy.idle(record.idle_timeout), record.limit)
        return replace(delta, status=status, retained_until=until, renew_to=renewed)

    async def _commit_job(self, record: Record, delta: Delta, now: float) -> Delta:
        answer = await self._port.commit(record.id, delta, now)
        if not isinstance(answer, Committed):  # it names neither version nor generation: it is gone
            raise not_found()
        return delta

    def _report_job(self, record: Record, delta: Delta, now: float) -> None:
        present = record.data.pairs
        self._emit(
            "session_data_saved",
            record.id,
            record.user_id,
            now,
            saved_keys=sorted(delta.set.keys() - {MOVED_AT}),
            deleted_keys=[name for name in delta.unset if name in present],
        )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name}: found {type(value).__name__}, pass text")
    return str.__str__(value)


def _steps(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        shown = value if isinstance(value, int) else type(value).__name__
        raise ConfigurationError(f"{name}: found {shown}, pass an integer of at least 0")
    return value


def _item(number: object) -> str:
    return f"{ITEM}{_steps('number', number)}"


def _percentage(current: int, total: int) -> float:
    return min(round(100 * current / total, 1), 100.0) if total else 0.0
