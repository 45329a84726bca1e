"""Faults on the way to a server: lost, late, cut off and trickling answers, at Redis and at PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import pytest

from session_middleware import BackendUnavailable
from session_middleware.backends.base import Backend
from session_middleware.backends.postgres import PostgresBackend
from session_middleware.backends.redis import RedisBackend
from session_middleware.blocking import run_blocking
from session_middleware.record import Delta, Record, SessionId
from tests.backends.common import ID, NOW, counting, opened, record
from tests.servers.proxy import Proxy, proxy

_KINDS: dict[str, Callable[..., Backend]] = {"redis": RedisBackend, "postgres": PostgresBackend}


class Far(NamedTuple):
    """A store behind a proxy."""

    make: Callable[..., Backend]
    between: Proxy


@pytest.fixture(params=["redis", "postgres"])
def far(request: pytest.FixtureRequest) -> Iterator[Far]:
    server = request.getfixturevalue(request.param)
    store: str = server.new_store()
    with proxy(server.port) as between:
        address = store.replace(str(server.port), str(between.port), 1)
        yield Far(partial(_KINDS[request.param], address), between)


def test_a_write_whose_answer_was_lost_is_not_repeated_and_said_to_be_unknown(
    far: Far,
) -> None:
    between = far.between
    with opened(far.make(wait=0.3)) as port:
        run_blocking(port.create(record(), NOW))
        for fault in ({"drops_answers": True}, {"cuts_after": 0}):
            run_blocking(port.load(ID, NOW))
            vars(between).update(fault)
            with pytest.raises(BackendUnavailable) as lost:
                run_blocking(port.commit(ID, Delta(increments={"n": 1}), NOW))
            assert lost.value.unknown
            between.heal()
        assert run_blocking(port.load(ID, NOW)).data.pairs == {"n": b"2"}


def test_a_read_whose_answer_was_cut_off_is_repeated(far: Far) -> None:
    between = far.between
    with opened(far.make(wait=0.3)) as port:
        run_blocking(port.create(record(), NOW))
        between.cuts_after = 7
        with pytest.raises(BackendUnavailable):
            run_blocking(port.load(ID, NOW))
        between.heal()
        assert run_blocking(port.load(ID, NOW)) == record()


def test_answers_that_trickle_in_arrive_whole(far: Far) -> None:
    between = far.between
    with opened(far.make()) as port:
        between.trickles = True
        whole = record(metadata={"client": {"user_agent": "é" * 50}})
        run_blocking(port.create(whole, NOW))
        assert run_blocking(port.load(ID, NOW)) == whole


def test_no_answer_that_came_too_late_reaches_another_session(far: Far) -> None:
    between = far.between
    ids = [SessionId(f"{n:022d}") for n in range(30)]

    async def main() -> None:
        port: Any = far.make(wait=0.2).port("async")
        for id_ in ids:
            await port.create(record(id=id_, secret=id_), NOW)
        between.delay = 0.3
        late = await asyncio.gather(*(port.load(id_, NOW) for id_ in ids), return_exceptions=True)
        assert all(isinstance(one, BackendUnavailable) for one in late)
        between.heal()
        for id_ in ids:
            assert (await port.load(id_, NOW)).secret == id_
        await port.close()

    asyncio.run(main())


def test_a_pool_that_is_exhausted_makes_callers_wait_and_fails_none(far: Far) -> None:
    with opened(far.make(max_connections=2, wait=10)) as port, ThreadPoolExecutor(30) as threads:
        run_blocking(port.create(record(), NOW))
        before = far.between.connections
        loads = [threads.submit(run_blocking, port.load(ID, NOW)) for _ in range(300)]
        assert all(isinstance(load.result(), Record) for load in loads)
        assert far.between.connections - before <= 1


def test_visitors_are_served_again_once_the_way_is_free(far: Far) -> None:
    with counting(far.make(wait=0.3)) as visitor:
        assert [visitor.get("/").text for _ in range(2)] == ["1", "2"]
        for fault in ({"drops_answers": True}, {"cuts_after": 3}, {"delay": 1.0}):
            vars(far.between).update(fault)
            refused = visitor.get("/")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert "set-cookie" not in refused.headers
            far.between.heal()
            assert visitor.get("/").status_code == 200
        assert int(visitor.get("/").text) >= 6
