"""Which manager serves an app: Starlette's or Flask's, an ASGI or WSGI middleware, or the manager itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from session_middleware.manager import SessionManager

__all__ = ["manager_serving"]

_DEEPEST = 100  # layers of middleware


def manager_serving(app: object) -> SessionManager | None:
    """The manager behind *app*'s sessions; None if none is found. Nothing of a framework is imported."""
    if isinstance(app, SessionManager):
        return app
    interface = getattr(app, "extensions", {})  # of Flask
    if isinstance(interface, dict) and "session_middleware" in interface:
        found: SessionManager = interface["session_middleware"].manager_of(app)
        return found
    candidates = (one for layer in _layers(app) for one in _candidates(layer))
    return next((one for one in candidates if isinstance(one, SessionManager)), None)


def _candidates(layer: object) -> tuple[object, object]:
    return getattr(layer, "manager", None), getattr(getattr(layer, "state", None), "session_manager", None)


def _layers(app: Any) -> Iterator[object]:
    """The app and what it wraps, outermost first. Starlette's stack is built as its first request would."""
    for _ in range(_DEEPEST):
        if app is None:
            return
        yield app
        if hasattr(app, "build_middleware_stack"):
            if app.middleware_stack is None:
                app.middleware_stack = app.build_middleware_stack()
            app = app.middleware_stack
        else:
            app = getattr(app, "app", None)
