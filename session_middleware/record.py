"""What a backend keeps for a session, what a commit changes in it, and what one makes of the other.

Reading order: `Record`, `Delta`, `apply` (the meaning of a commit, for every backend that can run Python),
`Ended` (what remains of a session that is gone).

Times are seconds since the epoch, durations are seconds. A generation is the millisecond of its cycle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from operator import attrgetter
from typing import Any, Final, NamedTuple, NewType

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from session_middleware.errors import SessionDataError
from session_middleware.values import NO_VALUES, Values

__all__ = [
    "CONFLICT",
    "CREATED",
    "EXISTS",
    "GONE",
    "KEPT_FLOORS",
    "MAX_COUNTER",
    "UNSET",
    "Committed",
    "CreateResult",
    "Delta",
    "Ended",
    "Grace",
    "Record",
    "Refused",
    "SessionId",
    "UnsetType",
    "apply",
    "apply_to_header",
    "next_generation",
    "replace",
]

SessionId = NewType("SessionId", str)
"""Public name of a session for its whole life: fit for logs, never a credential."""

KEPT_FLOORS = 5
"""The generation of creation and those of the last four cycles without grace."""
KEPT_GENERATIONS = 4
"""How many superseded generations may still open the session."""
MAX_COUNTER = 2**63 - 1
_INTEGER = re.compile(rb"-?\d{1,19}")


class Grace(NamedTuple):
    """How long a superseded generation still opens the session.

    `until` is None while it waits: its `seconds` begin when the newer cookie first comes back, so a client
    that lost the response loses nothing.
    """

    seconds: float
    until: float | None = None


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A session as a backend keeps it."""

    id: SessionId
    secret: str  # 128 random bits; with id, generation and the key it makes the cookie. Never shown
    generation: int
    created_at: float
    deadline: float  # every timeout folded in: from then on the session does not exist
    limit: float  # absolute deadline; no renewal passes it
    last_seen_at: float
    version: int = 1
    accepted: Mapping[int, Grace] = {}  # superseded generations that still open the session
    floors: tuple[int, ...] = ()
    cycle_due: float | None = None  # seconds of grace of a cycle that waits for a response; 0: without
    authenticated_at: float | None = None
    retained_until: float | None = None  # a status limits the session's life
    idle_timeout: float | None = None  # the session's own (`set_expiry`), None: the policy's
    user_id: str | None = None
    status: str | None = None
    priority: int = 0
    data: Values = NO_VALUES
    metadata: Mapping[str, Any] = {}

    @property
    def floor(self) -> int:
        """Nothing admitted below this generation is ever saved."""
        return self.floors[-1] if self.floors else 0

    @property
    def latest(self) -> float:
        """No renewal goes past this: the absolute deadline, or the end of retention if that comes first."""
        return self.limit if self.retained_until is None else min(self.limit, self.retained_until)

    def __repr__(self) -> str:  # no secret, no values: reprs end up in logs and tracebacks
        return f"<Record {self.id} generation={self.generation} version={self.version}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("id", self.id), ("generation", self.generation), ("version", self.version)]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """Why a session is gone, since when, and who ended it (None: nobody in particular)."""

    reason: str
    at: float
    by: str | None = None


class Delta(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one commit changes. Everything in it applies, or nothing.

    Order: unset, set, increments. UNSET keeps what is there, None removes it.
    """

    set: Mapping[str, bytes] = {}
    unset: tuple[str, ...] = ()
    increments: Mapping[str, int] = {}
    renew_to: float | None = None  # forward only, never past the limit
    expire_at: float | None = None  # exact, backwards too, never past the limit
    seen_at: float | None = None  # the visitor was here; never goes backwards
    user_id: str | UnsetType | None = UNSET
    authenticated_at: float | UnsetType | None = UNSET
    limit: float | None = None  # login moves the absolute deadline, nothing else does
    idle_timeout: float | UnsetType | None = UNSET
    retained_until: float | UnsetType | None = UNSET  # None lifts it; what follows is for `renew_to` to say
    status: str | UnsetType | None = UNSET
    priority: int | UnsetType = UNSET
    metadata: Mapping[str, Any] | UnsetType = UNSET  # the whole of it
    cycle: float | None = None  # seconds of grace; 0: without. Only if still admitted, or without grace
    start_grace: bool = False  # the waiting generations below `admitted` begin to run out
    cycle_due: float | None = None  # seconds of grace; 0: without, which wins
    if_version: int | None = None
    admitted: int | None = None  # generation of the request; below the floor: CONFLICT. None: no request

    def __repr__(self) -> str:
        names = [name for name, default in _DELTA_DEFAULTS if getattr(self, name) != default]
        return f"<Delta {' '.join(names)}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("changes", repr(self))]


_DELTA_DEFAULTS = tuple((name, getattr(Delta(), name)) for name in Delta.__struct_fields__)


class Committed(msgspec.Struct, frozen=True, gc=False):
    """A commit that was applied: the record's version and generation after it, the new values of the
    counters it incremented, and whether it made a new generation.
    """

    version: int
    generation: int
    counters: Mapping[str, int] = {}
    cycled: bool = False


class Refused(Enum):
    """A commit that changed nothing."""

    GONE = "no live session has this id"
    CONFLICT = "admitted below the floor, or another version than asked for"


class CreateResult(Enum):
    """Whether a record was inserted."""

    CREATED = "created"
    EXISTS = "a live session has this id"


GONE: Final = Refused.GONE
CONFLICT: Final = Refused.CONFLICT
CREATED: Final = CreateResult.CREATED
EXISTS: Final = CreateResult.EXISTS


def next_generation(generation: int, now: float) -> int:
    """The generation a cycle makes: it only grows, and tells its own time in milliseconds."""
    return max(generation + 1, int(now * 1000))


def apply(record: Record, delta: Delta, now: float) -> tuple[Record, Committed] | Refused:
    """The record after *delta*, and what to answer; or CONFLICT. The caller has checked that it is alive.

    Raises `SessionDataError` where an increment meets something that is no integer, or leaves 64 bits.
    """
    if delta.admitted is not None and delta.admitted < record.floor:
        return CONFLICT
    if delta.if_version is not None and delta.if_version != record.version:
        return CONFLICT
    data, counters = record.data, _NONE_COUNTED
    if delta.set or delta.unset or delta.increments:
        data, counters = _apply_values(record.data, delta)
    after = apply_to_header(record, delta, now, data)
    return after, Committed(after.version, after.generation, counters, after.generation != record.generation)


def apply_to_header(record: Record, delta: Delta, now: float, data: Values | None = None) -> Record:
    """What *delta* makes of everything but the values, which are *data*, or None to keep them."""
    cycles = _cycles(record, delta)
    changed: dict[str, Any] = {"version": record.version + 1}
    if data is not None:
        changed["data"] = data
    if delta.seen_at is not None and delta.seen_at > record.last_seen_at:
        changed["last_seen_at"] = delta.seen_at
    replaced = _replaced_by(delta)
    if replaced != _NOTHING_REPLACED:
        changed |= {
            name: value for name, value in zip(_REPLACED, replaced, strict=True) if value is not UNSET
        }
    changed |= _deadlines(record, delta)
    if cycles or record.accepted or delta.cycle_due is not None:
        changed |= _generations(record, delta, now, cycles=cycles)
    return replace(record, **changed)


_NONE_COUNTED: Mapping[str, int] = {}
_REPLACED = (
    "user_id",
    "authenticated_at",
    "idle_timeout",
    "retained_until",
    "status",
    "priority",
    "metadata",
)
_replaced_by = attrgetter(*_REPLACED)
_NOTHING_REPLACED = (UNSET,) * len(_REPLACED)


def _generations(record: Record, delta: Delta, now: float, *, cycles: bool) -> dict[str, Any]:
    changed: dict[str, Any] = {
        "accepted": _accepted(record, delta, now, cycles=cycles),
        "cycle_due": _cycle_due(record, delta, cycles=cycles),
    }
    if cycles:
        changed["generation"] = next_generation(record.generation, now)
        if delta.cycle == 0:
            changed["floors"] = (*record.floors, changed["generation"])[-KEPT_FLOORS:]
    return changed


def _deadlines(record: Record, delta: Delta) -> dict[str, Any]:
    """The deadline with every timeout folded in, and the limit if a login moves it."""
    moves = (delta.renew_to, delta.expire_at, delta.limit)
    if moves == (None, None, None) and delta.retained_until is UNSET:
        return {}
    limit = record.limit if delta.limit is None else delta.limit
    retained = record.retained_until if isinstance(delta.retained_until, UnsetType) else delta.retained_until
    deadline = record.deadline if delta.expire_at is None else delta.expire_at
    if delta.renew_to is not None:
        deadline = max(deadline, delta.renew_to)
    return {"limit": limit, "deadline": min(deadline, limit if retained is None else min(limit, retained))}


def _cycles(record: Record, delta: Delta) -> bool:
    if delta.cycle is None:
        return False
    return delta.cycle == 0 or delta.admitted is None or delta.admitted == record.generation


def _accepted(record: Record, delta: Delta, now: float, *, cycles: bool) -> Mapping[int, Grace]:
    if cycles and delta.cycle == 0:
        return {}
    kept = {g: grace for g, grace in record.accepted.items() if grace.until is None or grace.until > now}
    if delta.start_grace and delta.admitted is not None:
        kept = {g: _started(grace, now) if g < delta.admitted else grace for g, grace in kept.items()}
    if cycles and delta.cycle is not None:
        kept[record.generation] = Grace(delta.cycle)
    return {g: kept[g] for g in sorted(kept)[-KEPT_GENERATIONS:]}


def _started(grace: Grace, now: float) -> Grace:
    return grace if grace.until is not None else Grace(grace.seconds, now + grace.seconds)


def _cycle_due(record: Record, delta: Delta, *, cycles: bool) -> float | None:
    # A cycle with grace leaves a due cycle without grace standing: else an app's own `cycle()` would undo
    # what an admin, or a privilege that was raised late, has ordered.
    due = record.cycle_due
    if cycles and (delta.cycle == 0 or due != 0):
        due = None
    if delta.cycle_due is None:
        return due
    return delta.cycle_due if due is None else min(due, delta.cycle_due)


def _apply_values(data: Values, delta: Delta) -> tuple[Values, dict[str, int]]:
    parts, counters = data.split(), {}
    for name, value in delta.set.items():
        parts[name] = msgspec.Raw(value)
    for name in delta.unset:
        if name not in delta.set:
            parts.pop(name, None)
    for name, by in delta.increments.items():
        counters[name] = _incremented(name, parts.get(name), by)
        parts[name] = msgspec.Raw(b"%d" % counters[name])
    return Values.joined(parts), counters


def _incremented(name: str, encoded: msgspec.Raw | None, by: int) -> int:
    present = b"0" if encoded is None else bytes(encoded)
    if not _INTEGER.fullmatch(present):
        raise SessionDataError(f"session[{name!r}] is no integer, so it cannot be incremented", name)
    total = int(present) + by
    if abs(total) > MAX_COUNTER:
        raise SessionDataError(f"session[{name!r}] would leave 64 bits", name)
    return total
