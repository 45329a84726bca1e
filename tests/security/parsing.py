"""What a hostile Cookie header costs: counted in the suite, timed by hand.

    python -m tests.security.parsing --count 50
    python -m tests.security.parsing --control in-c

prints the CPU time at 64 kB of the shape that takes longest, and the most that twice the length costs; exit
status 0 if that is under 5 ms and at most 2.5 times as much. Chance decides nothing here: there is no seed.

Times belong to a machine, so the suite counts instead (`work`): each line of Python that runs is one, and
each call from Python into C is as many as the longest bytes or text within its reach. A parser that looks at
the rest of the header again for every pair is quadratic in that count, whether it loops in Python or in C.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from types import FrameType
from typing import Any, TypeAlias

from session_middleware.cookies import CookieCodec, CookieSettings

KEY = "k7Zq0v-9sXw3bT1LmNp5RyUeHaGfDcJi2oV8"
LENGTH = 64 * 1024  # bytes
AT_MOST = 0.005  # seconds of CPU for that many
NOTHING = AT_MOST / 100  # below that it is the caches and the clock that are measured
GROWTH = 2.5  # at most, where the length doubles

Parser: TypeAlias = Callable[[bytes], object]

SHAPES: dict[str, bytes] = {
    "backslashes in quotes": b"\\",
    "octal escapes in quotes": b"\\073",
    "quotes": b'"',
    "semicolons": b";",
    "equal signs": b"=",
    "spaces": b" ",
    "tabs": b"\t",
    "spaces and semicolons": b" ;",
    "our name": b"session",
    "our name and an equal sign": b"session=",
    "empty cookies of ours": b"session=;",
    "cookies of ours": b"session=x; ",
    "cookies of ours, indented": b"session=x;\t \t ",
    "values in spaces": b"session= x ;",
    "a prefix of our name": b"sessio",
    "cookies of a prefix of our name": b"sess=x; ",
    "cookies that end in our name": b"xsession=x; ",
    "high bytes": b"\xff",
    "UTF-8 spaces": "\u2000".encode(),
    "no separators": b"x",
    "small cookies": b"a=b; ",
    "what looks like a value of ours": b"session=" + b"A" * 22 + b"." + b"A" * 22 + b".1." + b"A" * 43 + b";",
}
"""What a header of the shape repeats; within the quotes of a value where the shape says so."""


def header_of(shape: str, length: int) -> bytes:
    """A header of about *length* bytes."""
    piece = SHAPES[shape]
    repeated = piece * (length // len(piece))
    return b'session="%b"' % repeated if "quotes" in shape else repeated


# --- parsers ---


def our_parsers() -> dict[str, Parser]:
    """The two ways in, for a name that every shape was made for and one that hides in all of them."""
    return {
        f"{way} {name!r}": parser
        for name in ("session", "s", "__Host-session")
        for way, parser in _ways(CookieCodec(CookieSettings(session_cookie=name), KEY))
    }


def _ways(codec: CookieCodec) -> Iterator[tuple[str, Parser]]:
    yield "read", lambda header: codec.read([(b"cookie", header)])
    yield "read_text", lambda header: codec.read_text(header.decode("latin-1"))


def quadratic_in_python(header: bytes) -> list[bytes]:
    """Looks for the next separator by hand, and copies what is left after each."""
    found = []
    while header:
        at = next((at for at, byte in enumerate(header) if byte in b";\\ "), len(header) - 1)
        found.append(header[:at])
        header = header[at + 1 :]
    return found


def quadratic_in_c(header: bytes) -> list[bytes]:
    """The same with what bytes can do themselves: the rest is looked at and copied for every pair."""
    found = []
    while header:
        for separator in (b";", b"\\", b" "):
            pair, _, rest = header.partition(separator)
            if rest:
                break
        found.append(pair.strip())
        header = rest
    return found


CONTROLS: dict[str, Parser] = {"in-c": quadratic_in_c, "in-python": quadratic_in_python}


# --- counting ---


class _Counter:
    def __init__(self) -> None:
        self.work = 0

    def called(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            reach = (getattr(function, "__self__", None), *frame.f_locals.values())
            self.work += 1 + max((len(each) for each in reach if isinstance(each, bytes | str)), default=0)

    def ran(self, _: FrameType, event: str, __: object) -> Any:
        self.work += event == "line"
        return self.ran


@contextmanager
def _counting() -> Iterator[_Counter]:
    counter, before = _Counter(), (sys.gettrace(), sys.getprofile())
    sys.setprofile(counter.called)
    sys.settrace(counter.ran)
    try:
        yield counter
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])


def work(parser: Parser, header: bytes) -> int:
    """What reading this header takes, the same on every machine."""
    parser(header)  # compiles what it keeps
    with _counting() as counter:
        parser(header)
    return counter.work


# --- timing ---


def seconds(parser: Parser, header: bytes, count: int) -> float:
    """CPU time of one call; the least of *count*, so that what else the machine does is left out."""
    return min(_once(parser, header) for _ in range(count))


def _once(parser: Parser, header: bytes) -> float:
    began = time.process_time()
    parser(header)
    return time.process_time() - began


def slowest(parsers: dict[str, Parser], shapes: Iterable[str], count: int) -> tuple[float, float, str, str]:
    """The longest time at 64 kB, and the most that twice the length costs, each with where that was.

    The latter is the mean of two doublings around 64 kB: at some length the memory that is asked for leaves
    the small caches, and a single doubling across that costs more than its share.
    """
    times: dict[str, float] = {}
    growth: dict[str, float] = {}
    for (name, parser), shape in itertools.product(parsers.items(), shapes):
        half, whole, double = (
            seconds(parser, header_of(shape, size), count) for size in (LENGTH // 2, LENGTH, 2 * LENGTH)
        )
        times[f"{name}, {shape}"] = whole
        growth[f"{name}, {shape}"] = sqrt(double / max(half, NOTHING))
    longest, steepest = max(times, key=times.__getitem__), max(growth, key=growth.__getitem__)
    return times[longest], growth[steepest], longest, steepest


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if ours is fast enough, or if the control is not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=20, help="times that each is measured")
    parser.add_argument("--control", choices=sorted(CONTROLS))
    given = parser.parse_args(arguments)
    parsers = {given.control: CONTROLS[given.control]} if given.control else our_parsers()
    shapes = ["semicolons", "backslashes in quotes"] if given.control else list(SHAPES)
    longest, growth, where, steepest = slowest(parsers, shapes, given.count)
    sys.stdout.write(
        f"{len(parsers)} ways in, {len(shapes)} shapes of 64 kB, least of {given.count}: at most "
        f"{longest * 1000:.2f} ms of CPU ({where}), "
        f"twice the length at most {growth:.2f} times ({steepest})\n"
    )
    return int((longest < AT_MOST and growth <= GROWTH) is bool(given.control))


if __name__ == "__main__":
    raise SystemExit(main())
