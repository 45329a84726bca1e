"""Hears from the backend which sessions other processes have ended, while somebody here wants to know.

Nothing rests on it alone: where a backend cannot tell, or its connection is lost, rounds find out
(`heartbeat`), only later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from session_middleware.backends.base import Port
from session_middleware.backends.capabilities import Watching
from session_middleware.errors import SessionError
from session_middleware.loops import running_library, sleep, spawn
from session_middleware.record import SessionId

__all__ = ["Watch"]

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds before a lost connection is tried again


class Watch:
    """Over one port, in one event loop at a time. *heard* gets an id, or None for any."""

    def __init__(self, port: Port, heard: Callable[[SessionId | None], object]) -> None:
        self._port = port
        self._heard = heard
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], None] | None = None
        self.is_told = False
        """What ends now is heard."""

    def start(self) -> None:
        """Begin, in the event loop that runs now. A no-op if it has begun, or cannot."""
        if self._loop is not None and self._loop.is_running():
            return
        if isinstance(self._port, Watching) and running_library() == "asyncio":
            self._loop = asyncio.get_running_loop()
            self._stop = spawn(self._forever)

    def stop(self) -> None:
        """End it. A no-op if it does not run."""
        if self._stop is not None:
            self._stop()
        self._loop = self._stop = None

    def forget(self) -> None:
        """In a forked child: what runs, runs in its parent."""
        self._loop = self._stop = None

    async def _forever(self) -> None:
        failures = 0
        while True:
            try:
                async with aclosing(self._port.watch()) as told:  # type: ignore[attr-defined]  # `start` has looked
                    async for session_id in told:
                        failures, self.is_told = 0, True
                        self._heard(session_id)
            except SessionError:  # who uses the backend meets it too, and reports it
                failures, self.is_told = min(failures + 1, 10), False
            await sleep(min(_SHORTEST_PAUSE * 2**failures, _LONGEST_PAUSE))
