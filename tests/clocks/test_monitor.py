"""A monitor whose wall clock is set back goes on counting, raising, clearing and writing."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from session_middleware.monitoring import Alert, SessionEvent, SessionMonitor
from session_middleware.testing import ManualClock

MANY = Alert("many_failures", event="backend_unavailable", above=3, within=300, cool_down=600)
pytestmark = pytest.mark.parametrize("back", [3600.0, 31_557_600.0])


class Watched:
    """A monitor, what it told, and its clock."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.monitor = SessionMonitor(interval=None, clock=self.clock, alerts=[MANY], **options)
        self.told: list[str] = []
        self.monitor.on_alert(lambda one: self.told.append(one.name) if hasattr(one, "rule") else None)

    def tell(self, number: int, every: float) -> None:
        for _ in range(number):
            self.clock.advance(every)
            event = SessionEvent("backend_unavailable", None, None, self.clock(), MappingProxyType({}))
            self.monitor.record_event(event)
            self.monitor.drain()

    def rate(self) -> float:
        """Events a minute, over the last minute."""
        rates: Any = self.monitor.get_session_statistics()["rates"]
        per_minute: float = rates.get("backend_unavailable", {}).get("last_minute", 0.0)
        return per_minute


def test_what_happens_after_a_clock_was_set_back_is_counted(back: float) -> None:
    watched = Watched()
    watched.tell(400, every=10)  # more than an hour, so no slot is free
    expected = watched.rate()
    watched.clock.advance(-back)
    watched.monitor.drain()
    assert watched.rate() == 0
    watched.tell(30, every=10)
    assert watched.rate() == expected > 0


def test_an_alert_clears_and_rises_again_after_a_clock_was_set_back(back: float) -> None:
    watched = Watched()
    watched.tell(4, every=1)
    assert watched.told == ["alert_raised"]
    watched.clock.advance(-back)
    watched.monitor.drain()
    assert watched.told == ["alert_raised", "alert_cleared"]
    watched.clock.advance(MANY.cool_down)
    watched.tell(4, every=1)
    assert watched.told == ["alert_raised", "alert_cleared", "alert_raised"]


def test_figures_are_written_after_a_clock_was_set_back(back: float, tmp_path: Path) -> None:
    watched = Watched(store=f"sqlite:///{tmp_path}/figures.db")
    watched.tell(1, every=1)
    watched.monitor._look()
    watched.clock.advance(-back)
    written: list[object] = []
    watched.monitor._flush = lambda: written.append(1)  # type: ignore[method-assign]
    watched.monitor._look()
    assert written == [1]
