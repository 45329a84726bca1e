"""A few event loops in several threads over each backend; a backend that loses a count is caught."""

from __future__ import annotations

from session_middleware import MemoryBackend
from session_middleware.record import Committed, Delta, Refused, SessionId, replace
from tests.clocks.wandering import MakeBackend
from tests.process.loops import THREADS, faults_of
from tests.process.test_starts import COUNTS, store

__all__ = ["store"]  # a fixture


def test_event_loops_in_several_threads_lose_nothing_and_close_their_sockets(
    store: tuple[MakeBackend, int],
) -> None:
    make, count = store
    faults, done = faults_of(make(), 2026, count)
    assert faults == []
    assert done.total() - done["loops"] == THREADS * count
    assert done["socket"] > 0


class LosesACount(MemoryBackend):
    """One of five increments is acknowledged, and not done."""

    commits = 0

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        self.commits += bool(delta.increments)
        if delta.increments and self.commits % 5 == 0:
            delta = replace(delta, increments={})
        return await super().commit(id, delta, now)


def test_a_backend_that_loses_a_count_is_caught() -> None:
    [fault] = faults_of(LosesACount(), 2026, COUNTS["memory"])[0]
    assert fault.startswith("found {'n': ")
