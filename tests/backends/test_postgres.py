"""What PostgreSQL has beyond the contract: round trips, poolers, lost connections, forks, versions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any, NoReturn

import psycopg
import psycopg_pool
import pytest

from session_middleware import (
    BackendCorrupt,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    SessionDataError,
    SessionManager,
)
from session_middleware.backends.postgres import PostgresBackend
from session_middleware.blocking import run_blocking
from session_middleware.record import CREATED, EXISTS, GONE, Committed, Delta, Record, SessionId
from session_middleware.testing import contract_cases
from tests.backends.common import ID, NOW, counted_over_a_fork, counting, opened, record
from tests.servers.pgbouncer import pgbouncer
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.processes import ServerMissing


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_store()


@pytest.fixture
def port(url: str) -> Iterator[Any]:
    made: Any = PostgresBackend(url).port("blocking")
    yield made
    run_blocking(made.close())


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is sent meanwhile, in threads."""
    sent: list[str] = []
    execute, begin = psycopg.Cursor.execute, psycopg.Connection.transaction

    def noted(self: Any, query: Any, *rest: Any, **options: Any) -> Any:
        sent.append(str(query).split()[0])
        return execute(self, query, *rest, **options)

    def begun(self: Any, *rest: Any, **options: Any) -> Any:
        sent.append("BEGIN")
        return begin(self, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", noted)
        patch.setattr(psycopg.Connection, "transaction", begun)
        yield sent


def test_a_request_that_reads_takes_one_round_trip_and_one_that_writes_two(
    port: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_blocking(port.create(record(), NOW)) is CREATED
    with statements(monkeypatch) as sent:
        run_blocking(port.load(ID, NOW))
    assert sent == ["SELECT"]
    with statements(monkeypatch) as sent:
        run_blocking(port.load(ID, NOW))
        assert isinstance(run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW)), Committed)
    assert sent == ["SELECT", "UPDATE"]


def test_loads_that_wait_at_the_same_moment_share_a_statement(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def noted(self: Any, query: Any, *rest: Any, **options: Any) -> Any:
        sent.append(str(query).split()[0])
        return await execute(self, query, *rest, **options)

    async def main() -> None:
        port: Any = PostgresBackend(url).port("async")
        ids = [SessionId(f"{n:022d}") for n in range(50)]
        for id_ in ids[1:]:
            await port.create(record(id=id_, secret=id_), NOW)
        with monkeypatch.context() as patch:
            patch.setattr(psycopg.AsyncCursor, "execute", noted)
            found = await asyncio.gather(*(port.load(id_, NOW) for id_ in ids))
        assert [None if one is None else one.secret for one in found] == [None, *ids[1:]]
        assert sent == ["SELECT", "SELECT"]  # whoever came first, and all the others
        await port.close()

    asyncio.run(main())


def test_one_that_cannot_be_read_spoils_no_other(url: str) -> None:
    async def main() -> None:
        port: Any = PostgresBackend(url).port("async")
        ids = [SessionId(f"{n:022d}") for n in range(5)]
        for id_ in ids:
            await port.create(record(id=id_), NOW)
        with psycopg.connect(url, autocommit=True) as operator:
            operator.execute("UPDATE session_middleware_session SET facts='[' WHERE id=%s", (ids[3],))
        found = await asyncio.gather(*(port.load(id_, NOW) for id_ in ids), return_exceptions=True)
        assert [type(one) for one in found] == [Record, Record, Record, SessionDataError, Record]
        await port.close()

    asyncio.run(main())


def test_a_write_after_another_process_wrote_locks_the_row_and_merges(
    port: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_blocking(port.create(record(), NOW))
    run_blocking(port.load(ID, NOW))
    with opened(url) as other:
        run_blocking(other.commit(ID, Delta(set={"b": b"2"}), NOW))
    with statements(monkeypatch) as sent:
        run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW))
    assert sent == ["UPDATE", "BEGIN", "SELECT", "UPDATE"]
    assert run_blocking(port.load(ID, NOW)).data.pairs == {"a": b"1", "b": b"2"}


def test_a_session_begun_anew_under_an_id_is_not_taken_for_the_one_before(port: Any, url: str) -> None:
    """Both have version 1 and one moment of creation, and the port has seen the first."""
    run_blocking(port.create(record(deadline=NOW + 5), NOW))
    run_blocking(port.load(ID, NOW))
    again = record(secret="t" * 22)
    with opened(url) as other:
        assert run_blocking(other.create(again, NOW + 10)) is CREATED
    run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW + 2))  # a clock that is behind
    assert run_blocking(port.load(ID, NOW + 11)).secret == "t" * 22


def test_a_copy_that_is_out_of_date_refuses_nothing(port: Any, url: str) -> None:
    run_blocking(port.create(record(), NOW))
    run_blocking(port.commit(ID, Delta(set={"n": b'"text"'}), NOW))
    with opened(url) as other:
        run_blocking(other.commit(ID, Delta(set={"n": b"1"}), NOW))
        assert run_blocking(port.commit(ID, Delta(increments={"n": 1}), NOW)).counters == {"n": 2}
        run_blocking(port.commit(ID, Delta(set={"n": b'"text"'}), NOW))
        run_blocking(other.delete(ID, NOW, "logout"))
    assert run_blocking(port.commit(ID, Delta(increments={"n": 1}), NOW)) is GONE


def test_an_ending_is_in_the_way_of_its_id_until_cleanup_forgets_it(port: Any) -> None:
    """Found by a random schedule: a promise began a session anew ten minutes after it was revoked."""
    run_blocking(port.create(record(), NOW))
    run_blocking(port.delete(ID, NOW, "revoked"))
    again = record(created_at=NOW + 601, deadline=NOW + 900)
    assert run_blocking(port.create(again, NOW + 601)) is EXISTS
    run_blocking(port.delete_expired(NOW + 601, 10))
    assert run_blocking(port.load(ID, NOW + 601)) is None


def test_an_address_shows_no_password_anywhere() -> None:
    backend = PostgresBackend("postgresql://ada:hunter2@127.0.0.1:1/db?connect_timeout=2")
    assert backend.url == "postgresql://ada@127.0.0.1:1/db"
    assert "hunter2" not in repr(backend)
    with pytest.raises(BackendUnavailable) as refused:
        run_blocking(backend.port("blocking").load(ID, NOW))
    assert "hunter2" not in str(refused.value)
    assert not refused.value.unknown


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"url": "mysql://x"}, "url: pass an address"),
        ({}, "url: pass an address"),
        ({"url": "postgresql://x", "max_connections": 0}, "max_connections: found 0"),
        ({"url": "postgresql://x", "wait": -1}, "wait"),
        ({"pool": 5}, "pool: found int"),
        (
            {"pool": psycopg_pool.ConnectionPool("", open=False), "url": "postgresql://x"},
            "either url or pool",
        ),
    ],
)
def test_an_illegal_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        PostgresBackend(**arguments)


def test_a_pool_of_the_apps_own_serves_threads(url: str) -> None:
    with psycopg_pool.ConnectionPool(url, min_size=1, max_size=2) as pool:
        backend = PostgresBackend(pool=pool)
        assert backend.colours == {"blocking"}
        sessions = SessionManager(backend, log=False).blocking
        made = sessions.create_session("ada", {"a": 1})
        assert dict(sessions.update_session(made.id, b=2)) == {"a": 1, "b": 2}
        sessions.stop()
        assert not pool.closed
        assert pool.get_stats()["requests_num"] > 0


async def _through(pool: Any) -> None:
    async with pool:
        manager = SessionManager(PostgresBackend(pool=pool), log=False)
        made = await manager.create_session("ada", {"a": 1})
        assert dict(await manager.update_session(made.id, b=2)) == {"a": 1, "b": 2}


def test_a_pool_of_the_apps_own_serves_an_event_loop(url: str) -> None:
    async def main() -> None:
        await _through(psycopg_pool.AsyncConnectionPool(url, open=False, min_size=1, max_size=2))

    asyncio.run(main())


def test_connections_that_the_server_ended_heal_by_themselves(port: Any, url: str) -> None:
    run_blocking(port.create(record(), NOW))
    end_all = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid<>pg_backend_pid() AND query LIKE '%session_middleware%'"
    )
    with psycopg.connect(url, autocommit=True) as operator:
        operator.execute(end_all)
        assert isinstance(run_blocking(port.load(ID, NOW)), Record)  # a read is repeated
        operator.execute(end_all)
        with pytest.raises(BackendUnavailable):  # a write never is: nobody knows what became of it
            run_blocking(port.delete(ID, NOW, "logout"))
        assert run_blocking(port.delete(ID, NOW, "logout")) is True


def test_a_server_that_refuses_writes_is_told_apart(url: str) -> None:
    with opened(url), opened(f"{url}%20-cdefault_transaction_read_only%3Don") as only_reads:
        with pytest.raises(BackendReadOnly):
            run_blocking(only_reads.create(record(), NOW))
        assert run_blocking(only_reads.load(ID, NOW)) is None


def test_what_text_of_postgresql_cannot_hold_is_an_error_of_the_data(port: Any) -> None:
    with pytest.raises(SessionDataError):
        run_blocking(port.create(record(user_id="nul \0"), NOW))
    assert run_blocking(port.create(record(user_id="ada"), NOW)) is CREATED


def test_tables_of_a_newer_release_are_refused(url: str) -> None:
    with opened(url), psycopg.connect(url, autocommit=True) as operator:
        operator.execute("UPDATE session_middleware_version SET version=99")
    with pytest.raises(BackendCorrupt, match="newer release"), opened(url):
        pass


def test_after_a_fork_both_go_on_with_connections_of_their_own(url: str) -> None:
    assert counted_over_a_fork(url) == ("100\n", "")


THROUGH_A_POOLER = [
    case
    for case in contract_cases()
    if "linearizable" in case.name
    or "parallel" in case.name
    or "at once" in case.name
    or "lease" in case.name
]


@pytest.fixture(scope="module")
def pooled(
    postgres: PostgresServer, unavailable: Callable[[str], NoReturn]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """A database behind PgBouncer, which knows no search path; and what empties it."""
    with psycopg.connect(postgres.url, autocommit=True) as operator:
        operator.execute("CREATE DATABASE pooled")
    direct = postgres.url.replace("/postgres", "/pooled")

    def empty() -> None:
        with psycopg.connect(direct, autocommit=True) as operator:
            operator.execute("DROP SCHEMA public CASCADE")
            operator.execute("CREATE SCHEMA public")

    try:
        with pgbouncer(postgres, "pooled") as address:
            yield address, empty
    except ServerMissing as problem:
        unavailable(str(problem))


@pytest.mark.parametrize("case", THROUGH_A_POOLER, ids=lambda case: case.name)
def test_it_works_through_pgbouncer_in_transaction_mode(
    case: Any, pooled: tuple[str, Callable[[], None]]
) -> None:
    address, empty = pooled
    for colour in case.colours:
        empty()
        several = cycle([PostgresBackend(address) for _ in range(2)])
        case.run_in(colour, lambda several=several: next(several))


@pytest.fixture
def own_server(unavailable: Callable[[str], NoReturn]) -> Iterator[PostgresServer]:
    """One that a test may stop."""
    try:
        with postgres_server() as server:
            yield server
    except ServerMissing as problem:
        unavailable(str(problem))


def test_a_server_that_hangs_is_given_up_and_taken_up_again_when_it_answers(
    own_server: PostgresServer,
) -> None:
    port: Any = PostgresBackend(own_server.new_store(), wait=0.3).port("blocking")
    run_blocking(port.create(record(), NOW))
    with own_server.frozen():
        with pytest.raises(BackendUnavailable, match=r"did not answer within 0\.3 s") as given_up:
            run_blocking(port.commit(ID, Delta(set={"a": b"1"}), NOW))
        assert given_up.value.unknown
        with pytest.raises(BackendUnavailable, match="timeout expired") as refused:
            run_blocking(port.load(ID, NOW))
        assert not refused.value.unknown
    assert isinstance(run_blocking(port.load(ID, NOW)), Record)
    run_blocking(port.close())


def test_calls_under_asyncio_give_up_a_server_that_hangs_too(own_server: PostgresServer) -> None:
    async def main() -> None:
        port: Any = PostgresBackend(own_server.new_store(), wait=0.3).port("async")
        await port.create(record(), NOW)
        with own_server.frozen(), pytest.raises(BackendUnavailable, match=r"did not answer within 0\.3 s"):
            await port.load(ID, NOW)
        assert isinstance(await port.load(ID, NOW), Record)
        await port.close()

    asyncio.run(main())


def test_visitors_get_503_while_the_server_is_away_and_their_sessions_after_it(
    own_server: PostgresServer,
) -> None:
    with counting(own_server.new_store()) as client:
        assert [client.get("/").text for _ in range(2)] == ["1", "2"]
        own_server.stop()
        away = [client.get("/") for _ in range(2)]
        assert [answer.status_code for answer in away] == [503, 503]
        assert all("set-cookie" not in answer.headers for answer in away)
        own_server.start()
        assert client.get("/").text == "3"
