"""Keeps held sessions from idling out, and finds the sockets whose session was ended elsewhere.

There is no task for it while nothing is in flight: a timer of the event loop starts a round of it, and is set
again only while some request holds a session. Each event loop has its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from session_middleware.activity import ActiveRequest
from session_middleware.core import Core
from session_middleware.errors import SessionError
from session_middleware.loops import running_library, sleep, spawn
from session_middleware.operations import Operations

__all__ = ["Heartbeat", "Revocable"]


@runtime_checkable
class Revocable(Protocol):
    """A request that can be told that its session was ended: an open WebSocket."""

    async def revoke(self) -> None:
        """Close it."""


class Heartbeat:
    """Rounds over the requests that hold a session, every *interval* seconds or more often."""

    def __init__(self, core: Core, operations: Operations, interval: float) -> None:
        """*interval*: seconds within which a revoked session's socket is closed, in every process."""
        self._core = core
        self._operations = operations
        self._interval = interval
        self._beating: WeakKeyDictionary[object, Callable[[], None]] = WeakKeyDictionary()

    def ensure(self) -> None:
        """Let the rounds go on in the event loop that runs now."""
        library = running_library()
        if library == "trio":
            self._ensure_trio()
        elif library == "asyncio":
            loop = asyncio.get_running_loop()
            if loop not in self._beating:
                self._beating[loop] = loop.call_later(self.pause(), self._beat, loop).cancel

    def pause(self) -> float:
        """Seconds until the next round: soon enough for the shortest idle timeout that is held."""
        policy = self._core.policy
        owns = [policy.idle_timeout]
        for request in self._core.activity:
            record = None if request.held is None else request.held.life.record
            if record is not None:
                owns.append(policy.idle(record.idle_timeout))
        return min(self._interval, min(owns) / 6)

    async def round(self) -> None:
        """Renew what is due; close the sockets whose session is gone. A backend that is down is asked again."""
        now = self._core.clock()
        for request in list(self._core.activity):
            try:
                await self._look_after(request, now)
            except SessionError:
                continue  # the backend is down: nobody is shut out for that

    async def _look_after(self, request: ActiveRequest, now: float) -> None:
        session = request.held
        if session is None:
            return
        if isinstance(request, Revocable) and not await self._operations.is_still_open(session, now):
            await request.revoke()
            return
        if not await self._operations.hold_on(session, now) and isinstance(request, Revocable):
            await request.revoke()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beating.pop(loop, None)
        if len(self._core.activity):
            self._beating[loop] = spawn(self._round_and_again)

    async def _round_and_again(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self.round()
        finally:
            self._beating.pop(loop, None)
            if len(self._core.activity):
                self.ensure()

    def _ensure_trio(self) -> None:
        import trio  # noqa: PLC0415  (it runs, so it is there)

        token = trio.lowlevel.current_trio_token()
        if token not in self._beating:
            self._beating[token] = spawn(self._rounds_under_trio)

    async def _rounds_under_trio(self) -> None:
        import trio  # noqa: PLC0415  (it runs, so it is there)

        try:
            while len(self._core.activity):
                await sleep(self.pause())
                await self.round()
        finally:
            self._beating.pop(trio.lowlevel.current_trio_token(), None)
