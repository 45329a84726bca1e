"""Fixtures for pytest: name this module in the `conftest.py` at the top of your tests.

    pytest_plugins = ["session_middleware.testing.fixtures"]

It is no entry point, so that it costs nothing where nobody asked for it.
"""

from __future__ import annotations

import pytest

from session_middleware.events import SessionEvent
from session_middleware.manager import SessionManager
from session_middleware.testing.clock import ManualClock
from session_middleware.testing.helpers import make_manager

__all__ = ["session_clock", "session_events", "session_manager"]


@pytest.fixture
def session_clock() -> ManualClock:
    """The clock of `session_manager`: `session_clock.advance(3600)`."""
    return ManualClock()


@pytest.fixture
def session_manager(session_clock: ManualClock) -> SessionManager:
    """A manager in memory, as `make_manager` makes it, with `session_clock`."""
    return make_manager(clock=session_clock)


@pytest.fixture
def session_events(session_manager: SessionManager) -> list[SessionEvent]:
    """Every event of `session_manager` from now on, in order."""
    events: list[SessionEvent] = []
    session_manager.subscribe(None, events.append)
    return events
