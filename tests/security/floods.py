"""Floods: hits without a cookie, with forged and with expired ones, and logouts of nobody, by the million.

None may make a record or a log line each, and what is remembered of them stays small. The figures are exact:
every forged cookie is counted, whatever the log leaves out.

`python -m tests.security.floods --hits 1000000 --backend redis://…` prints them. With `--control` the app
writes into the session of whoever comes, so records there must be: finding none would prove nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.testing.clock import ManualClock
from tests.benchmarks.traffic import Browser, exchange, given_up, serve

KEY = "a key of the floods, thirty-two bytes and more"
KINDS = ("anonymous", "forged", "expired", "logout")


@dataclass
class Figures:
    """What a flood came to."""

    hits: int = 0
    records: int = 0  # that it made
    told: dict[str, int] = field(default_factory=dict)  # events by what happened
    lines: int = 0  # of the log
    grown: float = 0.0  # megabytes of this process


class Lines(logging.Handler):
    """Counts."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.number = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.number += 1


def app_of(*, control: bool) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if scope["path"] == "/logout":
            request.session.logout()
        elif scope["path"] == "/login":
            request.session.login("ada")
        elif control:
            request.session["seen"] = True
        await PlainTextResponse(str(request.session.get("name")))(scope, receive, send)

    return app


async def flood(backend: Any, hits: int, *, control: bool = False) -> Figures:
    """A quarter of each kind."""
    clock, figures, lines = ManualClock(), Figures(), Lines()
    manager = SessionManager(backend, secret_key=KEY, clock=clock, monotonic=clock)
    served = SessionMiddleware(app_of(control=control), manager=manager, monitor=False)

    def count(event: Any) -> None:
        what = event.fields.get("activity_type", event.name)
        figures.told[what] = figures.told.get(what, 0) + 1

    for name in ("session_suspicious_activity", "session_created", "session_deleted"):
        manager.subscribe(name, count)
    log = logging.getLogger("session_middleware")
    log.addHandler(lines)
    browser = Browser()
    await exchange(served, browser, "/login")
    clock.advance(40 * 86_400)  # that session is over
    await manager.cleanup_expired()
    before, lines.number = _megabytes(), 0
    figures.told.clear()
    try:
        for kind in KINDS:
            scopes = _scopes(kind, browser.cookie or "", hits // len(KINDS))
            for part in scopes:
                figures.hits += len(part)
                await serve(served, given_up(part))
                clock.advance(1)
    finally:
        log.removeHandler(lines)
    figures.records, figures.lines = await manager.count(), lines.number
    figures.grown = round(_megabytes() - before, 1)
    await manager.stop()
    return figures


def _scopes(kind: str, cookie: str, number: int) -> Iterator[list[Any]]:
    """Requests, a thousand at a time: of as many different browsers where that is possible."""
    made: Callable[[int], tuple[Browser, str]] = {
        "anonymous": lambda _: (Browser(), "/"),
        "forged": lambda n: (Browser(f"{n:022d}.{n:022d}.1790000000123.{n:043d}"), "/"),
        "expired": lambda _: (Browser(cookie), "/"),
        "logout": lambda _: (Browser(), "/logout"),
    }[kind]
    for start in range(0, number, 1000):
        pairs = [made(n) for n in range(start, min(start + 1000, number))]
        yield [browser.scope(path) for browser, path in pairs]


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Exit status 0 if no record was made, or if the control made some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hits", type=int, default=100_000)
    parser.add_argument("--backend", default="memory://")
    parser.add_argument("--control", action="store_true")
    given = parser.parse_args()
    logging.getLogger("session_middleware").propagate = False
    figures = asyncio.run(flood(given.backend, given.hits, control=given.control))
    sys.stdout.write(f"{json.dumps(asdict(figures))}\n")
    return int(bool(figures.records) is not given.control)


if __name__ == "__main__":
    raise SystemExit(main())
