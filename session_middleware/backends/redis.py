"""Sessions in Redis or Valkey, for any number of hosts.

    SessionMiddleware(app, secret_key=KEY, backend="redis://localhost:6379/0")

Here are the description, `RedisBackend`, and its two ports. What stands behind them: `redis_store` (keys,
scripts, how a session lies there), `redis_records` (one session), `redis_queries` (many), `redis_caps`
(limits), `redis_clients` (addresses), `redis_links` (connections, errors).
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from typing import Any, Final

from session_middleware.backends.base import Colour, Port, wrong_colour
from session_middleware.backends.redis_clients import Target, checked_client, is_cluster, target_of
from session_middleware.backends.redis_links import AsyncLinks, BlockingLinks
from session_middleware.backends.redis_port import RedisPort
from session_middleware.backends.redis_store import Keys
from session_middleware.errors import ConfigurationError
from session_middleware.policy import Duration, seconds
from session_middleware.record import SessionId

__all__ = ["RedisBackend"]

_PREFIX: Final = "session_middleware:"


class RedisBackend:
    """Records in Redis 6.2 or newer, or Valkey. Describes only: opened at the first use.

    Args:
        url: `redis://user:password@host:port/database`, `rediss://` for TLS, `unix://` is not served;
            `redis+cluster://host:port` for a cluster; `redis+sentinel://host:port,host:port/master/database`
            for the master that sentinels know by this name. `valkey` may stand for `redis`.
        prefix: of all keys. Default `session_middleware:`; give each app that shares a server its own.
        max_connections: of one process in threads. Default 10; more operations at once wait. Under asyncio
            two connections serve an event loop, since what waits at the same moment shares a pipeline.
        wait: seconds for a connection, and for each answer. Default 1.
        replicas: so many replicas must have a change before it is answered, or it raises `BackendUnavailable`
            with an unknown outcome (503). Default 0: a failover may lose what was acknowledged just before.
            Not for clusters.
        client: a client of your own, instead of *url*: `redis.asyncio.Redis` or `RedisCluster` serves the
            async colour, those of `redis` threads. With `protocol=2` and answers that are bytes.

    Use `maxmemory-policy noeviction`: another one logs visitors out. Raises `ConfigurationError` naming the
    argument.
    """

    colours: frozenset[Colour] = frozenset({"async", "blocking"})

    def __init__(
        self,
        url: str | None = None,
        *,
        prefix: str = _PREFIX,
        max_connections: int = 10,
        wait: Duration = 1.0,
        replicas: int = 0,
        client: Any = None,
    ) -> None:
        if (url is None) == (client is None):
            raise ConfigurationError("url: pass either url, such as redis://localhost:6379/0, or client")
        if type(max_connections) is not int or max_connections < 1:
            raise ConfigurationError(
                f"max_connections: found {max_connections!r}, pass an integer of at least 1"
            )
        if type(prefix) is not str or not prefix or set(prefix) & set("{}"):
            raise ConfigurationError(f"prefix: found {prefix!r}, pass text without braces")
        self._target: Target | None = None if url is None else target_of(url)
        self._client = client
        if client is not None:
            self.colours = frozenset({checked_client(client)})
        self.url = "redis://" if self._target is None else self._target.shown
        self._replicas = _replicas(replicas, is_spread=not self._is_in_order)
        self._prefix = prefix
        self._most = max_connections
        self._wait = seconds("wait", wait)
        self._ports: dict[Colour, Port] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RedisBackend {self.url}>"

    def port(self, colour: Colour) -> Port:
        """The one port of this colour of this backend object."""
        if colour not in self.colours:
            raise wrong_colour(self, colour)
        with self._lock:
            if colour not in self._ports:
                self._ports[colour] = self._new_port(colour)
            return self._ports[colour]

    @property
    def _is_in_order(self) -> bool:
        """One server does the commands of a pipeline one after the other."""
        return not (is_cluster(self._client) if self._target is None else self._target.kind == "cluster")

    def _new_port(self, colour: Colour) -> Port:
        keys, is_ours = Keys(self._prefix), self._client is None

        def make(wait: float) -> Any:
            return self._client if self._target is None else self._target.client(colour, wait, self._most)

        how: dict[str, Any] = {"is_ours": is_ours, "in_order": self._is_in_order, "replicas": self._replicas}
        if colour == "async":
            return _AsyncPort(AsyncLinks(make, keys, self._wait, **how))
        return _BlockingPort(BlockingLinks(make, keys, self._wait, **how))


def _replicas(number: object, *, is_spread: bool) -> int:
    if type(number) is not int or number < 0:
        raise ConfigurationError(f"replicas: found {number!r}, pass an integer of at least 0")
    if number and is_spread:
        raise ConfigurationError("replicas: a cluster cannot be waited for; use min-replicas-to-write there")
    return number


class _BlockingPort(RedisPort):
    """In threads. Its methods never suspend."""

    def __init__(self, links: BlockingLinks) -> None:
        super().__init__(links)
        self._links = links

    async def open(self) -> None:
        """Connect."""
        self._links.is_closed = False
        await self._links.ask([("PING",)], again=True)

    async def close(self) -> None:
        """Close the connections."""
        self._links.close()

    def bound(self, seconds: float) -> None:
        """See `Bounded.bound`."""
        self._links.bound(seconds)


class _AsyncPort(RedisPort):
    """Under asyncio."""

    def __init__(self, links: AsyncLinks) -> None:
        super().__init__(links)
        self._links = links

    async def open(self) -> None:
        """Connect."""
        self._links.is_closed = False
        await self._links.ask([("PING",)], again=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._links.aclose()

    def watch(self) -> AsyncGenerator[SessionId | None, None]:
        """See `Watching.watch`."""
        return self._links.watch()
