"""The manager's operations, written once for both colours.

Like everything that touches a backend they are coroutines which await the methods of a port and nothing else.
`SessionManager` runs them over its async port; `manager.blocking` over the blocking one.

Reading order: `base` (what they stand on), `sessions`, `users`, `cleaning`, `holding`, `queries`, `jobs`,
`locks`, `sweeping`,
`epochs`, `figures`, `personal`, `recovery`, `enforcing`.
"""

from __future__ import annotations

from session_middleware.operations.enforcing import EnforcingOperations
from session_middleware.operations.epochs import EpochOperations
from session_middleware.operations.figures import FiguresOperations
from session_middleware.operations.holding import HoldingOperations
from session_middleware.operations.jobs import JobOperations
from session_middleware.operations.locks import LockOperations
from session_middleware.operations.personal import PersonalOperations
from session_middleware.operations.recovery import RecoveryOperations
from session_middleware.operations.sessions import SessionOperations
from session_middleware.operations.sweeping import SweepingOperations

__all__ = ["Operations"]


class Operations(
    SessionOperations,
    HoldingOperations,
    JobOperations,
    LockOperations,
    SweepingOperations,
    EpochOperations,
    FiguresOperations,
    PersonalOperations,
    RecoveryOperations,
    EnforcingOperations,
):
    """Everything a manager does with sessions, over one port."""
