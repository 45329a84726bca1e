"""The sessions of one user: listed, ended."""

from __future__ import annotations

from collections.abc import Iterable

from session_middleware.backends.capabilities import ByUser
from session_middleware.errors import ConfigurationError
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
        self,
        user_id: str | int,
        keep: str | Session | Iterable[str | Session] = (),
        *,
        reason: str = "revoked",
    ) -> int:
        """End the user's sessions but those to *keep* (ids or sessions, one or many); how many were ended.

        Raises `ConfigurationError` for what is neither: nothing is ended then.
        """
        now, user, kept = self._core.clock(), user_text(user_id), _ids_of(keep)
        ended = await self._by_user().delete_user(user, now, reason, keep=kept)
        for id_ in ended:
            self._emit("session_deleted", id_, user, now, reason=reason)
        return len(ended)

    # --- inside ---

    def _by_user(self) -> ByUser:
        if not isinstance(self._port, ByUser):
            raise self._lacks("find sessions by user")
        return self._port


def _ids_of(keep: str | Session | Iterable[str | Session]) -> list[SessionId]:
    """A session is iterable too, over its keys: it stands for itself."""
    return [id_ for one in ([keep] if isinstance(keep, str | Session) else keep) if (id_ := _id_of(one))]


def _id_of(one: object) -> SessionId | None:
    """None for a session that is not stored: it has no id yet."""
    if isinstance(one, Session):
        return None if one.id is None else SessionId(one.id)
    if isinstance(one, str):
        return SessionId(one)
    raise ConfigurationError(f"keep: found {type(one).__name__} in it, pass ids of sessions, or sessions")
