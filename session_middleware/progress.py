"""How far a job is, as server-sent events: for `EventSource` in a browser, in one line of an app.

    return StreamingResponse(progress_events(manager, id), media_type="text/event-stream")

A stream looks into the backend once per *interval*, so it shows what any process says. It holds nothing:
neither the session, nor a connection, nor what the visitor's other requests save.

Reading order: `progress_events` (ASGI), `blocking_progress_events` (WSGI), then what both say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import msgspec

from session_middleware.backends.base import Port
from session_middleware.blocking import run_blocking
from session_middleware.errors import BackendError
from session_middleware.jobs import JobState
from session_middleware.manager import SessionManager
from session_middleware.policy import Duration, seconds

__all__ = ["blocking_progress_events", "progress_events"]

_STILL_HERE: Final = b": still here\n\n"
_NO_ANSWER: Final = b": the backend does not answer, trying again\n\n"


async def progress_events(
    manager: SessionManager, session_id: str, *, interval: Duration = 1.0, heartbeat: Duration = 15.0
) -> AsyncIterator[bytes]:
    """Each change of the job in this session as `event: progress`, then `event: end`, which is the last.

    The data are JSON: `{"status", "progress", "num_items", "error_message"}`; at the end `{"reason"}`, which
    is `completed`, `failed`, or `gone` for a session that ended. *interval*: seconds between two looks.
    *heartbeat*: seconds of silence after which a comment keeps proxies from closing the stream.

    Check first that the job is this visitor's to see: a session id is no credential.
    """
    port = manager.performer.port
    stream = _stream(lambda: manager.get_job(session_id), port, interval=interval, heartbeat=heartbeat)
    async for line in stream:
        yield line


def blocking_progress_events(
    manager: SessionManager, session_id: str, *, interval: Duration = 1.0, heartbeat: Duration = 15.0
) -> Iterator[bytes]:
    """The same for WSGI: `Response(blocking_progress_events(manager, id), mimetype="text/event-stream")`.

    Each open stream occupies a thread of the server.
    """
    port, blocking = manager.blocking_performer.port, manager.blocking

    async def job() -> JobState | None:
        found: JobState | None = blocking.get_job(session_id)
        return found

    stream = _stream(job, port, interval=interval, heartbeat=heartbeat)
    while (line := run_blocking(_next(stream))) is not None:
        yield line


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)


async def _stream(
    job: Callable[[], Awaitable[JobState | None]], port: Port, *, interval: Duration, heartbeat: Duration
) -> AsyncIterator[bytes]:
    pause, patience = seconds("interval", interval), seconds("heartbeat", heartbeat)
    said: JobState | None = None
    silence = 0.0
    while True:
        try:
            state = await job()
        except BackendError:  # the stream outlives an outage; the next look may find it over
            yield _NO_ANSWER
        else:
            if state is not None and state != said:
                yield _event("progress", state._asdict())
                said, silence = state, 0.0
            if state is None or state.is_over:
                yield _event("end", {"reason": "gone" if state is None else state.status})
                return
        if silence >= patience:
            yield _STILL_HERE
            silence = 0.0
        await port.wait(pause)
        silence += pause


def _event(name: str, data: dict[str, Any]) -> bytes:
    """One event. JSON text has no line end in it, so one `data` line always does."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
