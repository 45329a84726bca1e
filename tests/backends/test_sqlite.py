"""What is particular to SQLite: hops, transactions, files, forks, threads. What every backend promises is in
the contract suite.

Reading order: helpers, then one section for each of those words.
"""

import asyncio
import contextlib
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import aiosqlite
import pytest

from session_middleware.backends import sql, sql_figures, sqlite_file
from session_middleware.backends.capabilities import ByUser, Counting
from session_middleware.backends.sqlite import SQLiteBackend
from session_middleware.backends.sqlite_batches import Wal
from session_middleware.backends.sqlite_file import file_system_of
from session_middleware.errors import (
    BackendClosed,
    BackendCorrupt,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    SessionDataError,
)
from session_middleware.record import CREATED, Delta, Ended, Record, SessionId, apply, replace
from session_middleware.values import NO_VALUES, Values

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.125
COLOURS = ("async", "blocking")


def record(name: str = "one", **fields: Any) -> Record:
    facts: dict[str, Any] = {
        "id": SessionId(name),
        "secret": "secret",
        "generation": 7,
        "floors": (7,),
        "created_at": NOW,
        "last_seen_at": NOW,
        "deadline": NOW + 1000,
        "limit": NOW + 100_000,
    }
    return Record(**{**facts, **fields})


def plainly(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the blocking port suspended")


def drive(colour: str, work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work) if colour == "async" else plainly(work)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def ports(path: Path) -> Iterator[Callable[..., Any]]:
    """Makes ports over one file, and closes them."""
    made: list[tuple[str, Any]] = []

    def make(colour: str = "async", **options: Any) -> Any:
        port = SQLiteBackend(path, **options).port(colour)  # type: ignore[arg-type]
        made.append((colour, port))
        return port

    yield make
    for colour, port in made:
        drive(colour, port.close())


def statements_of(port: Any) -> list[str]:
    """What the writer connection of an opened port executes from now on."""
    seen: list[str] = []
    handle = port._pair.writer.handle if hasattr(port, "_pair") else port._writer
    handle.use(lambda connection: connection.set_trace_callback(seen.append))
    return seen


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    prelude = (
        "import asyncio, os, sys, threading\n"
        "from session_middleware.backends import sqlite_file\n"
        "from session_middleware.backends.sqlite import SQLiteBackend\n"
        "from session_middleware.backends.sqlite_port import SQLitePort\n"
        "from session_middleware.record import Delta\n"
        "from tests.backends.test_sqlite import NOW, drive, plainly, record\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def queued_behind(port: Any, works: list[Awaitable[Any]]) -> list[Any]:
    """The outcomes of *works*, which all waited at the moment when the writer became free."""
    gate = threading.Event()
    blocker = asyncio.ensure_future(port._writing(lambda _: gate.wait(10)))
    await asyncio.sleep(0)
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.sleep(0)
    gate.set()
    assert await blocker
    return await asyncio.gather(*tasks, return_exceptions=True)


# --- hops and transactions -----------------------------------------------------------------------------


def test_every_operation_is_one_hop(ports: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[object] = []
    execute = aiosqlite.Connection._execute

    async def counted(self: Any, *arguments: Any) -> Any:
        hops.append(arguments)
        return await execute(self, *arguments)  # type: ignore[no-untyped-call]

    async def run() -> list[int]:
        port = ports()
        await port.open()
        monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
        counts = []
        for work in (
            port.create(record(user_id="ada"), NOW),
            port.load(SessionId("one"), NOW),
            port.load(SessionId("none"), NOW),
            port.commit(SessionId("one"), Delta(set={"a": b"1"}), NOW),
            port.list_user("ada", NOW),
            port.count(NOW),
            port.delete_expired(NOW, 50),
            port.delete(SessionId("one"), NOW, "logout"),
        ):
            hops.clear()
            await work
            counts.append(len(hops))
        return counts

    assert asyncio.run(run()) == [1] * 8


def test_64_commits_that_wait_at_one_moment_share_one_transaction(ports: Any) -> None:
    async def run() -> tuple[list[str], dict[str, int], Any]:
        port = ports()
        await port.create(record(), NOW)
        seen = statements_of(port)
        commits = [port.commit(SessionId("one"), Delta(increments={"n": 1}), NOW) for _ in range(64)]
        outcomes = await queued_behind(port, commits)
        return seen, outcomes[-1].counters, await port.load(SessionId("one"), NOW)

    seen, counters, after = asyncio.run(run())
    assert seen.count("BEGIN IMMEDIATE") == 2  # the one they waited for, and theirs
    assert counters == {"n": 64}
    assert (after.data["n"], after.version) == (b"64", 65)


def test_64_loads_that_wait_at_one_moment_share_one_hop(ports: Any) -> None:
    async def run() -> list[int]:
        port = ports()
        await port.create(record(), NOW)
        batches: list[int] = []
        lane = port._lanes_here().reader
        serve = lane._serve

        async def counted(operations: Any) -> Any:
            batches.append(len(operations))
            return await serve(operations)

        lane._serve = counted
        await asyncio.gather(*(port.load(SessionId("one"), NOW) for _ in range(65)))
        return batches

    assert asyncio.run(run()) == [1, 64]


def test_a_batch_is_bounded(ports: Any) -> None:
    async def run() -> list[str]:
        port = ports()
        await port.open()
        seen = statements_of(port)
        await queued_behind(port, [port.create(record(f"s{n}"), NOW) for n in range(257)])
        return seen

    assert asyncio.run(run()).count("BEGIN IMMEDIATE") == 3


@pytest.mark.parametrize(
    "harmful",
    [
        Delta(increments={"text": 1}, set={"harm": b"1"}),  # refused before anything is written
        Delta(user_id="\ud800", set={"harm": b"1"}),  # refused by SQLite
    ],
)
def test_an_operation_that_fails_in_a_batch_harms_only_itself(ports: Any, harmful: Delta) -> None:
    async def run() -> tuple[list[Any], Any]:
        port = ports()
        await port.create(record(data=Values.of({"text": b'"x"'})), NOW)
        good = [port.commit(SessionId("one"), Delta(increments={"n": 1}), NOW) for _ in range(8)]
        works = [*good[:4], port.commit(SessionId("one"), harmful, NOW), *good[4:]]
        return await queued_behind(port, works), await port.load(SessionId("one"), NOW)

    outcomes, after = asyncio.run(run())
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [4]
    assert isinstance(outcomes[4], SessionDataError)
    assert dict(after.data) == {"text": b'"x"', "n": b"8"}


def test_who_is_cancelled_while_queued_changes_nothing_and_harms_nobody(ports: Any) -> None:
    async def run() -> Any:
        port = ports()
        await port.create(record(), NOW)
        gate = threading.Event()
        blocker = asyncio.ensure_future(port._writing(lambda _: gate.wait(10)))
        await asyncio.sleep(0)
        tasks = [
            asyncio.ensure_future(port.commit(SessionId("one"), Delta(set={str(n): b"1"}), NOW))
            for n in range(4)
        ]
        await asyncio.sleep(0)
        tasks[1].cancel()
        gate.set()
        await asyncio.gather(blocker, *tasks, return_exceptions=True)
        return await port.load(SessionId("one"), NOW)

    assert sorted(asyncio.run(run()).data) == ["0", "2", "3"]


def test_who_is_cancelled_in_flight_is_served_whole_and_leaves_the_port_usable(ports: Any) -> None:
    async def run() -> tuple[Any, Any]:
        port = ports()
        await port.create(record(), NOW)
        gate, delta = threading.Event(), Delta(set={"a": b"1"})
        slow = asyncio.ensure_future(
            port._writing(lambda execute: (gate.wait(10), sql.commit(execute, SessionId("one"), delta, NOW)))
        )
        await asyncio.sleep(0)
        next_one = asyncio.ensure_future(port.commit(SessionId("one"), Delta(increments={"n": 1}), NOW))
        await asyncio.sleep(0)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        gate.set()
        return await next_one, await port.load(SessionId("one"), NOW)

    committed, after = asyncio.run(run())
    assert committed.version == 3
    assert dict(after.data) == {"a": b"1", "n": b"1"}


@pytest.mark.parametrize(
    "delta",
    [
        Delta(limit=NOW + 500),
        Delta(retained_until=NOW + 300),
        Delta(idle_timeout=60.0),
        Delta(authenticated_at=NOW),
        Delta(priority=3),
        Delta(metadata={"device": "phone"}),
        Delta(cycle=10.0),
        Delta(cycle=0),
        Delta(cycle_due=0),
        Delta(user_id="ada"),
        Delta(status="processing"),
        Delta(expire_at=NOW + 100),
        Delta(seen_at=NOW + 5),
        Delta(renew_to=NOW + 2000, set={"a": b"1"}),
    ],
)
def test_whatever_a_commit_changes_is_kept(ports: Any, delta: Delta) -> None:
    port, before = ports("blocking"), record(data=Values.of({"b": b"2"}))
    plainly(port.create(before, NOW))
    plainly(port.commit(SessionId("one"), delta, NOW + 1))
    applied = apply(before, delta, NOW + 1)
    assert isinstance(applied, tuple)
    after = plainly(port.load(SessionId("one"), NOW + 1))
    assert dict(after.data) == dict(applied[0].data)
    assert replace(after, data=NO_VALUES) == replace(applied[0], data=NO_VALUES)
    due = plainly(port.delete_expired(after.deadline + 120, 10))
    assert [ended.id for ended in due] == ["one"]


def test_a_renewal_neither_reads_nor_writes_the_values_nor_an_index(ports: Any, path: Path) -> None:
    port = ports("blocking")
    large = Values.of({"a": b'"%b"' % (b"x" * 60_000)})
    plainly(port.create(record(data=large, version=2), NOW))
    seen = statements_of(port)
    before = wal_size(path)
    plainly(port.commit(SessionId("one"), Delta(renew_to=NOW + 5000, seen_at=NOW + 1), NOW))
    assert not [text for text in seen if re.search(r"\bdata\b|bucket=", text)]
    assert wal_size(path) - before == 4096 + 24  # one page and its header
    assert plainly(port.load(SessionId("one"), NOW)).data.packed == large.packed


def log_exists(path: Path) -> bool:
    return Path(f"{path}-wal").exists()


def wal_size(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


# --- cleanup and endings -------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_cleanup_takes_at_most_64_rows_a_transaction(ports: Any, colour: str) -> None:
    async def run() -> tuple[int, int]:
        port = ports(colour)
        for number in range(130):
            await port.create(record(f"s{number}"), NOW)
        seen = statements_of(port)
        ended = await port.delete_expired(NOW + 2000, 500)
        return len({one.id for one in ended}), seen.count("BEGIN IMMEDIATE")

    assert drive(colour, run()) == (130, 3)


def test_a_renewed_session_is_filed_again_and_found_when_its_time_comes(ports: Any) -> None:
    port = ports("blocking")
    for number in range(70):
        plainly(port.create(record(f"s{number}"), NOW))
        plainly(port.commit(SessionId(f"s{number}"), Delta(renew_to=NOW + 5000), NOW))
    assert plainly(port.delete_expired(NOW + 2000, 500)) == []
    seen = statements_of(port)
    assert plainly(port.delete_expired(NOW + 2000, 500)) == []
    assert not [text for text in seen if text.startswith("UPDATE session")]  # nothing is looked at twice
    assert len(plainly(port.delete_expired(NOW + 5100, 500))) == 70


def test_a_row_whose_deadline_is_garbage_does_not_stop_the_cleanup(ports: Any, path: Path) -> None:
    port = ports("blocking")
    for number in range(70):
        plainly(port.create(record(f"s{number}"), NOW))
    damage(path, "UPDATE session SET deadline='never' WHERE n <= 65")
    assert len(plainly(port.delete_expired(NOW + 2000, 500))) == 5


def test_endings_are_bounded_but_none_is_dropped_too_early(
    ports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "ENDINGS_MOST", 10)
    port = ports("blocking")

    def end(number: int, now: float) -> None:
        plainly(port.create(record(f"s{number}", deadline=now + 1000), now))
        plainly(port.delete(SessionId(f"s{number}"), now, "logout"))

    def known() -> int:
        endings = [plainly(port.load(SessionId(f"s{number}"), NOW)) for number in range(50)]
        return sum(isinstance(ending, Ended) for ending in endings)

    for number in range(40):
        end(number, NOW)
    assert known() == 40
    end(40, NOW + 30)
    assert known() == 10
    end(41, NOW + 700)
    assert known() == 1


def test_figures_are_read_in_parts(ports: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_figures, "_COUNTED_AT_ONCE", 3)
    port = ports("blocking")
    for number in range(20):
        status = "processing" if number % 2 else None
        deadline = NOW + 10.0**number
        plainly(port.create(record(f"s{number}", status=status, deadline=deadline, limit=deadline), NOW))
    usage = plainly(port.usage(NOW + 10))
    assert (usage.sessions, usage.average_age, usage.by_status) == (18, 10.0, {"processing": 9})


def test_both_ports_have_the_optional_capabilities(ports: Any) -> None:
    for colour in COLOURS:
        assert isinstance(ports(colour), ByUser)
        assert isinstance(ports(colour), Counting)


# --- the file ------------------------------------------------------------------------------------------


def damage(path: Path, statement: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(statement)
    other.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_only_the_owner_may_read_a_file_that_we_made(ports: Any, path: Path, colour: str) -> None:
    drive(colour, ports(colour).create(record(), NOW))
    for suffix in ("", "-wal", "-shm"):
        assert stat.S_IMODE(Path(f"{path}{suffix}").stat().st_mode) == 0o600


def test_the_mode_of_a_file_that_exists_is_left_alone(ports: Any, path: Path) -> None:
    path.touch(0o640)
    plainly(ports("blocking").open())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("colour", COLOURS)
def test_a_newer_file_is_refused_and_left_as_it_is(ports: Any, path: Path, colour: str) -> None:
    plainly(ports("blocking").open())
    plainly(ports("blocking").close())
    damage(path, "PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(
        ConfigurationError, match=f"version 99, this release knows {len(sql.MIGRATIONS)}; upgrade"
    ):
        drive(colour, ports(colour).open())
    assert path.read_bytes() == before


def test_the_database_of_another_application_is_refused_and_left_as_it_is(ports: Any, path: Path) -> None:
    damage(path, "CREATE TABLE session(theirs)")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another application"):
        plainly(ports("blocking").open())
    assert path.read_bytes() == before


@pytest.mark.parametrize("colour", COLOURS)
def test_a_file_that_is_no_database_is_corrupt_and_left_as_it_is(ports: Any, path: Path, colour: str) -> None:
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(BackendCorrupt):
        drive(colour, ports(colour).load(SessionId("one"), NOW))
    assert path.read_bytes() == b"no database at all " * 100


def test_a_directory_and_a_missing_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a directory"):
        plainly(SQLiteBackend(tmp_path).port("blocking").open())
    with pytest.raises(ConfigurationError, match="does not exist; create it first"):
        asyncio.run(SQLiteBackend(tmp_path / "none" / "s.db").port("async").open())


def test_a_place_where_no_file_can_be_made_says_so(ports: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BackendReadOnly, match="Permission denied"):
        plainly(ports("blocking").open())


@pytest.mark.parametrize("colour", COLOURS)
def test_a_full_disk_is_told_and_what_is_there_stays_readable(ports: Any, colour: str) -> None:
    def limit(connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}").fetchall()

    async def run() -> None:
        port = ports(colour)
        await port.create(record(), NOW)
        handle = port._pair.writer.handle if colour == "async" else port._writer
        handle.use(lambda connection: limit(connection, 20))
        with pytest.raises(BackendFull):
            await port.create(record("large", data=Values.of({"a": b'"%b"' % (b"x" * 200_000)})), NOW)
        assert await port.load(SessionId("one"), NOW) == record()
        assert await port.load(SessionId("large"), NOW) is None
        handle.use(lambda connection: limit(connection, 2**30))
        assert await port.create(record("large"), NOW) is CREATED

    drive(colour, run())


def test_a_blocking_port_waits_no_longer_than_it_is_told_and_may_be_told_again(
    ports: Any, path: Path
) -> None:
    port = ports("blocking", busy_timeout=3600)
    plainly(port.create(record(), NOW))
    port.bound(0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable, match="SQLITE_BUSY"):
            plainly(port.delete(SessionId("one"), NOW, "logout"))
    port.bound(7200)
    assert port.place.busy_timeout == 3600
    assert plainly(port.delete(SessionId("one"), NOW, "logout")) is True


def test_a_writer_queues_behind_other_threads_no_longer_than_it_may_wait(ports: Any) -> None:
    port = ports("blocking", busy_timeout=0.01)
    plainly(port.create(record(), NOW))
    gate, begun = threading.Event(), threading.Event()
    slow = threading.Thread(target=lambda: plainly(port._writing(lambda _: (begun.set(), gate.wait(10)))))
    slow.start()
    begun.wait()
    with pytest.raises(BackendUnavailable, match="other threads") as refused:
        plainly(port.delete(SessionId("one"), NOW, "logout"))
    assert (refused.value.retryable, refused.value.unknown) == (True, False)
    assert plainly(port.load(SessionId("one"), NOW)) == record()  # readers do not mind
    gate.set()
    slow.join()
    assert plainly(port.delete(SessionId("one"), NOW, "logout")) is True


@pytest.mark.parametrize("colour", COLOURS)
def test_a_locked_file_is_unavailable_until_it_is_free(ports: Any, path: Path, colour: str) -> None:
    async def run() -> None:
        port = ports(colour, busy_timeout=0.01)
        await port.create(record(), NOW)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable) as failed:
            await port.delete(SessionId("one"), NOW, "logout")
        assert (failed.value.retryable, failed.value.unknown) == (True, False)
        assert await port.load(SessionId("one"), NOW) == record()  # readers do not mind
        other.execute("ROLLBACK")
        other.close()
        assert await port.delete(SessionId("one"), NOW, "logout") is True

    drive(colour, run())


@pytest.mark.parametrize(
    "garbage",
    ["facts='{'", "facts='[1]'", "facts=x'00'", "version='x'", "data='text'", "last_seen_at='x'"],
)
def test_a_row_that_cannot_be_read_is_told_and_kept(ports: Any, path: Path, garbage: str) -> None:
    port = ports("blocking")
    for name in ("one", "other"):
        plainly(port.create(record(name, user_id="ada"), NOW))
    damage(path, f"UPDATE session SET {garbage} WHERE id='one'")  # noqa: S608  (ours)
    with pytest.raises(SessionDataError):
        plainly(port.load(SessionId("one"), NOW))
    assert plainly(port.count(NOW)) == 2
    assert [found.id for found in plainly(port.list_user("ada", NOW))] == ["other"]
    assert plainly(port.delete(SessionId("one"), NOW, "logout")) is True


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")])
def test_a_file_deleted_under_us_is_told_once_then_a_new_one_is_used(
    ports: Any, path: Path, colour: str, suffixes: tuple[str, ...]
) -> None:
    async def run() -> None:
        port = ports(colour)
        await port.create(record("lost"), NOW)
        for suffix in suffixes:
            os.unlink(f"{path}{suffix}")  # noqa: PTH108  (pathlib is said to block, in async code)
        with pytest.raises(BackendUnavailable, match="deleted or replaced"):
            await port.delete_expired(NOW, 10)
        assert await port.delete_expired(NOW, 10) == []
        assert await port.load(SessionId("lost"), NOW) is None
        assert await port.create(record("new"), NOW) is CREATED

    drive(colour, run())
    assert plainly(ports("blocking").load(SessionId("new"), NOW)) == record("new")


DELETED_WHILE_READ = """
if sys.argv[2] == "careless":  # the control: a new file beside the log of the deleted one
    sqlite_file._make = lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
old, new = SQLiteBackend(sys.argv[1]).port("blocking"), SQLiteBackend(sys.argv[1]).port("blocking")
for number in range(300):
    plainly(old.create(record(f"old{number}"), NOW))
reader = old._reader_handle().connection  # as another thread that is reading
reader.execute("BEGIN")
rows = reader.execute("SELECT id, data FROM session")
rows.fetchone()
os.unlink(sys.argv[1])
for number in range(200):
    plainly(new.create(record(f"new{number}"), NOW))
print(len(rows.fetchall()), plainly(old.create(record("stray"), NOW)).value, plainly(new.count(NOW)))
"""


def test_who_still_reads_a_deleted_file_reads_on_and_writes_nothing_into_the_new_one(path: Path) -> None:
    done = python(DELETED_WHILE_READ, path, "careful")
    assert done.stdout == "299 created 200\n", done.stderr


def test_a_new_file_that_took_over_the_old_log_would_break_whoever_reads(path: Path) -> None:
    assert python(DELETED_WHILE_READ, path, "careless").returncode != 0


def test_nobody_uses_a_new_file_before_the_old_log_is_gone(
    ports: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    unlink = os.unlink

    def watched(target: str) -> None:
        if target.endswith("-wal"):
            script = "sqlite3.connect(sys.argv[1], timeout=0).execute('PRAGMA journal_mode=WAL')"
            seen.append(python(f"import sqlite3; {script}", path).stderr.splitlines()[-1])
        unlink(target)

    monkeypatch.setattr(os, "unlink", watched)
    plainly(ports("blocking").create(record(), NOW))
    assert seen == ["sqlite3.OperationalError: database is locked"]
    assert [found.name for found in path.parent.glob("*-????????????????")] == []  # no draft is left behind


def test_a_file_system_without_hard_links_will_do(
    ports: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    plainly(ports("blocking").create(record(), NOW))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("replaced", [False, True])
def test_a_reader_of_another_file_than_the_writers_is_not_opened(
    ports: Any, path: Path, replaced: bool
) -> None:
    port = ports("blocking")
    plainly(port.create(record(), NOW))
    path.unlink()
    if replaced:
        path.touch()
    with pytest.raises(BackendUnavailable, match="deleted or replaced"):
        plainly(port._reading(lambda _: plainly(port.load(SessionId("one"), NOW))))  # takes a second reader
    assert path.exists() is replaced


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("copied", [True, False])
def test_the_write_ahead_log_is_bounded(
    ports: Any, path: Path, monkeypatch: pytest.MonkeyPatch, colour: str, copied: bool
) -> None:
    most = 256 * 1024
    monkeypatch.setattr(sqlite_file, "WAL_MOST", most)
    if not copied:  # the control: without copying it grows with every commit
        monkeypatch.setattr(Wal, "is_large", lambda _: False)
        monkeypatch.setattr(Wal, "is_huge", lambda _: False)

    async def run() -> int:
        port = ports(colour)
        await port.create(record(), NOW)
        sizes = []
        for number in range(150):
            value = b'"%b"' % (b"%d" % number * 10_000)
            await port.commit(SessionId("one"), Delta(set={"a": value}), NOW)
            sizes.append(wal_size(path))
        return max(sizes)

    assert (drive(colour, run()) < 5 * most) is copied


def test_full_durability_is_set_on_the_writer(ports: Any) -> None:
    for durability, number in (("normal", 1), ("full", 2)):
        port = ports("blocking", durability=durability)
        plainly(port.open())
        asked = port._writer.use(lambda connection: connection.execute("PRAGMA synchronous").fetchall())
        assert asked == [(number,)]


# --- network file systems ------------------------------------------------------------------------------

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /srv/shared rw shared:5 master:2 - nfs4 host:/export rw,vers=4.2
31 30 8:2 / /srv/shared/local rw - xfs /dev/sdb1 rw
32 21 0:41 / /srv/with\\040space rw - cifs //host/share rw
33 21 8:3 / /twice rw - ext4 /dev/sdc1 rw
34 21 0:42 / /twice rw - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    ("path", "system"),
    [
        ("/srv/app/s.db", "ext4"),
        ("/srv/shared/s.db", "nfs4"),
        ("/srv/shared/local/s.db", "xfs"),
        ("/srv/shared-not/s.db", "ext4"),
        ("/srv/with space/s.db", "cifs"),
        ("/twice/s.db", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_the_innermost_mount(path: str, system: str) -> None:
    assert file_system_of(path, MOUNTS) == system


def test_nothing_is_known_without_a_table_of_mounts() -> None:
    assert file_system_of("/srv/s.db", "") is None


def test_a_network_file_system_is_refused_unless_forced(
    ports: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_mounts", lambda: "30 21 0:40 / / rw - nfs4 host:/ rw")
    with pytest.raises(
        ConfigurationError, match=r"network file system \(nfs4\).*force_network_filesystem=True"
    ):
        plainly(ports("blocking").open())
    assert not path.exists()
    plainly(ports("blocking", force_network_filesystem=True).open())


# --- loops, threads, processes, forks ------------------------------------------------------------------


def test_a_new_loop_for_every_call_works_on_the_same_connection(ports: Any) -> None:
    port = ports()
    asyncio.run(port.create(record(), NOW))
    thread = port._pair.writer.thread
    for _ in range(10):
        asyncio.run(port.commit(SessionId("one"), Delta(increments={"n": 1}), NOW))
    assert asyncio.run(port.load(SessionId("one"), NOW)).data["n"] == b"10"
    assert port._pair.writer.thread is thread
    assert len(port._lanes) <= 1  # a closed loop leaves nothing behind


def test_two_loops_in_two_threads_share_a_port(ports: Any) -> None:
    port = ports()

    async def many() -> None:
        await asyncio.gather(
            *(port.commit(SessionId("one"), Delta(increments={"n": 1}), NOW) for _ in range(50))
        )

    asyncio.run(port.create(record(), NOW))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: asyncio.run(many()), range(2)))
    assert asyncio.run(port.load(SessionId("one"), NOW)).data["n"] == b"100"


def test_32_threads_share_a_blocking_port(ports: Any) -> None:
    port = ports("blocking")
    plainly(port.create(record(), NOW))

    def work(_: int) -> int:
        plainly(port.commit(SessionId("one"), Delta(increments={"n": 1}), NOW))
        version: int = plainly(port.load(SessionId("one"), NOW)).version
        return version

    with ThreadPoolExecutor(32) as threads:
        assert max(threads.map(work, range(200))) == 201
    assert plainly(port.load(SessionId("one"), NOW)).data["n"] == b"200"


def test_who_opens_at_the_same_moment_opens_once(ports: Any) -> None:
    async def run() -> int:
        port = ports()
        await asyncio.gather(*(port.open() for _ in range(20)), *(port.count(NOW) for _ in range(20)))
        await port.open()
        return len(port._handles)

    assert asyncio.run(run()) == 2


@pytest.mark.parametrize("colour", COLOURS)
def test_a_closed_port_says_so_until_it_is_opened_again(ports: Any, path: Path, colour: str) -> None:
    async def run() -> None:
        port = ports(colour)
        await port.create(record(), NOW)
        await port.close()
        await port.close()
        assert not log_exists(path)  # closed, not merely forgotten
        with pytest.raises(BackendClosed, match=r"open\(\)"):
            await port.load(SessionId("one"), NOW)
        with pytest.raises(BackendClosed):
            await port.delete_expired(NOW, 10)
        await port.open()
        assert await port.load(SessionId("one"), NOW) == record()

    drive(colour, run())


def test_closing_finishes_what_was_accepted(ports: Any) -> None:
    async def run() -> list[Any]:
        port = ports()
        await port.open()
        works = [asyncio.ensure_future(port.create(record(f"s{n}"), NOW)) for n in range(20)]
        await asyncio.sleep(0)
        await port.close()
        return [await work for work in works]

    assert asyncio.run(run()) == [CREATED] * 20


def test_without_an_asyncio_loop_the_async_port_says_what_to_do(ports: Any) -> None:
    with pytest.raises(ConfigurationError, match="memory://"):
        plainly(ports().load(SessionId("one"), NOW))


def test_an_interpreter_with_an_unclosed_port_exits(path: Path) -> None:
    done = python("asyncio.run(SQLiteBackend(sys.argv[1]).port('async').create(record(), NOW))", path)
    assert done.returncode == 0, done.stderr


LOOP_CLOSED_IN_FLIGHT = """
port, gate, begun = SQLiteBackend(sys.argv[1]).port("async"), threading.Event(), threading.Event()
asyncio.run(port.create(record(), NOW))
loop = asyncio.new_event_loop()
async def begin():
    task = loop.create_task(port._writing(lambda _: (begun.set(), gate.wait(10))))
    await asyncio.to_thread(begun.wait)
loop.run_until_complete(begin())
loop.close()
dead = port._pair.writer.thread
async def commit():
    task = asyncio.ensure_future(port.commit("one", Delta(increments={"n": 1}), NOW))
    if sys.argv[2] == "queued":  # behind the operation that nobody awaits any more
        await asyncio.sleep(0.05)
    gate.set()
    if sys.argv[2] == "later":
        await asyncio.to_thread(dead.join)
    return (await task).counters
if sys.argv[2] == "later":
    gate.set()
    dead.join()
print(asyncio.run(commit()), dead.is_alive())
"""


@pytest.mark.parametrize("when", ["queued", "later"])
def test_a_loop_closed_with_an_operation_in_flight_harms_no_other_loop(path: Path, when: str) -> None:
    done = python(LOOP_CLOSED_IN_FLIGHT, path, when)
    assert done.stdout == "{'n': 1} False\n", done.stderr


LOOP_ENDED_WHILE_CLOSING = """
from tests.security.interrupting import ended_loop
from tests.servers.processes import until
before, at, was_cut_short = threading.active_count(), 0, True
while was_cut_short:
    at += 1
    port = SQLiteBackend(sys.argv[1]).port("async")
    asyncio.run(port.open())
    was_cut_short = ended_loop(port.close, at)
    asyncio.run(port.close())
    until(lambda: threading.active_count() == before, f"the threads have ended, cut short at {at}")
print(at > 2)
"""


def test_a_port_whose_loop_ended_while_it_was_closed_leaves_no_thread(path: Path) -> None:
    done = python(LOOP_ENDED_WHILE_CLOSING, path)
    assert done.stdout == "True\n", done.stderr


class OvertakenAtTheSwitch(sqlite_file.Connection):
    """Just before the switch to WAL somebody else begins to write, once."""

    others: ClassVar[list[sqlite3.Connection]] = []

    def execute(self, statement: Any, parameters: Any = ()) -> Any:
        if statement == "PRAGMA journal_mode=WAL" and not self.others:
            [(_, _, file)] = super().execute("PRAGMA database_list").fetchall()
            self.others.append(sqlite3.connect(file, isolation_level=None))
            self.others[0].execute("BEGIN IMMEDIATE")
        return super().execute(statement, parameters)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[sqlite3.Connection]]:
    monkeypatch.setattr(OvertakenAtTheSwitch, "others", [])
    monkeypatch.setattr(sqlite_file, "Connection", OvertakenAtTheSwitch)
    yield OvertakenAtTheSwitch.others
    for other in OvertakenAtTheSwitch.others:
        other.close()


def test_who_opens_a_new_file_waits_for_who_writes_it(
    ports: Any, others: list[sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        others[0].execute("ROLLBACK")

    monkeypatch.setattr(sqlite_file, "_pause", pause)
    assert plainly(ports("blocking").create(record(), NOW)) is CREATED
    assert len(pauses) == 1


def test_without_our_waiting_it_would_fail_at_once(
    ports: Any, others: list[sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the one above: SQLite does not wait here, whatever its busy timeout."""
    monkeypatch.setattr(sqlite_file, "_prepare_patiently", sqlite_file._prepare_writer)
    with pytest.raises(BackendUnavailable, match="locked"):
        plainly(ports("blocking").create(record(), NOW))


def place_of(path: Path) -> sqlite_file.Place:
    return sqlite_file.Place(str(path), 5.0, "normal", forced=False)


class MigratedMeanwhile(sqlite_file.Connection):
    """Between the second look at the file and the third, somebody else migrates it."""

    takes_a_snapshot = True
    is_migrated = False

    def execute(self, statement: Any, parameters: Any = ()) -> Any:
        if statement == "SELECT count(*) FROM sqlite_master" and not self.is_migrated:
            self.is_migrated = True
            [(_, _, file)] = super().execute("PRAGMA database_list").fetchall()
            other = sqlite3.connect(file, isolation_level=None)
            sqlite_file._migrate(other, place_of(Path(file)))
            other.close()
        if statement in {"BEGIN", "COMMIT"} and not self.takes_a_snapshot:
            return None
        return super().execute(statement, parameters)


def test_a_migration_is_seen_done_or_not_begun(
    ports: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(path, "PRAGMA journal_mode=WAL")
    monkeypatch.setattr(sqlite_file, "Connection", MigratedMeanwhile)
    assert plainly(ports("blocking").create(record(), NOW)) is CREATED


def test_without_a_snapshot_it_would_be_seen_half_done(
    ports: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(path, "PRAGMA journal_mode=WAL")
    monkeypatch.setattr(MigratedMeanwhile, "takes_a_snapshot", False)
    monkeypatch.setattr(sqlite_file, "Connection", MigratedMeanwhile)
    with pytest.raises(ConfigurationError, match="another application"):
        plainly(ports("blocking").open())


def test_many_backends_that_open_one_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    def opened(target: Path) -> bool:
        port = SQLiteBackend(target).port("blocking")
        plainly(port.open())
        plainly(port.close())
        return True

    with ThreadPoolExecutor(12) as threads:
        for number in range(10):
            assert all(threads.map(opened, [tmp_path / f"{number}.db"] * 12))


def test_several_processes_on_one_new_file_lose_nothing(ports: Any, path: Path) -> None:
    script = (
        "colour = sys.argv[2]\n"
        "port = SQLiteBackend(sys.argv[1]).port(colour)\n"
        "async def run():\n"
        "    await port.create(record(), NOW)\n"
        "    for _ in range(40): await port.commit('one', Delta(increments={'n': 1}), NOW)\n"
        "    await port.close()\n"
        "drive(colour, run())\n"
    )
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda colour: python(script, path, colour), COLOURS * 2))
    assert [one.returncode for one in done] == [0] * 4, [one.stderr for one in done]
    assert plainly(ports("blocking").load(SessionId("one"), NOW)).data["n"] == b"160"


FORKED = """
colour, inherit = sys.argv[2], sys.argv[3] == "inherit"
port = SQLiteBackend(sys.argv[1]).port(colour)
add = lambda: drive(colour, port.commit("one", Delta(increments={"n": 1}), NOW))
drive(colour, port.create(record(), NOW))
add()
if inherit:  # the control: a fork that lets go of nothing, and a child that opens its own connection
    SQLitePort.before_fork = lambda self: self._opening.acquire()
(told, tell), (may_end, end) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    add()
    os.write(tell, b"x")
    os.read(may_end, 1)
    add()
    os._exit(0)
os.read(told, 1)
drive(colour, port.close())
os.write(end, b"x")
_, status = os.waitpid(child, 0)
drive(colour, port.open())
print(status, drive(colour, port.load("one", NOW)).data["n"].decode())
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_parent_and_child_of_a_fork_both_go_on_and_lose_nothing(path: Path, colour: str) -> None:
    done = python(FORKED, path, colour, "let go")
    assert done.stdout == "0 3\n", done.stderr


def test_a_connection_that_was_inherited_would_lose_commits(path: Path) -> None:
    assert python(FORKED, path, "blocking", "inherit").stdout == "0 2\n"


FORKED_AT_WORK = """
colour = sys.argv[2]
port = SQLiteBackend(sys.argv[1], busy_timeout=1).port(colour)  # a connection may still be closing
gate, begun = threading.Event(), threading.Event()
drive(colour, port.create(record(), NOW))
work = threading.Thread(target=lambda: drive(colour, port._writing(lambda _: (begun.set(), gate.wait(10)))))
work.start()
begun.wait()
child = os.fork()
if child == 0:
    for attempt in (port.load("one", NOW), port.commit("one", Delta(), NOW), port.delete_expired(NOW, 1)):
        try:
            drive(colour, attempt)
        except Exception as refusal:
            os.write(1, type(refusal).__name__.encode() + b" ")
    os._exit(0)
os.waitpid(child, 0)
gate.set()
work.join()
print(drive(colour, port.commit("one", Delta(increments={"n": 1}), NOW)).counters)
drive(colour, port.close())
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_a_child_forked_amid_a_long_operation_refuses_and_the_parent_goes_on(path: Path, colour: str) -> None:
    done = python(FORKED_AT_WORK, path, colour)
    assert done.stdout == "WrongProcess WrongProcess WrongProcess {'n': 1}\n", done.stderr


# --- arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": ":memory:"}, "memory://"),
        ({"path": ""}, "no file name"),
        ({"path": "sqlite:///s.db"}, "URL"),
        ({"path": 3}, "found int"),
        ({"path": "s.db", "busy_timeout": -1}, "busy_timeout"),
        ({"path": "s.db", "busy_timeout": float("nan")}, "busy_timeout"),
        ({"path": "s.db", "busy_timeout": True}, "busy_timeout"),
        ({"path": "s.db", "durability": "off"}, "durability"),
        ({"path": "s.db", "force_network_filesystem": 1}, "force_network_filesystem"),
    ],
)
def test_an_illegal_argument_is_refused_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SQLiteBackend(**arguments)


def test_a_backend_describes_and_touches_nothing(path: Path) -> None:
    backend = SQLiteBackend(path)
    assert backend.url == f"sqlite:///{path}"
    assert backend.port("async") is backend.port("async")
    assert backend.port("async") is not backend.port("blocking")
    assert not path.exists()
    with pytest.raises(ConfigurationError):
        backend.port("purple")  # type: ignore[arg-type]


def test_a_relative_path_is_not_moved_by_a_later_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = SQLiteBackend("s.db")
    monkeypatch.chdir("/")
    assert backend.path == str(tmp_path / "s.db")
    assert backend.url == "sqlite:///s.db"
