"""Who in this process holds which session in a transaction, and who waits for it, in which order.

Waiting itself is for the caller: it asks `is_first` again and again. Only operations on dictionaries and
deques that are atomic are used, so threads need no lock; exclusion does not rest on this file, but on the
lease that whoever is first takes in the backend. This keeps the order, and finds who waits for each other.
"""

from __future__ import annotations

from collections import deque

from session_middleware.record import SessionId

__all__ = ["Turn", "Turns"]


class Turn:
    """One wish of a *runner*, a task or thread, to hold a session: from before the waiting to its end."""

    __slots__ = ("queue", "runner", "session_id")

    def __init__(self, session_id: SessionId, runner: object) -> None:
        self.session_id = session_id
        self.runner = runner
        self.queue: deque[Turn] = deque()

    @property
    def is_first(self) -> bool:
        """Nobody of this process comes before it."""
        return self.first is self

    @property
    def first(self) -> Turn | None:
        """Who comes first in its queue. None: it has given up, in another thread, and nobody is left."""
        try:
            return self.queue[0]
        except IndexError:
            return None


class Turns:
    """Of one manager, in this process."""

    def __init__(self) -> None:
        self._queues: dict[SessionId, deque[Turn]] = {}
        self._waiting: dict[object, Turn] = {}

    def line_up(self, session_id: SessionId, runner: object) -> Turn:
        """A turn behind all those that are there. `give_up` ends it."""
        turn = Turn(session_id, runner)
        turn.queue = self._queues.setdefault(session_id, deque())
        turn.queue.append(turn)
        self._waiting[runner] = turn
        return turn

    def begin(self, turn: Turn) -> None:
        """It waits no longer: it holds its session."""
        self._waiting.pop(turn.runner, None)

    def give_up(self, turn: Turn) -> None:
        """It neither waits for its session nor holds it any more."""
        if self._waiting.get(turn.runner) is turn:
            del self._waiting[turn.runner]
        turn.queue.remove(turn)
        if not turn.queue:  # whoever lined up just now keeps this queue, and comes first in it
            self._queues.pop(turn.session_id, None)

    def waits_for_itself(self, turn: Turn) -> bool:
        """Whether whoever has the session waits, maybe over others, for one that *turn*'s runner has."""
        seen: set[object] = set()
        ahead: Turn | None = turn
        while ahead is not None:
            first = ahead.first
            if first is None or first is ahead:
                return False
            runner = first.runner
            if runner == turn.runner or runner in seen:
                return runner == turn.runner
            seen.add(runner)
            ahead = self._waiting.get(runner)
        return False
