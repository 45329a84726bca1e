"""The arguments that all entrances read alike.

Reading order: `matcher` (routes), `manager_from` (which manager serves), `watch` (who takes in its events).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import translate
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from session_middleware.backends.base import Backend, Colour, wrong_colour
from session_middleware.cookies import CookieSettings
from session_middleware.errors import ConfigurationError
from session_middleware.manager import ManagerOptions, SessionManager

if TYPE_CHECKING:
    from session_middleware.monitoring.monitor import SessionMonitor

__all__ = ["Monitored", "Routes", "manager_from", "matcher", "watch"]

Monitored: TypeAlias = "bool | SessionMonitor"
"""True: the monitor of the process, where the extra `monitor` is installed; False: none."""

Routes: TypeAlias = Sequence[str] | Callable[[Any], bool]
"""Path patterns as in a shell (`/static/*`), or a function of the ASGI scope or the WSGI environ."""

_STARLETTE = CookieSettings()


def matcher(
    argument: str, routes: Routes, part: str | None = None
) -> Callable[[Mapping[str, Any]], bool] | None:
    """Whether a request, described by a mapping with a "path", is on these routes. None: none is.

    *part* is what of the description a function of the app is asked about; None: all of it.
    """
    if callable(routes):
        chosen = routes
        return chosen if part is None else lambda facts: chosen(facts[part])
    given: object = routes
    listed = isinstance(given, Sequence | AbstractSet) and not isinstance(given, str)
    if not listed or not all(isinstance(pattern, str) for pattern in routes):
        raise ConfigurationError(
            f"{argument}: pass a list of path patterns (such as ['/static/*']) or {part or 'scope'} -> bool"
        )
    if not routes:
        return None
    matches = re.compile("|".join(translate(pattern) for pattern in routes)).match
    return lambda facts: matches(facts["path"]) is not None


def manager_from(
    manager: SessionManager | None,
    secret_key: object,
    backend: Backend | str | None,
    cookie: dict[str, Any],
    options: ManagerOptions,
    colour: Colour,
) -> SessionManager:
    """The manager that was passed, or one made of the other arguments.

    Raises `ConfigurationError` where both were, or where its backend has no port of this colour.
    """
    if manager is not None and not isinstance(manager, SessionManager):
        raise ConfigurationError(f"manager: found {type(manager).__name__}, pass a SessionManager")
    if manager is None:
        if secret_key is None:
            raise ConfigurationError(
                "secret_key: pass the key that signs the cookies, or a manager that has one"
            )
        chosen: Backend | str = "memory://" if backend is None else backend
        manager = SessionManager(chosen, secret_key=secret_key, **cookie, **options)
    elif given := _given_twice(secret_key, backend, cookie, options):
        raise ConfigurationError(f"{given[0]}: the manager has it already; set it there, not here")
    if colour not in manager.backend.colours:
        raise wrong_colour(manager.backend, colour)
    return manager


def watch(manager: SessionManager, monitor: Monitored) -> None:
    """Let a monitor take in the manager's events. One that is attached already stays the only one."""
    if monitor is False or (monitor is True and find_spec("ddsketch") is None):
        return
    from session_middleware.monitoring.monitor import (  # noqa: PLC0415  (optional)
        SessionMonitor,
        get_session_monitor,
    )

    if monitor is True:
        get_session_monitor().attach_by_default(manager)
    elif isinstance(monitor, SessionMonitor):
        monitor.attach(manager)
    else:
        raise ConfigurationError(
            f"monitor: found {type(monitor).__name__}, pass a SessionMonitor, or False for none"
        )


def _given_twice(
    secret_key: object, backend: object, cookie: dict[str, Any], options: ManagerOptions
) -> list[str]:
    named = [name for name, value in cookie.items() if value != getattr(_STARLETTE, name)]
    named += [name for name, value in (("secret_key", secret_key), ("backend", backend)) if value is not None]
    return [*named, *options]
