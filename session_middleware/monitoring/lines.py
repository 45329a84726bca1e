"""`LineReader`: the events that JSON log lines tell of, and how many lines told of none.

One reader for every file, pipe and list: whoever reads logs counts the same lines the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from session_middleware.monitoring.facts import SessionEvent, event_of

__all__ = ["LineReader"]

_NO_JSON: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
_decode: Final = msgspec.json.Decoder().decode


class LineReader:
    """Reads JSON log lines, and counts them over all its calls.

    A line of another logger is passed over; one that is no JSON object is broken; a blank one is none.
    *newest* is the time of an event without one, until a line tells of another; seconds since the epoch.
    """

    __slots__ = ("_broken", "_newest", "_other", "_read")

    def __init__(self, newest: float = 0.0) -> None:
        self._read = self._other = self._broken = 0
        self._newest = newest

    def events(self, lines: Iterable[str | bytes | None]) -> Iterator[SessionEvent]:
        """The events of these lines, in their order. One without a time has that of the newest before it.

        None is a line that could not be looked at, such as one too long to be kept: broken.
        """
        for line in lines:
            try:
                facts = None if line is None else _decode(line)
            except _NO_JSON:
                facts = None
            if type(facts) is not dict:
                self._count_broken(line)
                continue
            self._read += 1
            event = event_of(facts, self._newest)
            if event is None:
                self._other += 1
                continue
            self._newest = max(self._newest, event.timestamp)
            yield event

    def skip(self, lines: int = 1) -> None:
        """Count lines that could not be looked at as broken."""
        self._read += lines
        self._broken += lines

    def counts(self) -> dict[str, int]:
        """How many lines were `read`, and how many of them were `other` loggers' or `broken`."""
        return {"read": self._read, "other": self._other, "broken": self._broken}

    def _count_broken(self, line: str | bytes | None) -> None:
        if line is None or (line and not line.isspace()):
            self.skip()
