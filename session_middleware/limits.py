"""Sessions are created, and bound to users, within the limits of a manager; who had to go is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from session_middleware.backends.base import EVICTED, EXPIRY_REASONS, Port
from session_middleware.backends.capabilities import Admitted, Capped, Caps, Full
from session_middleware.errors import ConfigurationError, SessionCapacityError
from session_middleware.record import (
    CREATED,
    Committed,
    CreateResult,
    Delta,
    Record,
    Refused,
    SessionId,
    replace,
)
from session_middleware.reporting import Reporter

__all__ = ["Limits"]

T = TypeVar("T")
_LOWEST = -(2**63)  # no session of an app has a lower priority, so it makes none go


class Limits:
    """Of one port. Without limits each call is the port's own."""

    def __init__(self, port: Port, caps: Callable[[], Caps | None], reporter: Reporter) -> None:
        """*caps* is asked anew each time; None: no limits."""
        self._port = port
        self._caps = caps
        self._emit = reporter.emit

    async def create(self, record: Record, now: float) -> CreateResult:
        """As `Port.create`. Raises `SessionCapacityError` where there is no room."""
        caps = self._caps()
        if caps is None:
            return await self._port.create(record, now)
        return self._admitted(await self._capped().create_within(record, now, caps), caps, now)

    async def create_in_free_room(self, record: Record, now: float) -> CreateResult:
        """The same, for a record in whose favour nobody is to go."""
        if self._caps() is None:
            return await self._port.create(record, now)
        answer = await self.create(replace(record, priority=_LOWEST), now)
        if answer is CREATED:
            await self._port.commit(record.id, Delta(priority=record.priority), now)
        return answer

    async def bind(self, id_: SessionId, delta: Delta, now: float) -> Committed | Refused:
        """As `Port.commit`, of a login. Raises `SessionCapacityError` where the user has too many already."""
        caps = self._caps()
        if caps is None or caps.per_user is None:
            return await self._port.commit(id_, delta, now)
        return self._admitted(await self._capped().commit_within(id_, delta, now, caps), caps, now)

    async def shrink(self, limit: int, now: float) -> int:
        """End some of what is more than the limits allow, up to *limit* of either kind; how many."""
        caps = self._caps()
        if caps is None:
            return 0
        admitted = await self._capped().shrink(now, caps, limit)
        self._report(admitted, now)
        return len(admitted.of_user) + len(admitted.others)

    # --- inside ---

    def _capped(self) -> Capped:
        if not isinstance(self._port, Capped):
            raise ConfigurationError("max_sessions: this backend cannot limit sessions; use one that can")
        return self._port

    def _admitted(self, admitted: Admitted[T], caps: Caps, now: float) -> T:
        self._report(admitted, now)
        if not isinstance(admitted.answer, Full):
            return admitted.answer
        limit = caps.total if admitted.answer is Full.SESSIONS else caps.per_user
        raise SessionCapacityError(f"{admitted.answer.value}={limit}: there is no room for one more session")

    def _report(self, admitted: Admitted[Any], now: float) -> None:
        for why, ended in ((Full.OF_USER, admitted.of_user), (Full.SESSIONS, admitted.others)):
            for one in ended:
                fields: dict[str, object] = {"reason": one.reason, "created_at": one.created_at}
                name = "session_expired"
                if one.reason == EVICTED:
                    name, fields = "session_evicted", {"reason": why.value}
                elif one.reason not in EXPIRY_REASONS:  # `end_all_before` ended it
                    name, fields = "session_deleted", {"reason": one.reason}
                self._emit(name, one.id, one.user_id, now, **fields)
