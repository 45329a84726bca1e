"""The write budget: what a day of ordinary visitors costs in backend writes and `Set-Cookie` headers.

Reading order: `measure_budgets`, `Profile` (who comes), `_day` (their requests, by chance from a seed).
Counts alone, by a clock that is set: no machine changes them. A visitor looks at pages for some minutes; most
handlers read the session, some write to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.types import ASGIApp
from starsessions import InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarSessions

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.testing import ManualClock
from tests.benchmarks.apps import OURS, STARLETTE, STARSESSIONS, handlers
from tests.benchmarks.report import table
from tests.benchmarks.traffic import Browser, exchange, running

__all__ = ["BUDGET_SECTION", "PROFILES", "Budgets", "Profile", "as_json", "as_markdown", "measure_budgets"]

BUDGET_SECTION = "budget figures"
_KEY: Final = "k" * 40
_START: Final = 1_760_000_000.0
_LIFETIME: Final = 14 * 24 * 60 * 60  # seconds


@dataclass(frozen=True, slots=True)
class Profile:
    """Visitors of one kind: how many, pages of each, seconds between two, how often a page does what."""

    name: str
    visitors: int
    pages: int
    pause: float
    looks: float
    writes: float


PROFILES: Final = (
    Profile("readers: many pages, hardly a write", 200, 30, 20.0, looks=0.5, writes=0.01),
    Profile("a shop: every tenth page changes the cart", 200, 20, 30.0, looks=0.9, writes=0.1),
    Profile("an API under a session: every request looks, every third writes", 50, 100, 2.0, 1.0, 0.33),
    Profile("an office day: a page every four minutes for eight hours", 50, 120, 240.0, 1.0, 0.05),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one app: requests, backend writes (None where there is no backend), `Set-Cookie` headers."""

    requests: int
    writes: int | None
    cookies: int


Budgets = dict[str, dict[str, Budget]]
"""By profile and app."""


def measure_budgets() -> Budgets:
    """Each profile through each app."""
    makers = {OURS: _ours, STARLETTE: _starlette, STARSESSIONS: _starsessions}
    return {
        profile.name: {name: asyncio.run(_through(profile, make)) for name, make in makers.items()}
        for profile in PROFILES
    }


def _day(profile: Profile) -> Iterator[tuple[float, int, str]]:
    """When, whose, which page; in the order of time."""
    chance = Random(profile.name)
    visits = []
    for visitor in range(profile.visitors):
        now = _START + chance.uniform(0, 3600)
        visits.append((now, visitor, "/seed"))
        for _ in range(profile.pages - 1):
            now += chance.expovariate(1 / profile.pause)
            page = "/untouched"
            if chance.random() < profile.looks:
                page = "/write" if chance.random() < profile.writes / profile.looks else "/read"
            visits.append((now, visitor, page))
    return iter(sorted(visits))


_Made = tuple[ASGIApp, ManualClock, Callable[[], int | None]]


async def _through(profile: Profile, make: Callable[[], _Made]) -> Budget:
    app, clock, writes = make()
    browsers = [Browser() for _ in range(profile.visitors)]
    requests = cookies = 0
    async with running(app):
        for now, visitor, page in _day(profile):
            clock.now = now
            answer = await exchange(app, browsers[visitor], page)
            requests += 1
            cookies += len(answer.set_cookies)
        return Budget(requests, writes(), cookies)


def _ours() -> _Made:
    clock = ManualClock(_START)
    manager = SessionManager(secret_key=_KEY, clock=clock, log=False)
    app = SessionMiddleware(handlers(), manager=manager)
    return app, clock, lambda: int(manager.get_metrics()["total_backend_writes"])


def _starlette() -> _Made:
    return StarletteSessions(handlers(), _KEY), ManualClock(_START), lambda: None


class _Counting(InMemoryStore):
    """How often it was written to."""

    written = 0

    async def write(self, *args: Any, **kwargs: Any) -> str:
        self.written += 1
        return await super().write(*args, **kwargs)


def _starsessions() -> _Made:
    store = _Counting()
    inner = SessionAutoloadMiddleware(handlers())
    app = StarSessions(inner, store=store, lifetime=_LIFETIME, rolling=True)
    return app, ManualClock(_START), lambda: store.written


def as_markdown(budgets: Budgets) -> str:
    """A row per profile and app."""
    rows = [
        [
            profile,
            app,
            f"{one.requests:,}",
            _share(one.writes, one.requests),
            _share(one.cookies, one.requests),
        ]
        for profile, by_app in budgets.items()
        for app, one in by_app.items()
    ]
    return table(["visitors", "app", "requests", "backend writes per 1,000", "Set-Cookie per 1,000"], rows)


def _share(number: int | None, requests: int) -> str:
    return "-" if number is None else f"{1000 * number / requests:.0f}"


def as_json(budgets: Budgets) -> dict[str, object]:
    """Ready for `json.dumps`."""
    return {
        profile: {
            app: {"requests": one.requests, "writes": one.writes, "cookies": one.cookies}
            for app, one in by.items()
        }
        for profile, by in budgets.items()
    }
