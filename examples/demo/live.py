"""The live stream of events, as server-sent events.

Reading order: `Feed` hears every event of the manager and keeps the last few hundred, numbered, so that a
page which connects again misses nothing. `Viewer` decides which of them a page may see. `stream` is the
handler.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from itertools import count

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from session_middleware import EVENTS, Session, SessionEvent

KEPT = 500  # events
QUIET = 15.0  # seconds without an event after which a stream says that it is still there
OF_THE_MANAGER = frozenset(
    {
        "session_manager_initialized",
        "session_usage",
        "sessions_cleaned_up",
        "sessions_cleanup_failed",
        "backend_unavailable",
        "backend_recovered",
    }
)
ENDINGS = frozenset({"session_deleted", "session_expired", "session_evicted", "session_user_unbound"})


class Feed:
    """The last events, for any number of followers. One that is too slow skips what was dropped meanwhile."""

    def __init__(self) -> None:
        self.closed = False
        self._recent: deque[tuple[int, SessionEvent]] = deque(maxlen=KEPT)
        self._numbers = count(int(time.time() * 1000))  # they go on growing across restarts
        self._loop: asyncio.AbstractEventLoop | None = None  # where the followers wait
        self._grown = asyncio.Event()

    def hear(self, event: SessionEvent) -> None:
        """To be subscribed: a plain call, which may come from any thread."""
        self._recent.append((next(self._numbers), event))
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Let every stream end."""
        self.closed = True
        self._wake()

    async def after(self, number: int) -> AsyncIterator[tuple[int, SessionEvent] | None]:
        """Each event after that number, those to come too; None after some quiet."""
        self._loop = asyncio.get_running_loop()
        while not self.closed:
            grown = self._grown
            for found in [kept for kept in tuple(self._recent) if kept[0] > number]:
                number = found[0]
                yield found
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET):
                    await grown.wait()
            if not grown.is_set():
                yield None

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


class Viewer:
    """Sees its own session, all sessions of its user for as long as its own one lives, and the manager."""

    def __init__(self, own: str | None, user: str | None, others: Iterable[str | None] = ()) -> None:
        self.own = own
        self.user = user
        self.known = {own, *others}

    def sees(self, event: SessionEvent) -> bool:
        if event.session_id is None:
            return event.name in OF_THE_MANAGER
        if event.session_id == self.own and event.name in ENDINGS:
            self.user, self.known = None, {self.own}
        if self.user is not None and event.user_id == self.user:
            self.known.add(event.session_id)
        return event.session_id in self.known

    def kind(self, event: SessionEvent) -> str:
        """Whose event it is, in a word for the page."""
        if event.session_id is None:
            return "manager"
        return "this session" if event.session_id == self.own else "other device"


async def stream(request: Request) -> Response:
    session: Session = request.session  # type: ignore[assignment]
    manager, feed = request.app.state.manager, request.app.state.feed
    user = session.user_id
    others = [] if user is None else [one.id for one in await manager.get_user_sessions(user)]
    body = lines(feed.after(last_seen(request)), Viewer(session.id, user, others))
    return StreamingResponse(body, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def lines(events: AsyncIterator[tuple[int, SessionEvent] | None], viewer: Viewer) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"  # milliseconds until the browser connects again
    async for found in events:
        if found is None:
            yield ": still here\n\n"
        elif viewer.sees(found[1]):
            yield f"id: {found[0]}\ndata: {as_json(found[1], viewer)}\n\n"


def as_json(event: SessionEvent, viewer: Viewer) -> str:
    shown = {
        "name": event.name,
        "level": EVENTS[event.name].level,
        "meaning": EVENTS[event.name].meaning,
        "time": event.timestamp,
        "kind": viewer.kind(event),
        "fields": dict(event.fields),
    }
    return json.dumps(shown, default=str)


def last_seen(request: Request) -> int:
    """The number of the last event the page has: browsers send it along when they connect again."""
    given = request.headers.get("last-event-id") or request.query_params.get("after", "")
    return int(given) if re.fullmatch("[0-9]{1,19}", given) else 0
