"""Whether the backend is down: known from the requests that meet it, told once at each turn.

A failed load is over as soon as anything works again. A failed commit is over only when a commit works: a
full or locked store goes on answering loads, and would else be up and down again with each request.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Met", "Outage"]

Met: TypeAlias = Literal["load", "commit"]
"""What a request wanted of the backend."""


class Outage:
    """One state for a whole process: the first failure begins it, the first success that counts ends it."""

    __slots__ = ("_since", "failing")

    def __init__(self) -> None:
        self.failing: Met | None = None
        """What fails at present; None while all is well."""
        self._since = 0.0

    def begin(self, met: Met, now: float) -> bool:
        """It failed, at *now* (monotonic seconds). True if that is news."""
        news = self.failing is None
        if news:
            self._since = now
        if news or met == "load":
            self.failing = met
        return news

    def end(self, met: Met, now: float) -> float | None:
        """It worked. How many seconds the backend was away, if this is the end of that; else None."""
        if self.failing is None or (self.failing == "commit" and met == "load"):
            return None
        self.failing = None
        return now - self._since
