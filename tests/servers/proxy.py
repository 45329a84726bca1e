"""A small TCP proxy on loopback, before a server of the tests, that misbehaves as it is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

__all__ = ["Proxy", "proxy"]


class Proxy:
    """Hands bytes on. The faults are those of new bytes, on connections that stand as well as on new ones.

    `delay`: seconds before answers go on. `drops_answers`: what the server says is swallowed. `trickles`:
    answers go on byte by byte. `cuts_after`: so many bytes of an answer go on, then the connection is reset.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = []
        self.heal()

    def heal(self) -> None:
        """No more faults."""
        self.delay = 0.0
        self.drops_answers = False
        self.trickles = False
        self.cuts_after: int | None = None

    def serve(self) -> None:
        """Take connections up until it is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._server))
            self._open += [client, server]
            for one, other, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._hand_on, args=(one, other, answers), daemon=True).start()

    def close(self) -> None:
        """And all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            _reset(one)

    def _hand_on(self, one: socket.socket, other: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if not (answers and self._spoils(data, other)):
                    other.sendall(data)
        _reset(one)
        _reset(other)

    def _spoils(self, data: bytes, other: socket.socket) -> bool:
        """Whether it did something else with this answer than to hand it on."""
        time.sleep(self.delay)
        if self.cuts_after is not None:
            other.sendall(data[: self.cuts_after])
            raise OSError("cut, as was asked for")
        if self.trickles:
            for byte in data:
                other.sendall(bytes([byte]))
        return self.drops_answers or self.trickles


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """One before the server on this port."""
    made = Proxy(port)
    thread = threading.Thread(target=made.serve)
    thread.start()
    try:
        yield made
    finally:
        with closing(made):
            pass
        thread.join()
