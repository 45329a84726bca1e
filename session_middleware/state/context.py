"""What the visitor works in: a platform, a workspace, a tenant; each by a name, each switched on its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from session_middleware.session import Session
from session_middleware.state.store import PREFIX, Clock, Store, names_under, read, text

__all__ = ["Contexts"]

_KEY = f"{PREFIX}context:"


class Contexts:
    """Named contexts of one session. Each switch is the event `session_context_switched`.

    The event has both values, so they are names (`"web"`, `"mobile"`), never secrets.
    """

    def __init__(self, values: Store, *, clock: Clock = time.time) -> None:
        self._values = values
        self._clock = clock

    @property
    def current(self) -> dict[str, str]:
        """The value of each context."""
        found = {name: self.get(name) for name in sorted(names_under(self._values, _KEY))}
        return {name: value for name, value in found.items() if value is not None}

    def get(self, name: str) -> str | None:
        """The value of this context; None before its first switch."""
        value = read(self._values, f"{_KEY}{name}").get("value")
        return value if isinstance(value, str) else None

    def since(self, name: str) -> float | None:
        """When it was switched last, in seconds since the epoch."""
        since = read(self._values, f"{_KEY}{name}").get("since")
        return since if isinstance(since, int | float) else None

    def switch(self, name: str, value: str) -> str | None:
        """Switch the context *name* to *value*; what it was. To the same value: nothing happens."""
        with self.switching(name, value) as before:
            return before

    @contextmanager
    def switching(self, name: str, value: str) -> Iterator[str | None]:
        """The same around the work that a switch needs, which the event's `duration` tells the seconds of.

        What it was is handed in; it is switched when the body ends, and stays as it was if that fails.
        """
        key, before, began = f"{_KEY}{text('name', name)}", self.get(name), self._clock()
        text("value", value)
        yield before
        if before != value:
            now = self._clock()
            self._values[key] = {"value": value, "since": now}
            self._report(name, before, value, now, max(0.0, now - began))

    def _report(self, name: str, old: str | None, new: str, now: float, duration: float) -> None:
        session = self._values
        if isinstance(session, Session) and session.manager is not None:
            session.manager.reporter.emit(
                "session_context_switched",
                session.id,
                session.user_id,
                now,
                name=name,
                old=old,
                new=new,
                duration=duration,
            )
