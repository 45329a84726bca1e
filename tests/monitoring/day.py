"""A simulated day whose true figures are known: visitors, logins, an attack, an outage, a deploy.

`day(...)` yields the events in order; `Truth` is counted beside them, from the script not from the events'
fields. Size is a parameter: the same day with a thousand users or thirty.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

from session_middleware.events import EVENTS, SessionEvent

START = 1_760_054_400.0  # midnight, UTC


@dataclass
class Truth:
    totals: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    suspicious: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    durations: list[float] = field(default_factory=list)
    live: int = 0


def day(users: int, requests_of_each: int, truth: Truth, seed: int = 1) -> Iterator[SessionEvent]:
    """The events by time."""
    events = [
        *_traffic(users, requests_of_each, truth, random.Random(seed)),
        *_attack(truth),
        *_trouble(truth),
    ]
    yield from sorted(events, key=lambda event: event.timestamp)


def _event(
    truth: Truth, name: str, moment: float, sid: str | None, uid: str | None, **fields: object
) -> SessionEvent:
    truth.totals[name] += 1
    if sid is not None:
        truth.sessions.add(sid)
    if uid is not None:
        truth.users.add(uid)
    return SessionEvent(name, sid, uid, moment, MappingProxyType(fields))


def _traffic(users: int, requests: int, truth: Truth, chance: random.Random) -> Iterator[SessionEvent]:
    for number in range(users):
        sid, uid = f"s{number:06d}", f"u{number:06d}"
        begin = START + 3600 * 6 + number * (3600 * 12 / users)
        yield _event(truth, "session_created", begin, sid, None)
        yield _event(truth, "session_cycled", begin + 1, sid, uid, reason="login")
        yield _event(truth, "session_user_bound", begin + 1, sid, uid)
        for turn in range(requests):
            took = chance.lognormvariate(-4, 1)
            truth.durations.append(took)
            facts = {"method": "GET", "path": "/", "status": 200, "duration": took, "active": 1}
            yield _event(truth, "request_finished", begin + 2 + turn * 7, sid, uid, **facts)
        last = begin + 10 + requests * 7
        if number % 3 == 0:
            truth.ended["logout"] += 1
            yield _event(truth, "session_deleted", last, sid, uid, reason="logout")
        elif number % 3 == 1:
            truth.ended["idle_timeout"] += 1
            yield _event(
                truth, "session_expired", last + 1800, sid, uid, reason="idle_timeout", created_at=begin
            )
        else:
            truth.live += 1


def _attack(truth: Truth) -> Iterator[SessionEvent]:
    """At three in the morning one client tries 400 cookies in 200 seconds."""
    for number in range(400):
        truth.suspicious["bad_signature"] += 1
        facts = {"activity_type": "bad_signature", "details": {"client": "203.0.113.0/24"}}
        moment = START + 3 * 3600 + number / 2
        yield _event(truth, "session_suspicious_activity", moment, None, None, **facts)


def _trouble(truth: Truth) -> Iterator[SessionEvent]:
    """At noon the backend is away for two minutes; at two there is a deploy."""
    noon, two = START + 12 * 3600, START + 14 * 3600
    yield _event(
        truth, "backend_unavailable", noon, None, None, operation="load", exception="TimeoutError: 1 s"
    )
    for number in range(24):
        facts = {"reason": "backend_error", "keys": ["cart"], "exception": "TimeoutError: 1 s"}
        yield _event(truth, "session_data_save_failed", noon + number * 5, "s000001", "u000001", **facts)
    yield _event(truth, "backend_recovered", noon + 120, None, None, down_for=120.0)
    yield _event(truth, "session_manager_stopped", two, None, None, active_requests=3)
    facts = {"backend": "memory", "timeout": 1800.0, "cleanup_interval": 300.0}
    yield _event(truth, "session_manager_initialized", two + 5, None, None, **facts)
    for hour in range(24):
        done = {"count": 0, "by_reason": {}, "duration": 0.01}
        yield _event(truth, "sessions_cleaned_up", START + hour * 3600 + 60, None, None, **done)


def line_of(event: SessionEvent) -> str:
    """The event as our JSON log line."""
    known = {"session_id": event.session_id, "user_id": event.user_id, "timestamp": event.timestamp}
    return json.dumps({"event": event.name, "level": EVENTS[event.name].level, **known, **event.fields})
