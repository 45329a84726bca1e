"""Containers that do not show what is in them: for what goes to a server, and what comes from it.

Error trackers and debug pages show the local variables of each frame of a traceback. In these a record's
secret and its values would be found. `repr` of what is here tells a length; so does rich, which else looks
into containers by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Hidden", "HiddenBytes", "HiddenList", "HiddenMap"]


class _Unshown:
    __slots__ = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{len(self)}, not shown>"

    def __rich_repr__(self) -> Iterator[int]:
        yield len(self)


class Hidden(_Unshown, tuple[Any, ...]):
    """The parts of a command, the parameters of a statement, or a row."""

    __slots__ = ()
    __len__ = tuple.__len__


class HiddenList(_Unshown, list[Any]):
    """Answers."""

    __slots__ = ()
    __len__ = list.__len__


class HiddenMap(_Unshown, dict[Any, Any]):
    """Fields by their names."""

    __slots__ = ()
    __len__ = dict.__len__


class HiddenBytes(_Unshown, bytes):
    """What is sent."""

    __slots__ = ()
    __len__ = bytes.__len__

    def __str__(self) -> str:
        return repr(self)

    def __getitem__(self, at: Any) -> Any:  # rich shows the beginning of long ones
        part = super().__getitem__(at)
        return HiddenBytes(part) if isinstance(part, bytes) else part
