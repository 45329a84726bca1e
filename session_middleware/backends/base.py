"""What a backend must do: seven methods, and the atomicity they promise.

A **backend** describes where records live (`SQLiteBackend("app.db")`) and does nothing yet. Its
`port(colour)` is what does the work: the "async" port awaits, the "blocking" port has the same `async def`
methods and never suspends. The logic above is written once, against `Port`.

The contract:

1. Each operation is atomic and linearizable per session: `load` sees every commit acknowledged before it was
   called, from any process.
2. `deadline <= now` means it does not exist, whatever is still on disk.
3. `commit` never creates; `create` never overwrites a live session, nor begins one anew under an id whose
   ending is remembered. (This alone stops resurrection.)
4. All of a delta applies or none of it. Order: unset, set, increments. `record.apply` is its meaning.
5. `deadline` never passes `limit`; renewals and `last_seen_at` never go backwards.
6. Of n concurrent cycles with grace from one generation exactly one makes a new one; cycles without grace,
   unless below the floor, always do.
7. Cancelling the caller leaves the port usable; the operation applies whole or not at all, perhaps after the
   caller has gone.
8. The user index may lag only towards listing too much; listings return live sessions of that user only.

What a port may offer besides: `capabilities`. Failures are `BackendError`s with `unknown` and `retryable`.
A record that cannot be read back is a `SessionDataError`, and stays where it is. `session_middleware.testing`
ships the suite that checks all this.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from session_middleware.errors import ConfigurationError
from session_middleware.record import Committed, CreateResult, Delta, Ended, Record, Refused, SessionId

__all__ = [
    "ENDINGS_KEPT",
    "ENDINGS_KEPT_AT_LEAST",
    "EVICTED",
    "EXPIRY_REASONS",
    "NO_EPOCH",
    "Backend",
    "Colour",
    "EndedRecord",
    "Epoch",
    "LoadAnswer",
    "Port",
    "ending_of",
    "expiry_reason",
    "wrong_colour",
]

Colour: TypeAlias = Literal["async", "blocking"]
LoadAnswer: TypeAlias = Record | Ended | None

ENDINGS_KEPT = 600.0
"""Seconds for which a backend remembers why a session ended."""
ENDINGS_KEPT_AT_LEAST = 30.0
"""Seconds for which no ending is dropped, however many there are: the cookie table rests on them."""

EVICTED = "evicted"
"""The reason of a session that was ended to make room."""


class EndedRecord(msgspec.Struct, frozen=True, gc=False):
    """A session that cleanup removed."""

    id: SessionId
    user_id: str | None
    reason: str
    created_at: float


class Port(Protocol):
    """A backend at work, in one colour. Bound to one process; opens at first use.

    `immediate` is True for a port whose methods neither suspend nor block (memory): sessions may then be
    loaded at the first look instead of before the handler, and need no timeout.
    """

    immediate: bool

    async def open(self) -> None:
        """Connect, migrate. A no-op when open. Every other method opens by itself."""

    async def close(self) -> None:
        """Finish what was begun, then close. Idempotent; a later use is a `BackendClosed`."""

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the word of the table)
        """The live record; why it ended, if that is still known; or None. A pure read."""

    async def create(self, record: Record, now: float) -> CreateResult:
        """Insert; EXISTS for the id of a live record or a remembered ending. May replace an expired one."""

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        """Change a live record as `record.apply` says; GONE if there is none. Never creates."""

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        """End it, whatever its generation, and remember the reason. Was it alive?"""

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        """Remove up to *limit* expired records; each is returned by one call in one process only.

        So are those that an epoch ended, where a port has one (`Epochal`). Fewer than *limit* mean that
        nothing more is due.
        """

    async def wait(self, seconds: float) -> None:
        """Let *seconds* pass in the port's colour."""


class Backend(Protocol):
    """Where records live. Describes only; `port` does the work.

    `url` names it in logs, without credentials. `colours` are those `port` accepts.
    """

    url: str
    colours: frozenset[Colour]

    def port(self, colour: Colour) -> Port:
        """The one port of this colour in this process. Raises `ConfigurationError` for a colour it lacks."""


def wrong_colour(backend: Backend, colour: Colour) -> ConfigurationError:
    """The error for a backend that cannot serve this colour."""
    entrance = "ASGI, async code" if colour == "async" else "WSGI, plain threads"
    return ConfigurationError(
        f"backend: {type(backend).__name__} has no {colour} port ({entrance}); it has "
        f"{', '.join(sorted(backend.colours)) or 'none'}. Pass a backend that has one, such as "
        'backend="memory://" or backend="sqlite:///sessions.db"'
    )


def expiry_reason(record: Record) -> str:
    """Which timeout ended a record whose deadline has passed."""
    if record.deadline >= record.limit:
        return "absolute_timeout"
    if record.retained_until is not None and record.deadline >= record.retained_until:
        return "retention"
    return "idle_timeout"


EXPIRY_REASONS = frozenset({"absolute_timeout", "retention", "idle_timeout"})
"""What `expiry_reason` may answer."""


class Epoch(NamedTuple):
    """Every session created before this moment is ended: see `capabilities.Epochal`."""

    before: float  # seconds since the epoch of the clock, like `at`
    at: float  # when that was said
    reason: str
    by: str | None = None


NO_EPOCH = Epoch(-inf, -inf, "")
"""Before anybody has said so."""


def ending_of(record: Record, epoch: Epoch, now: float) -> Ended | None:
    """How this record ended, its deadline and the epoch considered; None: it is live."""
    is_swept = record.created_at < epoch.before
    if record.deadline <= now and not (is_swept and epoch.at < record.deadline):
        return Ended(expiry_reason(record), record.deadline)
    return Ended(epoch.reason, epoch.at, epoch.by) if is_swept else None
