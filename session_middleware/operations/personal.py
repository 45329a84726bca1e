"""Everything of one user: handed out, and erased."""

from __future__ import annotations

from typing import Any

import msgspec

from session_middleware.operations.cleaning import CleaningOperations
from session_middleware.operations.users import UserOperations
from session_middleware.session import Session, user_text
from session_middleware.values import JsonValue

__all__ = ["PersonalOperations"]


class PersonalOperations(UserOperations, CleaningOperations):
    """What a user may ask of those who keep data on them."""

    async def export_user(self, user_id: str | int) -> dict[str, JsonValue]:
        """What is stored for this user, fit for `json.dumps`: `user_id, exported_at, sessions`.

        Times are seconds since the epoch; bytes are base64, dates ISO 8601. Of each live session, newest
        first, everything but what its cookie is made of. A session that cannot be decoded is left out:
        `recover_session` it first.
        """
        now, user = self._core.clock(), user_text(user_id)
        sessions = await self.get_user_sessions(user)
        return {"user_id": user, "exported_at": now, "sessions": [_exported(one) for one in sessions]}

    async def export_session(self, session_id: str) -> dict[str, JsonValue] | None:
        """The same of one session, whoever's it is; None if it is not live."""
        session = await self.get_session(session_id)
        return None if session is None else _exported(session)

    async def erase_user(self, user_id: str | int) -> int:
        """End every session of this user and delete what is stored of them; how many were live.

        Expired sessions (of everyone) that no cleanup has removed so far go too. What remains is an ending
        by its id, without user or data, for some minutes.
        """
        ended = await self.delete_user_sessions(user_id, reason="erased")
        await self.cleanup_expired()
        return ended


def _exported(session: Session) -> dict[str, JsonValue]:
    return {
        "session_id": session.id,
        "created_at": session.created_at,
        "authenticated_at": session.authenticated_at,
        "last_activity": session.last_activity,
        "expires_at": session.expires_at,
        "status": session.status,
        "priority": session.priority,
        "metadata": _plain(session.metadata),
        "data": _plain(dict(session)),
    }


def _plain(value: JsonValue) -> JsonValue:
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_text))


def _text(value: Any) -> str:
    """Markup, and other text that is more than text."""
    return str.__str__(value)
