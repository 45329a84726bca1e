"""Every index of the SQLite file, damaged so that it leads to the row of another session.

The indexes are led astray as a whole: two rows change places while the index does not look.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from session_middleware import BackendCorrupt, SessionManager, SQLiteBackend
from session_middleware.backends import sql_queries
from session_middleware.testing.clock import ManualClock

INDEXES = ("session_user", "session_created", "session_status", "session_bucket", "session_rank")
NAMES = ("ada", "bob", "eve")


@contextmanager
def schema_of(file: Path) -> Iterator[sqlite3.Connection]:
    """Where tables and indexes are noted; who opens the file later reads it anew."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")
        yield database
        [(version,)] = database.execute("PRAGMA schema_version").fetchall()
        database.execute(f"PRAGMA schema_version={version + 1}")


def mislead(file: Path, index: str, one: str, other: str) -> None:
    """What *index* says of the one session is found in the row of the other."""
    with schema_of(file) as schema:
        known = schema.execute("SELECT * FROM sqlite_master WHERE name=?", (index,)).fetchone()
        schema.execute("DELETE FROM sqlite_master WHERE name=?", (index,))
    with closing(sqlite3.connect(file)) as database, database:
        numbers = [
            database.execute("SELECT n FROM session WHERE id=?", (id_,)).fetchone()[0] for id_ in (one, other)
        ]
        for before, after in ((numbers[0], -1), (numbers[1], numbers[0]), (-1, numbers[1])):
            database.execute("UPDATE session SET n=? WHERE n=?", (after, before))
    with schema_of(file) as schema:
        schema.execute("INSERT INTO sqlite_master VALUES(?,?,?,?,?)", known)


class Misled:
    """A session each, in a file one of whose indexes takes ada for bob."""

    def __init__(self, file: Path, index: str) -> None:
        self.clock = ManualClock()
        self.file = file
        sessions = self._manager().blocking
        self.ids = {}
        for number, name in enumerate(NAMES):
            made = sessions.create_session(name, {"owner": name}, priority=number)
            sessions.set_status(made.id, f"of {name}")
            self.ids[name] = made.id
            self.clock.advance(100)
        sessions.stop()
        mislead(file, index, self.ids["ada"], self.ids["bob"])
        manager = self._manager(max_sessions=3, max_sessions_per_user=1)
        self.events: list[Any] = []
        manager.subscribe(None, self.events.append)
        self.manager, self.sessions = manager, manager.blocking

    def _manager(self, **limits: int) -> SessionManager:
        limits = limits or {"max_sessions": 10}  # which makes `session_rank`
        backend = SQLiteBackend(self.file)
        return SessionManager(backend, clock=self.clock, monotonic=self.clock, log=False, **limits)

    def rows(self) -> dict[str, str]:
        """The owner of each row that is there, by its id."""
        with closing(sqlite3.connect(self.file)) as database:
            rows = database.execute("SELECT id, data FROM session NOT INDEXED").fetchall()
        return {id_: next(name for name in NAMES if name.encode() in data) for id_, data in rows}


@pytest.fixture(params=INDEXES)
def misled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Misled]:
    made = Misled(tmp_path / "sessions.db", request.param)
    yield made
    made.sessions.stop()


LISTINGS: dict[str, Callable[[Misled], list[Any]]] = {
    "all": lambda misled: misled.sessions.get_sessions(),
    "of a user": lambda misled: misled.sessions.get_user_sessions("ada"),
    "the newest of a user": lambda misled: [misled.sessions.get_session_by_user("ada")],
    "found by user": lambda misled: misled.sessions.get_sessions(user_id="ada"),
    "found by status": lambda misled: misled.sessions.get_sessions(status="of ada"),
    "found by id": lambda misled: misled.sessions.get_sessions(ids=[misled.ids["ada"]]),
    "looked up": lambda misled: [misled.sessions.get_session(misled.ids["ada"])],
}


@pytest.mark.parametrize("listing", LISTINGS)
def test_no_listing_shows_a_session_under_the_name_of_another(misled: Misled, listing: str) -> None:
    try:
        shown = LISTINGS[listing](misled)
    except BackendCorrupt:
        return
    assert "ada" in [session["owner"] for session in shown]
    for session in shown:
        assert (session.id, session.user_id) == (misled.ids[session["owner"]], session["owner"])


ENDINGS: dict[str, Callable[[Misled], Any]] = {
    "of a user": lambda misled: misled.sessions.delete_user_sessions("ada"),
    "found by user": lambda misled: misled.sessions.end_sessions(user_id="ada", dry_run=False),
    "found by status": lambda misled: misled.sessions.end_sessions(status="of ada", dry_run=False),
    "found by id": lambda misled: misled.sessions.end_sessions(ids=[misled.ids["ada"]], dry_run=False),
    "looked up": lambda misled: misled.sessions.delete_session(misled.ids["ada"]),
    "evicted by the next of its user": lambda misled: misled.sessions.create_session("ada", {"owner": "ada"}),
    "evicted by the next of all": lambda misled: misled.sessions.create_session("eva", {"owner": "eve"}),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_ending_ends_another_session_than_it_says(misled: Misled, ending: str) -> None:
    before = misled.rows()
    with suppress(BackendCorrupt):
        ENDINGS[ending](misled)
    gone = before.keys() - misled.rows().keys()
    assert gone <= {misled.ids["ada"]}
    told = [event for event in misled.events if event.name in ("session_deleted", "session_evicted")]
    assert {(event.session_id, event.user_id) for event in told} == {(id_, before[id_]) for id_ in gone}


def test_a_cleanup_removes_nobody_who_lives(misled: Misled) -> None:
    with suppress(BackendCorrupt):
        misled.sessions.end_all_before(misled.clock() - 250)  # ada's
        misled.sessions.cleanup_expired()
    assert misled.ids["bob"] in misled.rows()
    assert misled.ids["eve"] in misled.rows()


@pytest.mark.parametrize("index", ["session_user", "session_created", "session_status"])
def test_whoever_lists_by_a_damaged_index_is_told(tmp_path: Path, index: str) -> None:
    misled = Misled(tmp_path / "sessions.db", index)
    by = {"session_user": "found by user", "session_created": "all", "session_status": "found by status"}
    with pytest.raises(BackendCorrupt, match="REINDEX"):
        LISTINGS[by[index]](misled)
    with closing(sqlite3.connect(misled.file)) as database:
        database.execute("REINDEX")
    assert len(LISTINGS[by[index]](misled)) in (1, 3)


@pytest.mark.parametrize(
    ("index", "listing"), [("session_user", "found by user"), ("session_status", "found by status")]
)
def test_a_listing_that_believes_its_index_is_caught(
    tmp_path: Path, index: str, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    misled = Misled(tmp_path / "sessions.db", index)
    of_row = sql_queries._ROW_AND_VALUES
    monkeypatch.setattr(sql_queries, "_ROW_AND_VALUES", of_row.replace("session.", "found."))
    monkeypatch.setattr(sql_queries, "_led_right", lambda rows: rows)
    [session] = LISTINGS[listing](misled)
    assert session["owner"] == "bob"
