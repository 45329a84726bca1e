"""What a port may offer besides the seven methods: each a Protocol of its own.

The manager asks by `isinstance`. What is missing is a `ConfigurationError` that names the backend, told as
early as it can be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from session_middleware.record import Record, SessionId

__all__ = ["ByUser", "Counting", "Leases", "Usage"]


@runtime_checkable
class ByUser(Protocol):
    """Optional: a port that finds sessions by user."""

    async def list_user(self, user_id: str, now: float) -> Sequence[Record]:
        """The live sessions of this user, newest first."""

    async def delete_user(
        self, user_id: str, now: float, reason: str, *, keep: Sequence[SessionId] = (), by: str | None = None
    ) -> Sequence[SessionId]:
        """End every live session of this user but *keep*; which ones were ended."""


class Usage(NamedTuple):
    """Figures over the live sessions."""

    sessions: int
    average_age: float | None  # seconds; None where there are no sessions
    by_status: Mapping[str, int]  # sessions without a status are left out


@runtime_checkable
class Counting(Protocol):
    """Optional: a port that counts live sessions."""

    async def count(self, now: float) -> int:
        """How many sessions are live."""

    async def usage(self, now: float) -> Usage:
        """Figures for operators, cheap enough for each cleanup. May include what expired just now."""


@runtime_checkable
class Leases(Protocol):
    """Optional: a port that gives out leases: names that one holder has at a time, among all processes.

    A lease is over at `until <= now`, whatever became of its holder; nobody needs to clean it up. Each of
    these is atomic, and like everything here takes the time from its caller.
    """

    async def acquire_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """Have *name* until *seconds* from now, if it is free, over, or this holder's. Whether that is so."""

    async def renew_lease(self, name: str, holder: str, seconds: float, now: float) -> bool:
        """The same, but False once somebody else has had it. May be False as soon as it was over."""

    async def release_lease(self, name: str, holder: str) -> bool:
        """Give it back before its time. False, and nothing changes, if this holder does not have it."""
