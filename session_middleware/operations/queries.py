"""Sessions found, and ended, by conditions.

Reading order: `QueryOperations`, `_Walk` (newest first, a bounded number of sessions at a time).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, Unpack

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Iterating, Position
from session_middleware.errors import ConfigurationError, SessionNotFoundError
from session_middleware.jobs import progress_of, results_of
from session_middleware.operations.base import OperationsBase, shown
from session_middleware.policy import flag
from session_middleware.record import Ended, Record, SessionId
from session_middleware.session import Session
from session_middleware.values import JsonValue
from session_middleware.where import Conditions, Where, where_of

__all__ = ["After", "QueryOperations", "reason_text"]

After: TypeAlias = str | Session | Mapping[str, JsonValue] | None
"""The last session of the page before: itself, its row of `get_sessions_info`, or its id while it is live."""

_BATCH = 64  # sessions ended per step: other writers wait for one step only
_COUNTED_AT_ONCE = 1000
_PAUSE = 0.005  # seconds between steps, which is what keeps the others fast


class QueryOperations(OperationsBase):
    """What is done to the sessions that meet some conditions."""

    async def get_sessions(
        self,
        where: Where | None = None,
        *,
        limit: int = 100,
        after: After = None,
        **conditions: Unpack[Conditions],
    ) -> list[Session]:
        """Up to *limit* live sessions that meet the conditions, newest first; fewer: there are no more.

        *conditions* are fields of `Where`. For the next page pass the last session as *after*, or its id as
        long as it is live (else `SessionNotFoundError`). Pages do not shift when sessions begin or end. A
        session that cannot be decoded is left out, and reported.
        """
        wanted, most = where_of(where, conditions), _checked_limit(limit)
        walk = self._walk(wanted, most, await self._position(after))
        found: list[Session] = []
        while len(found) < most and (records := await walk.on()) is not None:
            found += self._sessions(records, walk.now)
        return found[:most]

    async def get_sessions_info(
        self,
        where: Where | None = None,
        *,
        limit: int = 100,
        after: After = None,
        **conditions: Unpack[Conditions],
    ) -> list[dict[str, JsonValue]]:
        """The same sessions as rows for a table.

        `session_id, status, created_at, last_accessed` (seconds since the epoch), `age_hours, num_items` (how
        many results its job has put into it), `progress` (as `set_progress` put it, or None).
        """
        sessions = await self.get_sessions(where, limit=limit, after=after, **conditions)
        now = self._core.clock()
        return [_row_of(session, now) for session in sessions]

    async def end_sessions(
        self,
        where: Where | None = None,
        *,
        dry_run: bool = True,
        reason: str = "revoked",
        by: str | None = None,
        **conditions: Unpack[Conditions],
    ) -> int:
        """End every session that meets the conditions; how many. With *dry_run*, the default: only how many.

        In small steps, each session checked again at its end. Those that begin meanwhile are not looked at.
        *by*: who ends them, for `why_ended`. `ConfigurationError` where no condition is given.
        """
        wanted = where_of(where, conditions)
        if wanted.is_empty:
            raise ConfigurationError(
                "where: no condition is given, which would end every session; give one, such as user_id=..., "
                "or call delete_all(confirm=True)"
            )
        if flag("dry_run", dry_run):
            return await self._number_of(wanted)
        return await self._end_all(wanted, reason_text(reason), by)

    async def delete_all(
        self, confirm: bool = False, *, reason: str = "deleted", by: str | None = None
    ) -> int:
        """End every session there is; how many. `ConfigurationError` unless *confirm* is True."""
        if confirm is not True:
            raise ConfigurationError("confirm: this ends every session; call delete_all(confirm=True)")
        return await self._end_all(Where(), reason_text(reason), by)

    async def why_ended(self, session_id: str) -> Ended | None:
        """Why, when and by whom a session was ended.

        None: it is live, it never existed, or it is no longer known (ten minutes after the end, at least).
        """
        answer = await self._load(session_id, self._core.clock())
        return answer if isinstance(answer, Ended) else None

    # --- inside ---

    def _walk(self, where: Where, limit: int, after: Position | None = None) -> _Walk:
        if not isinstance(self._port, Iterating):
            raise self._lacks("find sessions by conditions")
        return _Walk(self._port, self._port, self._core.clock, where, limit, after, self._tell_of_unreadable)

    async def _number_of(self, where: Where) -> int:
        walk, number = self._walk(where, _COUNTED_AT_ONCE), 0
        while (records := await walk.on()) is not None:
            number += len(records)
        return number

    async def _end_all(
        self, where: Where, reason: str, by: str | None, spared: Callable[[Record], bool] | None = None
    ) -> int:
        walk, ended = self._walk(where, _BATCH), 0
        while (records := await walk.on()) is not None:
            ids = [record.id for record in records if spared is None or not spared(record)]
            ids += walk.unreadable if where.is_empty else ()
            some = await walk.port.end_found(ids, where, walk.now, reason, by=by) if ids else ()
            for one in some:
                self._emit("session_deleted", one.id, one.user_id, walk.now, reason=reason)
            ended += len(some)
            if some and not self._port.immediate:
                await self._port.wait(_PAUSE)
        return ended

    def _tell_of_unreadable(self, ids: Sequence[SessionId], now: float) -> None:
        for id_ in ids:
            self._emit("session_data_retrieval_failed", shown(id_), None, now, reason="undecodable")

    async def _position(self, after: After) -> Position | None:
        match after:
            case None:
                return None
            case Session(created_at=float(created_at), id=str(id_)):
                return Position(created_at, SessionId(id_))
            case str():
                return await self._position_of(after)
            case {"created_at": int() | float() as created_at, "session_id": str(id_)}:
                return Position(created_at, SessionId(id_))
        raise ConfigurationError(
            f"after: found {type(after).__name__}, pass the last session of the page before, or its id"
        )

    async def _position_of(self, session_id: str) -> Position:
        answer = await self._load(session_id, self._core.clock())
        if not isinstance(answer, Record):
            raise SessionNotFoundError(
                "after: this session has ended, so its id tells no place any more; pass the session itself, "
                "or its row, which do"
            )
        return Position(answer.created_at, answer.id)


class _Walk:
    """Through the sessions that match, some at a time; others run in between."""

    def __init__(
        self,
        port: Iterating,
        waits: Port,
        clock: Callable[[], float],
        where: Where,
        limit: int,
        after: Position | None,
        tell: Callable[[Sequence[SessionId], float], None],
    ) -> None:
        self.port = port
        self.now = clock()
        self._waits = waits
        self._clock = clock
        self._where = where
        self._limit = limit
        self._after = after
        self._tell = tell
        self.unreadable: Sequence[SessionId] = ()  # of the last step
        self._state: Literal["new", "under way", "done"] = "new"

    async def on(self) -> Sequence[Record] | None:
        """The next records, perhaps none, as they are at `now`; None after the last."""
        if self._state == "done":
            return None
        if self._state == "under way":
            await self._waits.wait(0)
        self.now = self._clock()
        page = await self.port.find(self._where, self.now, limit=self._limit, after=self._after)
        self._after = page.after
        self._state = "done" if page.after is None else "under way"
        self.unreadable = page.unreadable
        self._tell(page.unreadable, self.now)
        # What remembers another package's cookie is no session: ended, it would let that cookie in again.
        return [record for record in page.records if record.secret]


def _checked_limit(limit: int) -> int:
    if type(limit) is not int or limit < 1:
        raise ConfigurationError(f"limit: found {limit!r}, pass an integer over 0")
    return limit


def reason_text(reason: object) -> str:
    """The reason of an ending. `ConfigurationError` unless it is some text."""
    if not isinstance(reason, str) or not reason:
        raise ConfigurationError(f"reason: found {reason!r}, pass a word such as 'revoked'")
    return reason


def _row_of(session: Session, now: float) -> dict[str, JsonValue]:
    created_at = session.created_at
    return {
        "session_id": session.id,
        "status": session.status,
        "created_at": created_at,
        "last_accessed": session.last_activity,
        "age_hours": None if created_at is None else max(0.0, now - created_at) / 3600,
        "num_items": len(results_of(session)),
        "progress": progress_of(session),
    }
