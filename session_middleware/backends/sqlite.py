"""Sessions in a file of SQLite, for any number of threads and processes on one host.

Here is the description, `SQLiteBackend`, and what its arguments may be. Reading order of what stands behind
it, each file on those before: `sql` (statements), `coalesce` (who waits together), `sqlite_handles`
(connections, forks), `sqlite_file` (opening, making, refusing a file; errors), `sqlite_batches` (work on a
connection), `sqlite_links` (worker threads), `sqlite_port` (the operations), then the two colours in
`sqlite_blocking` and `sqlite_async`.

A port has one writer connection and at least one reader connection (`query_only`).
"""

from __future__ import annotations

import os
import threading
from typing import Literal, cast

from session_middleware.backends.base import Colour, Port, wrong_colour
from session_middleware.backends.sqlite_async import AsyncPort
from session_middleware.backends.sqlite_blocking import BlockingPort
from session_middleware.backends.sqlite_file import Place
from session_middleware.errors import ConfigurationError

__all__ = ["SQLiteBackend"]


class SQLiteBackend:
    """Records in the file *path*. Describes only: the file is opened, or created, at the first use.

    `busy_timeout`: seconds to wait for another process that writes. Default 5; then the visitor gets 503.

    `durability`: "normal" (default) survives a crash of the process at any moment, but a power cut may undo
    the last commits, a logout among them; "full" waits for the disk at each transaction (6 times slower).

    `force_network_filesystem`: open a file on NFS, SMB and the like all the same. Default False: their locks
    lose data as soon as two hosts use the file.
    """

    colours: frozenset[Colour] = frozenset({"async", "blocking"})

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = 5.0,
        durability: Literal["normal", "full"] = "normal",
        force_network_filesystem: bool = False,
    ) -> None:
        given = _path_text(path)
        _check_arguments(busy_timeout, durability, force_network_filesystem)
        self.url = f"sqlite:///{given}"
        self.path = os.path.abspath(given)  # noqa: PTH100  (a later chdir must not lead to another file)
        self.busy_timeout = float(busy_timeout)
        self.durability = durability
        self.force_network_filesystem = force_network_filesystem
        self._ports: dict[Colour, Port] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SQLiteBackend {self.url}>"

    def port(self, colour: Colour) -> Port:
        """The one port of this colour of this backend object."""
        if colour not in self.colours:
            raise wrong_colour(self, colour)
        with self._lock:
            if colour not in self._ports:
                place = Place(self.path, self.busy_timeout, self.durability, self.force_network_filesystem)
                self._ports[colour] = AsyncPort(place) if colour == "async" else BlockingPort(place)
            return self._ports[colour]


def _path_text(path: object) -> str:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise ConfigurationError(f"path: found {type(path).__name__}, pass the name of a file as str or Path")
    if text == ":memory:" or "mode=memory" in text:
        raise ConfigurationError(
            'path: SQLite\'s ":memory:" is one database per connection; use MemoryBackend() or backend="memory://"'
        )
    if not text or "\0" in text:
        raise ConfigurationError('path: found no file name, pass one such as "sessions.db"')
    if text.startswith(("file:", "sqlite:")):
        raise ConfigurationError(
            'path: found a URL, pass the name of a file; URLs go to backend="sqlite:///…"'
        )
    return text


def _check_arguments(busy_timeout: object, durability: object, forced: object) -> None:
    is_number = isinstance(busy_timeout, int | float) and not isinstance(busy_timeout, bool)
    if not is_number or not 0 <= cast("float", busy_timeout) <= 3600:  # noqa: PLR2004  (an hour)
        raise ConfigurationError(f"busy_timeout: found {busy_timeout!r}, pass seconds from 0 to 3600")
    if durability not in ("normal", "full"):
        raise ConfigurationError(f'durability: found {durability!r}, pass "normal" or "full"')
    if not isinstance(forced, bool):
        raise ConfigurationError(f"force_network_filesystem: found {forced!r}, pass True or False")
