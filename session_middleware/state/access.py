"""What the visitor may do: roles, the permissions they imply, and further permissions.

Each role is a session key of its own: else two parallel requests that change different roles would take one
of the changes back, and a removed role could return.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from session_middleware.errors import ConfigurationError
from session_middleware.state.store import PREFIX, Store, cycle, names_under, text

__all__ = ["Access"]

_ROLE = f"{PREFIX}role:"
_PERMISSION = f"{PREFIX}permission:"


class Access:
    """Roles and permissions of one session. A change of either gives the session a new cookie.

    *role_permissions*: what each role implies, `{"editor": {"read", "write"}}`. It is the app's, and not kept
    in the session: what it says holds for every session at once. Default: roles imply nothing.
    """

    def __init__(
        self, values: Store, *, role_permissions: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self._values = values
        self._implied = {role: _names(role, implied) for role, implied in (role_permissions or {}).items()}

    @property
    def roles(self) -> frozenset[str]:
        """The roles of this session."""
        return frozenset(names_under(self._values, _ROLE))

    @property
    def permissions(self) -> frozenset[str]:
        """All that this session may do: what it was given, and what its roles imply."""
        given = frozenset(names_under(self._values, _PERMISSION))
        return given.union(*(self._implied.get(role, frozenset()) for role in self.roles))

    def has_role(self, role: str) -> bool:
        """Whether the session has this role, exactly."""
        return f"{_ROLE}{role}" in self._values

    def has_permission(self, permission: str) -> bool:
        """Whether it was given this permission, or a role of its implies it."""
        return permission in self.permissions

    def add_role(self, role: str) -> bool:
        """Give it this role; False, and nothing changes, if it had it."""
        return self._add(f"{_ROLE}{text('role', role)}")

    def remove_role(self, role: str) -> bool:
        """Take this role away; False, and nothing changes, if it did not have it."""
        return self._remove(f"{_ROLE}{text('role', role)}")

    def add_permission(self, permission: str) -> bool:
        """Give it this permission; False, and nothing changes, if it was given before."""
        return self._add(f"{_PERMISSION}{text('permission', permission)}")

    def remove_permission(self, permission: str) -> bool:
        """Take back what `add_permission` gave; False if that was nothing. What a role implies stays."""
        return self._remove(f"{_PERMISSION}{text('permission', permission)}")

    def _add(self, key: str) -> bool:
        if key in self._values:
            return False
        cycle(self._values)  # first: whoever writes at each change writes both at once
        self._values[key] = True
        return True

    def _remove(self, key: str) -> bool:
        if key not in self._values:
            return False
        cycle(self._values)
        del self._values[key]
        return True


def _names(role: str, implied: Collection[str]) -> frozenset[str]:
    if isinstance(implied, str):
        raise ConfigurationError(f"role_permissions: {role!r} has text, pass a set or list of permissions")
    return frozenset(text("role_permissions", one) for one in implied)
