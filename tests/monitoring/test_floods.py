"""Threads, floods and restarts at the wrong moment: totals stay exact."""

from pathlib import Path
from threading import Thread
from types import MappingProxyType

from session_middleware.monitoring import SessionEvent, SessionMonitor
from session_middleware.testing import ManualClock

T = 1_760_054_400.0


def told_by_threads(monitor: SessionMonitor, threads: int, number: int) -> None:
    def tell() -> None:
        for _ in range(number):
            monitor.record_event(SessionEvent("session_created", "s", None, T, MappingProxyType({})))

    running = [Thread(target=tell) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_totals_are_exact_while_threads_tell_and_others_read(tmp_path: Path) -> None:
    monitor = SessionMonitor(
        clock=ManualClock(T), interval=0.001, queue_size=50, store=f"sqlite:///{tmp_path}/figures.db"
    )
    told_by_threads(monitor, 4, 3000)
    assert monitor.get_session_statistics()["totals"] == {"session_created": 12_000}
    monitor.close()
    again = SessionMonitor(clock=ManualClock(T), interval=None, store=f"sqlite:///{tmp_path}/figures.db")
    assert again.get_session_statistics()["totals"] == {"session_created": 12_000}


def test_two_workers_that_write_in_turns_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/figures.db"
    workers = [SessionMonitor(clock=ManualClock(T), interval=None, store=url) for _ in range(2)]
    for _round in range(5):
        for worker in workers:
            told_by_threads(worker, 1, 7)
            worker.get_session_statistics()
    assert {worker.get_session_statistics()["created"] for worker in workers} == {70}
