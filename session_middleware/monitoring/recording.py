"""The request path of a monitor: an append to a bounded queue, and nothing that can fail or wait.

`Inbox` is filled by any thread without a lock. When it is full, an event is only counted by its name: totals
stay exact, details are lost. `Worker` is the thread that looks into it now and then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Event, Thread, current_thread
from typing import Any, Final, TypeAlias
from weakref import WeakMethod

from session_middleware.monitoring.facts import SessionEvent, SessionMetric
from session_middleware.reporting import Tally

__all__ = ["Inbox", "Item", "Ledger", "Worker"]

Item: TypeAlias = SessionEvent | SessionMetric | dict[str, Any]
"""A dict is a log line that nobody has looked at yet."""


class Inbox:
    """What came in since the last look, up to *size* items."""

    __slots__ = ("items", "overflow", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.overflow = Tally()  # by event name; only ever grows, as the counts of a `Reporter` do
        self.items: deque[Item] = deque()

    def put(self, name: str, item: Item) -> None:
        """Keep the item, or count its name."""
        if len(self.items) < self.size:
            self.items.append(item)
        else:
            self.count(name)

    def count(self, name: str) -> None:
        """Count what there is no room for."""
        counts = self.overflow
        if name not in counts:
            counts.setdefault(name, 0)
        counts[name] += 1

    def clear(self) -> None:
        """Forget what is in it."""
        self.items.clear()

    def take_all(self) -> Iterator[Item]:
        """What is in it, oldest first; each item leaves as you get it. Ends, however fast others put."""
        for _ in range(len(self.items)):
            try:
                yield self.items.popleft()
            except IndexError:
                return


class Ledger:
    """By how much exact counts that another keeps have grown since the last look at them."""

    __slots__ = ("_counts", "_names", "_seen")

    def __init__(self, counts: Mapping[str, int], names: Iterable[str] | None = None) -> None:
        self._counts = counts
        self._names = None if names is None else frozenset(names)
        self._seen = dict(counts)

    def growth(self) -> dict[str, int]:
        """The growth by name, without those that did not."""
        grown = {}
        for name, count in tuple(self._counts.items()):
            more = count - self._seen.get(name, 0)
            if more and (self._names is None or name in self._names):
                self._seen[name] = count
                grown[name] = more
        return grown


class Worker:
    """A daemon thread that calls a method every *interval* seconds, until the method's object is gone."""

    __slots__ = ("_stop", "_thread")

    def __init__(self, method: Callable[[], None], interval: float) -> None:
        self._stop: Final = Event()
        arguments = (WeakMethod(method), self._stop, interval)
        self._thread = Thread(target=_work, args=arguments, name="session-monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for what it is doing."""
        self._stop.set()
        if self._thread is not current_thread():
            self._thread.join()


def _work(method: WeakMethod[Callable[[], None]], stop: Event, interval: float) -> None:
    while not stop.wait(interval):
        call = method()
        if call is None:
            return
        call()
        del call  # else this thread would keep the monitor alive
