"""Records as this process has seen them last: what a commit tries first, before it looks again.

A server that compares before it changes lets a commit be one round trip. What is kept here may be out of
date at any moment, so it refuses nothing: a refusal is for what is stored now.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

from session_middleware.errors import SessionDataError
from session_middleware.record import Committed, Delta, Record, Refused, SessionId, apply

__all__ = ["HasRecord", "Seen"]

_MOST: Final = 1024


class HasRecord(Protocol):
    """A record, and whatever a backend wants to remember beside it."""

    @property
    def record(self) -> Record: ...


StoredT = TypeVar("StoredT", bound=HasRecord)


class Seen(Generic[StoredT]):
    """The last thousand."""

    def __init__(self) -> None:
        self._stored: OrderedDict[SessionId, StoredT] = OrderedDict()

    def note(self, id_: SessionId, stored: StoredT | None) -> None:
        """Keep it; None: there is none."""
        if stored is not None:
            self._stored[id_] = stored
            while len(self._stored) > _MOST:
                self._stored.popitem(last=False)

    def drop(self, id_: SessionId) -> None:
        """Forget this one."""
        self._stored.pop(id_, None)

    def applied(
        self, id_: SessionId, delta: Delta, now: float
    ) -> tuple[StoredT, tuple[Record, Committed]] | None:
        """Takes it out: as it was, and what the delta makes of it. None: unknown, or a refusal."""
        stored = self._stored.pop(id_, None)
        if stored is None or stored.record.deadline <= now:
            return None
        try:
            applied = apply(stored.record, delta, now)
        except SessionDataError:
            return None
        return None if isinstance(applied, Refused) else (stored, applied)
