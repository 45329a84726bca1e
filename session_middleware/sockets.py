"""The open WebSockets that code elsewhere in the process may ask for, by a name in their own headers.

A framework that serves a WebSocket may run the app's code in threads of its own, which see nothing of the
ASGI scope but its headers (Streamlit does). So the entrance writes a name into them. A client cannot bring
one: its own header is taken away, and where no entrance does that, on a route without a session, it would
have to guess a random one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from session_middleware.exchange import Exchange

__all__ = ["HEADER", "announced", "socket_of"]

HEADER = "x-session-middleware-socket"

_HEADER = HEADER.encode()
_open: dict[str, Exchange] = {}  # each change is one atomic operation, so threads need no lock


@contextmanager
def announced(exchange: Exchange) -> Iterator[None]:
    """Let `socket_of` find this WebSocket while the body runs."""
    name = secrets.token_urlsafe(16)
    headers = [pair for pair in exchange.scope["headers"] if pair[0].lower() != _HEADER]
    exchange.scope["headers"] = [*headers, (_HEADER, name.encode())]
    _open[name] = exchange
    try:
        yield
    finally:
        del _open[name]


def socket_of(name: str | None) -> Exchange | None:
    """The open WebSocket with this name in its header. None: it is closed, or no entrance announced it."""
    return None if name is None else _open.get(name)
