"""What every part of one manager shares: its backend, policy, clock, registry and reporter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from session_middleware.activity import Activity
from session_middleware.backends.base import Backend
from session_middleware.policy import Policy
from session_middleware.reporting import Reporter

__all__ = ["Core"]


@dataclass(slots=True)
class Core:
    """Plain state, without behaviour. Times are seconds since the epoch."""

    backend: Backend
    policy: Policy
    clock: Callable[[], float]
    monotonic: Callable[[], float]  # seconds, for durations
    reporter: Reporter
    manager: object = None
    activity: Activity = field(default_factory=Activity)
    cleaned: int = 0  # sessions that cleanup removed
    live_sessions: int | None = None  # as the last cleanup found; None before the first
