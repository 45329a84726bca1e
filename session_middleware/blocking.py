"""The driver for code without an event loop.

The operations that touch a backend are written once, as coroutines that await the methods of a port and
nothing else. A blocking port never suspends, so such a coroutine runs to its end at the first `send`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from session_middleware.errors import ConfigurationError

__all__ = ["run_blocking"]

T = TypeVar("T")


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* to its end in this thread, without an event loop.

    Right only over a port that blocks instead of suspending. Raises `ConfigurationError` if it suspends.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    else:
        raise ConfigurationError("an async port cannot serve code without an event loop: pass a blocking one")
    finally:
        coroutine.close()
