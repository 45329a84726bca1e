"""A manager between `start` and `stop`, over one port: one for code with an event loop, one for code without.

Who stops one colour closes a backend that both may share (memory), so both look again before their next use:
`is_closed` says that, and `open` is a no-op where nothing was closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from session_middleware.backends.base import Port
from session_middleware.core import Core

__all__ = ["Lifetime"]

_DRAIN_STEP = 0.05  # seconds


class Lifetime:
    """Of one manager, in one colour.

    *began* is called after the first `start`; *ends*, *drained* and *closed* in the order of the last `stop`.
    """

    def __init__(
        self,
        core: Core,
        port: Port,
        *,
        began: Callable[[], None],
        ends: Callable[[], None],
        drained: Callable[[], Awaitable[object]],
        closed: Callable[[], None],
    ) -> None:
        self._core = core
        self._port = port
        self._began = began
        self._ends = ends
        self._drained = drained
        self._closed = closed
        self._starts = 0
        self.is_closed = False
        """Stopped; an entrance opens it again at its next request."""

    @property
    def is_started(self) -> bool:
        """Between `start` and `stop`."""
        return self._starts > 0

    async def start(self) -> None:
        """Open the port. Started twice, it must be stopped twice."""
        if self._starts == 0:
            await self.open()
            self._began()
        self._starts += 1

    async def stop(self, timeout: float) -> bool:  # noqa: ASYNC109  (its own drain, not a cancellation)
        """Let requests in flight finish for up to *timeout* seconds, close the port.

        True if all of them did; those still open are reported.
        """
        if self._starts > 1:
            self._starts -= 1
            return True
        self._starts = 0
        core = self._core
        self._ends()
        deadline = core.monotonic() + timeout
        while len(core.activity) and core.monotonic() < deadline:
            await self._port.wait(_DRAIN_STEP)
        try:
            await self._drained()
        finally:
            still_open = len(core.activity)
            await self._port.close()
            self._closed()
            self._say_goodbye(still_open)
        return still_open == 0

    async def open(self) -> None:
        """Open the port, and nothing else. A no-op when it is open; the first use does it anyway."""
        await self._port.open()
        self.is_closed = False

    def _say_goodbye(self, still_open: int) -> None:
        now, reporter = self._core.clock(), self._core.reporter
        reporter.flush(now)
        reporter.emit("session_manager_stopped", None, None, now, active_requests=still_open)
