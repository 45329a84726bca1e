"""The sessions of one user: listed, ended."""

from __future__ import annotations

from collections.abc import Iterable

from session_middleware.backends.capabilities import ByUser
from session_middleware.operations.base import OperationsBase
from session_middleware.record import SessionId
from session_middleware.session import Session, user_text

__all__ = ["UserOperations"]


class UserOperations(OperationsBase):
    """What is done to the sessions of a user."""

    async def get_session_by_user(self, user_id: str | int) -> Session | None:
        """The newest live session of this user, or None."""
        now = self._core.clock()
        records = await self._by_user().list_user(user_text(user_id), now)
        return next(self._sessions(records, now), None)

    async def get_user_sessions(self, user_id: str | int) -> list[Session]:
        """The live sessions of this user, newest first."""
        now = self._core.clock()
        return list(self._sessions(await self._by_user().list_user(user_text(user_id), now), now))

    async def delete_user_sessions(
        self, user_id: str | int, keep: Iterable[str | Session] = (), *, reason: str = "revoked"
    ) -> int:
        """End the user's sessions but those to *keep* (ids or sessions); how many were ended."""
        now, user = self._core.clock(), user_text(user_id)
        kept = [
            SessionId(one) if isinstance(one, str) else one.id
            for one in ([keep] if isinstance(keep, str) else keep)
        ]
        ended = await self._by_user().delete_user(
            user, now, reason, keep=[id_ for id_ in kept if id_ is not None]
        )
        for id_ in ended:
            self._emit("session_deleted", id_, user, now, reason=reason)
        return len(ended)

    # --- inside ---

    def _by_user(self) -> ByUser:
        if not isinstance(self._port, ByUser):
            raise self._lacks("find sessions by user")
        return self._port
