"""What the visitor does: page views, interactions, since when and until when."""

from __future__ import annotations

import time
from typing import NamedTuple

from session_middleware.session import Session
from session_middleware.state.store import PREFIX, Clock, Store, add

__all__ = ["Activity", "Metrics"]

_VIEWS = f"{PREFIX}page_views"
_INTERACTIONS = f"{PREFIX}interactions"
_STARTED = f"{PREFIX}started_at"
_LAST = f"{PREFIX}last_activity"


class Metrics(NamedTuple):
    """Figures of one session. Times are seconds since the epoch, None before the first activity."""

    page_views: int
    interaction_count: int
    session_duration: float
    """Seconds from its beginning to its last activity."""
    last_activity: float | None


class Activity:
    """Counts what a visitor does. Parallel requests add up."""

    def __init__(self, values: Store, *, clock: Clock = time.time) -> None:
        self._values = values
        self._clock = clock

    @property
    def metrics(self) -> Metrics:
        """The figures now."""
        last, started = _number(self._values, _LAST), self._started_at()
        duration = 0.0 if last is None or started is None else max(0.0, last - started)
        views, interactions = _number(self._values, _VIEWS), _number(self._values, _INTERACTIONS)
        return Metrics(int(views or 0), int(interactions or 0), duration, last)

    def view_page(self) -> None:
        """Count a page view."""
        self._note(_VIEWS)

    def interact(self) -> None:
        """Count an interaction: a field changed, a button pressed."""
        self._note(_INTERACTIONS)

    def _note(self, counter: str) -> None:
        now = self._clock()
        add(self._values, counter)
        if self._started_at() is None:
            self._values[_STARTED] = now
        self._values[_LAST] = now

    def _started_at(self) -> float | None:
        stored = self._values.created_at if isinstance(self._values, Session) else None
        return _number(self._values, _STARTED) if stored is None else stored


def _number(values: Store, key: str) -> float | None:
    found = values.get(key)
    return found if isinstance(found, int | float) else None
