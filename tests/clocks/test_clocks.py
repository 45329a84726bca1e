"""Wall clocks that jump, differ, and come to 2038: a slice of the campaign, its controls, single cases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from session_middleware import MemoryBackend, SessionManager
from session_middleware.backends.base import Backend, EndedRecord, LoadAnswer
from session_middleware.backends.urls import backend_from
from session_middleware.cleanup import Cleanup
from session_middleware.policy import Policy
from session_middleware.record import Record, SessionId
from session_middleware.testing.broken import BackwardRenewal, HesitantBackend, IgnoredAbsoluteDeadline
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import Site, page, put
from tests.clocks.wandering import MakeBackend, schedules

SCHEDULES = {"memory": 100, "sqlite": 10, "redis": 10, "postgres": 5}


@pytest.fixture(params=SCHEDULES)
def where(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(where: str, request: pytest.FixtureRequest, tmp_path: object) -> MakeBackend:
    if where == "memory":
        shared = MemoryBackend()
        return lambda: shared
    if where == "sqlite":
        return lambda: backend_from(f"sqlite:///{tmp_path}/sessions.db")
    url = request.getfixturevalue(where).new_store()
    return lambda: backend_from(url)


def test_while_clocks_jump_each_session_lives_exactly_until_its_deadline(
    make: MakeBackend, where: str
) -> None:
    figures = asyncio.run(schedules(make, 2026, range(SCHEDULES[where])))
    assert figures.faults == []
    for what in ("served", "anonymous", "removed", "replayed", "cleanups skipped"):
        assert figures.counted[what] > SCHEDULES[where] / 2


# --- controls: broken products that the campaign must catch ---


def faults_over(backend: Backend) -> str:
    """What sixty schedules find, in a line."""
    return " | ".join(asyncio.run(schedules(lambda: backend, 2026, range(60))).faults)


def test_a_cleanup_without_a_guard_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cleanup, "_jump", lambda _: 0.0)
    found = faults_over(MemoryBackend())
    assert "after a jump of 31557600 s a cleanup removed" in found


class TrustsTheClock(HesitantBackend):
    """Knows no session from the future: a signature with a time stamp in it behaves like that."""

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        answer = await super().load(id, now)
        return None if isinstance(answer, Record) and answer.last_seen_at > now else answer


class EndsForGood(HesitantBackend):
    """Removes what it finds expired when it is asked for it, whatever the clock says later."""

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        answer = await super().load(id, now)
        if not isinstance(answer, Record):
            await self.inner.delete(id, 0.0, "idle_timeout")
        return answer


class CleansUpTooMuch(HesitantBackend):
    """Takes the idle timeout from the last visit, and forgets that the clock of another wrote it."""

    async def delete_expired(self, now: float, limit: int) -> list[EndedRecord]:
        return list(await super().delete_expired(now + 900, limit))


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (TrustsTheClock, "saw (None, None)"),
        (BackwardRenewal, "saw (None, None)"),
        (EndsForGood, "saw (None, None)"),
        (CleansUpTooMuch, "too soon"),
    ],
)
def test_a_product_that_trusts_the_wall_clock_alone_is_caught(
    broken: type[HesitantBackend], fault: str
) -> None:
    assert fault in faults_over(broken())


def test_a_session_that_renewals_carry_past_its_limit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def renewal(policy: Policy, *, deadline: float, limit: float, own: float | None, now: float) -> Any:
        return None if policy.is_fresh(deadline, own, now) else now + policy.idle(own)

    monkeypatch.setattr(Policy, "renewal", renewal)
    assert "expected (None, None)" in faults_over(IgnoredAbsoluteDeadline())


# --- single cases ---


@pytest.mark.anyio
@pytest.mark.parametrize("jump", [3600.0, 31_557_600.0, -3600.0])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_a_lifespan_too_nothing_is_removed_on_the_word_of_a_clock_that_jumped(
    jump: float,
) -> None:
    steady = ManualClock(0.0)
    site = jumping_site(steady)
    for _ in range(3):
        await site.new_client().get()
    later(site, steady, 301, jump)
    await site.new_client().get()
    assert site.named("session_expired") == []
    [skipped] = site.named("sessions_cleanup_failed")
    assert f"jumped by {jump:.0f} s" in str(skipped.fields["exception"])
    later(site, steady, 301)
    await site.new_client().get()
    assert len(site.named("session_expired")) == (3 if jump > 0 else 0)


def jumping_site(steady: ManualClock) -> Site:
    site = Site(page(put(n=1)), MemoryBackend(), ManualClock(), idle_timeout=600)
    site.manager._core.monotonic = steady
    site.manager.cleaner._clocks = site.manager.cleaner._read_clocks()
    return site


def later(site: Site, steady: ManualClock, seconds: float, jump: float = 0.0) -> None:
    steady.advance(seconds)
    site.clock.advance(seconds + jump)


def test_a_clock_set_back_makes_nobody_wait_for_a_window_of_the_rate_limit() -> None:
    clock, steady = ManualClock(), ManualClock(0.0)
    manager = SessionManager(rate_limit="1/minute", clock=clock, monotonic=steady, log=False)
    assert manager.rate_limit is not None
    wait_of: Callable[[str], float | None] = manager.rate_limit.wait_of
    assert wait_of("ada") is None
    clock.advance(-3600)
    assert wait_of("ada") == 60.0
    steady.advance(60)
    assert wait_of("ada") is None
