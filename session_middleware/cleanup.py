"""Periodic cleanup in an event loop, beside the app: one run per interval, whatever a run comes to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import uniform

from session_middleware.core import Core
from session_middleware.errors import SessionError
from session_middleware.loops import Nap, spawn

__all__ = ["Cleanup"]

_JITTER = 0.1  # of the interval, so that workers started together do not clean up together
_JUMP = 60.0  # seconds by which the wall clock may differ from the monotonic one between two runs
_LONGEST_BACK_OFF = 8  # intervals


class Cleanup:
    """Runs *run* every *interval* seconds from `start` to `stop`, and survives its failures."""

    def __init__(self, core: Core, run: Callable[[], Awaitable[int]], interval: float) -> None:
        self._core = core
        self._run = run
        self.interval = interval
        self._nap = Nap()
        self._stop: Callable[[], None] | None = None
        self.is_driven: Callable[[], bool] = bool  # by somebody else, who calls `run_once`
        self._failures = 0
        self._clocks = self._read_clocks()

    @property
    def is_active(self) -> bool:
        """It was started and not stopped, or somebody else drives it."""
        return self._stop is not None or self.is_driven()

    def start(self) -> None:
        """Begin, in the event loop that runs now. A no-op if it has begun."""
        if self._stop is None:
            self._clocks = self._read_clocks()
            self._stop = spawn(self._forever)

    def stop(self) -> None:
        """End it. A no-op if it does not run."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def change_interval(self, seconds: float) -> None:
        """The pause that is under way begins anew, with this one. From any thread."""
        self.interval = seconds
        self._nap.end()

    async def run_once(self) -> None:
        """One run, unless the wall clock jumped: then nothing is deleted on its word, and an event says so.

        Never raises for a backend that failed; the next runs come later the more often that happens.
        """
        if not self.may_run():
            return
        try:
            await self._run()
            self._failures = 0
        except SessionError:  # the run has reported it
            self._failures += 1
        except Exception as problem:  # noqa: BLE001  (a defect in a backend must not end cleanup for good)
            self._failures += 1
            self._report(problem)

    def may_run(self) -> bool:
        """Whether the wall clock went on steadily since this was last asked. If not, an event says so."""
        jump = self._jump()
        if abs(jump) <= _JUMP:
            return True
        self._report(SessionError(f"the wall clock jumped by {jump:.0f} s; this cleanup was skipped"))
        return False

    def pause(self) -> float:
        """Seconds until the next run."""
        back_off: int = min(2**self._failures, _LONGEST_BACK_OFF)
        return self.interval * back_off * uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  (no secret)

    async def _forever(self) -> None:
        while True:
            if await self._nap.sleep(self.pause()):
                await self.run_once()

    def _read_clocks(self) -> tuple[float, float]:
        return self._core.clock(), self._core.monotonic()

    def _jump(self) -> float:
        (wall_before, steady_before), self._clocks = self._clocks, self._read_clocks()
        wall, steady = self._clocks
        return (wall - wall_before) - (steady - steady_before)

    def _report(self, problem: Exception) -> None:
        self._core.reporter.emit("sessions_cleanup_failed", None, None, self._core.clock(), exception=problem)
