"""What the driver talks to: the model, or the real middleware behind an adapter of the same shape.

Reading order: `Action` (what a handler may do), `Response` and `Seen` (what comes back), `Stored` (what the
invariants may look at), `Handle` and `System` (what an adapter implements).

For an adapter to the real middleware: a handle owns the coroutine of one ASGI call and a port whose every
backend call suspends; `step` sends into the coroutine until it suspends again. The handler of its app
performs the actions in order, with an await of its own before the first, so that `seen` can be noted. The
request clock is read by the product itself from whatever `set_clock` sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

__all__ = ["Action", "Fault", "Handle", "Response", "Seen", "Stored", "System", "Unavailable"]

Action: TypeAlias = tuple[str, *tuple[str | float, ...]]
"""One thing a handler does, in order:

("read",) ("write", key, text) ("inc", key) ("pop", key) ("pop_all",) ("cycle", seconds) ("login", user)
("logout",) ("clear",) ("renew",) ("expiry", seconds) ("save",): the manager's save, ("crash",): an unhandled
exception, ("late",): the response has started, what follows comes after it. The key `role` is a privilege
key, `user_id` a user key. `cycle` with 0.0 is without grace.
"""

Fault: TypeAlias = Literal["before", "after"] | None
"""The backend call that a step performs fails before or after it applied. None: it works."""


class Unavailable(Exception):
    """A backend call failed; whether it applied is unknown."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the handler was shown at its first look. `id` is None for a visitor without a session."""

    id: str | None
    user_id: str | None
    data: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Response:
    """What leaves the server. `set_cookie` is a cookie's text or None; `is_promise`: it is a promise."""

    status: int
    set_cookie: str | None = None
    removes: bool = False
    is_promise: bool = False


class Stored(Protocol):
    """A stored record, expired or not. Replaced, never changed in place: a step is judged by comparing two.

    Members are read-only; `floors` ascending, `deadline` and `limit` in seconds since the epoch.
    """

    @property
    def generation(self) -> int: ...
    @property
    def floors(self) -> tuple[int, ...]: ...
    @property
    def created_at(self) -> float: ...
    @property
    def deadline(self) -> float: ...
    @property
    def limit(self) -> float: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def cycle_due(self) -> float | None: ...
    @property
    def data(self) -> Mapping[str, str | int]: ...


class Handle(Protocol):
    """One request under way."""

    seen: Seen | None
    """Set in the step that loaded the session for the handler."""
    response: Response | None
    """Set in the step after which the response leaves; the request may go on after it."""
    lost: list[str]
    """Keys that an event reported as not saved, so far; `login` for a login that was refused."""
    done: bool

    def step(self, fault: Fault = None) -> str | None:
        """Run to the next suspension point and name it; None when the request is over.

        A point that begins with "backend" means: the clock was read, the backend call is on its way.
        """
        ...


class System(Protocol):
    """The whole server side. A cookie's text is `<id>.<secret>.<generation>.<signature>`."""

    def start_request(self, cookies: Sequence[str], actions: Sequence[Action]) -> Handle:
        """A request arrives with these cookies of our name; it runs only in `Handle.step`."""
        ...

    def set_clock(self, now: float) -> None:
        """Move the server's clock, in seconds since the epoch; may go back."""
        ...

    def peek(self) -> Mapping[str, Stored]:
        """Every record in the backend by id, expired ones too; no part of the product is involved."""
        ...

    def revoke(self, session_id: str) -> None:
        """An administrator ends a session."""
        ...

    def clean_up(self) -> None:
        """One run of the cleanup."""
        ...
