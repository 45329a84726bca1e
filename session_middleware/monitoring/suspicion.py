"""Suspicious activity that shows only in many events together.

| found | when |
|---|---|
| `bad_cookies_burst` | one client shows over 20 bad signatures, unknown ids or generations in a minute |
| `cookie_replay` | one session is asked for with superseded cookies over 3 times in ten minutes |
| `distant_clients` | one session's client changes over twice in an hour, or in network and browser |
| `creation_burst` | over 100 sessions in a minute, over 5 times the average of the last hour |

The client is what the `details` say (`client`, `network`, `ip`); events that name none are taken to be
of one client. A finding is not repeated before its window has passed. Each is an event itself,
`session_suspicious_activity` with the type of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from session_middleware.events import SessionEvent
from session_middleware.monitoring.facts import text, weight_of
from session_middleware.monitoring.windows import KeyedCounts, SlidingCount

__all__ = ["LOOKED_AT", "Finding", "Suspicion"]

LOOKED_AT: Final = frozenset({"session_created", "session_suspicious_activity"})
"""The events that can be suspicious."""

_BAD_COOKIES: Final = frozenset({"bad_signature", "unknown_id", "unknown_generation"})
_MOST_BAD_COOKIES: Final = 20
_MOST_REPLAYS: Final = 3
_MOST_CHANGES: Final = 2
_LEAST_BURST: Final = 100
_BURST_FACTOR: Final = 5.0
_KNOWN_AFTER: Final = 5.0  # minutes: who just began to look knows no usual traffic
_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


class Finding(NamedTuple):
    """Suspicious activity, with what gave it away."""

    activity_type: str
    session_id: str | None
    user_id: str | None
    timestamp: float
    details: dict[str, object]


class Suspicion:
    """Looks at each event; bounded by the number of clients and sessions that it remembers (1,000 each)."""

    def __init__(self) -> None:
        self._bad = KeyedCounts(_MINUTE)
        self._replays = KeyedCounts(600.0)
        self._changes = KeyedCounts(_HOUR)
        self._created = SlidingCount(_MINUTE)
        self._created_before = SlidingCount(_HOUR, slots=60)
        self._burst_told = float("-inf")
        self._began: float | None = None
        self._by_type: dict[str, Callable[[SessionEvent, Mapping[str, object]], Finding | None]] = {
            **dict.fromkeys(_BAD_COOKIES, self._bad_cookie),
            "superseded_cookie": self._replay,
            "fingerprint_changed": self._client_changed,
        }

    def begin(self, now: float) -> None:
        """The first event came now, of whatever kind: before that nobody knows what is usual."""
        self._began = now

    def observe(self, event: SessionEvent) -> Finding | None:
        """What this event makes suspicious; None: nothing. Only those of `LOOKED_AT` can."""
        if event.name == "session_created":
            return self._creation(event)
        if event.name != "session_suspicious_activity":
            return None
        details = event.fields.get("details")
        look = self._by_type.get(str(event.fields.get("activity_type")))
        return None if look is None else look(event, details if isinstance(details, Mapping) else {})

    def _bad_cookie(self, event: SessionEvent, details: Mapping[str, object]) -> Finding | None:
        client = str(_client_of(details))
        number = self._bad.add(client, event.timestamp, weight_of(event))
        if number <= _MOST_BAD_COOKIES:
            return None
        self._bad.forget(client)
        return _finding("bad_cookies_burst", event, client=client, count=number, within=_MINUTE)

    def _replay(self, event: SessionEvent, _details: Mapping[str, object]) -> Finding | None:
        session = str(event.session_id)
        number = self._replays.add(session, event.timestamp, weight_of(event))
        if event.session_id is None or number <= _MOST_REPLAYS:
            return None
        self._replays.forget(session)
        return _finding("cookie_replay", event, count=number, within=self._replays.span)

    def _client_changed(self, event: SessionEvent, details: Mapping[str, object]) -> Finding | None:
        session = str(event.session_id)
        number = self._changes.add(session, event.timestamp, weight_of(event))
        if event.session_id is None or (number <= _MOST_CHANGES and not _is_distant(details)):
            return None
        self._changes.forget(session)
        return _finding("distant_clients", event, count=number, within=_HOUR)

    def _creation(self, event: SessionEvent) -> Finding | None:
        now = event.timestamp
        self._created.add(now)
        self._created_before.add(now)
        number = self._created.value(now)
        if number <= _LEAST_BURST or now - self._burst_told < _MINUTE:
            return None
        usual = self._usual_per_minute(now, number)
        if usual is None or number <= _BURST_FACTOR * usual:
            return None
        self._burst_told = now
        return _finding("creation_burst", event, count=number, within=_MINUTE, usual=round(usual, 1))

    def _usual_per_minute(self, now: float, lately: int) -> float | None:
        """How many there were in a minute of the last hour; None: we do not look long enough to know."""
        began = now if self._began is None else self._began
        minutes = min(_HOUR, now - began) / _MINUTE - 1
        return (self._created_before.value(now) - lately) / minutes if minutes >= _KNOWN_AFTER else None


def _finding(kind: str, event: SessionEvent, **details: object) -> Finding:
    about_one = kind in {"cookie_replay", "distant_clients"}
    ids = (event.session_id, event.user_id) if about_one else (None, None)
    return Finding(kind, *ids, event.timestamp, details)


def _client_of(details: Mapping[str, object]) -> str:
    known = (details.get(key) for key in ("client", "network", "ip"))
    return str(text(next((one for one in known if one), "unknown")))


def _is_distant(details: Mapping[str, object]) -> bool:
    """Whether both the network and the browser are others than before."""
    old, new = details.get("old"), details.get("new")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return False
    return all(old.get(key) and new.get(key) and old[key] != new[key] for key in ("network", "user_agent"))
