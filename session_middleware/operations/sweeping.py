"""Sessions that could live on are removed on an operator's word: by status, age, inactivity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from session_middleware.errors import BackendError, ConfigurationError
from session_middleware.operations.cleaning import CleaningOperations
from session_middleware.operations.queries import QueryOperations, reason_text
from session_middleware.policy import DAY, Duration, seconds
from session_middleware.record import Record
from session_middleware.where import Where

__all__ = ["SweepingOperations"]


class SweepingOperations(QueryOperations, CleaningOperations):
    """Cleanups that somebody asks for; in small steps, and reported, as the periodic one is."""

    async def cleanup(
        self,
        *,
        status: str | None = None,
        older_than: Duration | None = None,
        inactive_for: Duration | None = None,
        reason: str = "cleaned",
    ) -> int:
        """End the sessions that meet all of these; how many.

        *status*: have exactly this one. *older_than*: were created longer ago. *inactive_for*: whose visitor,
        and whose job, surely was not there for so long (between two renewals nothing is noted, so an
        active session is spared for that much longer). `ConfigurationError` if nothing is asked.
        """
        if status is None and older_than is None and inactive_for is None:
            raise ConfigurationError(
                "cleanup: pass status=, older_than= or inactive_for=; what has expired is removed by "
                "cleanup_expired(), everything by delete_all(confirm=True)"
            )
        now = self._core.clock()
        since = None if inactive_for is None else now - seconds("inactive_for", inactive_for)
        where = Where(
            status=status,
            created_before=None if older_than is None else now - seconds("older_than", older_than),
            seen_before=since,
        )
        return await self._sweep(where, reason, None if since is None else self._may_have_been_there(since))

    async def cleanup_inactive(self, inactive_days: float) -> int:
        """End the sessions that surely were not used for so many days; how many."""
        days = seconds("inactive_days", inactive_days)
        return await self.cleanup(inactive_for=days * DAY, reason="inactive")

    # --- inside ---

    async def _sweep(self, where: Where, reason: str, spared: Callable[[Record], bool] | None) -> int:
        started, reason = self._core.monotonic(), reason_text(reason)
        try:
            ended = await self._end_all(where, reason, None, spared)
            self._report_cleanup(Counter({reason: ended} if ended else {}), started)
            await self._report_usage()
        except BackendError as problem:
            self._emit("sessions_cleanup_failed", None, None, self._core.clock(), exception=problem)
            raise
        return ended

    def _may_have_been_there(self, since: float) -> Callable[[Record], bool]:
        """Whether a visitor may have come after *since* without being noted: no renewal was due."""
        policy = self._core.policy
        return lambda record: (
            record.last_seen_at + policy.renew_after * policy.idle(record.idle_timeout) >= since
        )
