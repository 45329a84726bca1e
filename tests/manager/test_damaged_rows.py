"""Rows that others have damaged: nothing stops at them, and no session beside them suffers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from session_middleware import MemoryBackend, SessionManager, SQLiteBackend
from session_middleware.blocking import run_blocking
from session_middleware.migration import migrate
from session_middleware.testing.clock import ManualClock
from tests.test_manager import Driven

ODD: tuple[object, ...] = ("odd", b"\xff\xfe", "", 2**62, -(2**62), -1.5, 9e999, None)
COLUMNS = (
    "version",
    "created_at",
    "last_seen_at",
    "deadline",
    "absolute_deadline",
    "retained_until",
    "idle_timeout",
    "user_id",
    "status",
    "facts",
    "bucket",
    "data",
)
DAY = 24 * 3600


class File:
    """A file of sessions of one user: the odd one has every column damaged in its turn."""

    def __init__(self, path: Path, colour: Any = "blocking") -> None:
        self.clock = ManualClock()
        self.backend = SQLiteBackend(path)
        self.manager = SessionManager(
            self.backend, clock=self.clock, monotonic=self.clock, log=False, max_sessions=1000
        )
        self.driven = Driven(self.manager, colour, self.clock)

    def damage(self, session_id: str, column: str, value: object) -> bool:
        """False where the table itself refuses the value."""
        with closing(sqlite3.connect(self.backend.path)) as file, file:
            try:
                file.execute(f"UPDATE session SET {column}=? WHERE id=?", (value, session_id))  # noqa: S608  (ours)
            except sqlite3.IntegrityError:
                return False
        return True

    def ids(self) -> set[str]:
        with closing(sqlite3.connect(self.backend.path)) as file:
            return {id_ for (id_,) in file.execute("SELECT id FROM session")}


@pytest.fixture(params=["async", "blocking"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path / "sessions.db", request.param)
    yield made
    made.driven.close()


def damaged_in_every_way(file: File) -> set[str]:
    """Sessions, each damaged in one way."""
    odd = set()
    for column in COLUMNS:
        for value in ODD:
            made = file.driven.create_session(user_id="ada", data={"n": 1}, metadata={"m": 1})
            if file.damage(made.id, column, value):
                odd.add(made.id)
            else:
                file.driven.delete_session(made.id)
    return odd


def test_listings_and_figures_go_past_them(file: File) -> None:
    odd = damaged_in_every_way(file)
    whole = file.driven.create_session(user_id="ada", data={"n": 2})

    for listed in (
        file.driven.get_sessions(limit=1000),
        file.driven.get_sessions(user_id="ada", limit=1000),
        file.driven.get_sessions(ids=[*odd, whole.id], limit=1000),
        file.driven.get_user_sessions("ada"),
    ):
        assert whole.id in {one.id for one in listed}
    assert whole.id in {row["session_id"] for row in file.driven.get_sessions_info(limit=1000)}
    assert whole.id in {one["session_id"] for one in file.driven.export_user("ada")["sessions"]}
    assert file.driven.get_statistics()["total_sessions"] >= 1
    assert file.driven.get_health()["session_count"] >= 1
    assert file.driven.count() >= 1
    assert file.driven.get_stuck_sessions() == []


def test_a_listing_reports_what_it_cannot_read(file: File) -> None:
    whole, odd = file.driven.create_session(), file.driven.create_session()
    file.damage(odd.id, "facts", "[")

    assert [one.id for one in file.driven.get_sessions()] == [whole.id]
    [told] = file.driven.heard("session_data_retrieval_failed")
    assert (told.session_id, told.fields["reason"]) == (odd.id, "undecodable")


def test_each_is_ended_or_recovered_by_its_id(file: File) -> None:
    for session_id in sorted(damaged_in_every_way(file)):
        recovered = file.driven.recover_session(session_id)
        if recovered is not None:
            assert file.driven.get_session(session_id) is not None
            assert file.driven.delete_session(session_id)
        assert file.driven.get_session(session_id) is None


def test_a_cleanup_goes_past_them_and_takes_what_has_expired(file: File) -> None:
    damaged_in_every_way(file)
    whole = file.driven.create_session(user_id="ada", data={"n": 2})
    file.clock.advance(31 * DAY)
    young = file.driven.create_session(user_id="ada", data={"n": 3})

    file.driven.cleanup_expired()
    file.driven.cleanup_expired()

    assert whole.id not in file.ids()
    assert young.id in file.ids()


def test_ending_many_goes_past_them(file: File) -> None:
    damaged_in_every_way(file)
    whole = file.driven.create_session(user_id="ada", data={"n": 2})
    other = file.driven.create_session(user_id="eve", data={"n": 2})

    file.driven.end_sessions(user_id="ada")
    file.driven.end_sessions(user_id="ada", dry_run=False)
    file.driven.delete_user_sessions("ada")
    assert whole.id not in file.ids()
    assert other.id in file.ids()
    file.driven.reconfigure(max_sessions=5, max_sessions_per_user=1)
    file.driven.delete_all(confirm=True)
    assert other.id not in file.ids()


@pytest.mark.parametrize("column", ["facts", "version", "last_seen_at", "data"])
def test_what_cannot_be_read_is_ended_with_all_but_by_no_condition(file: File, column: str) -> None:
    odd = file.driven.create_session(user_id="ada")
    file.damage(odd.id, column, b"[" if column == "data" else "[")
    ended = file.driven.end_sessions(authenticated_after=0, dry_run=False)
    assert ended == (column == "data")  # values are not looked at
    if column != "data":
        assert file.ids() == {odd.id}
        assert file.driven.delete_all(confirm=True) == 1
    assert file.ids() == set()
    assert file.driven.recover_session(odd.id) is None


def test_an_epoch_takes_all_of_them(file: File) -> None:
    damaged_in_every_way(file)
    file.clock.advance(1)
    file.driven.end_all_before(file.clock())
    young = file.driven.create_session()
    file.driven.cleanup_expired()
    assert young.id in file.ids()


def test_a_migration_goes_past_them(file: File) -> None:
    damaged_in_every_way(file)
    whole, odd = file.driven.create_session(user_id="ada"), file.driven.create_session()
    target = MemoryBackend()

    def move() -> int:
        return run_blocking(
            migrate(file.backend.port("blocking"), target.port("blocking"), file.clock)
        ).unreadable

    before = move()
    assert whole.id in target._records
    assert odd.id in target._records
    file.damage(odd.id, "facts", "[")
    assert move() == before + 1
