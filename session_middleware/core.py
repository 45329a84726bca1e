"""What every part of one manager shares: its backend, policy, clock, registry and reporter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from session_middleware.activity import Activity
from session_middleware.backends.base import Backend
from session_middleware.backends.capabilities import Caps
from session_middleware.budget import Budget
from session_middleware.policy import Policy
from session_middleware.record import Record, SessionId
from session_middleware.reporting import Reporter
from session_middleware.session import Session
from session_middleware.turns import Turn, Turns

__all__ = ["Core", "Held", "Lease"]


@dataclass(slots=True)
class Lease:
    """A name in the backend that one holder has at a time, and until when."""

    name: str
    holder: str
    seconds: float  # how long it lasts without being renewed
    until: float = 0.0  # 0: not acquired, or lost
    tried: bool = False  # it may have been acquired, although nobody heard of it


@dataclass(slots=True)
class Held:
    """A session in a transaction."""

    session: Session
    loaded: Record
    lease: Lease
    turn: Turn


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
    budget: Budget = field(default_factory=Budget)
    turns: Turns = field(default_factory=Turns)
    held: dict[tuple[SessionId, object], Held] = field(default_factory=dict)
    running: Callable[[], object] = object  # names the task or thread that runs now
    stuck_after: float = 1800.0  # seconds
    caps: Caps | None = None  # None: no limit
    is_cleaning: Callable[[], bool] = bool  # whether this process cleans up periodically
    cleaned: int = 0  # sessions that cleanup removed
    live_sessions: int | None = None  # as the last cleanup found; None before the first

    @property
    def max_sessions(self) -> int | None:
        """How many sessions there may be. None: no limit."""
        return None if self.caps is None else self.caps.total
