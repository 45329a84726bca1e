"""What happened to one session, or to all sessions of a user, in the order of time; and why it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from session_middleware.events import SessionEvent
from session_middleware.monitoring.figures import ENDINGS
from session_middleware.reporting import loggable

__all__ = ["Filter", "event_row", "verdict"]

_WORDS: Final = {
    "logout": "its user signed out",
    "idle_timeout": "nobody used it for as long as the idle timeout",
    "absolute_timeout": "it reached the absolute timeout, used or not",
    "retention": "its status keeps it only so long",
    "revoked": "somebody revoked it",
    "deleted": "it was deleted",
    "erased": "everything of its user was erased",
    "evicted": "it had to make room for another session",
    "max_sessions": "it had to make room: there were too many sessions",
    "max_sessions_per_user": "its user signed in elsewhere, and had too many sessions",
    "login": "a sign-in began another session in its place",
}
_LATE: Final = frozenset({"session_data_retrieval_failed", "session_data_save_failed"})


class Filter:
    """Which events are wanted: those of a session, of a user's sessions, of a time. None asks nothing.

    *since* is inclusive and *until* exclusive, in seconds since the epoch.
    """

    def __init__(
        self,
        *,
        session: str | None = None,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> None:
        self.session = session
        self.user = user
        self._since = float("-inf") if since is None else since
        self._until = float("inf") if until is None else until
        self._sessions: set[str] = set()  # of the user, as far as they were seen

    @property
    def is_about_somebody(self) -> bool:
        """A session or a user is asked for."""
        return self.session is not None or self.user is not None

    @property
    def is_everything(self) -> bool:
        """No event is left out."""
        return not self.is_about_somebody and (self._since, self._until) == (float("-inf"), float("inf"))

    def wants(self, event: SessionEvent) -> bool:
        """Whether this event is one of them. Of a user's session all that follows is, its end too."""
        if not self._since <= event.timestamp < self._until:
            return False
        if self.session is not None and event.session_id != self.session:
            return False
        return self.user is None or self._is_users(event)

    def _is_users(self, event: SessionEvent) -> bool:
        if event.user_id == self.user:
            if event.session_id is not None:
                self._sessions.add(event.session_id)
            return True
        return event.session_id in self._sessions


def event_row(event: SessionEvent, moment: Callable[[float], str | None]) -> dict[str, Any]:
    """An event as a row of a timeline: `time`, `event`, ids, then its own fields."""
    fields = {name: loggable(value) for name, value in event.fields.items() if value is not None}
    return {
        "time": moment(event.timestamp),
        "event": event.name,
        "session_id": event.session_id,
        "user_id": event.user_id,
        **{
            f"{name}_" if name in {"time", "event", "session_id", "user_id"} else name: one
            for name, one in fields.items()
        },
    }


def verdict(events: Sequence[SessionEvent], moment: Callable[[float], str | None]) -> str:
    """In one sentence: why the session of these events, oldest first, ended; or that it did not."""
    if not events:
        return "no event of it is in this log"
    end = next((event for event in reversed(events) if event.name in ENDINGS), None)
    if end is not None:
        reason = str(loggable(end.fields.get("reason") or end.name.removeprefix("session_")))
        why = _WORDS.get(reason, "the reason is the app's own")
        return f"it ended at {moment(end.timestamp)}: {end.name}, {reason}: {why}"
    late = next((event for event in events if event.name in _LATE and _is_gone(event)), None)
    if late is not None:
        return f"it was gone at {moment(late.timestamp)} ({late.name}); its end is not in this log"
    return f"it had not ended when it was last heard of, at {moment(events[-1].timestamp)}"


def _is_gone(event: SessionEvent) -> bool:
    return event.fields.get("reason") in {"not_found_or_expired", "not_found", "gone", "ended"}
