"""The file of a SQLite backend: where it may lie, how it is made and opened, what its errors mean.

Reading order: `Place`, `open_connection` with the settings and migrations, making a file, places that are
refused (mounts, network file systems), errors (`border`, `translated`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from session_middleware.backends import sql
from session_middleware.backends.sqlite_handles import Connection, is_busy, roll_back
from session_middleware.errors import (
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    SessionDataError,
    SessionError,
)

try:
    import fcntl
except ImportError:  # Windows, where a file that somebody has open cannot be deleted
    fcntl = None  # type: ignore[assignment,unused-ignore]

__all__ = [
    "NETWORK_FILE_SYSTEMS",
    "WAL_MOST",
    "Place",
    "border",
    "file_system_of",
    "identity",
    "open_connection",
    "replaced",
    "translated",
]

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
        *("glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    }
)
"""Where the locks and the shared memory of a write-ahead log do not reach every host, or do not work."""

WAL_MOST = 4 * 2**20
"""Bytes of write-ahead log; from then on it is copied back into the file."""

_OPENING_PAUSE = 0.005  # seconds
_pause = time.sleep
_KNOWN_VERSION = len(sql.MIGRATIONS)


@dataclass(frozen=True, slots=True)
class Place:
    """Which file, and how. `busy_timeout` is seconds; `forced`: on a network file system, too."""

    path: str
    busy_timeout: float
    durability: str
    forced: bool


def identity(path: str) -> tuple[int, int] | None:
    """Which file is at *path*, whatever its name; None: there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  (paths are text throughout)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# --- opening -------------------------------------------------------------------------------------------


def open_connection(place: Place, *, reader: bool) -> sqlite3.Connection:
    """A connection with its settings; the writer's creates the file and its tables."""
    if not reader:
        _check_place(place)
        _create_file(place)
    connection = sqlite3.connect(
        f"{Path(place.path).as_uri()}?mode=rw",  # what was deleted just now is not made again in passing
        uri=True,
        timeout=place.busy_timeout,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,  # `Handle` sees to that; whoever forks must be able to close it
        cached_statements=256,
        factory=Connection,
    )
    try:
        if reader:
            _prepare_reader(connection)
        else:
            _prepare_patiently(connection, place)
    except BaseException:  # whatever it is, nobody else could close it
        connection.close()
        raise
    return connection


def _prepare_reader(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only=1").fetchall()
    connection.execute("PRAGMA cache_size=-16000").fetchall()  # KiB
    connection.execute("PRAGMA temp_store=MEMORY").fetchall()


def _prepare_patiently(connection: sqlite3.Connection, place: Place) -> None:
    """As `_prepare_writer`. Of several that switch a new file to WAL, SQLite fails some without waiting."""
    patience = time.monotonic() + place.busy_timeout
    while True:
        try:
            return _prepare_writer(connection, place)
        except sqlite3.OperationalError as problem:
            roll_back(connection)
            if not is_busy(problem) or time.monotonic() >= patience:
                raise
        _pause(_OPENING_PAUSE)


def _prepare_writer(connection: sqlite3.Connection, place: Place) -> None:
    connection.execute("BEGIN")  # one snapshot: another process may be migrating
    version = _checked_version(connection, place)
    connection.execute("COMMIT")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()  # heeded before the first table only
    [(mode,)] = connection.execute("PRAGMA journal_mode=WAL").fetchall()
    if mode != "wal":
        raise ConfigurationError(
            f"path: {place.path}: SQLite answered journal_mode={mode}, and needs wal; use a local file system"
        )
    for setting in (
        f"synchronous={place.durability}",
        "wal_autocheckpoint=0",  # another connection does it: writers would wait
        f"journal_size_limit={WAL_MOST}",
        "cache_size=-16000",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {setting}").fetchall()
    if version < _KNOWN_VERSION:
        _migrate(connection, place)


def _migrate(connection: sqlite3.Connection, place: Place) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _checked_version(connection, place)  # another process may have been faster
        for steps in sql.MIGRATIONS[version:]:
            for statement in steps:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={sql.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={_KNOWN_VERSION}")
        connection.execute("COMMIT")
    except BaseException:  # an interrupt too leaves no transaction open
        roll_back(connection)
        raise


def _checked_version(connection: sqlite3.Connection, place: Place) -> int:
    """The file's version. `ConfigurationError` if it is a newer one, or somebody else's."""
    [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    [(owner,)] = connection.execute("PRAGMA application_id").fetchall()
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if owner != sql.APPLICATION_ID and (owner or version or tables):
        raise ConfigurationError(
            f"path: {place.path} is the database of another application; give sessions a file of their own"
        )
    if version > _KNOWN_VERSION:
        raise ConfigurationError(
            f"path: {place.path} has schema version {version}, this release knows {_KNOWN_VERSION}; "
            "upgrade session_middleware, or use another file. Nothing was changed"
        )
    return int(version)


# --- making a file -------------------------------------------------------------------------------------

_creating = threading.Lock()  # the locks of a file keep other processes out, not other threads of this one
_SQLITE_LOCKS = (512, 0x40000000)  # how many bytes SQLite locks, and from where: see "File Locking" there


def _create_file(place: Place) -> None:
    """Make sure that the file exists, and that only its owner may read it if we made it."""
    try:
        with _creating:
            if identity(place.path) is None:
                _make(place.path)
    except FileExistsError:
        return
    except PermissionError as problem:
        raise BackendReadOnly(f"{place.path} cannot be created here: {problem.strerror}") from problem
    except OSError as problem:
        raise BackendUnavailable(f"{place.path} cannot be created: {problem.strerror}") from problem


def _make(path: str) -> None:
    """A new file under *path*, and no log of an earlier one beside it.

    Someone may still use a file that was deleted, and its log and shared memory, which were not. SQLite would
    take those for the new file's and overwrite them under the other's feet. So the new file appears locked,
    and is let go only after they were deleted as well: each file then has a log of its own.

    Raises `FileExistsError` if another process was faster.
    """
    draft = f"{path}-{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        if _is_locked_in_place(descriptor, draft, path):
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path + suffix)  # noqa: PTH108  (as above)
    finally:
        os.unlink(draft)  # noqa: PTH108  (as above)
        os.close(descriptor)


def _is_locked_in_place(descriptor: int, draft: str, path: str) -> bool:
    """Puts the file under its name. False: where that cannot be done with a lock on it, it is not locked."""
    try:
        if fcntl is None:
            raise OSError  # noqa: TRY301  (as below)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *_SQLITE_LOCKS)
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without locks, or without hard links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        return False
    return True


# --- where it may lie ----------------------------------------------------------------------------------


def _check_place(place: Place) -> None:
    parent = os.path.dirname(place.path)  # noqa: PTH120  (paths are text throughout)
    if not os.path.isdir(parent):  # noqa: PTH112
        raise ConfigurationError(f"path: the directory {parent} does not exist; create it first")
    if os.path.isdir(place.path):  # noqa: PTH112
        raise ConfigurationError(f"path: {place.path} is a directory; pass the name of a file in it")
    system = None if place.forced else file_system_of(place.path, _mounts())
    if system in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"path: {place.path} is on a network file system ({system}), where SQLite loses data; use a "
            "local disk, or force_network_filesystem=True if one host alone uses the file"
        )


def _mounts() -> str:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
            return lines.read()
    except OSError:  # not Linux: nothing is known
        return ""


def file_system_of(path: str, mountinfo: str) -> str | None:
    """The type of the file system that holds *path*, by the text of `/proc/self/mountinfo` (see proc(5))."""
    real = os.path.realpath(path)
    holding = [(len(point), system) for point, system in _mount_points(mountinfo) if _is_below(real, point)]
    # Of mounts on one point the last one hides the others, and `max` answers the first: so from the end.
    return max(reversed(holding), key=lambda mount: mount[0], default=(0, None))[1]


def _mount_points(mountinfo: str) -> Iterator[tuple[str, str]]:
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if separator:
            yield _unescaped(before.split(" ")[4]), after.split(" ")[0]


def _unescaped(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


# --- errors --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def border(place: Place) -> Iterator[None]:
    """Where the errors of sqlite3 become ours."""
    try:
        yield
    except Exception as problem:
        raise translated(problem, place) from problem


def translated(problem: Exception, place: Place) -> Exception:
    """Ours for one of sqlite3; any other as it is."""
    if isinstance(problem, sqlite3.Error):
        name = getattr(problem, "sqlite_errorname", None) or ""
        for prefixes, error in _ERRORS:
            if name.startswith(prefixes):
                return error(f"{place.path}: {problem} ({name})")
    if isinstance(problem, sqlite3.Error | OverflowError | UnicodeError):
        return SessionDataError(f"SQLite cannot hold this record: {type(problem).__name__}")
    return problem


_Make: TypeAlias = Callable[[str], SessionError]
_ERRORS: Final[Iterable[tuple[tuple[str, ...], _Make]]] = (
    (("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"), BackendUnavailable),
    (("SQLITE_FULL",), BackendFull),
    (("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"), BackendReadOnly),
    (("SQLITE_CORRUPT", "SQLITE_NOTADB"), BackendCorrupt),
    (("SQLITE_IOERR",), partial(BackendUnavailable, unknown=True)),
    (("SQLITE_CANTOPEN",), BackendUnavailable),
    (("SQLITE_TOOBIG", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_RANGE"), SessionDataError),
    (("SQLITE_",), BackendError),
)


def replaced(place: Place) -> BackendUnavailable:
    """The error for a file that is no longer at its path."""
    return BackendUnavailable(
        f"{place.path} was deleted or replaced while it was open; sessions are kept in what is there now"
    )
