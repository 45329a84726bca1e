"""What a handler changed, found by comparing encoded values.

Reading order: `changes_of`, then `login_of`: whether a change of the app's own user key is a login.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from session_middleware.record import UNSET, UnsetType
from session_middleware.session import Life, Session, user_of
from session_middleware.values import (
    NO_VALUES,
    Values,
    check_size,
    decode_value,
    encode_plainly,
    encode_value,
)

__all__ = ["Changes", "changes_of", "login_of"]


class Changes(msgspec.Struct, frozen=True, gc=False):
    """What differs from what was loaded."""

    assigned: dict[str, bytes]
    unset: tuple[str, ...]
    counted: dict[str, int]
    shown: Values | None = None
    """All that the session showed, as `encode_plainly` writes it. No bytes: their repr tells everything."""

    def __repr__(self) -> str:  # no values: reprs end up in logs and tracebacks
        return f"<Changes of {sorted(self.keys())}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("keys", sorted(self.keys()))]

    def keys(self) -> set[str]:
        """Every key that changes."""
        return {*self.assigned, *self.unset, *self.counted}

    def without(self, keys: set[str]) -> Changes:
        """The same but for these keys."""
        return Changes(
            {name: value for name, value in self.assigned.items() if name not in keys},
            tuple(name for name in self.unset if name not in keys),
            {name: by for name, by in self.counted.items() if name not in keys},
            self.shown,
        )

    def is_empty(self) -> bool:
        """Nothing differs."""
        return not (self.assigned or self.unset or self.counted)

    def alone(self) -> dict[str, bytes]:
        """What these changes make of an empty session."""
        return self.assigned | {name: b"%d" % by for name, by in self.counted.items()}


def changes_of(session: Session) -> Changes:
    """What the handler changed, found by comparing encoded values.

    Raises `SessionDataError` for a value that cannot be held, or a session grown too large.
    """
    life = session.life
    loaded = NO_VALUES if life.ended else life.loaded
    plainly = encode_plainly(session)
    shown = None if plainly is None else Values(plainly)
    if not session.modified and plainly == loaded.packed:
        return Changes({}, (), {}, shown)
    before = loaded.split() if loaded.packed != b"{}" else {}
    counted = life.increments or {}
    changed = {}
    for name in _suspects(session, shown, before):
        if name in counted:
            continue
        encoded = encode_value(name, dict.__getitem__(session, name))
        known = before.get(name)
        if known is None or encoded != bytes(known):
            changed[name] = encoded
    if changed or counted:
        _check_size(session, loaded, changed)
    unset = tuple([name for name in before if name not in session])
    kept = {name: by for name, by in counted.items() if name in session} if counted else counted
    return Changes(changed, unset, kept, shown)


def _suspects(session: Session, shown: Values | None, before: Mapping[str, msgspec.Raw]) -> list[str]:
    """The keys whose values have to be looked at closely: type by type, in all that is nested in them.

    Those that were assigned in this request, and those whose plain text is another one than was loaded.
    A key that is no text has no plain text of its own.
    """
    if shown is None or not before:
        return list(dict.keys(session))
    now, assigned = shown.split(), session.life.assigned
    return [
        name
        for name in dict.keys(session)
        if name in assigned or (text := now.get(name)) is None or text != before.get(name)
    ]


def _check_size(session: Session, loaded: Values, changed: dict[str, bytes]) -> None:
    policy, number = session.life.policy, len(session)
    at_most = len(loaded.packed) + 20 * number
    for name, value in changed.items():
        at_most += len(name) + len(value)
    if number <= policy.max_keys and at_most <= policy.max_bytes:
        return  # it cannot be too large, so nobody needs to know how large it is
    sizes: dict[str, bytes | msgspec.Raw] = {
        **loaded.split(),
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
    pairs = life.loaded.split()
    return user_of(
        {key: decode_value(pairs[key]) for key in life.policy.user_keys if key in pairs}, life.policy
    )
