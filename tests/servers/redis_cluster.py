"""A real Redis Cluster of three masters, and a master with a replica that three sentinels watch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers.processes import ended, free_port, program, until
from tests.servers.redis import FOLDERS, RedisServer, client, redis_server

__all__ = ["Cluster", "Watched", "redis_cluster", "watched_redis"]

_SLOTS = 16384


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, masters: list[RedisServer]) -> None:
        self.masters = masters

    def new_store(self) -> str:
        """The URL of the cluster, emptied."""
        for master in self.masters:
            master.ask("FLUSHALL")
        return f"redis+cluster://127.0.0.1:{self.masters[0].port}"


@contextmanager
def redis_cluster() -> Iterator[Cluster]:
    """One that runs. Raises `ServerMissing`."""
    with ExitStack() as stack:
        masters = []
        for _ in range(3):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            masters.append(stack.enter_context(redis_server(*options)))
        bounds = [n * _SLOTS // 3 for n in range(4)]
        for n, master in enumerate(masters):
            master.ask("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        bus = {master.port: master.option("--cluster-port") for master in masters}
        for master in masters[1:]:
            masters[0].ask("CLUSTER", "MEET", "127.0.0.1", master.port, bus[master.port])
        for master in masters:
            until(lambda master=master: _is_whole(master), "the cluster is whole")
        yield Cluster(masters)


def _is_whole(master: RedisServer) -> bool:
    told = master.ask("CLUSTER INFO")
    said: dict[str, str] = told if isinstance(told, dict) else {}
    return said.get("cluster_state") == "ok" and said.get("cluster_known_nodes") == "3"


class Watched:
    """A master and its replica, and the sentinels that know it as `sessions`."""

    def __init__(self, master: RedisServer, replica: RedisServer, sentinels: list[int]) -> None:
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/sessions/0"

    def knows(self, server: RedisServer) -> bool:
        """Whether every sentinel takes this one for the master."""
        for port in self.sentinels:
            with client(f"redis://127.0.0.1:{port}") as sentinel:
                known = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "sessions")
            if int(known[1]) != server.port:
                return False
        return True


_SENTINEL = """
bind 127.0.0.1
port {port}
dir {folder}
sentinel monitor sessions 127.0.0.1 {master} 2
sentinel down-after-milliseconds sessions 500
sentinel failover-timeout sessions 3000
"""


@contextmanager
def watched_redis() -> Iterator[Watched]:
    """Such a pair that runs, replication in step. Raises `ServerMissing`."""
    with ExitStack() as stack:
        master = stack.enter_context(redis_server())
        replica = stack.enter_context(redis_server("--replicaof", f"127.0.0.1 {master.port}"))
        sentinels = [stack.enter_context(_sentinel(master.port)) for _ in range(3)]
        watched = Watched(master, replica, sentinels)
        until(lambda: b"state=online" in _replication(master), "the replica follows")
        for port in sentinels:
            until(lambda port=port: _sees_all(port), "the sentinels know each other")
        yield watched


def _replication(master: RedisServer) -> bytes:
    with client(master.url) as operator:
        operator.set_response_callback("INFO", lambda answer, **_: answer)
        answer: bytes = operator.execute_command("INFO", "replication")
        return answer


def _sees_all(port: int) -> bool:
    with client(f"redis://127.0.0.1:{port}") as sentinel:
        sentinel.set_response_callback("SENTINEL MASTER", lambda answer, **_: answer)
        told = sentinel.execute_command("SENTINEL MASTER", "sessions")
    known = dict(zip(told[::2], told[1::2], strict=True))
    return known[b"num-other-sentinels"] == b"2" and known[b"num-slaves"] == b"1"


@contextmanager
def _sentinel(master: int) -> Iterator[int]:
    with TemporaryDirectory(prefix="sentinel-") as folder:
        port, settings = free_port(), Path(folder) / "sentinel.conf"
        settings.write_text(_SENTINEL.format(port=port, folder=folder, master=master))
        command = [program("redis-server", *FOLDERS), str(settings), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: _answers(port), "a sentinel answers")
            yield port
        finally:
            ended(process)


def _answers(port: int) -> bool:
    import redis

    with client(f"redis://127.0.0.1:{port}") as sentinel:
        try:
            return bool(sentinel.ping())
        except redis.ConnectionError:
            return False
