"""What a session is after a commit: what was carried out is over; what came meanwhile is left for the next.

A commit takes time. A task beside the request may change the session until the backend has answered, so the
session is noted as the plan saw it (`Planned`), and settled against that.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from session_middleware.errors import SessionDataError
from session_middleware.session import Life, Opening, Session
from session_middleware.values import Values, encode_plainly, encode_value

__all__ = ["Planned", "note_planned", "settle", "settle_failed", "show_only"]


class Planned:
    """A session as a plan saw it. Until it is settled, the session shows and asks for the same as before."""

    __slots__ = ("asked", "asked_for", "assigned", "modified", "shown")

    def __init__(self, session: Session, shown: Values | None) -> None:
        life = session.life
        self.shown = _shown(session) if shown is None else shown
        self.asked_for = life.asked_for()
        # These three say of later ones that they happened; so they begin anew.
        self.asked, self.assigned, self.modified = life.asked, life.assigned, session.modified
        life.asked, life.assigned, session.modified = False, frozenset(), False

    def take_back(self, session: Session) -> None:
        """It was not carried out."""
        life = session.life
        life.asked = life.asked or self.asked
        life.assigned = {*life.assigned, *self.assigned}
        session.modified = session.modified or self.modified


def note_planned(session: Session, shown: Values | None = None) -> None:
    """A plan was made and is carried out from here on.

    *shown*: what the session showed to it, as `encode_plainly` writes it; None: it did not say.
    """
    if session.life.planned is not None:
        settle_failed(session)
    session.life.planned = Planned(session, shown)


def settle(session: Session, opening: Opening, loaded: Values | None = None) -> None:
    """The plan was carried out. *loaded*: what is stored now; None: what the session showed to the plan."""
    life = session.life
    planned: Planned = life.planned
    life.opening = opening
    life.loaded = planned.shown if loaded is None else loaded
    if planned.asked_for:
        _forget(life, planned.asked_for)
    life.planned = None


def settle_failed(session: Session) -> None:
    """The plan was not carried out, or another one takes its place: all is asked for as before."""
    planned: Planned | None = session.life.planned
    if planned is not None:
        planned.take_back(session)
    session.life.planned = None


def show_only(session: Session, values: Values) -> None:
    """What a former session held is not the new one's, and counters begin anew with it."""
    planned: Planned = session.life.planned
    if planned.shown.packed != values.packed:
        for name in planned.shown:
            if name not in values:
                dict.pop(session, name, None)
    dict.update(session, session.life.increments or {})


def _forget(life: Life, done: Mapping[str, Any]) -> None:
    """What is asked for is what was asked for since."""
    for name, value in done.items():
        present = life.__dict__.get(name, value)
        if present == value:
            life.__dict__.pop(name, None)
        elif name == "increments":
            left = {key: by - value.get(key, 0) for key, by in present.items()}
            life.increments = {key: by for key, by in left.items() if by}


def _shown(session: Session) -> Values:
    """What the session shows now, as the base for what is changed from here on."""
    plainly = encode_plainly(session)  # types need no close look: this is only compared with its like
    if plainly is not None:
        return Values(plainly)
    shown = {}
    for name, value in dict.items(session):
        with suppress(SessionDataError):  # it stays a change, for the next commit to tell of
            shown[name] = encode_value(name, value)
    return Values.of(shown)
