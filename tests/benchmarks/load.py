"""Requests from another process: `python -m tests.benchmarks.load` answers one line of JSON with another.

In: `Order`; out: `Outcome`. One thread, a few connections that stay open, each with one request under way;
requests are made beforehand and answers are only compared, so that most of the machine is the server's.
Standard library alone: it is started for each run.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field

__all__ = ["DIGITS", "Order", "Outcome", "main", "run"]

DIGITS = "#"
"""Expect a number, whatever it is."""
_PATIENCE = 10.0  # seconds without any answer
_HEAD_ENDS = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Order:
    """Send each of *requests* over a connection of its own, again and again."""

    port: int
    requests: list[str]
    expected: str  # the body, or DIGITS
    seconds: float
    most: int  # requests, whatever time is left


@dataclass(slots=True)
class Outcome:
    """How many were answered as expected, in how many seconds; and one of the other answers."""

    answers: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


class _Line:
    """One connection."""

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self.connection = connection
        self.request = request
        self.received = b""

    def ask(self) -> None:
        self.connection.sendall(self.request)

    def answer(self) -> bytes | None:
        """The whole answer, once it is here."""
        piece = self.connection.recv(65536)
        if not piece:
            raise ConnectionError(f"the server hung up after {self.received[:200]!r}")
        self.received += piece
        head, ends, body = self.received.partition(_HEAD_ENDS)
        if not ends or len(body) < _length(head):
            return None
        answer, self.received = self.received, b""
        return answer


def run(order: Order) -> Outcome:
    """Send until the time or the number is used up. Raises `OSError` where the server does not answer."""
    outcome = Outcome()
    with _lines(order) as (selector, lines):
        began = time.perf_counter()
        until = began + order.seconds
        for line in lines:
            line.ask()
        under_way = len(lines)
        while under_way:
            for line, answer in _answers(selector):
                _note(outcome, order, answer)
                if time.perf_counter() < until and outcome.answers < order.most and not outcome.wrong:
                    line.ask()
                else:
                    under_way -= 1
        outcome.seconds = time.perf_counter() - began
    return outcome


def _answers(selector: selectors.BaseSelector) -> Iterator[tuple[_Line, bytes]]:
    """Those that are complete, once there is anything to read."""
    ready = selector.select(_PATIENCE)
    if not ready:
        raise TimeoutError(f"no answer for {_PATIENCE:g} s")
    for key, _ in ready:
        answer = key.data.answer()
        if answer is not None:
            yield key.data, answer


def main() -> int:
    """One order per line, until there are no more."""
    for line in sys.stdin:
        print(json.dumps(asdict(run(Order(**json.loads(line))))), flush=True)
    return 0


@contextmanager
def _lines(order: Order) -> Iterator[tuple[selectors.BaseSelector, list[_Line]]]:
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        lines = []
        for request in order.requests:
            address = ("127.0.0.1", order.port)
            connection = stack.enter_context(socket.create_connection(address, timeout=_PATIENCE))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lines.append(_Line(connection, request.encode("latin-1")))
            selector.register(connection, selectors.EVENT_READ, lines[-1])
        yield selector, lines


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionError(f"an answer without a length: {head[:200]!r}")


def _note(outcome: Outcome, order: Order, answer: bytes) -> None:
    head, _, body = answer.partition(_HEAD_ENDS)
    is_right = body.isdigit() if order.expected == DIGITS else body == order.expected.encode()
    if is_right and head.startswith(b"HTTP/1.1 200"):
        outcome.answers += 1
    else:
        outcome.wrong.append(f"{head.splitlines()[0].decode('latin-1')} {body[:80]!r}")


if __name__ == "__main__":
    sys.exit(main())
