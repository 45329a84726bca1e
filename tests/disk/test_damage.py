"""Files that were damaged under us: flipped bits, rows and indexes of garbage.

`make campaign` flips by the thousand.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from session_middleware import BackendCorrupt, SessionManager, SQLiteBackend, WSGISessionMiddleware
from session_middleware.backends import sql
from tests.disk.flips import Trials
from tests.disk.visits import Visitor, site
from tests.manager.test_damaged_rows import COLUMNS, ODD

NAMES = ("zoe", "ada", "bob", "eve")
GARBAGE = (*ODD, b"\x00\xff" * 11, "x" * 22, 1, 0)


class Scene:
    """Visitors with a session each, in a file that nobody has open; then a process that opens it."""

    def __init__(self, file: Path, names: Sequence[str] = NAMES) -> None:
        self.file = file
        manager, served, _ = site(SQLiteBackend(file))
        made = [Visitor(served, name) for name in names]
        for visitor in made:
            visitor.does("login", 1)
        self.cookies = {visitor.name: visitor.client.cookie for visitor in made}
        manager.blocking.stop()
        self.events: list[Any] = []
        self.manager: SessionManager
        self.served: WSGISessionMiddleware

    def damage(self, statement: str, *parameters: object) -> None:
        with closing(sqlite3.connect(self.file)) as database, database:
            database.execute(statement, parameters)

    def swap_index(self, one: str, other: str) -> None:
        """The index of the ids leads to the row of the other one."""
        content = bytearray(self.file.read_bytes())
        # Text of 22 bytes and a number of one byte, as an index has them: see "Record Format" of SQLite.
        keys = [b"\x03\x39\x01" + self.id_of(name).encode() for name in (one, other)]
        assert [content.count(key) for key in keys] == [1, 1]
        first, second = (content.index(key) + len(key) for key in keys)
        content[first], content[second] = content[second], content[first]
        self.file.write_bytes(content)

    def open(self) -> None:
        self.manager, self.served, _ = site(SQLiteBackend(self.file))
        self.manager.subscribe(None, self.events.append)

    def visitor(self, name: str) -> Visitor:
        visitor = Visitor(self.served, name)
        visitor.client.cookie = self.cookies[name]
        return visitor

    def id_of(self, name: str) -> str:
        return str(self.cookies[name]).partition("=")[2].partition(".")[0]

    def told(self, name: str) -> list[Any]:
        return [event for event in self.events if event.name == name]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "sessions.db")


def test_flipped_bits_show_nobody_what_is_anothers_and_stop_nothing(tmp_path: Path) -> None:
    trials = Trials(tmp_path, seed=7)
    trials.run(120)
    assert trials.faults == []
    assert min(trials.met[met] for met in ("served", "anonymous", "refused", "told to the operator")) > 10


@pytest.mark.parametrize("verb", ["read", "write", "logout"])
def test_an_index_that_leads_to_the_row_of_another_session_is_found_out(scene: Scene, verb: str) -> None:
    scene.swap_index("ada", "bob")
    scene.open()
    for name in ("ada", "bob"):
        assert scene.visitor(name).does(verb, 2)["status"] == 503
    assert isinstance(scene.told("backend_unavailable")[0].fields["exception"], BackendCorrupt)
    assert scene.visitor("eve").does("read", 2)["body"] == {"owner": "eve", "n": 1, "twin": 1}


def test_whoever_asks_by_an_id_is_never_given_another_session(scene: Scene) -> None:
    scene.swap_index("ada", "bob")
    scene.open()
    ada = scene.id_of("ada")
    for operation in (
        lambda: scene.manager.blocking.get_session(ada),
        lambda: scene.manager.blocking.update_session(ada, {"n": 5}),
        lambda: scene.manager.blocking.delete_session(ada),
        lambda: scene.manager.blocking.get_sessions(ids=[ada]),
        lambda: scene.manager.blocking.end_sessions(ids=[ada], dry_run=False),
        lambda: scene.manager.blocking.recover_session(ada),
    ):
        with pytest.raises(BackendCorrupt, match="another session"):
            operation()
    with closing(sqlite3.connect(scene.file)) as database:
        assert database.execute("SELECT count(*) FROM session NOT INDEXED").fetchone() == (4,)


def test_a_reader_that_does_not_check_what_a_record_names_is_caught(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_own", lambda row, _: row)
    scene.swap_index("ada", "bob")
    scene.open()
    session = scene.manager.blocking.get_session(scene.id_of("ada"))
    assert session is not None
    assert session["owner"] == "bob"


@pytest.mark.parametrize("lost", ["DELETE FROM epoch", "UPDATE epoch SET before='odd'"])
def test_a_file_that_has_lost_when_all_were_ended_serves_nobody(scene: Scene, lost: str) -> None:
    scene.damage(lost)
    scene.open()
    for verb in ("read", "write", "logout"):
        assert scene.visitor("ada").does(verb, 2)["status"] == 503
    with pytest.raises(BackendCorrupt, match="epoch"):
        scene.manager.blocking.get_session(scene.id_of("ada"))


@pytest.mark.parametrize("column", [*COLUMNS, "id"])
def test_whatever_is_in_a_column_no_visitor_gets_a_500_and_the_others_are_served(
    tmp_path: Path, column: str
) -> None:
    odd = {f"odd{number}": value for number, value in enumerate(GARBAGE)}
    scene = Scene(tmp_path / "sessions.db", [*odd, "bob"])
    for name, value in odd.items():
        with suppress(sqlite3.IntegrityError):  # the table itself refuses the value: then this one is whole
            scene.damage(f"UPDATE session SET {column}=? WHERE id=?", value, scene.id_of(name))  # noqa: S608  (ours)
    scene.open()
    for name in odd:
        for verb in ("read", "write", "logout"):
            assert scene.visitor(name).does(verb, 2)["status"] in {200, 503}
    assert scene.visitor("bob").does("read", 2)["body"]["owner"] == "bob"
    scene.manager.blocking.stop()
