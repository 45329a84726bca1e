"""Real servers for tests: found, started on free loopback ports in folders of their own, ended by pid."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["DEADLINE", "ServerMissing", "ended", "free_port", "nobody", "program", "until"]

DEADLINE = 30.0  # seconds


class ServerMissing(Exception):
    """The server's program is not on this machine."""


def program(name: str, *folders: str) -> str:
    """The path of a program on PATH or in one of these folders (patterns). Raises `ServerMissing`."""
    found = shutil.which(name)
    if found is not None:
        return found
    for pattern in folders:
        for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            if (folder / name).exists():
                return str(folder / name)
    raise ServerMissing(f"no {name} here: `make tools` installs it where it may")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"never came to hold: {what}"
        time.sleep(0.02)  # another process has no clock of ours to move


def ended(process: subprocess.Popen[bytes]) -> None:
    """End it, gently if it listens."""
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(DEADLINE)


def nobody() -> dict[str, Any]:
    """Arguments of `Popen` for programs that refuse to run as root; none where we are not."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "cwd": "/"}
