"""From an address to a client of redis-py, with the settings that are safe for sessions.

Reading order: `Target` (what an address says), `target_of` (reading it), `Target.client` (making one).

No command is ever sent twice by the client: whether an answer that was lost may be asked for again is for
the operation to say. Protocol 2: with 3 redis-py no longer notices an answer that was left on a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from session_middleware.backends.base import Colour
from session_middleware.errors import ConfigurationError

try:
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.asyncio.retry
    import redis.asyncio.sentinel
    import redis.cluster
    import redis.retry
    import redis.sentinel
    from redis.backoff import NoBackoff
except ImportError as missing:
    raise ConfigurationError(
        "backend: Redis needs another package: pip install 'session_middleware[redis]'"
    ) from missing

__all__ = ["Target", "checked_client", "is_cluster", "listener_of", "redis", "target_of"]

_SCHEMES: Final[Mapping[str, str]] = {
    f"{name}{secure}{kind}": f"redis{secure}"
    for name in ("redis", "valkey")
    for secure in ("", "s")
    for kind in ("", "+cluster", "+sentinel")
}


@dataclass(frozen=True)
class Target:
    """One server, a cluster, or a master that sentinels know by its name (`service`)."""

    kind: str  # "", "cluster" or "sentinel"
    url: str  # of a server, as redis-py reads it; for sentinels: credentials and options of the master
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""

    @property
    def shown(self) -> str:
        """The address without credentials and options."""
        parts = urlsplit(self.url)
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts) or parts.netloc.rpartition("@")[2]
        path = f"/{self.service}" if self.hosts else parts.path
        return f"{parts.scheme}{'+' if self.kind else ''}{self.kind}://{hosts}{path}"

    def client(self, colour: Colour, wait: float, most: int) -> Any:
        """A new one, not yet connected. *wait*: seconds for a connection, and for each answer."""
        options = _options(colour, wait)
        library: Any = redis.asyncio if colour == "async" else redis
        if self.kind == "cluster":
            return library.cluster.RedisCluster.from_url(self.url, **options)
        if self.kind == "sentinel":
            told = {**_parsed(self.url), **options}
            told["ssl"] = told.pop("connection_class", None) is not None
            sentinels = library.sentinel.Sentinel(self.hosts, sentinel_kwargs=options, **told)
            return sentinels.master_for(self.service)
        pool = library.BlockingConnectionPool.from_url(
            self.url, max_connections=most, timeout=wait, **options
        )
        return library.Redis.from_pool(pool)


def _options(colour: Colour, wait: float) -> dict[str, Any]:
    retry: Any = redis.asyncio.retry.Retry if colour == "async" else redis.retry.Retry
    return {
        "protocol": 2,
        "socket_timeout": wait,
        "socket_connect_timeout": wait,
        "retry": retry(NoBackoff(), 0),
    }


def target_of(url: str) -> Target:
    """What an address says. Raises `ConfigurationError`."""
    scheme, separator, rest = url.partition("://")
    plain = _SCHEMES.get(scheme)
    if not separator or plain is None:
        raise ConfigurationError(
            "url: pass an address such as redis://host:6379/0, rediss:// for TLS, redis+cluster://host:6379, "
            "or redis+sentinel://host:26379,host:26379/mymaster"
        )
    kind = scheme.partition("+")[2]
    if kind == "sentinel":
        return _of_sentinels(plain, rest)
    target = Target(kind, f"{plain}://{rest}")
    try:
        _parsed(target.url)
    except ValueError as problem:
        raise ConfigurationError(f"url: {problem}") from None
    return target


def _parsed(url: str) -> dict[str, Any]:
    told: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]  # redis-py's own
    return told


def _of_sentinels(plain: str, rest: str) -> Target:
    place, _, query = rest.partition("?")
    place, _, path = place.partition("/")
    credentials, at, hosts = place.rpartition("@")
    service, _, database = path.partition("/")
    if not service or not hosts:
        raise ConfigurationError("url: pass redis+sentinel://host:26379,host:26379/name-of-the-master/0")
    try:
        known = tuple(_host_of(one) for one in hosts.split(","))
    except ValueError:
        raise ConfigurationError(
            f"url: found the sentinels {hosts!r}, pass host:port, separated by commas"
        ) from None
    options = urlencode({**dict(parse_qsl(query)), "db": database or "0"})
    return Target("sentinel", f"{plain}://{credentials}{at}master?{options}", known, unquote(service))


def _host_of(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or 26379


_ASYNC: Final = (redis.asyncio.Redis, redis.asyncio.cluster.RedisCluster)
_BLOCKING: Final = (redis.Redis, redis.cluster.RedisCluster)


def is_cluster(client: object) -> bool:
    """Whether the commands of one pipeline go to several servers."""
    return isinstance(client, redis.cluster.RedisCluster | redis.asyncio.cluster.RedisCluster)


async def listener_of(client: Any) -> Any:
    """A client that can subscribe: in a cluster, what is published anywhere is heard at any server."""
    if not is_cluster(client):
        return client
    await client.initialize()
    node = client.get_default_node()
    pool = redis.asyncio.ConnectionPool(connection_class=node.connection_class, **node.connection_kwargs)
    return redis.asyncio.Redis.from_pool(pool)


def checked_client(client: object) -> Colour:
    """The colour of an app's own client. Raises `ConfigurationError` if it does not suit sessions."""
    if not isinstance(client, _ASYNC + _BLOCKING):
        raise ConfigurationError(
            f"client: found {type(client).__name__}, pass a Redis or RedisCluster of redis or redis.asyncio"
        )
    known: Any = client
    settings = (
        known.connection_pool.connection_kwargs
        if hasattr(known, "connection_pool")
        else known.get_connection_kwargs()
    )
    if settings.get("decode_responses"):
        raise ConfigurationError("client: found decode_responses=True, pass a client whose answers are bytes")
    if settings.get("protocol") not in (2, "2"):
        raise ConfigurationError(
            "client: pass one with protocol=2: with 3 redis-py does not notice an answer left on a connection"
        )
    return "async" if isinstance(client, _ASYNC) else "blocking"
