"""A flood of events into a monitor that is slow, raises, or causes events itself: no request notices.

Nothing is timed. What is slow stands still until the last request has been answered, so a request that waited
for it would wait for ever. Control: called in the request, as a monitor must not be, the same slow one holds
the first request up. The campaign sends a hundred thousand.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.events import SessionEvent
from session_middleware.monitoring import SessionMonitor
from session_middleware.testing.clock import ManualClock
from tests.security.floods import KEY

QUEUE = 1000
FORGED = b"session=" + b".".join((b"i" * 22, b"s" * 22, b"1790000000123", b"f" * 43))
TOLD = "session_suspicious_activity"
HITS = pytest.mark.parametrize("hits", [2000, pytest.param(100_000, marks=pytest.mark.campaign)])


class Exporter:
    """Takes nothing, and raises nothing."""

    def take(self, event: SessionEvent) -> None: ...
    def count(self, name: str, more: int) -> None: ...
    def measure(self, metric: object) -> None: ...
    def look(self, gauges: object) -> None: ...


class Stuck(Exporter):
    """Stands still in the first event until it is released."""

    def __init__(self) -> None:
        self.began, self.released = threading.Event(), threading.Event()

    def take(self, event: SessionEvent) -> None:
        self.began.set()
        self.released.wait()


class Raising(Exporter):
    """Whatever it is given."""

    def take(self, event: SessionEvent) -> None:
        raise RuntimeError("on purpose")


class Site:
    """An app whose every visitor brings a forged cookie."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.manager = SessionManager(secret_key=KEY, clock=clock, log=False)
        self.monitor = SessionMonitor(interval=None, queue_size=QUEUE, clock=clock, alerts=())
        self.served = SessionMiddleware(page, manager=self.manager, monitor=False)
        self.answered = 0

    def hit(self, times: int) -> None:
        """So many requests, one after the other."""

        async def main() -> None:
            for _ in range(times):
                await self.served(dict(SCOPE), receive, self._send)

        asyncio.run(main())

    async def _send(self, message: Any) -> None:
        self.answered += message["type"] == "http.response.body"

    def check(self, hits: int, dropped: int) -> None:
        """Each hit is answered and counted. (What the monitor finds in them are events of the same name.)"""
        self.monitor.drain()
        figures, reporter = self.monitor.get_session_statistics(), self.manager.reporter
        assert (self.answered, reporter.suspicious["bad_signature"]) == (hits, hits)
        assert figures["totals"][TOLD] == reporter.counts[TOLD] >= hits
        assert figures["monitor"]["dropped"] == dropped


SCOPE = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": [(b"cookie", FORGED)]}


async def page(scope: Any, receive: Any, send: Any) -> None:
    scope["session"].mark_accessed()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


@contextmanager
def running(work: Any, *arguments: object) -> Iterator[None]:
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    yield
    thread.join()


@HITS
def test_no_request_waits_for_a_monitor_that_stands_still_and_every_event_is_counted(hits: int) -> None:
    site, stuck = Site(), Stuck()
    site.monitor.attach(site.manager)
    site.monitor.export_to(stuck)
    site.hit(1)
    with running(site.monitor.drain):
        stuck.began.wait()
        site.hit(hits)
        assert (site.answered, stuck.released.is_set()) == (hits + 1, False)
        stuck.released.set()
    site.check(hits + 1, dropped=hits - QUEUE)


@HITS
def test_no_request_notices_a_monitor_that_raises(hits: int) -> None:
    site = Site()
    site.monitor.attach(site.manager)
    site.monitor.export_to(Raising())
    for _ in range(hits // QUEUE):
        site.hit(QUEUE)
        site.monitor.drain()
    site.check(hits, dropped=0)
    assert site.monitor.errors >= hits


@HITS
def test_no_request_notices_a_callback_that_causes_the_event_it_hears_of(hits: int) -> None:
    site = Site()
    reporter = site.manager.reporter
    site.manager.subscribe(TOLD, lambda event: reporter.emit(TOLD, None, None, 0.0, activity_type="echo"))
    site.hit(hits)
    assert (site.answered, reporter.failures) == (hits, 0)
    assert reporter.suspicious == {"bad_signature": hits, "echo": 3 * hits}
    assert reporter.dropped == hits


def test_a_monitor_that_is_called_in_the_request_holds_it_up() -> None:
    site, stuck = Site(), Stuck()
    site.manager.subscribe(TOLD, stuck.take)
    with running(site.hit, 10):
        stuck.began.wait()
        assert site.answered == 0
        stuck.released.set()
    assert site.answered == 10
