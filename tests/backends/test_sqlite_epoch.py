"""What the epoch costs in SQLite, and files of before it."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from session_middleware.backends import sql, sqlite_file
from session_middleware.backends.sqlite import SQLiteBackend
from session_middleware.record import Delta, Ended, SessionId
from tests.backends.test_sqlite import NOW, plainly, record


@pytest.fixture
def port(tmp_path: Path) -> Any:
    made = SQLiteBackend(tmp_path / "sessions.db").port("blocking")
    plainly(made.create(record(), NOW))
    yield made
    plainly(made.close())


class Counted:
    """An `execute` that notes each statement, and what SQLite means to do for it."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.statements: list[str] = []

    def __call__(self, statement: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        self.statements.append(statement)
        return self.connection.execute(statement, parameters)

    def plans(self) -> list[str]:
        """Of what was executed: each step, such as "SEARCH session USING INDEX ..."."""
        marks = [(one, [1] * one.count("?")) for one in self.statements]
        steps = [
            row
            for one, values in marks
            for row in self.connection.execute(f"EXPLAIN QUERY PLAN {one}", values)
        ]
        return [step[-1] for step in steps]


def test_a_load_and_a_commit_read_the_epoch_in_the_statement_that_reads_the_row(
    port: Any, tmp_path: Path
) -> None:
    execute = Counted(tmp_path / "sessions.db")
    assert sql.load(execute, SessionId("one"), NOW) == record()
    assert len(execute.statements) == 1
    sql.commit(execute, SessionId("one"), Delta(set={"a": b"1"}), NOW)
    assert len(execute.statements) == 3
    assert sql.delete_expired(execute, NOW, 64) == ([], 0)
    sql.count(execute, NOW)
    sql.list_user(execute, "ada", NOW)
    execute.connection.close()
    assert plainly(port.count(NOW)) == 1


def test_no_statement_scans_the_sessions_for_the_epoch(port: Any, tmp_path: Path) -> None:
    execute = Counted(tmp_path / "sessions.db")
    sql.load(execute, SessionId("one"), NOW)
    sql.commit(execute, SessionId("one"), Delta(set={"a": b"1"}), NOW)
    sql.delete(execute, SessionId("none"), NOW, "logout", None)
    sql.delete_expired(execute, NOW, 64)
    sql.list_user(execute, "ada", NOW)
    sql.count(execute, NOW)
    plans = execute.plans()
    execute.connection.close()
    assert plainly(port.count(NOW)) == 1
    assert [step for step in plans if "session" in step]  # else nothing was seen
    assert [step for step in plans if "SCAN session" in step] == []


def test_a_file_of_before_the_epoch_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = SQLiteBackend(tmp_path / "old.db")
    with monkeypatch.context() as old:
        old.setattr(sql, "MIGRATIONS", sql.MIGRATIONS[:2])
        old.setattr(sqlite_file, "_KNOWN_VERSION", 2)
        with sqlite_file.open_connection(backend.port("blocking").place, reader=False) as connection:
            marks = ",".join("?" * len(sql.COLUMNS))
            connection.execute(
                f"INSERT INTO session({','.join(sql.COLUMNS)}) VALUES({marks})", sql.row_of(record())
            )
        connection.close()
    port: Any = backend.port("blocking")
    assert plainly(port.load(SessionId("one"), NOW)) == record()
    assert plainly(port.end_all_before(NOW + 1, NOW + 2, "key leaked"))
    assert plainly(port.load(SessionId("one"), NOW + 2)) == Ended("key leaked", NOW + 2)
    plainly(port.close())


def test_the_epoch_outlives_the_process(tmp_path: Path) -> None:
    first: Any = SQLiteBackend(tmp_path / "sessions.db").port("blocking")
    plainly(first.create(record(), NOW))
    plainly(first.end_all_before(NOW + 1, NOW + 2, "key leaked", by="eve"))
    plainly(first.close())
    second: Any = SQLiteBackend(tmp_path / "sessions.db").port("blocking")
    assert plainly(second.load(SessionId("one"), NOW + 3)) == Ended("key leaked", NOW + 2, "eve")
    assert plainly(second.end_all_before(NOW, NOW + 4, "again")) is False
    plainly(second.close())


def test_to_end_very_many_is_one_write(port: Any, tmp_path: Path) -> None:
    for number in range(300):
        plainly(port.create(record(f"s{number}"), NOW))
    execute = Counted(tmp_path / "sessions.db")
    assert sql.end_all_before(execute, NOW + 1, NOW + 2, "key leaked", None)
    assert (len(execute.statements), execute.connection.total_changes) == (1, 1)
    execute.connection.close()
    assert plainly(port.count(NOW + 2)) == 0


def test_an_expired_row_whose_creation_cannot_be_read_is_removed_all_the_same(
    port: Any, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        connection.execute("UPDATE session SET created_at='long ago'")
    connection.close()
    plainly(port.end_all_before(NOW + 1, NOW + 2, "key leaked"))
    [ended] = plainly(port.delete_expired(NOW + 5000, 10))
    assert (ended.id, ended.reason) == ("one", "idle_timeout")
