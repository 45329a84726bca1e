"""Every error this package raises, by what a caller can do about it.

    SessionError
    ├── ConfigurationError (ValueError)     a setting is illegal: change it
    ├── SessionNotFoundError (ValueError)   no live session has this id
    ├── SessionCapacityError                full: refuse the request, or raise the limit
    ├── SessionConflictError                others kept changing the session: try again later
    ├── SessionLockError                    another holder kept the session
    ├── SessionDataError                    a value cannot be held: change the value
    ├── ResponseStartedError                too late in the request for what was asked
    └── BackendError                        the backend failed: `unknown`, `retryable`
        ├── BackendUnavailable              not reachable, too slow, locked
        ├── BackendFull                     no room left
        ├── BackendReadOnly                 writes are refused
        ├── BackendCorrupt                  what is stored cannot be trusted
        ├── BackendClosed                   used after `close()`
        └── WrongProcess                    opened in one process, used in its fork

Messages say what was found and what to change. They never hold values, secrets or the ids of others.
"""

from __future__ import annotations

__all__ = [
    "BackendClosed",
    "BackendCorrupt",
    "BackendError",
    "BackendFull",
    "BackendReadOnly",
    "BackendUnavailable",
    "ConfigurationError",
    "ResponseStartedError",
    "SessionCapacityError",
    "SessionConflictError",
    "SessionDataError",
    "SessionError",
    "SessionLockError",
    "SessionNotFoundError",
    "WrongProcess",
]


class SessionError(Exception):
    """Base of every error of this package."""


class ConfigurationError(SessionError, ValueError):
    """A setting is illegal. The message names the argument, the problem and the remedy."""


class SessionNotFoundError(SessionError, ValueError):
    """No live session has this id: it never existed, ended, or expired."""


class SessionCapacityError(SessionError):
    """A limit on sessions or requests is reached."""


class SessionConflictError(SessionError):
    """The session was changed by others each time this change was tried."""


class SessionLockError(SessionError):
    """The session was held by somebody else for longer than the timeout."""


class SessionDataError(SessionError):
    """A value cannot be kept in a session. The message names the key, never the value.

    `key` is the top-level key, or None where the session as a whole is the problem.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class ResponseStartedError(SessionError):
    """The response has left, so no cookie can follow: `login()` must come earlier in the request."""


class BackendError(SessionError):
    """A backend could not do what was asked.

    `unknown` is True where the operation may have been applied all the same (bytes had been sent);
    such an operation must not be repeated blindly. `retryable` is True where the same call may
    succeed a moment later.
    """

    def __init__(self, message: str, *, unknown: bool = False, retryable: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown
        self.retryable = retryable


class BackendUnavailable(BackendError):
    """The backend cannot be reached, is too slow, or is locked by another process."""

    def __init__(self, message: str, *, unknown: bool = False, retryable: bool = True) -> None:
        super().__init__(message, unknown=unknown, retryable=retryable)


class BackendFull(BackendError):
    """The backend has no room left."""


class BackendReadOnly(BackendError):
    """The backend refuses writes."""


class BackendCorrupt(BackendError):
    """What the backend holds is damaged; nothing is deleted by itself."""


class BackendClosed(BackendError):
    """The backend was closed."""


class WrongProcess(BackendError):
    """The backend was opened before a fork and used after it."""
