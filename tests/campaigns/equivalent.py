"""The mutants that no test can notice, each under the reason why, for `tests.campaigns.mutation`.

A name that ends in `*` stands for all that begin so. Only survivors are looked up here: a mutant that is
noticed needs no excuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["EQUIVALENT", "is_equivalent", "stale"]

EQUIVALENT: Final[dict[str, tuple[str, ...]]] = {
    "a short cut: the long way round comes to the same": (
        "changes.changes_of: not session.modified and shown == loaded.packed -> False",
        (
            "changes._check_size: len(session) <= policy.max_keys and at_most + 20 * len(session)"
            " <= policy.max_bytes -> False"
        ),
        "changes._check_size: len(session) <= policy.max_keys -> len(session) < policy.max_keys",
        (
            "changes._check_size: at_most + 20 * len(session) <= policy.max_bytes -> at_most"
            " + 20 * len(session) < policy.max_bytes"
        ),
        "changes._check_size: 20 -> 21",
        "changes.login_of: not changes.keys().intersection(life.policy.user_keys) -> False",
        (
            "changes.login_of: changes.keys().intersection(life.policy.user_keys) -> changes.keys()"
            ".union(life.policy.user_keys)"
        ),
        "cookies.CookieCodec.verify: (known := self._known.get(value)) -> False",
        "cookies.CookieCodec.read: values -> True",
        "cookies.CookieCodec.read_text: values -> True",
        "cookies.CookieCodec._judge: len(values) == 1 and (known := self._known.get(values[0])) -> False",
        "cookies.CookieCodec._judge: len(value) >= _SHORTEST and _SHAPE(value) -> _SHAPE(value)",
        "cookies._values_after: rest or (before and before[-2:] != b'; ') -> True",
        "cookies._values_after: before and before[-2:] != b'; ' -> *",
        "cookies._values_after: -2: -> :",
        "cookies._values_after: -2 -> 2",
        "cookies._values_after: 2 -> 3",
        "cookies._values_after: b'; ' -> b'XX; XX'",
        "cookies._newest_per_id: len(credentials) < 2 -> False",
        (
            "plan.is_settled: not is_fresh and _renewal(life, record, None, now) is not None"
            " -> _renewal(life, record, None, now) is not None"
        ),
        (
            "plan._delta_of: bool(record.accepted) and any((g < opening.admitted and grac ..."
            " record.accepted.items())) -> any(*"
        ),
        "plan._metadata_of: wanted is present or wanted == present -> wanted == present",
        "plan.checked_metadata: not metadata -> False",
        "plan._others: others -> True",
    ),
    "a lower bound that only spares the regular expression what is too short for it": (
        "cookies.<module>: 22 + 1*",
    ),
    "what is no text is none of the three either way": ("cookies._check_choices: '' -> 'XXXX'",),
    "nothing is left of the same keys, whichever end is stripped": (
        "cookies._key_bytes: data.strip() -> data.rstrip()",
        "cookies._key_bytes: data.strip(b'*') -> data.rstrip(b'*')",
    ),
    "more values are looked at closely than have to be, which finds no less": (
        "changes._suspects: shown is None -> True",
        (
            "changes._suspects: name in assigned or (text := now.get(name)) is None or"
            " text != before.get(name) -> True"
        ),
        "changes._suspects: (text := now.get(name)) is None -> (text := now.get(name)) is not None",
    ),
    "it is used only where there is an expiry": ("plan._delta_of: life.expiry is UNSET -> False",),
    "it holds a well-known word besides": ("cookies.<module>: 'topsecret' -> 'XXtopsecretXX'",),
    "a name with a semicolon in it is never ours": (
        "cookies.CookieCodec.names_our_cookie: b';' -> b'XX;XX'",
    ),
    "a generation is a time in milliseconds: none is 1": ("opening.open_promised: 0 -> 1 #2",),
    "the last is the last": ("opening._rank: 5 -> 6",),
    "only one reason is without a name": (
        "opening._rank: reason or '' -> reason",
        "opening._rank: '' -> 'XXXX'",
    ),
    "it is called with no other; this tells mypy": (
        "plan._plan_fresh: isinstance(life.opening, Fresh) -> True",
    ),
    "a new record takes whatever is no text for nobody": (
        "plan._plan_fresh: user or None -> user",
        "plan._plan_ended: user or None -> user",
    ),
    "the default is 30 days, too": ("policy.Policy.aal1: absolute_timeout=30 * DAY -> nothing",),
}

_NAMES: Final = frozenset(name for names in EQUIVALENT.values() for name in names)
_BEGINNINGS: Final = tuple(name[:-1] for name in _NAMES if name.endswith("*"))


def is_equivalent(name: str) -> bool:
    """Whether the mutant of this name is known to change nothing."""
    return name in _NAMES or name.startswith(_BEGINNINGS)


def stale(mutants: Iterable[str]) -> list[str]:
    """The names above that none of *mutants* has any more."""
    present = "".join(f"{name}*\n" for name in mutants)
    return sorted(name for name in _NAMES if name.removesuffix("*") not in present)
