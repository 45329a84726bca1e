"""What a monitor takes in, whatever it came as: events, metrics, the mappings that log lines are.

`event_of` reads a log line's mapping: the same event comes out of it that a subscriber was handed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from session_middleware.errors import ConfigurationError
from session_middleware.events import EVENTS, SessionEvent

__all__ = [
    "LONGEST",
    "Measurement",
    "SessionEvent",
    "SessionMetric",
    "event_of",
    "is_moment",
    "moment_of",
    "number",
    "seconds_of",
    "text",
    "weight_of",
    "whole",
]

LONGEST: Final = 128  # characters of a name, an id or a reason that is kept as a key
_FAR: Final = 32_503_680_000.0
_MOST: Final = 10**12  # what is greater was never counted; sums of these fit into JSON's integers
_KNOWN: Final = frozenset(EVENTS)
_NAMES: Final = ("event", "message", "msg")  # where renderers put an event's name
_RENAMED: Final = {"name_": "name", "args_": "args", "module_": "module"}  # `logging` refuses the plain ones
_NO_FIELDS: Final = frozenset({"logger", *_NAMES})
_SELDOM: Final = _NO_FIELDS | _RENAMED.keys()


@dataclass(frozen=True, slots=True)
class SessionMetric:
    """One measurement. `timestamp` is in seconds since the epoch; ids are None where it belongs to nobody."""

    metric_type: str
    session_id: str | None
    user_id: str | None
    value: float
    timestamp: float
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)


Measurement: TypeAlias = tuple[str, str | None, str | None, float, float, Mapping[str, object]]
"""The values of a `SessionMetric` in their order: how many are kept, as a tuple costs a tenth to make."""


def moment_of(measurement: Measurement) -> float:
    """Its time, in seconds since the epoch."""
    return measurement[4]


def event_of(line: dict[str, Any], otherwise: float) -> SessionEvent | None:
    """The event that this log line tells of, which takes *line* over; None: it is another logger's.

    *otherwise* is its time where the line has none that can be read.
    """
    name = line.get("event")
    if type(name) is not str or name not in _KNOWN:
        name = _name_in(line)
        if name is None:
            return None
    taken = line.pop  # what is left are the fields
    moment = _moment(taken("timestamp", None))
    session_id, user_id = taken("session_id", None), taken("user_id", None)
    taken("event", None)
    taken("level", None)
    if not _SELDOM.isdisjoint(line):
        line = {_RENAMED.get(key, key): value for key, value in line.items() if key not in _NO_FIELDS}
    return SessionEvent(
        name,
        session_id if type(session_id) is str and len(session_id) <= LONGEST else text(session_id),
        user_id if type(user_id) is str and len(user_id) <= LONGEST else text(user_id),
        otherwise if moment is None else moment,
        MappingProxyType(line),
    )


def _name_in(line: Mapping[str, Any]) -> str | None:
    for key in _NAMES:
        name = line.get(key)
        if type(name) is str and name in _KNOWN:
            return name
    return None


def _moment(value: object) -> float | None:
    if type(value) is float and 0 <= value < _FAR:
        return value
    if isinstance(value, str):
        try:
            told = datetime.fromisoformat(value)
        except ValueError:
            return None
        found: float | None = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    else:
        found = number(value)
    return found if found is not None and is_moment(found) else None


def is_moment(seconds: float) -> bool:
    """Whether these seconds since the epoch are a time of our era (until the year 3000)."""
    return 0 <= seconds < _FAR  # NaN is not


def text(value: object) -> str | None:
    """The value as a key of figures: None, or a text of at most 128 characters."""
    return None if value is None else str(value)[:LONGEST]


def number(value: object) -> float | None:
    """The value where it is a finite number; else None."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int beyond every float
        return None


def whole(value: object) -> int | None:
    """The value where it is a whole number that something can be counted to, 0 or more; else None."""
    return value if type(value) is int and 0 <= value <= _MOST else None


def weight_of(event: SessionEvent) -> int:
    """How many events this one stands for: a log line tells how many were left out before it."""
    told = event.fields.get("suppressed")
    left_out = None if told is None else whole(told)
    if left_out is None:
        return 1
    return left_out if event.fields.get("summary") is True else left_out + 1


def seconds_of(argument: str, moment: datetime | float | None) -> float | None:
    """A border of a time range in seconds since the epoch. A datetime without a zone is a local one."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        return moment.timestamp()
    found = number(moment)
    if found is None:
        raise ConfigurationError(
            f"{argument}: found {type(moment).__name__}, pass a datetime or finite seconds since the epoch"
        )
    return found
