"""The event vocabulary: each step in the life of a session is one of these facts.

Reading order: `SessionEvent` is what a callback gets; `EventType` says what there is to know about events of
one name; `EVENTS` lists them all and is where the table of the documentation comes from (`events_table`).

Names, levels and fields are public API: monitors, alerts and log searches are written against them. Every
event also carries `session_id`, `user_id` and `timestamp`, so the table does not repeat them. A field whose
fact is unknown is left out or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import msgspec

__all__ = ["EVENTS", "EventType", "Level", "SessionEvent", "events_table"]

Level = Literal["debug", "info", "warning", "error"]


class SessionEvent(msgspec.Struct, frozen=True, eq=False):
    """One fact of a session's life, as callbacks and monitors get it.

    `session_id` and `user_id` are None where the fact belongs to no session or to nobody. `timestamp` is in
    seconds since the epoch. `fields` hold what `EVENTS[name].fields` list, as they are: texts uncut, an
    exception as the object. `manager` names the sender; it is not compared, shown or logged.
    """

    name: str
    session_id: str | None
    user_id: str | None
    timestamp: float
    fields: Mapping[str, object]
    manager: object = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SessionEvent) and self._compared() == other._compared()

    def __ne__(self, other: object) -> bool:  # a struct's own looks at nothing but which object it is
        return not self == other

    def __hash__(self) -> int:
        return hash(self._compared()[:-1])  # a mapping has no hash; the rest is enough for one

    def __repr__(self) -> str:
        return f"SessionEvent({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return list(zip(self.__struct_fields__, self._compared(), strict=False))

    def _compared(self) -> tuple[object, ...]:
        return self.name, self.session_id, self.user_id, self.timestamp, self.fields


@dataclass(frozen=True, slots=True)
class EventType:
    """What events of one name mean, and what they carry besides id, user and time."""

    name: str
    level: Level
    fields: tuple[str, ...]
    meaning: str


def _event(name: str, level: Level, fields: str, meaning: str) -> EventType:
    return EventType(name, level, tuple(fields.split()), meaning)


_TABLE = (
    _event(
        "session_manager_initialized",
        "info",
        "backend timeout cleanup_interval",
        "A manager started; times in seconds.",
    ),
    _event(
        "session_manager_stopped",
        "info",
        "active_requests",
        "A manager stopped; how many requests were still open.",
    ),
    _event("session_created", "info", "", "A session was stored for the first time."),
    _event("session_creation_failed", "error", "exception", "A new session could not be stored."),
    _event("session_renewed", "debug", "expires_at", "The idle deadline was pushed out."),
    _event("session_renewal_failed", "warning", "reason", "The idle deadline could not be pushed out."),
    _event("session_deleted", "info", "reason", "A session was ended on purpose: a logout, a revocation."),
    _event(
        "sessions_ended",
        "info",
        "before reason",
        "Every session created before this moment was ended at once (`end_all_before`); "
        "a `session_deleted` each follows with the cleanups.",
    ),
    _event("session_deletion_failed", "warning", "reason", "A session could not be ended."),
    _event(
        "session_expired",
        "info",
        "reason created_at",
        "A session reached a deadline: `idle_timeout`, `absolute_timeout` or `retention`.",
    ),
    _event("session_data_retrieved", "debug", "data_keys", "A session was loaded; the names of its keys."),
    _event(
        "session_data_retrieval_failed",
        "warning",
        "reason",
        "A session was not loaded: `not_found_or_expired`, `undecodable`, `unavailable`. Log lines are "
        "limited per reason; `suppressed` tells how many were left out.",
    ),
    _event("session_data_saved", "debug", "saved_keys deleted_keys", "Changes were stored."),
    _event(
        "session_data_save_failed",
        "warning",
        "reason keys exception",
        "Changes were lost: `not_found`, `gone`, `superseded`, `ended`, `serialization_error`, "
        "`response_started`, `no_room`, `operation_failed`, `lock_lost`, `backend_error`; the names of the "
        "keys.",
    ),
    _event("session_cycled", "info", "reason", "The session has a new cookie."),
    _event("session_user_bound", "info", "", "Somebody signed in."),
    _event("session_user_unbound", "info", "", "The session belongs to nobody any more."),
    _event("session_status_changed", "info", "old new", "The session's status changed."),
    _event(
        "session_progress",
        "debug",
        "current_step total_steps percentage description",
        "Work that the session tracks went on.",
    ),
    _event(
        "session_context_switched",
        "info",
        "name old new duration",
        "A named context (a platform, a workspace) changed; seconds it took.",
    ),
    _event(
        "session_suspicious_activity",
        "warning",
        "activity_type details",
        "Something an attacker does: `bad_signature`, `superseded_cookie`, `unknown_id`, "
        "`unknown_generation`, `cookie_conflict`, `fingerprint_changed`, `foreign_session_id`, or the "
        "app's own. Log lines are limited per type; `suppressed` tells how many were left out.",
    ),
    _event("session_evicted", "info", "reason", "A session was ended to make room."),
    _event("session_conflict", "info", "keys", "Parallel requests changed the same keys."),
    _event("request_started", "debug", "method path active", "A request holds the session."),
    _event(
        "request_finished",
        "debug",
        "method path status duration active",
        "A request let go of the session; seconds it took.",
    ),
    _event(
        "request_refused",
        "warning",
        "method path status active limit",
        "A limit on requests was reached.",
    ),
    _event(
        "sessions_cleaned_up",
        "info",
        "count by_reason duration",
        "Ended sessions were removed; seconds it took.",
    ),
    _event("sessions_cleanup_failed", "error", "exception", "Ended sessions could not be removed."),
    _event(
        "session_usage",
        "info",
        "count capacity average_age by_status",
        "How many sessions there are; age in seconds.",
    ),
    _event("backend_unavailable", "error", "operation exception", "The backend stopped answering."),
    _event("backend_recovered", "info", "down_for", "The backend answers again; seconds it was away."),
    _event("session_error", "error", "error_type details", "The app reported an error of its own."),
    _event("monitor_started", "info", "store retention_days rules", "Monitoring began; the alert rules."),
    _event("alert_raised", "warning", "rule value threshold", "An alert rule began to hold."),
    _event("alert_cleared", "info", "rule value threshold", "An alert rule stopped holding."),
)

EVENTS: Mapping[str, EventType] = MappingProxyType({event.name: event for event in _TABLE})
"""Every event there is, by name, in the order of the documentation."""


def events_table() -> str:
    """The whole vocabulary as a Markdown table, one line per event."""
    lines = ["| event | level | fields | meaning |", "|---|---|---|---|"]
    for event in EVENTS.values():
        fields = ", ".join(f"`{name}`" for name in event.fields) or "—"
        lines.append(f"| `{event.name}` | {event.level} | {fields} | {event.meaning} |")
    return "\n".join(lines) + "\n"
