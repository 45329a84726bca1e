"""What a monitor weighs after ten million events of a million sessions, with defaults.

    python -m tests.campaigns.monitor_memory --sessions 1000000

Each session has ten events: created, bound, seven requests, expired. Prints what the figures weigh as
`tracemalloc` counts it; the exit code is 1 where it is 10 MB or more, or where a total is not exact.
"""

from __future__ import annotations

import argparse
import tracemalloc
from types import MappingProxyType

from session_middleware.monitoring import SessionEvent, SessionMonitor

__all__ = ["main"]

START = 1_760_054_400.0
LIMIT = 10_000_000  # bytes
BATCH = 500  # sessions between two looks at the queue, so that it never overflows


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 where the promise holds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=1_000_000)
    sessions = parser.parse_args(arguments).sessions
    tracemalloc.start()
    monitor = SessionMonitor(interval=None)
    for number in range(sessions):
        _live(monitor, number, START + number * 86_400 * 5 / sessions)
        if number % BATCH == 0:
            monitor.drain()
    monitor.drain()
    weight, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    figures = monitor.get_session_statistics()
    exact = sum(figures["totals"].values()) == sessions * 10 and not figures["monitor"]["dropped"]
    print(f"{sessions * 10} events: {weight / 1e6:.2f} MB, at most {peak / 1e6:.2f} MB")  # noqa: T201
    print(f"sessions {figures['distinct_sessions']}, totals exact: {exact}")  # noqa: T201
    return 0 if weight < LIMIT and exact else 1


def _live(monitor: SessionMonitor, number: int, moment: float) -> None:
    sid, uid = f"session-{number}", f"user-{number % 200_000}"
    facts = {"reason": "idle_timeout", "created_at": moment}
    told = [("session_created", {}), ("session_user_bound", {})]
    told += [("request_finished", {"duration": (number % 977 + 1) / 1000})] * 7
    for name, fields in [*told, ("session_expired", facts)]:
        monitor.record_event(SessionEvent(name, sid, uid, moment, MappingProxyType(fields)))


if __name__ == "__main__":
    raise SystemExit(main())
