"""Which requests are in flight, and which sessions they hold.

A request **enters** when it arrives, **holds** its session from the first look, and **leaves** at its end,
whatever that end was. Only operations on dictionaries that are atomic are used, so threads need no lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from session_middleware.record import SessionId
from session_middleware.session import Session

__all__ = ["ActiveRequest", "Activity"]

_numbers = count(1)


class ActiveRequest:
    """One request or open WebSocket. Also what `manager.active_requests()` lists."""

    # Defaults on the class, not slots: what a request does not change costs it nothing.
    path = ""
    number = 0  # from when it enters
    held: Session | None = None
    session_id: SessionId | None = None
    since = 0.0  # seconds since the epoch, of the first look

    @property
    def id(self) -> str:
        """Name of the request in this process."""
        return f"request-{self.number}"

    def __repr__(self) -> str:
        return f"<ActiveRequest {self.path} session={self.session_id}>"


class Activity:
    """The registry of one manager, in this process."""

    def __init__(self) -> None:
        # Dictionaries as ordered sets: each change is one atomic operation, so threads need no lock.
        self._open: dict[ActiveRequest, None] = {}
        self._holding: dict[ActiveRequest, None] = {}

    def __len__(self) -> int:
        """How many requests are in flight, holding a session or not."""
        return len(self._open)

    def __iter__(self) -> Iterator[ActiveRequest]:
        """The requests that hold a session, the oldest first."""
        return iter(list(self._holding))

    def enter(self, request: ActiveRequest) -> None:
        """A request has arrived."""
        request.number = next(_numbers)
        self._open[request] = None

    def hold(self, request: ActiveRequest, session: Session, now: float) -> bool:
        """*request* looked at this session, at *now* (seconds since the epoch). False: it is over already.

        A session that has no id yet is nobody's to hold.
        """
        if request not in self._open:
            return False
        request.held = session
        id_ = request.session_id = session.id
        request.since = now
        if id_ is not None:
            self._holding[request] = None
        return True

    def leave(self, request: ActiveRequest) -> None:
        """*request* is over."""
        self._open.pop(request, None)
        self._holding.pop(request, None)
        request.session_id = request.held = None

    def clear(self) -> None:
        """Of a forked child: those in flight are in its parent."""
        self._open.clear()
        self._holding.clear()

    def holding(self, session_id: SessionId) -> list[ActiveRequest]:
        """The requests that hold this session, the oldest first. Looks at all that hold any."""
        return [request for request in list(self._holding) if request.session_id == session_id]
