"""What a handler changed, found by comparing encoded values.

Reading order: `changes_of`, then `login_of`: whether a change of the app's own user key is a login.
"""

from __future__ import annotations

from typing import NamedTuple

from session_middleware.record import UNSET, UnsetType
from session_middleware.session import Life, Session, user_of
from session_middleware.values import (
    NO_VALUES,
    JsonValue,
    Values,
    check_size,
    decode_value,
    encode_plainly,
    encode_value,
)

__all__ = ["Changes", "changes_of", "login_of"]


class Changes(NamedTuple):
    """What differs from what was loaded."""

    assigned: dict[str, bytes]
    unset: tuple[str, ...]
    counted: dict[str, int]

    def keys(self) -> set[str]:
        """Every key that changes."""
        return {*self.assigned, *self.unset, *self.counted}

    def without(self, keys: set[str]) -> Changes:
        """The same but for these keys."""
        return Changes(
            {name: value for name, value in self.assigned.items() if name not in keys},
            tuple(name for name in self.unset if name not in keys),
            {name: by for name, by in self.counted.items() if name not in keys},
        )

    def is_empty(self) -> bool:
        """Nothing differs."""
        return not (self.assigned or self.unset or self.counted)

    def alone(self) -> dict[str, bytes]:
        """What these changes make of an empty session."""
        return self.assigned | {name: b"%d" % by for name, by in self.counted.items()}


_NO_CHANGES = Changes({}, (), {})


def changes_of(session: Session) -> Changes:
    """What the handler changed, found by comparing encoded values.

    Raises `SessionDataError` for a value that cannot be held, or a session grown too large.
    """
    life = session.life
    loaded = NO_VALUES if life.ended else life.loaded
    if not session.modified and encode_plainly(session) == loaded.packed:
        return _NO_CHANGES
    pairs, counted = loaded.pairs, life.increments or {}
    changed = {}
    for name, value in dict.items(session):
        if name in counted or (_is_as_loaded(name, value, life, pairs)):
            continue
        encoded = encode_value(name, value)
        if encoded != pairs.get(name):
            changed[name] = encoded
    if changed or counted:
        _check_size(session, loaded, changed)
    unset = tuple(name for name in pairs if name not in session)
    return Changes(changed, unset, {name: by for name, by in counted.items() if name in session})


def _is_as_loaded(name: str, value: JsonValue, life: Life, pairs: dict[str, bytes]) -> bool:
    """Told without looking at each type in it; what was assigned in this request is looked at closely."""
    known = pairs.get(name)
    return known is not None and name not in life.assigned and encode_plainly(value) == known


def _check_size(session: Session, loaded: Values, changed: dict[str, bytes]) -> None:
    policy = session.life.policy
    at_most = len(loaded.packed) + sum(len(name) + len(value) for name, value in changed.items())
    if len(session) <= policy.max_keys and at_most + 20 * len(session) <= policy.max_bytes:
        return  # it cannot be too large, so nobody needs to know how large it is
    sizes = {
        **loaded.pairs,
        **changed,
        **{name: b"%d" % by for name, by in (session.life.increments or {}).items()},
    }
    shown = {name: sizes[name] for name in dict.keys(session)}
    check_size(shown, max_bytes=policy.max_bytes, max_keys=policy.max_keys)


def login_of(session: Session, changes: Changes) -> str | UnsetType | None:
    """Whom this request signs in; None: it signs out (the session goes on); UNSET: neither."""
    life = session.life
    if life.login is not None:
        return life.login
    if not changes.keys().intersection(life.policy.user_keys):
        return UNSET
    record = None if life.ended else life.record
    before = None if record is None else _loaded_user(life)
    if record is not None and record.user_id is not None and record.user_id != before:
        return UNSET  # this app calls login() itself: its keys only name privileges
    after = user_of(session, life.policy)
    return UNSET if after == before else after


def _loaded_user(life: Life) -> str | None:
    pairs = life.loaded.pairs
    return user_of(
        {key: decode_value(pairs[key]) for key in life.policy.user_keys if key in pairs}, life.policy
    )
