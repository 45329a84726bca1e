"""What a heartbeat asks for the sessions that requests hold."""

from __future__ import annotations

from session_middleware.operations.base import OperationsBase
from session_middleware.record import Committed, Delta, Record, replace
from session_middleware.session import Fresh, Live, Session

__all__ = ["HoldingOperations"]


class HoldingOperations(OperationsBase):
    """Sessions that are held are kept alive, and looked after."""

    async def hold_on(self, session: Session, now: float) -> bool:
        """Renew a session that a request holds, if that is due; False once it is no longer the request's."""
        opening = session.life.opening
        if not isinstance(opening, Live):
            return True
        record = opening.record
        idle = self._core.policy.idle(record.idle_timeout)
        if not self._core.policy.open_requests_renew or record.deadline - now > idle * 2 / 3:
            return True
        renewed = min(now + idle, record.latest)
        if renewed <= record.deadline and record.retained_until is not None:
            return True  # a status limits its life, and more than that there is not to have
        answer = await self._port.commit(
            record.id, Delta(renew_to=renewed, seen_at=now, admitted=opening.admitted), now
        )
        if not isinstance(answer, Committed):
            self._emit("session_renewal_failed", record.id, record.user_id, now, reason=answer.name.lower())
            return False
        renewal = replace(opening, record=replace(record, deadline=max(record.deadline, renewed)))
        if session.life.opening is not opening:  # a commit of the request itself was faster, and knows better
            return True
        session.life.opening = renewal  # nothing is called since that look: no other thread comes between
        self._emit("session_renewed", record.id, record.user_id, now, expires_at=renewed)
        return True

    async def is_still_open(self, session: Session, now: float) -> bool:
        """Whether the session a request was admitted to exists for it: not ended, not below the floor."""
        opening = session.life.opening
        if not isinstance(opening, Live):
            return isinstance(opening, Fresh)  # else a login or a logout overtook it
        answer = await self._port.load(opening.record.id, now)
        return isinstance(answer, Record) and opening.admitted >= answer.floor
