"""Which rounds of a measurement nobody else's work disturbed.

While another process has the core, a round takes longer and meets cold caches. The kernel tells for how long
a thread waited though it could run; rounds in which that was much are left out, but never more than half.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["DISTURBED", "Watch", "quietest"]

DISTURBED: Final = 0.05
"""The share of a round's time in which it waited for a core, from which on it is left out."""
_TOLD: Final = Path("/proc/thread-self/schedstat")


class Watch:
    """For how much of the time since it was made this thread waited for a core."""

    def __init__(self) -> None:
        self._began, self._waited = time.perf_counter(), _waited()

    def share(self) -> float:
        """0 to 1; 0 where the system does not tell."""
        return (_waited() - self._waited) / (time.perf_counter() - self._began)


def _waited() -> float:
    """Seconds."""
    try:
        return int(_TOLD.read_text(encoding="ascii").split()[1]) / 1e9
    except OSError:
        return 0.0


def quietest(shares: Sequence[float]) -> list[int]:
    """The numbers of the rounds to keep, in order: the undisturbed ones, and at least half of all."""
    by_share = sorted(range(len(shares)), key=lambda number: shares[number])
    least = (len(shares) + 1) // 2
    return sorted(by_share[:least] + [n for n in by_share[least:] if shares[n] <= DISTURBED])
