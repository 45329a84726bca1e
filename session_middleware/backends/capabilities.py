"""What a port may offer besides the seven methods: each a Protocol of its own.

The manager asks by `isinstance`. What is missing is a `ConfigurationError` that names the backend, told as
early as it can be known.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from session_middleware.backends.base import EndedRecord
from session_middleware.record import Committed, CreateResult, Delta, Record, Refused, SessionId
from session_middleware.where import Where

__all__ = [
    "Bounded",
    "ByUser",
    "Counting",
    "Epochal",
    "Iterating",
    "Leases",
    "Page",
    "Position",
    "Salvaged",
    "Salvaging",
    "Usage",
    "Watching",
]

T = TypeVar("T")


@runtime_checkable
class Bounded(Protocol):
    """Optional: a blocking port that can be told how long an operation may wait: nobody can cut it short."""

    def bound(self, seconds: float) -> None:
        """Wait at most so many seconds for others, then raise `BackendUnavailable`. The last call counts."""


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


class Summary(NamedTuple):
    """Figures over the live sessions, and how old they are."""

    usage: Usage
    oldest: float | None  # age in seconds; None where there are no sessions
    newest: float | None
    younger: Sequence[int]  # how many are younger than each of the ages that were asked for


@runtime_checkable
class Summarizing(Protocol):
    """Optional: a port that sums up its sessions itself, without handing them out."""

    async def summary(self, now: float, ages: Sequence[float]) -> Summary:
        """Figures for operators, by these *ages* in seconds. In parts, so that others do not wait for long;
        may be off by what begins and ends meanwhile. What has expired is not counted.
        """


class Position(NamedTuple):
    """Where a session stands in the order of creation, whether or not it still exists."""

    created_at: float
    id: SessionId


class Page(NamedTuple):
    """Some of the sessions that were asked for. `after` is where to go on; None: those were the last.

    `unreadable`: those that lie among them and cannot be read, whether or not they match.
    """

    records: Sequence[Record]
    after: Position | None
    unreadable: Sequence[SessionId] = ()


@runtime_checkable
class Iterating(Protocol):
    """Optional: a port that finds sessions by conditions, and ends those that it found."""

    async def find(self, where: Where, now: float, *, limit: int, after: Position | None = None) -> Page:
        """Up to *limit* live sessions that match, newest created first, those of one moment by id.

        Begins below *after*. Fewer than *limit*, even none, do not mean that no more follow: a call looks at
        a bounded number of sessions, so that others do not wait for long. Whoever goes on until `after` is
        None sees each session that was live and matched throughout exactly once. Of a record that cannot be
        read only the id is told.
        """

    async def end_found(
        self, ids: Sequence[SessionId], where: Where, now: float, reason: str, *, by: str | None = None
    ) -> Sequence[EndedRecord]:
        """End those of *ids* that are live and still match, at one moment; which ones were ended.

        One that cannot be read matches only where nothing is asked.
        """


@runtime_checkable
class Epochal(Protocol):
    """Optional: a port that can end every session created before a moment, in one write."""

    async def end_all_before(self, t: float, now: float, reason: str, *, by: str | None = None) -> bool:
        """From now on a session created before *t*, which is at most *now*, is ended, for every operation.

        `load` answers `Ended(reason, now, by)`, as it does for what expired; `create` may replace it. The
        records themselves are removed by `delete_expired`, each reported once, with this reason unless its
        deadline came first. A backend keeps one such moment, with the last reason; it goes forward only.
        False, and nothing changes, where the one that is kept is not earlier. No record that is stored, and
        none that is stored later, is exempt, so a record's `created_at` is never set back.
        """


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


class Full(Enum):
    """Why there was no room."""

    SESSIONS = "max_sessions"
    OF_USER = "max_sessions_per_user"


class Caps(NamedTuple):
    """How many sessions there may be. None: no limit."""

    total: int | None = None  # stored at once, those that expired and were not cleaned up included
    per_user: int | None = None  # live ones of one user
    reject: bool = False  # refuse one more of a user, rather than end the oldest
    held: Collection[str] = ()  # ids that are not ended for the sake of `total`


class Admitted(NamedTuple, Generic[T]):
    """What was answered within limits, and whose end made room for it. `Full`: nothing, there was none."""

    answer: T | Full
    of_user: Sequence[EndedRecord] = ()  # ended because their user had too many: reason `evicted`
    others: Sequence[EndedRecord] = ()  # ended because there were too many: expired, or reason `evicted`


@runtime_checkable
class Capped(Protocol):
    """Optional: a port that never holds more sessions than it is told, from however many processes.

    Room is made in the same step in which it is taken. Of a user the sessions created first go first. Of all,
    those that expired go first, then by the lowest priority, those of nobody before those of users, and the
    one seen longest ago; none goes for one of lower priority.
    """

    async def create_within(self, record: Record, now: float, caps: Caps) -> Admitted[CreateResult]:
        """As `Port.create`."""

    async def commit_within(
        self,
        id: SessionId,  # noqa: A002  (the contract's word)
        delta: Delta,
        now: float,
        caps: Caps,
    ) -> Admitted[Committed | Refused]:
        """As `Port.commit`; a session that becomes a user's counts as one more of that user."""

    async def shrink(self, now: float, caps: Caps, limit: int) -> Admitted[None]:
        """End what is too much, up to *limit* at once. Nothing of users where `reject` is set."""


class Salvaged(NamedTuple):
    """What is stored for a session that cannot be decoded."""

    fields: Mapping[str, Any]  # those of `Record` that can be read, but for `data`
    packed: bytes  # the values, whatever they are
    mark: object  # by which `mend` knows that it is still the same

    def __repr__(self) -> str:  # the secret is among the fields
        return f"<Salvaged fields={sorted(self.fields)}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("fields", sorted(self.fields))]


@runtime_checkable
class Salvaging(Protocol):
    """Optional: a port that can read parts of a damaged session, and put a whole one in its place."""

    async def salvage(self, id: SessionId, now: float) -> Salvaged | None:  # noqa: A002  (the contract's word)
        """What is stored, damaged or not. None: nothing, or it has expired as far as that can be read."""

    async def mend(self, record: Record, salvaged: Salvaged) -> bool:
        """Put *record* in the place of what was salvaged; False if that is no longer what is there."""


@runtime_checkable
class Watching(Protocol):
    """Optional: an async port that hears at once of sessions that any process has ended."""

    def watch(self) -> AsyncGenerator[SessionId | None, None]:
        """Ids of sessions that were ended, or cycled without grace, from the first answer on.

        None, which comes first, means that it may be any: look at all. What expired is not told. Whoever goes
        on asking gets the next one as it comes. Raises `BackendUnavailable` when the connection is lost: what
        happens from then until the next `watch` is not told, so nothing may rest on this alone.
        """
