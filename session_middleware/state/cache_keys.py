"""Which results an app has cached, and what they rest on: one that is stale takes with it all that follow.

The cached values themselves live in the app's cache; here are only their names. A name that is not here is
not to be trusted, so forgetting the oldest beyond the bound costs a computation, never a stale answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from session_middleware.errors import ConfigurationError
from session_middleware.state.store import PREFIX, Clock, Store, limit, names_under, read, text

__all__ = ["CacheKeys"]

_KEY = f"{PREFIX}cache:"


class CacheKeys:
    """The names of what is cached for one visitor; the oldest are invalidated beyond *max_keys*."""

    def __init__(self, values: Store, *, max_keys: int = 200, clock: Clock = time.time) -> None:
        self._values = values
        self._most = limit("max_keys", max_keys)
        self._clock = clock

    def __contains__(self, key: object) -> bool:
        return f"{_KEY}{key}" in self._values

    @property
    def keys(self) -> list[str]:
        """The valid ones, in the alphabet's order."""
        return sorted(names_under(self._values, _KEY))

    def dependencies(self, key: str) -> list[str]:
        """What *key* rests on, as it was added."""
        found: Any = read(self._values, f"{_KEY}{key}").get("dependencies", [])
        return list(found)

    def add(self, key: str, dependencies: Iterable[str] = ()) -> list[str]:
        """Note that *key* is cached and rests on *dependencies*; the keys that made room for it.

        Dependencies need not be keys themselves: any name that `invalidate` may be told will do.
        """
        if isinstance(dependencies, str):
            raise ConfigurationError("dependencies: found text, pass a set or list of names")
        on: list[Any] = sorted({text("dependencies", one) for one in dependencies})
        gone: list[str] = []
        if text("key", key) not in self:
            gone = self._make_room()
        self._values[f"{_KEY}{key}"] = {"dependencies": on, "added_at": self._clock()}
        return gone

    def invalidate(self, pattern: str) -> list[str]:
        """Forget each key that contains *pattern*, and all that rest on it, in any depth; those keys.

        A dependency that contains it counts too, although it be no key.
        """
        if not pattern:
            raise ConfigurationError("pattern: pass some text; invalidate_all() is for every key")
        graph = {key: set(self.dependencies(key)) for key in self.keys}
        names = set(graph).union(*graph.values())
        return self._forget(_dependents({name for name in names if pattern in name}, graph))

    def invalidate_all(self) -> list[str]:
        """Forget every key; those keys."""
        return self._forget(set(self.keys))

    def _make_room(self) -> list[str]:
        keys = self.keys
        if len(keys) < self._most:
            return []
        oldest = min(keys, key=self._added_at)
        return self._forget(_dependents({oldest}, {key: set(self.dependencies(key)) for key in keys}))

    def _added_at(self, key: str) -> float:
        found: Any = read(self._values, f"{_KEY}{key}").get("added_at", 0.0)
        return float(found)

    def _forget(self, names: set[str]) -> list[str]:
        gone = sorted(name for name in names if name in self)
        for name in gone:
            del self._values[f"{_KEY}{name}"]
        return gone


def _dependents(stale: set[str], graph: dict[str, set[str]]) -> set[str]:
    """*stale* and every key that rests on one of them, over however many others; circles end."""
    while True:
        more = {key for key, on in graph.items() if key not in stale and not on.isdisjoint(stale)}
        if not more:
            return stale
        stale = stale | more
