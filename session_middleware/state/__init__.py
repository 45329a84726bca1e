"""Working state: what apps keep in sessions, and how it is not lost.

Reading order: `store` (where each part keeps what it knows), then the parts `navigation`, `forms` (over
`patches`), `cache_keys`, `access`, `activity`, `context`, `progress`; `user_session` puts them on one object.
`persistence` writes it a little later: over `pending` (what waits), `flushing` (who writes), `timers` and
`exits`.
"""

from session_middleware.state.access import Access
from session_middleware.state.activity import Activity, Metrics
from session_middleware.state.cache_keys import CacheKeys
from session_middleware.state.context import Contexts
from session_middleware.state.forms import FieldMessages, FormLimits, Forms, FormSnapshot, FormState
from session_middleware.state.navigation import Navigation, NavigationEntry
from session_middleware.state.persistence import (
    BlockingPersistenceEngine,
    PersistenceEngine,
    SessionPersistenceEngine,
)
from session_middleware.state.progress import BlockingProgress, Progress
from session_middleware.state.user_session import StateLimits, UserSession

__all__ = [
    "Access",
    "Activity",
    "BlockingPersistenceEngine",
    "BlockingProgress",
    "CacheKeys",
    "Contexts",
    "FieldMessages",
    "FormLimits",
    "FormSnapshot",
    "FormState",
    "Forms",
    "Metrics",
    "Navigation",
    "NavigationEntry",
    "PersistenceEngine",
    "Progress",
    "SessionPersistenceEngine",
    "StateLimits",
    "UserSession",
]
