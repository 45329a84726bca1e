"""All who wait for a backend share one timer, and each is woken in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from session_middleware.loops import _Deadlines


class Loop:
    """As much of an event loop as a timer needs, whose time is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], object]) -> None:
        self.timers.append((when, call))

    def move(self, now: float) -> None:
        """Let the timers go off that are due."""
        self.now = now
        due, self.timers = (
            [timer for timer in self.timers if timer[0] <= now],
            [timer for timer in self.timers if timer[0] > now],
        )
        for _, call in due:
            call()


def test_all_who_wait_share_one_timer_and_each_is_woken_in_time() -> None:
    real, loop = asyncio.new_event_loop(), Loop()
    deadlines: Any = _Deadlines(loop, 5.0)  # type: ignore[arg-type]
    first, second, third = (real.create_future() for _ in range(3))
    deadlines.add(first)
    loop.now = 102.0
    deadlines.add(second)
    deadlines.add(third)
    assert [when for when, _ in loop.timers] == [105.0]
    loop.move(104.9)
    assert not first.done()
    loop.move(105.0)
    assert (first.done(), second.done(), third.done()) == (True, False, False)
    assert [when for when, _ in loop.timers] == [107.0]
    second.set_result(None)  # answered in time
    loop.move(107.0)
    assert third.done()
    assert loop.timers == []
    fourth = real.create_future()
    deadlines.add(fourth)
    assert [when for when, _ in loop.timers] == [112.0]
    loop.move(112.0)
    assert fourth.done()
    real.close()


def test_who_was_answered_is_not_kept_until_the_timer_goes_off() -> None:
    real, loop = asyncio.new_event_loop(), Loop()
    deadlines = _Deadlines(loop, 5.0)  # type: ignore[arg-type]
    for _ in range(1000):
        waiter = real.create_future()
        deadlines.add(waiter)
        waiter.set_result(None)
    assert len(deadlines._waiting) == 1
    assert len(loop.timers) == 1
    real.close()
