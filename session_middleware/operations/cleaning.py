"""Sessions whose time has come are removed, and what remains is counted."""

from __future__ import annotations

from collections import Counter

from session_middleware.backends.base import EXPIRY_REASONS
from session_middleware.backends.capabilities import Counting
from session_middleware.errors import BackendError
from session_middleware.operations.base import OperationsBase

__all__ = ["CleaningOperations"]

_BATCH = 64  # expired sessions per step: other writers wait for one step only
_PAUSE = 0.005  # seconds between steps, which is what keeps the others fast


class CleaningOperations(OperationsBase):
    """What keeps the backend free of sessions that are over."""

    async def count(self) -> int:
        """How many sessions are live."""
        if not isinstance(self._port, Counting):
            raise self._lacks("count sessions")
        return await self._port.count(self._core.clock())

    async def cleanup_expired(self) -> int:
        """Delete what has expired, in small steps with pauses; how many sessions that were.

        And what `end_all_before` has ended.
        """
        started, by_reason = self._core.monotonic(), Counter[str]()
        try:
            while await self._cleanup_step(by_reason) >= _BATCH:
                await self._port.wait(_PAUSE)
            self._report_cleanup(by_reason, started)
            await self._report_usage()
        except BackendError as problem:
            self._emit("sessions_cleanup_failed", None, None, self._core.clock(), exception=problem)
            raise
        return by_reason.total()

    async def cleanup_step(self) -> int:
        """One small step of `cleanup_expired`, for apps without a lifespan."""
        started, by_reason = self._core.monotonic(), Counter[str]()
        if await self._cleanup_step(by_reason):
            self._report_cleanup(by_reason, started)
        return by_reason.total()

    # --- inside ---

    async def _cleanup_step(self, by_reason: Counter[str]) -> int:
        now = self._core.clock()
        ended = await self._port.delete_expired(now, _BATCH)
        for one in ended:
            by_reason[one.reason] += 1
            if one.reason in EXPIRY_REASONS:
                self._emit(
                    "session_expired", one.id, one.user_id, now, reason=one.reason, created_at=one.created_at
                )
            else:  # `end_all_before` ended it
                self._emit("session_deleted", one.id, one.user_id, now, reason=one.reason)
        return len(ended)

    def _report_cleanup(self, by_reason: Counter[str], started: float) -> None:
        self._core.cleaned += by_reason.total()
        self._emit(
            "sessions_cleaned_up",
            None,
            None,
            self._core.clock(),
            count=by_reason.total(),
            by_reason=dict(by_reason),
            duration=self._core.monotonic() - started,
        )

    async def _report_usage(self) -> None:
        if not isinstance(self._port, Counting):
            return
        now = self._core.clock()
        usage = await self._port.usage(now)
        self._core.live_sessions = usage.sessions
        self._emit(
            "session_usage",
            None,
            None,
            now,
            count=usage.sessions,
            capacity=self._core.max_sessions,
            average_age=usage.average_age,
            by_status=dict(usage.by_status),
        )
