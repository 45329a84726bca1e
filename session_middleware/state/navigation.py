"""Which page the visitor is on, and the way there: back and forward as in a browser."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from session_middleware.state.store import PREFIX, Clock, Store, held, limit, read, text
from session_middleware.values import JsonValue

__all__ = ["Navigation", "NavigationEntry"]

_KEY = f"{PREFIX}navigation"


class NavigationEntry(NamedTuple):
    """One page on the way; `timestamp` is when it was gone to, in seconds since the epoch."""

    page: str
    params: dict[str, JsonValue]
    timestamp: float


class Navigation:
    """The way through an app's pages. The oldest pages are forgotten beyond *max_history*."""

    def __init__(self, values: Store, *, max_history: int = 50, clock: Clock = time.time) -> None:
        self._values = values
        self._most = limit("max_history", max_history)
        self._clock = clock

    @property
    def history(self) -> list[NavigationEntry]:
        """The pages from the oldest to the present one. Those that were gone back from are not in it."""
        return self._entries("back")

    @property
    def current(self) -> NavigationEntry | None:
        """The present page; None before the first."""
        history = self.history
        return history[-1] if history else None

    @property
    def current_page(self) -> str | None:
        """Its name; None before the first."""
        current = self.current
        return None if current is None else current.page

    @property
    def can_go_back(self) -> bool:
        """There is a page before the present one."""
        return len(self.history) > 1

    @property
    def can_go_forward(self) -> bool:
        """The visitor went back, and nowhere else since."""
        return bool(self._entries("forward"))

    def navigate_to(self, page: str, params: Mapping[str, JsonValue] | None = None) -> NavigationEntry:
        """Go to *page*; what lay forward is forgotten.

        The same page with the same params again (a rerun, a refresh) is no new step.
        """
        kept: Any = held(_KEY, dict(params or {}))
        there = self.current
        if there is not None and (there.page, there.params) == (page, kept):
            return there
        entry = NavigationEntry(text("page", page), kept, self._clock())
        self._keep([*self.history, entry], [])
        return entry

    def go_back(self) -> NavigationEntry | None:
        """The page before, which is the present one now. None, and nothing changes, where there is none."""
        back = self.history
        if len(back) < 2:  # noqa: PLR2004  (the present one, and one before it)
            return None
        left = back.pop()
        self._keep(back, [*self._entries("forward"), left])
        return back[-1]

    def go_forward(self) -> NavigationEntry | None:
        """The page that was gone back from last. None, and nothing changes, where there is none."""
        forward = self._entries("forward")
        if not forward:
            return None
        entry = forward.pop()
        self._keep([*self.history, entry], forward)
        return entry

    def _entries(self, name: str) -> list[NavigationEntry]:
        found = read(self._values, _KEY).get(name)
        return [_entry_of(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def _keep(self, back: list[NavigationEntry], forward: list[NavigationEntry]) -> None:
        self._values[_KEY] = {
            "back": [one._asdict() for one in back[-self._most :]],
            "forward": [one._asdict() for one in forward[-self._most :]],
        }


def _entry_of(stored: dict[str, Any]) -> NavigationEntry:
    return NavigationEntry(stored["page"], dict(stored["params"]), stored["timestamp"])
