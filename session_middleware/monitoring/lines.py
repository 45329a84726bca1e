"""`LineReader`: the events that JSON log lines tell of, and how many lines told of none.

One reader for every file, pipe and list: whoever reads logs counts the same lines the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from session_middleware.monitoring.facts import SessionEvent, event_of, is_moment

__all__ = ["LineReader"]

_DECODER: Final = msgspec.json.Decoder()


class LineReader:
    """Reads JSON log lines, and counts them over all its calls.

    A line of another logger is passed over; one that is no JSON object is broken; a blank one is none.
    *newest* is the time of an event without one, until a line tells of another; seconds since the epoch.
    """

    __slots__ = ("_broken", "_newest", "_other", "_read")

    def __init__(self, newest: float = 0.0) -> None:
        self._read = self._other = self._broken = 0
        self._newest = newest

    def events(self, lines: Iterable[str | bytes]) -> Iterator[SessionEvent]:
        """The events of these lines, in their order. One without a time has that of the newest before it."""
        for line in lines:
            if not line or line.isspace():
                continue
            self._read += 1
            event = self._event(line)
            if event is None:
                continue
            if event.timestamp > self._newest and is_moment(event.timestamp):  # else the monitor refuses it
                self._newest = event.timestamp
            yield event

    def skip(self, lines: int = 1) -> None:
        """Count lines that could not be looked at, such as one too long to be kept, as broken."""
        self._read += lines
        self._broken += lines

    def counts(self) -> dict[str, int]:
        """How many lines were `read`, and how many of them were `other` loggers' or `broken`."""
        return {"read": self._read, "other": self._other, "broken": self._broken}

    def _event(self, line: str | bytes) -> SessionEvent | None:
        facts = _decoded(line)
        if facts is None:
            self._broken += 1
            return None
        event = event_of(facts, self._newest)
        if event is None:
            self._other += 1
        return event


def _decoded(line: str | bytes) -> dict[str, Any] | None:
    try:
        facts = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None
