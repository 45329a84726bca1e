"""Server-side sessions for every Python web app, ASGI and WSGI, from one core.

from session_middleware import SessionMiddleware
app.add_middleware(SessionMiddleware, secret_key=KEY, backend="sqlite:///sessions.db")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from session_middleware.errors import (
    BackendClosed,
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    ResponseStartedError,
    SessionCapacityError,
    SessionConflictError,
    SessionDataError,
    SessionError,
    SessionLockError,
    SessionNotFoundError,
    WrongProcess,
)

if TYPE_CHECKING:
    from session_middleware.asgi import SessionMiddleware
    from session_middleware.backends.memory import MemoryBackend
    from session_middleware.backends.sqlite import SQLiteBackend
    from session_middleware.cookies import CookieSettings
    from session_middleware.events import EVENTS, EventType, SessionEvent
    from session_middleware.manager import SessionManager, get_session_manager, initialize_session_manager
    from session_middleware.policy import Policy
    from session_middleware.session import Session
    from session_middleware.where import Where
    from session_middleware.wsgi import WSGISessionMiddleware

__all__ = [
    "EVENTS",
    "BackendClosed",
    "BackendCorrupt",
    "BackendError",
    "BackendFull",
    "BackendReadOnly",
    "BackendUnavailable",
    "ConfigurationError",
    "CookieSettings",
    "EventType",
    "MemoryBackend",
    "Policy",
    "ResponseStartedError",
    "SQLiteBackend",
    "Session",
    "SessionCapacityError",
    "SessionConflictError",
    "SessionDataError",
    "SessionError",
    "SessionEvent",
    "SessionLockError",
    "SessionManager",
    "SessionMiddleware",
    "SessionNotFoundError",
    "WSGISessionMiddleware",
    "Where",
    "WrongProcess",
    "get_session_manager",
    "initialize_session_manager",
]

__version__ = "0.1.0"

_LATE = {  # imported at first use: a Flask app does not pay for Starlette, nobody for a backend not used
    "CookieSettings": "session_middleware.cookies",
    "EVENTS": "session_middleware.events",
    "EventType": "session_middleware.events",
    "MemoryBackend": "session_middleware.backends.memory",
    "Policy": "session_middleware.policy",
    "SQLiteBackend": "session_middleware.backends.sqlite",
    "Session": "session_middleware.session",
    "SessionEvent": "session_middleware.events",
    "SessionManager": "session_middleware.manager",
    "SessionMiddleware": "session_middleware.asgi",
    "WSGISessionMiddleware": "session_middleware.wsgi",
    "Where": "session_middleware.where",
    "get_session_manager": "session_middleware.manager",
    "initialize_session_manager": "session_middleware.manager",
}


def __getattr__(name: str) -> object:
    module = _LATE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
