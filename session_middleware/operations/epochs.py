"""For the day a key leaks: every session of before is ended in one write."""

from __future__ import annotations

from session_middleware.backends.capabilities import Epochal
from session_middleware.errors import ConfigurationError
from session_middleware.operations.base import OperationsBase
from session_middleware.operations.queries import reason_text
from session_middleware.where import moment_of

__all__ = ["EpochOperations"]


class EpochOperations(OperationsBase):
    """What ends sessions without touching each."""

    async def end_all_before(self, t: float, *, reason: str = "revoked", by: str | None = None) -> None:
        """End every session created before *t* (seconds since the epoch), at once and in every process.

        One write, whatever their number. The next cleanups remove them, and report each. A moment earlier
        than that of a former call changes nothing: the end of those sessions is never taken back. *by*: who
        ends them, for `why_ended`. Raises `ConfigurationError` for a *t* in the future, `BackendError`.
        """
        now = self._core.clock()
        moment, word = _past(t, now), reason_text(reason)
        if not isinstance(self._port, Epochal):
            raise self._lacks("end every session of before in one write")
        if await self._port.end_all_before(moment, now, word, by=by):
            self._emit("sessions_ended", None, None, now, before=moment, reason=word)


def _past(t: object, now: float) -> float:
    moment = moment_of("t", t)
    if moment > now:
        raise ConfigurationError(
            f"t: found a moment {moment - now:.0f} s in the future, which would end sessions that have not "
            "begun; pass one that has passed, such as time.time()"
        )
    return moment
