"""How often one session may come: parsed by the `limits` package, counted by a clock that never jumps."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from limits import RateLimitItem, parse_many
from limits.storage.base import Storage
from limits.strategies import FixedWindowRateLimiter

from session_middleware.errors import ConfigurationError

__all__ = ["RateLimit"]

_SOONEST: Final = 1.0  # seconds: what Retry-After can say at least


class RateLimit:
    """Of one manager, in this process. *text*: `"100/minute"`, or several (`"5/second;100/minute"`).

    Raises `ConfigurationError`. A window begins with the first request in it.
    """

    def __init__(self, text: str, monotonic: Callable[[], float]) -> None:
        self.text = text
        self._monotonic = monotonic
        self._lock = Lock()
        self._limits = [(item, FixedWindowRateLimiter(_Windows(monotonic))) for item in _parsed(text)]

    def wait_of(self, session_id: str) -> float | None:
        """Count a request of this session: None. Or count nothing: how many seconds it has to wait."""
        with self._lock:
            for item, limiter in self._limits:
                if not limiter.test(item, session_id):
                    ends = limiter.get_window_stats(item, session_id).reset_time
                    return max(_SOONEST, ends - self._monotonic())
            for item, limiter in self._limits:
                limiter.hit(item, session_id)
        return None


def _parsed(text: object) -> list[RateLimitItem]:
    try:
        return parse_many(text if isinstance(text, str) else "")
    except ValueError:
        shown = repr(text) if isinstance(text, str) else type(text).__name__
        raise ConfigurationError(
            f"rate_limit: found {shown}, pass a number of requests by a span, such as '100/minute'"
        ) from None


class _Windows(Storage):
    """Counts of windows of one length, which therefore end in the order in which they began."""

    STORAGE_SCHEME = None
    base_exceptions = ()

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._windows: dict[str, tuple[int, float]] = {}  # how many requests, and when it ends

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = self._monotonic()
        self._drop_those_that_ended(now)
        number, end = self._windows.get(key, (0, now + expiry))
        self._windows[key] = (number + amount, end)
        return number + amount

    def get(self, key: str) -> int:
        self._drop_those_that_ended(self._monotonic())
        return self._windows.get(key, (0, 0.0))[0]

    def get_expiry(self, key: str) -> float:
        return self._windows.get(key, (0, self._monotonic()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        number = len(self._windows)
        self._windows.clear()
        return number

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def _drop_those_that_ended(self, now: float) -> None:
        while self._windows:
            first = next(iter(self._windows))
            if self._windows[first][1] > now:
                break
            del self._windows[first]
