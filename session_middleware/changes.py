"""What a handler changed, found by comparing encoded values.

Reading order: `changes_of`, then `login_of`: whether a change of the app's own user key is a login.
"""

from __future__ import annotations

from typing import NamedTuple

from session_middleware.record import UNSET, UnsetType
from session_middleware.session import Life, Session, user_of
from session_middleware.values import NO_VALUES, check_size, decode_value, encode_plainly, encode_value

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
    counted = life.increments or {}
    encoded = {name: encode_value(name, value) for name, value in session.items() if name not in counted}
    changed = {name: value for name, value in encoded.items() if loaded.pairs.get(name) != value}
    unset = tuple(name for name in loaded.pairs if name not in session)
    if changed or counted:
        shown = {name: b"%d" % session[name] for name in counted}
        check_size(encoded | shown, max_bytes=life.policy.max_bytes, max_keys=life.policy.max_keys)
    return Changes(changed, unset, {name: by for name, by in counted.items() if name in session})


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
