"""What differs between asyncio, trio and plain threads, in one place.

Nothing below a port or an entrance knows of event loops. Here: to sleep, to run something beside a request,
and to let something finish although the one who waits for it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Literal, TypeVar

from session_middleware.errors import BackendUnavailable
from session_middleware.outage import Outage

__all__ = [
    "Finisher",
    "Home",
    "Nap",
    "at_most",
    "heed_cancellation",
    "running_here",
    "running_library",
    "sleep",
    "spawn",
]

T = TypeVar("T")
_background: set[asyncio.Task[None]] = set()  # an event loop holds its tasks only weakly


def running_library() -> Literal["asyncio", "trio"] | None:
    """The event loop library this call runs under, None in a plain thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return "trio" if trio is not None and trio.lowlevel.in_trio_run() else None
    return "asyncio"


def running_here() -> object:
    """The task that runs now, or the name of the thread where there is none. The same one compares equal."""
    match running_library():
        case "asyncio":
            return asyncio.current_task() or threading.get_ident()
        case "trio":
            return sys.modules["trio"].lowlevel.current_task()
    return threading.get_ident()


async def sleep(seconds: float) -> None:
    """Let *seconds* pass without holding up the event loop."""
    if running_library() == "trio":
        await sys.modules["trio"].sleep(seconds)
    else:
        await asyncio.sleep(seconds)


def heed_cancellation() -> None:
    """End this task if it was cancelled and has not heard of it.

    `asyncio.wait_for`, by which redis-py sends, loses a cancellation that comes as it is done (Python 3.11).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Home:
    """The event loop that runs now, for what must be done in it, whoever finds that out."""

    def __init__(self) -> None:
        self._loop = _running_loop()

    @property
    def is_here(self) -> bool:
        """Whether it runs now."""
        return self._loop is _running_loop()

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await *work* at home; elsewhere let it begin at home soon. *work* handles its own errors.

        A no-op where the loop is over.
        """
        if self.is_here:
            await work()
        else:
            self._soon(spawn, work)

    def call(self, function: Callable[[], object]) -> None:
        """The same for a plain call."""
        if self.is_here:
            function()
        else:
            self._soon(function)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        loop = self._loop
        is_asyncio = isinstance(loop, asyncio.AbstractEventLoop)
        with contextlib.suppress(RuntimeError):  # it is over
            (loop.call_soon_threadsafe if is_asyncio else loop.run_sync_soon)(function, *arguments)


def _running_loop() -> Any:
    """The loop of asyncio, trio's token of its run; None in a plain thread."""
    match running_library():
        case "asyncio":
            return asyncio.get_running_loop()
        case "trio":
            return sys.modules["trio"].lowlevel.current_trio_token()
    return None


class Nap:
    """A sleep that whoever wants can end, from any thread. One sleeps at a time."""

    def __init__(self) -> None:
        self._wake: Callable[[], object] | None = None

    async def sleep(self, seconds: float) -> bool:
        """Whether *seconds* have passed; False: it was ended."""
        trio = sys.modules["trio"] if running_library() == "trio" else None
        event = asyncio.Event() if trio is None else trio.Event()
        self._wake = partial(Home().call, event.set)
        await at_most(seconds, event.wait())
        self._wake = None
        return not event.is_set()

    def end(self) -> None:
        """Wake up whoever sleeps. A no-op where nobody does."""
        wake = self._wake
        if wake is not None:
            wake()


async def at_most(seconds: float, work: Coroutine[Any, Any, object]) -> None:
    """Run *work*, but cancel it when *seconds* have passed."""
    if running_library() == "trio":
        with sys.modules["trio"].move_on_after(seconds):
            await work
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


def spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run *work* beside everything else; the answer stops it, from any thread. *work* handles its errors."""
    if running_library() == "trio":
        return _spawn_trio(work)
    task = asyncio.get_running_loop().create_task(work())
    _background.add(task)
    task.add_done_callback(_background.discard)
    return partial(Home().call, task.cancel)


def _spawn_trio(work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    trio = sys.modules["trio"]
    scope = trio.CancelScope()

    async def scoped() -> None:
        with scope:
            await work()

    trio.lowlevel.spawn_system_task(scoped)
    return partial(Home().call, scope.cancel)


class Finisher:
    """Lets operations finish although whoever waits for them is cancelled, and waits only so long.

    A started commit completes when the client disconnects: it is a task of its own, held here, and shutdown
    waits for it. `outage` is what these operations, and those of a backend that needs no waiting, have met.
    """

    def __init__(self, timeout: float) -> None:
        """*timeout*: seconds to wait for one operation; after that it goes on in the background."""
        self.timeout = timeout
        self.outage = Outage()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deadlines: _Deadlines | None = None  # of the event loop that was seen last

    async def finish(self, operation: Coroutine[Any, Any, T]) -> T:
        """What *operation* returns. Raises `BackendUnavailable` (outcome unknown) when it takes too long."""
        if running_library() == "trio":
            return await self._finish_trio(operation)
        task = self._begun(operation)
        await self._waited_for(task)
        if not task.done():
            raise self._too_slow()
        return task.result()

    async def _waited_for(self, task: asyncio.Task[Any]) -> None:
        """As `asyncio.wait` of one task with our timeout does, for a third of the price."""
        loop, deadlines = task.get_loop(), self._deadlines
        if deadlines is None or deadlines.loop is not loop or deadlines.seconds != self.timeout:
            deadlines = self._deadlines = _Deadlines(loop, self.timeout)
        waiter = loop.create_future()
        task.add_done_callback(partial(_wake, waiter))
        deadlines.add(waiter)
        await waiter

    def leave(self, operation: Coroutine[Any, Any, object]) -> None:
        """Have *operation* finished with nobody who waits for it; a no-op where no event loop runs."""
        if running_library() == "asyncio":
            _ = self._begun(operation)
        else:
            operation.close()

    async def drain(self) -> None:
        """Wait for what still runs in this event loop, at most the timeout."""
        loop = asyncio.get_running_loop() if running_library() == "asyncio" else None
        tasks = {task for task in list(self._tasks) if task.get_loop() is loop}  # other loops go on meanwhile
        if tasks:
            await asyncio.wait(tasks, timeout=self.timeout)

    def _begun(self, operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(operation)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it was reported where it happened; nobody may wait for it any more

    async def _finish_trio(self, operation: Coroutine[Any, Any, T]) -> T:
        with sys.modules["trio"].CancelScope(shield=True, deadline=_trio_now() + self.timeout):
            return await operation
        raise self._too_slow()

    def _too_slow(self) -> BackendUnavailable:
        message = f"the backend took longer than backend_timeout={self.timeout} s"
        return BackendUnavailable(message, unknown=True)


class _Deadlines:
    """Wakes waiters of one event loop after *seconds*, all by one timer: they come in the order of time.

    It lives on by its timer while somebody waits, whoever has forgotten it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.loop = loop
        self.seconds = seconds
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._is_set = False

    def add(self, waiter: asyncio.Future[None]) -> None:
        """Wake it in time, unless it is done by then."""
        waiting, now = self._waiting, self.loop.time()
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((now + self.seconds, waiter))
        if not self._is_set:
            self._is_set = True
            self.loop.call_at(now + self.seconds, self._look)

    def _look(self) -> None:
        waiting, now = self._waiting, self.loop.time()
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            _wake(waiting.popleft()[1])
        self._is_set = bool(waiting)
        if waiting:
            self.loop.call_at(waiting[0][0], self._look)


def _wake(waiter: asyncio.Future[None], _task: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _trio_now() -> float:
    now: float = sys.modules["trio"].current_time()
    return now
