"""How many log lines a second one core takes in: our own, and those of other loggers.

    python -m tests.benchmarks.reading

Ours are those of the simulated day. CPU time of the median run; each run must count every line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from statistics import median

from session_middleware.monitoring import SessionMonitor
from tests.monitoring.day import Truth, day, line_of

__all__ = ["lines_a_second", "main", "other_lines", "our_lines"]


def our_lines(users: int) -> list[str]:
    """Those of a day with so many users and fifty requests of each."""
    return [line_of(event) for event in day(users, 50, Truth())]


def other_lines(number: int) -> list[str]:
    """Requests as an app would log them."""
    return [
        json.dumps(
            {"event": "request", "path": f"/items/{n}", "status": 200, "timestamp": 1_760_054_400.0 + n}
        )
        for n in range(number)
    ]


def lines_a_second(lines: Sequence[str], *, other: bool, rounds: int = 3) -> float:
    """Lines by CPU seconds. Raises `RuntimeError` where a line was not counted as what it is."""
    wanted = {"read": len(lines), "other": len(lines) if other else 0, "broken": 0}
    spent = []
    for _ in range(rounds):
        monitor = SessionMonitor(interval=None)
        began = time.process_time()
        counted = monitor.feed(lines)
        spent.append(time.process_time() - began)
        if counted != wanted:
            raise RuntimeError(f"counted {counted}, not {wanted}")
    return len(lines) / median(spent)


def main() -> None:
    """Print both figures."""
    print(f"ours: {lines_a_second(our_lines(4_000), other=False):,.0f} lines a second")
    print(f"other loggers': {lines_a_second(other_lines(500_000), other=True):,.0f} lines a second")


if __name__ == "__main__":
    main()
