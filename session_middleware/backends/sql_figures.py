"""Sums over all sessions of a file, made of the index `session_bucket` alone.

In parts, so that other readers wait for one part at most: `Sums.next_part` until `is_done`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from session_middleware.backends.capabilities import Summary, Usage
from session_middleware.backends.sql import _EPOCH, LAST_BUCKET, Execute, first_bucket

__all__ = ["Sums"]

_COUNTED_AT_ONCE = 10_000


class Sums:
    """Figures over the live sessions, as far as they were added up."""

    def __init__(self, now: float, ages: Sequence[float]) -> None:
        self._now = now
        self._younger = [0] * len(ages)
        self._bounds = [now - age for age in ages]
        columns = ["status", "count(*)", "sum(created_at)", "min(created_at)", "max(created_at)"]
        columns += ["sum(created_at>?)"] * len(ages)
        # Whatever is no number is greater than each number: a damaged row does not tell its age.
        self._select = (
            f"SELECT {','.join(columns)} FROM session"  # noqa: S608  (names)
            f" WHERE +created_at>={_EPOCH} AND +created_at<9e999 AND"
        )
        self._after: int | None = None  # the last bucket that was added up
        self._sessions = 0
        self._created = 0.0
        self._oldest: float | None = None  # when it was created
        self._newest: float | None = None
        self._statuses = Counter[str]()
        self.is_done = False

    def next_part(self, execute: Execute) -> None:
        """Add up some thousand sessions more."""
        if self._after is None:  # the only rows that may have expired, and that the table must be asked about
            self._after = first_bucket(self._now)
            self._add(execute, "bucket<=? AND deadline>?", self._after, self._now)
            return
        ends = execute(
            "SELECT bucket FROM session WHERE bucket>? ORDER BY bucket LIMIT 1 OFFSET ?",
            (self._after, _COUNTED_AT_ONCE),
        ).fetchall()
        end = ends[0][0] if ends else LAST_BUCKET
        self._add(execute, "bucket>? AND bucket<=?", self._after, end)
        self._after, self.is_done = end, not ends

    def summary(self) -> Summary:
        """What they come to."""
        number = self._sessions
        average = self._now - self._created / number if number else None
        usage = Usage(number, average, dict(self._statuses))
        return Summary(usage, self._age(self._oldest), self._age(self._newest), tuple(self._younger))

    def _add(self, execute: Execute, which: str, *parameters: Any) -> None:
        rows = execute(f"{self._select} {which} GROUP BY status", (*self._bounds, *parameters)).fetchall()
        for status, number, created, oldest, newest, *younger in rows:
            self._sessions += number
            self._created += created
            self._oldest = oldest if self._oldest is None else min(self._oldest, oldest)
            self._newest = newest if self._newest is None else max(self._newest, newest)
            self._younger = [sum(pair) for pair in zip(self._younger, younger, strict=True)]
            if isinstance(status, str):
                self._statuses[status] += number

    def _age(self, created_at: float | None) -> float | None:
        return None if created_at is None else self._now - created_at
