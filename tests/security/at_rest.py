"""What a manager and its process hold while nothing happens: the same before and after, or something leaked.

Threads are not among it: those that end take their time, so they are waited for (`interrupted.Experiment`).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from session_middleware import SessionManager, loops
from session_middleware.backends import postgres_links

__all__ = ["at_rest"]


async def at_rest(manager: SessionManager) -> dict[str, Any]:
    """Everything that is counted or held somewhere. The same before and after, or something leaked."""
    core, port = manager._core, manager.performer.port
    kind = type(port).__module__.rpartition(".")[2]
    return {
        "active requests": (
            len(manager.activity),
            list(manager.activity),
            manager.get_metrics()["active_requests"],
        ),
        "locks": (dict(core.held), dict(core.turns._queues), dict(core.turns._waiting)),
        "tasks": (
            len(asyncio.all_tasks()),
            set(manager.finisher._tasks),
            [task for task in loops._background if not task.done()],
        ),
        "files": _open_files(_REST_FILES.get(kind, _none_pooled)(port), kind),
        "backend": await _REST.get(kind, _nothing_to_see)(port),
    }


def _open_files(pooled: int, kind: str) -> Counter[str]:
    """By what they are; sockets but for those in a pool.

    SQLite keeps the descriptor of a closed connection for the next one as long as others have locks.
    """
    folder = Path("/proc/self/fd")
    found: Counter[str] = Counter()
    for file in folder.iterdir():
        with suppress(OSError):  # that of the folder itself
            found[re.sub(r"\[\d+\]", "", str(file.readlink()))] += 1
    found["socket:"] -= pooled
    for name in found:
        if kind == "sqlite_async" and name.endswith(".db") and found[name] <= 4:
            found[name] = 2
    return found


async def _nothing_to_see(_: Any) -> Any:
    return None


async def _sqlite_at_rest(port: Any) -> Any:
    pair = port._pair
    lanes = port._lanes_here()
    open_transactions = [link.handle.connection.in_transaction for link in (pair.writer, pair.reader)]
    waiting = [len(link.waiting) for link in (pair.writer, pair.reader)]
    return open_transactions, waiting, [_lane_at_rest(lane) for lane in (lanes.reader, lanes.writer)]


async def _redis_at_rest(port: Any) -> Any:
    mine = await port._links._of_this_loop()
    pool = mine.client.connection_pool
    return len(pool._in_use_connections), [_lane_at_rest(lane) for lane in (mine.quick, mine.slow)]


def _pooled_of_redis(port: Any) -> int:
    clients = [mine.client for mine, _ in port._links._loops.values()]
    return sum(
        one.is_connected for client in clients for one in client.connection_pool._available_connections
    )


async def _postgres_at_rest(port: Any) -> Any:
    mine = port._links._of_this_loop()
    usable = all(postgres_links._is_usable(connection) for connection in mine.idle)
    lane = port._lanes.get(asyncio.get_running_loop())
    return mine.free._value, usable, None if lane is None else _lane_at_rest(lane)


def _pooled_of_postgres(port: Any) -> int:
    return sum(len(mine.idle) for mine in port._links._loops.values())


def _none_pooled(_: Any) -> int:
    return 0


def _lane_at_rest(lane: Any) -> Any:
    return lane.is_busy, len(lane._inbox)


_REST: dict[str, Any] = {
    "sqlite_async": _sqlite_at_rest,
    "redis": _redis_at_rest,
    "postgres": _postgres_at_rest,
}
_REST_FILES: dict[str, Any] = {"redis": _pooled_of_redis, "postgres": _pooled_of_postgres}
