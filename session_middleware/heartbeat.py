"""Keeps held sessions from idling out, and finds the sockets whose session was ended elsewhere.

Reading order: `Heartbeat.round` (what is done), `ensure` and `hurry` (when), `attend` (sockets, at once),
then asyncio and trio.

There is no task for it while nothing is in flight: a timer of the event loop starts a round of it, and is set
again only while some request holds a session. Each event loop has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from typing import Any, Protocol, runtime_checkable

from session_middleware.activity import ActiveRequest
from session_middleware.backends.base import Port
from session_middleware.core import Core
from session_middleware.errors import SessionError
from session_middleware.events import SessionEvent
from session_middleware.loops import at_most, running_library, spawn
from session_middleware.operations import Operations
from session_middleware.record import SessionId
from session_middleware.session import JustEnded, Overtaken, Session
from session_middleware.watching import Watch

__all__ = ["Heartbeat", "Revocable"]

_ENDINGS = ("session_deleted", "session_evicted", "session_cycled")  # after which a socket may have to close
_SHORTEST_PAUSE = 0.01  # seconds: with `max_age=0` sessions are over at once, and rounds must not spin


@runtime_checkable
class Revocable(Protocol):
    """A request that can be told that its session was ended: an open WebSocket."""

    @property
    def is_here(self) -> bool:
        """Whether it is in the event loop that runs now."""

    async def revoke(self) -> None:
        """Close it. May be awaited in another event loop than its own, or in none."""


_HEARTBEATS: weakref.WeakSet[Heartbeat] = weakref.WeakSet()


class Heartbeat:
    """Rounds over the requests that hold a session, every *interval* seconds or more often."""

    def __init__(self, core: Core, operations: Operations, interval: float, port: Port) -> None:
        """*interval*: seconds within which a revoked session's socket is closed, in every process.

        At once where *port* hears of it (`Watching`), and in any case where this manager ended it.
        """
        self._watch = Watch(port, self.look_at)
        self._subscriptions: list[Callable[[], None]] = []
        self._wanted: dict[Any, set[SessionId | None]] = {}  # by loop, or trio's token of the run
        self._core = core
        self._operations = operations
        self.interval = interval
        # The thread and the loop that were seen to beat last.
        self._here: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle | None] = {}  # None: a round runs
        self._trio: dict[Any, Any] = {}  # by trio's token of the run: the event that begins a round at once
        _HEARTBEATS.add(self)

    def begin_anew(self) -> None:
        """In a forked child: the requests in flight, and the loops they are in, are its parent's."""
        self._core.activity.clear()
        self._here = None
        for kept in (self._timers, self._trio, self._wanted):
            kept.clear()
        self._watch.forget()

    # --- what is done ---

    async def round(self) -> None:
        """Renew what is due, close sockets whose session is gone. What fails is tried again next time."""
        await self._look_after_all(self._core.activity)

    async def _look_after_all(self, requests: Iterable[ActiveRequest]) -> None:
        now = self._core.clock()
        for request in list(requests):
            try:
                await self._look_after(request, now)
            except SessionError:
                continue  # the backend is down: nobody is shut out for that
            except Exception as problem:  # noqa: BLE001  (the others are looked after)
                self._report(request, problem, now)

    def _report(self, request: ActiveRequest, problem: Exception, now: float) -> None:
        reason = type(problem).__name__
        self._core.reporter.emit("session_renewal_failed", request.session_id, None, now, reason=reason)

    async def _look_after(self, request: ActiveRequest, now: float) -> None:
        session = request.held
        if session is None:
            return
        if not isinstance(request, Revocable):
            await self._operations.hold_on(session, now)
        elif not (await self._is_still_open(session, now) and await self._operations.hold_on(session, now)):
            await request.revoke()

    async def _is_still_open(self, session: Session, now: float) -> bool:
        if isinstance(session.life.opening, Overtaken | JustEnded):  # a commit of its own has found out
            return False
        return await self._operations.is_still_open(session, now)

    # --- when ---

    @property
    def is_at_rest(self) -> bool:
        """The event loop of this thread does not beat, or another did last. Then `ensure` what it shall.

        Each loop with a request in flight beats, for all of them: another may end at any moment. Cheaper than
        to ask for the running loop, which is a system call before Python 3.12.
        """
        here = self._here
        return here is None or here[0] != get_ident() or not here[1].is_running()

    def ensure(self) -> None:
        """Let the rounds go on in the event loop that runs now."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._ensure_trio()
            return
        if self._here is None or loop is not self._here[1]:
            self._ensure_asyncio(loop)

    def hurry(self) -> None:
        """A session with an idle timeout of its own is held from now on. May be called from any thread."""
        for loop in list(self._timers):
            with contextlib.suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(self._set_timer_again, loop)
        for token, event in list(self._trio.items()):
            with contextlib.suppress(RuntimeError):  # trio's run is over
                token.run_sync_soon(event.set)

    def pause(self) -> float:
        """Seconds until the next round: soon enough for the shortest idle timeout that is held."""
        policy = self._core.policy
        owns = [policy.idle_timeout]
        for request in self._core.activity:
            session = request.held  # once: a request of another thread may leave at any moment
            record = None if session is None else session.life.record
            if record is not None:
                owns.append(policy.idle(record.idle_timeout))
        return max(_SHORTEST_PAUSE, min(self.interval, min(owns) / 6))

    def attend(self) -> None:
        """A WebSocket holds a session here: notice its end at once, until all is at rest again."""
        if not self._subscriptions:
            subscribe = self._core.reporter.subscribe
            self._subscriptions = [subscribe(name, self._told) for name in _ENDINGS]
        self._watch.start()

    def relax(self) -> None:
        """The same no longer."""
        self._watch.stop()
        while self._subscriptions:
            self._subscriptions.pop()()

    def _told(self, event: SessionEvent) -> None:
        if event.session_id is not None:
            self.look_at(SessionId(event.session_id))

    def look_at(self, session_id: SessionId | None) -> None:
        """Soon look after the sockets that hold this session, each loop after its own; None: after all.

        From any thread.
        """
        for loop in list(self._timers):
            self._wanted.setdefault(loop, set()).add(session_id)
            with contextlib.suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(self._look, loop)
        for token in list(self._trio):
            self._wanted.setdefault(token, set()).add(session_id)
            with contextlib.suppress(RuntimeError):  # trio's run is over
                token.run_sync_soon(self._look, token)

    def _look(self, here: Any) -> None:
        told, wanted = self._wanted.get(here, set()), set[SessionId | None]()
        with contextlib.suppress(KeyError):  # empty; other threads add to it meanwhile
            while True:
                wanted.add(told.pop())
        held = [one for one in self._core.activity if None in wanted or one.session_id in wanted]
        sockets = [one for one in held if isinstance(one, Revocable) and one.is_here]
        if sockets:  # no task else: this loop may be about to end
            spawn(partial(self._look_after_some, sockets))

    async def _look_after_some(self, requests: Iterable[ActiveRequest]) -> None:
        await at_most(self.interval, self._look_after_all(requests))

    async def _bounded_round(self) -> None:
        # A backend that hangs would else end the rounds for good.
        await at_most(self.interval, self.round())

    # --- asyncio ---

    def _ensure_asyncio(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop not in self._timers:
            for known in [known for known in list(self._timers) if known.is_closed()]:
                self._timers.pop(known, None)
                self._wanted.pop(known, None)
            self._set_timer(loop)
        self._here = (get_ident(), loop)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timers[loop] = loop.call_later(self.pause(), self._beat, loop)

    def _set_timer_again(self, loop: asyncio.AbstractEventLoop) -> None:
        timer = self._timers.get(loop)
        if timer is not None:
            timer.cancel()
            self._set_timer(loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._core.activity):
            self._timers[loop] = None
            spawn(self._round_and_again)
        else:
            self._rest(loop)

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timers.pop(loop, None)
        self._wanted.pop(loop, None)
        if self._here is not None and self._here[1] is loop:
            self._here = None
        if not self._timers:
            self.relax()

    async def _round_and_again(self) -> None:
        loop = asyncio.get_running_loop()
        if self._subscriptions:  # sockets are open; the loop in which the watch ran may be over
            self._watch.start()
        try:
            await self._bounded_round()
        finally:
            if len(self._core.activity):
                self._set_timer(loop)
            else:
                self._rest(loop)

    # --- trio ---

    def _ensure_trio(self) -> None:
        if running_library() != "trio":
            return
        import trio  # noqa: PLC0415  (it runs, so it is there)

        token = trio.lowlevel.current_trio_token()
        if token not in self._trio:
            self._trio[token] = trio.Event()
            spawn(self._rounds_under_trio)

    async def _rounds_under_trio(self) -> None:
        import trio  # noqa: PLC0415  (it runs, so it is there)

        token = trio.lowlevel.current_trio_token()
        try:
            while len(self._core.activity):
                with trio.move_on_after(self.pause()):
                    await self._trio[token].wait()
                self._trio[token] = trio.Event()
                await self._bounded_round()
        finally:
            self._trio.pop(token, None)
            self._wanted.pop(token, None)
            if not self._trio:
                self.relax()


def _begin_anew() -> None:
    for heartbeat in list(_HEARTBEATS):
        heartbeat.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
