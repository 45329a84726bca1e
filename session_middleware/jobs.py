"""What a long job leaves in its session: how far it is, what it has made, why it failed.

Each fact is a session key of its own, so parallel updates of one job merge, and a handler that saves its
session beside them takes nothing back. Keys that begin with `job:` are the jobs'; an app leaves them alone.

Reading order: the keys, then what is read of them: `progress_of`, `results_of`, `error_of`, `moved_at`,
`is_stuck`, `state_of`. Each takes a session (its values) or a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from session_middleware.record import Record
from session_middleware.values import JsonValue, decode_value

__all__ = [
    "ERROR",
    "ITEM",
    "MOVED_AT",
    "PROCESSING",
    "PROGRESS",
    "JobState",
    "error_of",
    "is_stuck",
    "moved_at",
    "progress_of",
    "results_of",
    "state_of",
]

PROGRESS = "job:progress"
"""`{"current_step", "total_steps", "percentage", "description"}`."""
ITEM = "job:item:"
"""And its number: one key for each result."""
ERROR = "job:error"
"""Why the job failed, as text."""
MOVED_AT = "job:moved_at"
"""When the job last said something, in seconds since the epoch."""
PROCESSING = "processing"
"""The status of a session whose job runs."""


def progress_of(source: Mapping[str, JsonValue] | Record) -> dict[str, JsonValue] | None:
    """How far the job is: `current_step, total_steps, percentage, description`. None before it said so."""
    found = _value(source, PROGRESS)
    return found if isinstance(found, dict) else None


def results_of(source: Mapping[str, JsonValue] | Record) -> dict[int, JsonValue]:
    """What the job has made so far: each item by its number, in the order of the numbers."""
    names = (_pairs(source) if isinstance(source, Record) else source).keys()
    numbers = sorted(number for name in names if (number := _number(name)) is not None)
    return {number: _value(source, f"{ITEM}{number}") for number in numbers}


def error_of(source: Mapping[str, JsonValue] | Record) -> str | None:
    """Why the job failed, as `fail` or `set_status` said. None: it did not say, or went on since."""
    found = _value(source, ERROR)
    return found if isinstance(found, str) else None


def moved_at(record: Record) -> float:
    """When the job last said something, or else the visitor was seen. Seconds since the epoch."""
    found = _value(record, MOVED_AT)
    return float(found) if isinstance(found, int | float) else record.last_seen_at


def is_stuck(record: Record, now: float, stuck_after: float) -> bool:
    """Whether its status is `processing` and its job has said nothing for *stuck_after* seconds."""
    return record.status == PROCESSING and now - moved_at(record) >= stuck_after


class JobState(NamedTuple):
    """How a job is at one moment."""

    status: str | None
    progress: dict[str, JsonValue] | None
    num_items: int
    error_message: str | None

    @property
    def is_over(self) -> bool:
        """It was completed, or failed."""
        return self.status in {"completed", "failed"}


def state_of(record: Record) -> JobState:
    """Everything a job says of itself, but for its items, which may be large."""
    return JobState(record.status, progress_of(record), len(results_of(record)), error_of(record))


def _value(source: Mapping[str, JsonValue] | Record, name: str) -> JsonValue:
    if not isinstance(source, Record):
        return source.get(name)
    encoded = _pairs(source).get(name)
    return None if encoded is None else decode_value(encoded)


def _pairs(record: Record) -> Mapping[str, bytes]:
    return record.data.pairs


def _number(name: str) -> int | None:
    digits = name.removeprefix(ITEM)
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() else None
