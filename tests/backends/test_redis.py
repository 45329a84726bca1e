"""What Redis has beyond the contract: round trips, faults on the way, failover, clusters, tidy indexes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any, NoReturn

import pytest
import redis as library
import redis.asyncio as async_library
from redis.asyncio.connection import AbstractConnection as AsyncAbstractConnection
from redis.connection import AbstractConnection

from session_middleware import (
    BackendCorrupt,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    SessionManager,
)
from session_middleware.backends.redis import RedisBackend
from session_middleware.backends.redis_links import BlockingLinks
from session_middleware.blocking import run_blocking
from session_middleware.record import CREATED, GONE, Committed, Delta, Ended, Record, SessionId
from session_middleware.testing import contract_cases
from session_middleware.where import Where
from tests.backends.common import ID, NOW, counted_over_a_fork, counting, opened, record
from tests.servers.processes import ServerMissing, until
from tests.servers.redis import RedisServer, client, redis_server
from tests.servers.redis_cluster import Cluster, redis_cluster, watched_redis

SESSION = f"session_middleware:session:{ID}"
CREATED_INDEX = "session_middleware:{index}:created"
DUE_INDEX = "session_middleware:{index}:due"


@pytest.fixture
def url(redis: RedisServer) -> str:
    return redis.new_store()


@pytest.fixture
def port(url: str) -> Iterator[Any]:
    made: Any = RedisBackend(url).port("blocking")
    yield made
    run_blocking(made.close())


@pytest.fixture
def past(url: str) -> Iterator[Any]:
    """A client that looks and writes past the backend."""
    with client(url) as operator:
        yield operator


@contextmanager
def own_server(unavailable: Callable[[str], NoReturn], *options: str) -> Iterator[RedisServer]:
    """One that a test may stop."""
    try:
        with redis_server(*options) as server:
            yield server
    except ServerMissing as problem:
        unavailable(str(problem))


@contextmanager
def pipelines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The commands that are sent meanwhile, a list a round trip."""
    sent: list[list[str]] = []

    def noting(pack: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Any, commands: Any) -> Any:
            listed = list(commands)
            sent.append([command[0] for command in listed])
            return pack(self, listed)

        return noted

    with monkeypatch.context() as patch:
        for kind in (AbstractConnection, AsyncAbstractConnection):
            patch.setattr(kind, "pack_commands", noting(kind.pack_commands))
        yield sent


# Round trips


def test_a_request_that_reads_takes_one_round_trip_and_one_that_writes_two(
    port: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_blocking(port.create(record(), NOW)) is CREATED
    with pipelines(monkeypatch) as sent:
        run_blocking(port.load(ID, NOW))
    assert sent == [["HGETALL", "HGETALL"]]
    with pipelines(monkeypatch) as sent:
        run_blocking(port.load(ID, NOW))
        assert isinstance(run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW)), Committed)
    assert sent == [["HGETALL", "HGETALL"], ["EVALSHA", "HGETALL"]]
    with pipelines(monkeypatch) as sent:
        assert run_blocking(port.create(record(id=SessionId("B" * 22)), NOW)) is CREATED
    assert sent == [["ZADD", "ZADD", "EVALSHA", "HGETALL"]]


def test_a_write_after_another_process_wrote_takes_one_more_and_merges(
    port: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_blocking(port.create(record(), NOW))
    run_blocking(port.load(ID, NOW))
    with opened(url) as other:
        run_blocking(other.commit(ID, Delta(set={"b": b"2"}), NOW))
    with pipelines(monkeypatch) as sent:
        run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW))
    assert sent == [["EVALSHA", "HGETALL"]] * 2
    assert run_blocking(port.load(ID, NOW)).data.pairs == {"a": b"1", "b": b"2"}


def test_requests_that_wait_at_the_same_moment_share_a_pipeline(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async_port: Any = RedisBackend(url).port("async")
        await async_port.create(record(), NOW)
        with pipelines(monkeypatch) as sent:
            await asyncio.gather(*(async_port.load(ID, NOW) for _ in range(50)))
        assert sent == [["HGETALL"] * 51]  # the epoch is asked for once
        await async_port.end_all_before(NOW + 1, NOW + 1, "breach")
        ended = await asyncio.gather(*(async_port.load(ID, NOW + 2) for _ in range(50)))
        assert ended == [Ended("breach", NOW + 1)] * 50
        await async_port.close()

    asyncio.run(main())


def test_callers_who_are_cancelled_cost_no_connection_and_get_nobody_elses_answer(
    url: str, past: Any
) -> None:
    ids = [SessionId(f"{n:022d}") for n in range(40)]

    async def main() -> None:
        async_port: Any = RedisBackend(url).port("async")
        for id_ in ids:
            await async_port.create(record(id=id_, secret=id_), NOW)
        before = past.info("stats")["total_connections_received"]
        for turn in range(10):
            loads = [asyncio.create_task(async_port.load(id_, NOW)) for id_ in ids]
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            for task in loads[turn % 2 :: 2]:
                task.cancel()
            found = await asyncio.gather(*loads, return_exceptions=True)
            for id_, answer in zip(ids, found, strict=True):
                assert isinstance(answer, asyncio.CancelledError) or answer.secret == id_
            assert sum(isinstance(one, asyncio.CancelledError) for one in found) >= 20
        assert past.info("stats")["total_connections_received"] == before
        await async_port.close()

    asyncio.run(main())


# What is stored


def test_redis_keeps_a_session_an_hour_longer_than_it_lives_and_an_ending_ten_minutes(
    port: Any, past: Any
) -> None:
    run_blocking(port.create(record(), NOW))
    assert 4590 < past.ttl(SESSION) <= 4600
    run_blocking(port.commit(ID, Delta(renew_to=NOW + 2000), NOW + 100))
    assert 5490 < past.ttl(SESSION) <= 5500
    run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW + 200))
    assert 5480 < past.ttl(SESSION) <= 5500
    run_blocking(port.delete(ID, NOW, "logout"))
    assert 590 < past.ttl(SESSION) <= 600
    assert past.hgetall(SESSION) == {b"i": ID.encode(), b"x": b"logout", b"a": b"1760000000.0"}


def test_a_deadline_long_past_leaves_a_session_to_be_reported_all_the_same(port: Any, past: Any) -> None:
    run_blocking(port.create(record(), NOW))
    run_blocking(port.commit(ID, Delta(expire_at=NOW - 9000), NOW))
    assert 3590 < past.ttl(SESSION) <= 3600
    assert [one.id for one in run_blocking(port.delete_expired(NOW, 10))] == [ID]


def test_a_session_that_never_ends_is_kept_for_ever(port: Any, past: Any) -> None:
    endless = {"deadline": float("inf"), "limit": float("inf")}
    run_blocking(port.create(record(user_id="ada", **endless), NOW))
    assert run_blocking(port.load(ID, NOW)).limit == float("inf")
    assert [past.ttl(key) for key in (SESSION, "session_middleware:user:ada")] == [-1, -1]
    run_blocking(port.commit(ID, Delta(expire_at=NOW + 10), NOW))
    assert 3600 < past.ttl(SESSION) <= 3610


def test_an_index_outlives_its_sessions_by_a_day(port: Any, past: Any) -> None:
    run_blocking(port.create(record(user_id="ada"), NOW))
    assert 95_390 < past.ttl("session_middleware:user:ada") <= 95_400
    run_blocking(port.create(record(id=SessionId("B" * 22), user_id="ada", limit=NOW + 1000), NOW))
    assert 95_380 < past.ttl("session_middleware:user:ada") <= 95_400


def test_nothing_is_left_of_sessions_that_ended_but_their_endings(port: Any, past: Any) -> None:
    for n in range(4):
        run_blocking(port.create(record(id=SessionId(f"{n:022d}"), user_id="ada", status="new"), NOW))
    run_blocking(port.delete(SessionId("0" * 22), NOW, "logout"))
    run_blocking(
        port.delete_user("ada", NOW, "revoked", keep=[SessionId(f"{2:022d}"), SessionId(f"{3:022d}")])
    )
    assert len(run_blocking(port.delete_expired(NOW + 5000, 10))) == 2
    left = [key for key in past.scan_iter() if b":session:" not in key]
    assert left == [b"session_middleware:{index}:statuses"]
    assert all(past.hexists(key, "x") for key in past.keys("*:session:*"))


def test_what_redis_dropped_by_itself_leaves_the_indexes_and_is_not_reported(port: Any, past: Any) -> None:
    run_blocking(port.create(record(), NOW))
    past.delete(SESSION)
    assert run_blocking(port.load(ID, NOW)) is None
    assert list(run_blocking(port.delete_expired(NOW + 5000, 10))) == []
    assert past.keys() == []


def test_a_cleanup_files_renewed_sessions_under_their_new_deadlines(port: Any, past: Any) -> None:
    run_blocking(port.create(record(), NOW))
    run_blocking(port.commit(ID, Delta(renew_to=NOW + 5000), NOW))
    assert past.zscore(DUE_INDEX, ID) == NOW + 1000
    assert list(run_blocking(port.delete_expired(NOW + 2000, 10))) == []
    assert past.zscore(DUE_INDEX, ID) == NOW + 5000
    run_blocking(port.commit(ID, Delta(expire_at=NOW + 3000), NOW))
    assert past.zscore(DUE_INDEX, ID) == NOW + 3000


def test_a_stray_entry_of_the_order_of_creation_is_put_right(port: Any, past: Any) -> None:
    run_blocking(port.create(record(), NOW))
    past.zadd(CREATED_INDEX, {ID: NOW - 5})
    run_blocking(port.find(Where(), NOW, limit=5))
    assert past.zscore(CREATED_INDEX, ID) == NOW
    [found] = run_blocking(port.find(Where(), NOW, limit=5)).records
    assert found.id == ID


# Indexes under races


class Stopped(Exception):
    """The process ended here."""


@pytest.fixture
def ends_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets a port's so-manieth round trip, and those after it, never be sent."""

    def arm(number: int) -> None:
        exchange = BlockingLinks._exchange
        left = [number]

        async def ended(self: Any, commands: Any, *, slow: bool) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise Stopped
            return await exchange(self, commands, slow=slow)

        monkeypatch.setattr(BlockingLinks, "_exchange", ended)

    return arm


def test_a_login_that_was_cut_short_after_its_commit_is_found_under_both_names_and_listed_under_one(
    url: str, past: Any, monkeypatch: pytest.MonkeyPatch, ends_before: Callable[[int], None]
) -> None:
    with opened(url) as port:
        run_blocking(port.create(record(user_id="ada"), NOW))
        run_blocking(port.load(ID, NOW))
        with monkeypatch.context():
            ends_before(3)
            with pytest.raises(Stopped):
                run_blocking(port.commit(ID, Delta(user_id="bob"), NOW))
        monkeypatch.undo()
        assert past.zcard("session_middleware:user:ada") == past.zcard("session_middleware:user:bob") == 1
        assert [one.id for one in run_blocking(port.list_user("bob", NOW))] == [ID]
        assert list(run_blocking(port.list_user("ada", NOW))) == []
        assert not past.exists("session_middleware:user:ada")


def test_who_tidies_up_late_does_not_take_a_user_out_who_came_back_meanwhile(port: Any, url: str) -> None:
    """ada → bob → ada: the tidying of the first change comes after the second."""
    run_blocking(port.create(record(user_id="ada"), NOW))
    late: list[Any] = []
    with opened(url) as other:
        ask = other._links.ask

        async def held_back(*stages: Any, **options: Any) -> Any:
            if not late and len(stages) == 1 and len(stages[0]) == 1:  # the one that tidies
                late.append(stages)
                return [1]
            return await ask(*stages, **options)

        run_blocking(other.load(ID, NOW))
        other._links.ask = held_back
        run_blocking(other.commit(ID, Delta(user_id="bob"), NOW))
        run_blocking(port.commit(ID, Delta(user_id="ada"), NOW))
        assert len(late) == 1
        run_blocking(ask(*late[0]))
    assert [one.id for one in run_blocking(port.list_user("ada", NOW))] == [ID]


def test_a_listing_that_meets_a_login_on_its_way_does_not_unfile_it(port: Any, url: str) -> None:
    run_blocking(port.create(record(), NOW))
    run_blocking(port.load(ID, NOW))
    with opened(url) as other:
        ask, met = port._store.ask, []

        async def listing_between(*stages: Any, **options: Any) -> Any:
            answers = await ask(*stages, **options)
            if not met:  # filed, but not yet changed
                met.append(await other.list_user("ada", NOW))
            return answers

        port._store.ask = listing_between
        run_blocking(port.commit(ID, Delta(user_id="ada"), NOW))
    assert met == [[]]
    assert [one.id for one in run_blocking(port.list_user("ada", NOW))] == [ID]


# Faults


def test_scripts_that_the_server_has_forgotten_are_told_again(port: Any, past: Any) -> None:
    run_blocking(port.create(record(), NOW))
    past.script_flush()
    assert isinstance(run_blocking(port.commit(ID, Delta(increments={"n": 1}), NOW)), Committed)
    assert run_blocking(port.load(ID, NOW)).data.pairs == {"n": b"1"}


def test_scripts_that_the_server_has_forgotten_are_told_again_under_asyncio(url: str, past: Any) -> None:
    async def main() -> None:
        async_port: Any = RedisBackend(url).port("async")
        await async_port.create(record(), NOW)
        past.script_flush()
        wanted = [async_port.commit(ID, Delta(increments={"n": 1}), NOW) for _ in range(10)]
        await asyncio.gather(*wanted)
        assert (await async_port.load(ID, NOW)).data.pairs == {"n": b"10"}
        await async_port.close()

    asyncio.run(main())


def test_connections_that_the_server_ended_heal_by_themselves(port: Any, past: Any) -> None:
    run_blocking(port.create(record(), NOW))
    past.client_kill_filter(_type="normal", skipme=True)
    assert isinstance(run_blocking(port.load(ID, NOW)), Record)
    past.client_kill_filter(_type="normal", skipme=True)
    assert run_blocking(port.delete(ID, NOW, "logout")) is True


def test_where_memory_is_full_sessions_are_read_and_ended_but_none_is_made(unavailable: Any) -> None:
    with own_server(unavailable) as server, opened(server.url) as port:
        run_blocking(port.create(record(), NOW))
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BackendFull):
            run_blocking(port.create(record(id=SessionId("B" * 22)), NOW))
        with pytest.raises(BackendFull):
            run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW))
        assert run_blocking(port.load(ID, NOW)) == record()
        assert run_blocking(port.delete(ID, NOW, "logout")) is True
        assert not isinstance(run_blocking(port.load(ID, NOW)), Record)


def test_a_login_that_could_not_be_filed_is_not_committed(unavailable: Any) -> None:
    """Else to log out everywhere would miss it."""
    with own_server(unavailable) as server, opened(server.url) as port:
        run_blocking(port.create(record(), NOW))
        server.ask("SET", "session_middleware:user:ada", "not an index")
        with pytest.raises(BackendCorrupt, match="WRONGTYPE"):
            run_blocking(port.commit(ID, Delta(user_id="ada"), NOW))
        assert run_blocking(port.load(ID, NOW)) == record()


def test_a_server_that_refuses_writes_is_told_apart(unavailable: Any) -> None:
    with own_server(unavailable) as server, opened(server.url) as port:
        server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(BackendUnavailable, match="NOREPLICAS"):
            run_blocking(port.create(record(), NOW))
        server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        server.ask("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BackendReadOnly):
            run_blocking(port.create(record(), NOW))


def test_an_answer_that_names_another_session_is_refused(port: Any, past: Any) -> None:
    run_blocking(port.create(record(), NOW))
    past.hset(SESSION, "i", "B" * 22)
    with pytest.raises(BackendCorrupt, match="another session"):
        run_blocking(port.load(ID, NOW))


def test_a_key_of_another_kind_is_told_as_damage(port: Any, past: Any) -> None:
    past.set(SESSION, "mine")
    with pytest.raises(BackendCorrupt, match="WRONGTYPE"):
        run_blocking(port.load(ID, NOW))


def test_a_server_that_hangs_is_given_up_and_taken_up_again_when_it_answers(unavailable: Any) -> None:
    with own_server(unavailable) as server, opened(RedisBackend(server.url, wait=0.3)) as port:
        run_blocking(port.create(record(), NOW))
        with server.frozen():
            with pytest.raises(BackendUnavailable) as given_up:
                run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW))
            assert given_up.value.unknown
            with pytest.raises(BackendUnavailable):
                run_blocking(port.load(ID, NOW))
        assert isinstance(run_blocking(port.load(ID, NOW)), Record)


def test_visitors_get_503_while_the_server_is_away_and_their_sessions_after_it(unavailable: Any) -> None:
    keeps = ("--appendonly", "yes", "--appendfsync", "always")
    with own_server(unavailable, *keeps) as server, counting(server.url) as visitor:
        assert [visitor.get("/").text for _ in range(2)] == ["1", "2"]
        server.kill()
        away = [visitor.get("/") for _ in range(2)]
        assert [answer.status_code for answer in away] == [503, 503]
        assert all("set-cookie" not in answer.headers for answer in away)
        server.start()
        assert visitor.get("/").text == "3"


def test_what_was_never_sent_is_not_said_to_be_unknown() -> None:
    with pytest.raises(BackendUnavailable, match="connecting") as refused:
        run_blocking(RedisBackend("redis://:hunter2@127.0.0.1:1/0").port("blocking").load(ID, NOW))
    assert not refused.value.unknown
    assert "hunter2" not in str(refused.value)


def test_a_change_that_no_replica_has_is_not_acknowledged(unavailable: Any) -> None:
    with own_server(unavailable) as server:
        with opened(RedisBackend(server.url, replicas=1, wait=0.2)) as port:
            with pytest.raises(BackendUnavailable, match="0 of 1 replicas") as refused:
                run_blocking(port.create(record(), NOW))
            assert refused.value.unknown
            assert run_blocking(port.load(ID, NOW)) == record()  # what reads need not wait
        with (
            own_server(unavailable, "--replicaof", f"127.0.0.1 {server.port}") as replica,
            opened(RedisBackend(server.url, replicas=1)) as port,
        ):
            until(lambda: replica.ask("EXISTS", SESSION), "the replica follows")
            assert run_blocking(port.delete(ID, NOW, "logout")) is True
            assert replica.ask("HEXISTS", SESSION, "x") == 1


# Addresses and clients


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://ada:hunter2@127.0.0.1:6379/3?socket_keepalive=1", "redis://127.0.0.1:6379/3"),
        ("valkey://:hunter2@127.0.0.1", "redis://127.0.0.1"),
        ("rediss://ada:hunter2@cache.example:6380", "rediss://cache.example:6380"),
        ("rediss+cluster://:hunter2@a.example:7000", "rediss+cluster://a.example:7000"),
        (
            "redis+sentinel://:hunter2@a.example,b.example:26380/main/2",
            "redis+sentinel://a.example:26379,b.example:26380/main",
        ),
    ],
)
def test_an_address_is_shown_without_credentials(address: str, shown: str) -> None:
    backend = RedisBackend(address)
    assert backend.url == shown
    assert repr(backend) == f"<RedisBackend {shown}>"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"url": "mysql://x"}, "url: pass an address"),
        ({}, "either url"),
        ({"url": "redis://x", "client": library.Redis(protocol=2)}, "either url"),
        ({"url": "redis://x/y?socket_timeout=z"}, "url: "),
        ({"url": "redis+sentinel://a:1"}, "name-of-the-master"),
        ({"url": "redis+sentinel://a:x/main"}, "separated by commas"),
        ({"url": "redis://x", "max_connections": 0}, "max_connections: found 0"),
        ({"url": "redis://x", "wait": -1}, "wait"),
        ({"url": "redis://x", "prefix": "{a}"}, "prefix: found"),
        ({"url": "redis://x", "replicas": -1}, "replicas: found -1"),
        ({"url": "redis+cluster://x", "replicas": 1}, "replicas: a cluster"),
        ({"client": 5}, "client: found int"),
        ({"client": library.Redis(protocol=2, decode_responses=True)}, "decode_responses"),
        ({"client": library.Redis(protocol=3)}, "protocol=2"),
    ],
)
def test_an_illegal_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        RedisBackend(**arguments)


def test_a_client_of_the_apps_own_serves_threads(url: str) -> None:
    with library.Redis.from_url(url, protocol=2) as own:
        backend = RedisBackend(client=own)
        assert backend.colours == {"blocking"}
        sessions = SessionManager(backend, log=False).blocking
        made = sessions.create_session("ada", {"a": 1})
        assert dict(sessions.update_session(made.id, b=2)) == {"a": 1, "b": 2}
        sessions.stop()
        assert own.ping()


def test_a_client_of_the_apps_own_serves_an_event_loop(url: str) -> None:
    async def main() -> None:
        async with async_library.Redis.from_url(url, protocol=2) as own:
            manager = SessionManager(RedisBackend(client=own), log=False)
            made = await manager.create_session("ada", {"a": 1})
            assert dict(await manager.update_session(made.id, b=2)) == {"a": 1, "b": 2}
            await manager.stop()
            assert await own.ping()

    asyncio.run(main())


def test_two_apps_on_one_server_know_nothing_of_each_other(url: str) -> None:
    with opened(RedisBackend(url, prefix="one:")) as one, opened(RedisBackend(url, prefix="two:")) as two:
        run_blocking(one.create(record(user_id="ada"), NOW))
        assert run_blocking(two.load(ID, NOW)) is None
        assert run_blocking(two.count(NOW)) == 0
        assert run_blocking(two.create(record(), NOW)) is CREATED


def test_after_a_fork_both_go_on_with_connections_of_their_own(url: str) -> None:
    assert counted_over_a_fork(url) == ("100\n", "")


def test_event_loops_that_end_leave_no_connection_behind(url: str, past: Any) -> None:
    backend = RedisBackend(url)
    before = past.info("clients")["connected_clients"]

    async def one() -> None:
        await backend.port("async").load(ID, NOW)

    for _ in range(5):
        asyncio.run(one())
    until(lambda: past.info("clients")["connected_clients"] == before, "all connections are closed")


# Several servers

SPREAD = [
    case
    for case in contract_cases()
    if any(
        word in case.name for word in ("linearizable", "at once", "lease", "epoch", "user", "found", "many")
    )
]


@pytest.fixture(scope="module")
def cluster(unavailable: Callable[[str], NoReturn]) -> Iterator[Cluster]:
    try:
        with redis_cluster() as running:
            yield running
    except ServerMissing as problem:
        unavailable(str(problem))


@pytest.mark.parametrize("case", SPREAD, ids=lambda case: case.name)
def test_it_works_on_a_cluster_of_three_masters(case: Any, cluster: Cluster) -> None:
    for colour in case.colours:
        url = cluster.new_store()
        several = cycle([RedisBackend(url) for _ in range(2)])
        case.run_in(colour, lambda several=several: next(several))


def test_sessions_are_spread_over_the_cluster(cluster: Cluster) -> None:
    with opened(cluster.new_store()) as port:
        for n in range(60):
            run_blocking(port.create(record(id=SessionId(f"{n:022d}")), NOW))
        assert run_blocking(port.count(NOW)) == 60
    assert all(master.ask("DBSIZE") > 5 for master in cluster.masters)


def test_after_a_failover_sessions_go_on_at_the_new_master(unavailable: Callable[[str], NoReturn]) -> None:
    try:
        with watched_redis() as watched, opened(RedisBackend(watched.url, wait=0.5)) as port:
            run_blocking(port.create(record(), NOW))
            run_blocking(port.commit(ID, Delta(increments={"n": 1}), NOW))
            until(lambda: watched.replica.ask("EXISTS", SESSION), "the replica has it")
            watched.master.kill()
            with pytest.raises(BackendUnavailable):
                run_blocking(port.commit(ID, Delta(increments={"n": 1}), NOW))
            until(lambda: watched.knows(watched.replica), "the replica is the master")
            until(lambda: _reads(port), "the port has found it")
            counted = run_blocking(port.commit(ID, Delta(increments={"n": 1}), NOW))
            assert isinstance(counted, Committed)
            assert counted.counters == {"n": 2}
            assert run_blocking(port.delete(ID, NOW, "logout")) is True
            assert run_blocking(port.load(ID, NOW)) == Ended("logout", NOW)
            assert run_blocking(port.commit(ID, Delta(), NOW)) is GONE
    except ServerMissing as problem:
        unavailable(str(problem))


def _reads(port: Any) -> bool:
    try:
        return isinstance(run_blocking(port.load(ID, NOW)), Record)
    except BackendUnavailable:
        return False


def test_the_async_port_needs_asyncio(url: str) -> None:
    trio = pytest.importorskip("trio")
    with pytest.raises(ConfigurationError, match="asyncio alone"):
        trio.run(RedisBackend(url).port("async").load, ID, NOW)
