"""Starts the demo on loopback.

`PORT` says where (default 8000), `DEMO_DATA` in which folder key and sessions are kept (default `.demo`).
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn

from session_middleware import SessionManager

from .app import create_app
from .live import Feed


def main() -> None:
    folder = Path(os.environ.get("DEMO_DATA") or ".demo").absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    manager = SessionManager(
        f"sqlite:///{folder / 'sessions.db'}",
        secret_key=kept_key(folder / "secret.key"),
        session_cookie="session_demo",  # browsers share cookies among all ports of one host
        idle_timeout=30 * 60,
        absolute_timeout=12 * 3600,
        open_requests_renew=False,  # an open page alone does not keep its visitor signed in
    )
    feed = Feed()
    listening = listen(int(os.environ.get("PORT") or 8000))
    print(f"The demo runs at http://127.0.0.1:{listening.getsockname()[1]} (Ctrl+C stops it)", flush=True)
    config = uvicorn.Config(create_app(manager, feed), log_level="warning", timeout_graceful_shutdown=10)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped
        Server(config, feed).run(sockets=[listening])


class Server(uvicorn.Server):
    """Ends the streams of events before it waits for open requests: by themselves they never end."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self.feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.feed.close()
        await super().shutdown(sockets)


def kept_key(path: Path) -> str:
    """The key of the last start, or a new one that the next start will find: so everyone stays signed in."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)  # nobody else may read it
    except FileExistsError:
        return path.read_text(encoding="ascii")
    os.write(descriptor, secrets.token_hex(32).encode())
    os.close(descriptor)
    return path.read_text(encoding="ascii")


def listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as problem:
        sys.exit(f"Port {port} cannot be had ({problem.strerror}). Try another: make demo PORT=8001")


if __name__ == "__main__":
    main()
