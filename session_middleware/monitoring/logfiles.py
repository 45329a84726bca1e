"""Log files as lines: plain or gzip, one or several rotated ones, standard input, a file that still grows.

A line longer than `LONGEST_LINE` is no log line of ours: it is passed over in pieces and told as None. A gzip
file that is damaged or cut short gives what can be read of it, and then `DamagedLog`.
"""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeAlias

from session_middleware.errors import SessionError
from session_middleware.monitoring.lines import LineReader

__all__ = ["LONGEST_LINE", "STDIN", "DamagedLog", "Line", "followed", "lines_of", "oldest_first", "size_of"]

Line: TypeAlias = bytes | None
"""None: a line that was too long to be kept."""

LONGEST_LINE: Final = 16 * 2**20  # bytes
STDIN: Final = "-"
_BLOCK: Final = 2**18  # bytes
_GZIP: Final = b"\x1f\x8b"
_LOOKED_AT: Final = 1000  # lines in which the first event of a file is looked for


class _Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class DamagedLog(SessionError):
    """A file of which only a part could be read."""


def lines_of(path: str, progress: Callable[[int], object] = lambda _: None) -> Iterator[Line]:
    """The lines of this file, `-` for standard input. *progress* is told how far the file was read, in bytes.

    Raises `DamagedLog` after the last line that could be read, and `OSError`.
    """
    if path == STDIN:
        yield from _split(_unpacked(sys.stdin.buffer), lambda: None)
        return
    with Path(path).open("rb") as file:
        yield from _checked(path, _split(_unpacked(file), lambda: progress(file.tell())))


def size_of(paths: Iterable[str]) -> int | None:
    """How many bytes there are to read; None where nobody knows."""
    sizes = [None if path == STDIN else Path(path).stat().st_size for path in paths]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def oldest_first(paths: Sequence[str]) -> list[str]:
    """In the order of their first events, as rotated files were written; standard input comes last."""
    return sorted(paths, key=lambda path: (path == STDIN, _begin_of(path)))


def _begin_of(path: str) -> float:
    if path == STDIN:
        return 0.0
    reader = LineReader(float("inf"))  # of an event without a time
    try:
        some = islice(lines_of(path), _LOOKED_AT)
        return next((event.timestamp for event in reader.events(some)), float("inf"))
    except (DamagedLog, OSError):  # told when it is read
        return float("inf")


def followed(
    path: str,
    wait: Callable[[], object],
    *,
    from_start: bool = True,
    idle: Callable[[], bool] = lambda: False,
) -> Iterator[Line]:
    """The lines of a file, and those that are written to it while you ask for more; never ends.

    *wait* is called where there is nothing new; then *idle*, True ends it. A file that is replaced (rotated)
    or cut is begun anew. Half a line waits for its other half. A file that is gone is waited for.
    """
    half = b""
    while True:
        with Path(path).open("rb") as file:
            if not from_start:
                file.seek(0, os.SEEK_END)
            from_start = True
            while _is_the_same(file, path):
                *whole, half = (half + file.read(2**20)).split(b"\n")
                yield from whole
                if whole:
                    continue
                if len(half) > LONGEST_LINE:
                    half = b""
                    yield None
                wait()
                if idle():
                    return
        half = b""
        while not Path(path).exists():
            wait()
            if idle():
                return


def _is_the_same(file: BinaryIO, path: str) -> bool:
    """Whether *path* still names this file, and it was not cut."""
    try:
        now = os.stat(path)  # noqa: PTH116  (beside fstat)
    except FileNotFoundError:
        return _has_more(file)
    opened = os.fstat(file.fileno())
    if (now.st_dev, now.st_ino) != (opened.st_dev, opened.st_ino):
        return _has_more(file)  # what was written before it was replaced comes first
    return opened.st_size >= file.tell()


def _has_more(file: BinaryIO) -> bool:
    return os.fstat(file.fileno()).st_size > file.tell()


def _unpacked(file: BinaryIO) -> _Readable:
    """Told by the first bytes, whatever the name is."""
    buffered = file if isinstance(file, BufferedReader) else BufferedReader(file)  # type: ignore[type-var]  # a raw one
    packed = buffered.peek(2)[:2] == _GZIP
    return gzip.GzipFile(fileobj=buffered) if packed else buffered


def _split(file: _Readable, progress: Callable[[], object]) -> Iterator[Line]:
    """Many lines at a time, which is far cheaper than one by one."""
    half, too_long = b"", False  # of the line that goes on in the next block
    while block := file.read1(_BLOCK):
        first, *lines = block.split(b"\n")
        if lines:
            yield None if too_long or len(half) + len(first) >= LONGEST_LINE else half + first
            yield from lines[:-1]
            half, too_long = lines[-1], False
        elif not too_long:
            half += first
            too_long = len(half) >= LONGEST_LINE
            half = b"" if too_long else half
        progress()
    if half or too_long:
        yield None if too_long else half


def _checked(path: str, lines: Iterator[Line]) -> Iterator[Line]:
    try:
        yield from lines
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DamagedLog(
            f"{path}: it is damaged or cut short, and was read only in part: {problem}"
        ) from problem
