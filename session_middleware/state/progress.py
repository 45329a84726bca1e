"""A long job in a session, from the side of whoever does it. Any request and process can watch.

Reading order: `Progress` (awaited), `BlockingProgress` (the same in a thread). What is stored: `jobs`; how a
browser watches: `session_middleware.progress`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from session_middleware.jobs import PROCESSING, JobState
from session_middleware.manager import SessionManager
from session_middleware.values import JsonValue

__all__ = ["BlockingProgress", "Progress"]


class Progress:
    """The job of the session *session_id*: each call is stored at once, beside whatever else changes.

    `async with Progress(manager, id) as job:` says `processing`, then `completed`, or `failed` after an
    exception or a cancellation, with no more than its type: the text of an exception may hold anything. Who
    wants to say more calls `fail`.

    Every method raises `SessionNotFoundError` once the session has ended, and `BackendError`.
    """

    def __init__(self, manager: SessionManager, session_id: str) -> None:
        self._manager = manager
        self.session_id = session_id

    async def start(self) -> None:
        """The job runs: status `processing`."""
        await self._manager.set_status(self.session_id, PROCESSING)

    async def progress(self, current_step: int, total_steps: int, description: str = "") -> None:
        """How far it is; the percentage follows."""
        await self._manager.set_progress(self.session_id, current_step, total_steps, description)

    async def put_item(self, number: int, item: JsonValue) -> None:
        """Add a result under its number, or replace the one that has it."""
        await self._manager.put_item(self.session_id, number, item)

    async def fail(self, error_message: str) -> None:
        """Over, without success: status `failed`. *error_message* is for the visitor to read."""
        await self._manager.fail(self.session_id, error_message)

    async def complete(self) -> None:
        """Over, with success: status `completed`."""
        await self._manager.complete(self.session_id)

    async def state(self) -> JobState | None:
        """Status, progress, number of results, error message, as they are now; None: the session ended."""
        return await self._manager.get_job(self.session_id)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = await self.state()
        if state is None or state.is_over:  # the body said itself how it ended, or the session is gone
            return
        if kind is None:
            await self.complete()
        else:
            await self.fail(kind.__name__)


class BlockingProgress:
    """The same for a thread: plain calls, and `with BlockingProgress(manager, id) as job:`."""

    def __init__(self, manager: SessionManager, session_id: str) -> None:
        self._calls = manager.blocking
        self.session_id = session_id

    def start(self) -> None:
        """See `Progress.start`."""
        self._calls.set_status(self.session_id, PROCESSING)

    def progress(self, current_step: int, total_steps: int, description: str = "") -> None:
        """See `Progress.progress`."""
        self._calls.set_progress(self.session_id, current_step, total_steps, description)

    def put_item(self, number: int, item: JsonValue) -> None:
        """See `Progress.put_item`."""
        self._calls.put_item(self.session_id, number, item)

    def fail(self, error_message: str) -> None:
        """See `Progress.fail`."""
        self._calls.fail(self.session_id, error_message)

    def complete(self) -> None:
        """See `Progress.complete`."""
        self._calls.complete(self.session_id)

    def state(self) -> JobState | None:
        """See `Progress.state`."""
        found: JobState | None = self._calls.get_job(self.session_id)
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = self.state()
        if state is None or state.is_over:
            return
        if kind is None:
            self.complete()
        else:
            self.fail(kind.__name__)
