"""A real PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers.postgres import PostgresServer
from tests.servers.processes import ended, free_port, nobody, program, until

__all__ = ["pgbouncer"]

_SETTINGS = """
[databases]
sessions = host=127.0.0.1 port={port} user=tests dbname={database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
"""


@contextmanager
def pgbouncer(server: PostgresServer, database: str) -> Iterator[str]:
    """The URL of this database through it. Raises `ServerMissing`."""
    import psycopg

    with TemporaryDirectory(prefix="pgbouncer-") as folder:
        own, settings = free_port(), Path(folder) / "settings.ini"
        settings.write_text(_SETTINGS.format(port=server.port, own=own, database=database))
        user = nobody()
        if user:
            os.chown(folder, user["user"], user["group"])
            settings.chmod(0o644)
        command = [program("pgbouncer", "/usr/sbin"), str(settings)]
        url = f"postgresql://tests@127.0.0.1:{own}/sessions"
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user)

        def answers() -> bool:
            try:
                psycopg.connect(url).close()
            except psycopg.OperationalError:
                assert process.poll() is None, "PgBouncer has ended"
                return False
            return True

        try:
            until(answers, "PgBouncer answers")
            yield url
        finally:
            ended(process)
