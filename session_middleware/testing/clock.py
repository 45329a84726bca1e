"""A clock that moves when it is told to: pass it where a clock is an argument, and never sleep in a test."""

from __future__ import annotations

__all__ = ["ManualClock"]


class ManualClock:
    """Called, it tells the time; only `advance` moves it.

    `now` is seconds since the epoch. It may be assigned, backwards too: wall clocks do that.
    """

    def __init__(self, now: float = 1_760_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        return f"<ManualClock {self.now}>"

    def advance(self, seconds: float) -> float:
        """The time *seconds* later, which it now is."""
        self.now += seconds
        return self.now
