"""The file, or its directory, removed or replaced while a process has it open."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from session_middleware import BackendError, BackendUnavailable
from tests.disk.test_damage import Scene


def another_application(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE session(theirs)")


UNFIT: dict[str, Callable[[Path], object]] = {
    "no directory": lambda file: shutil.rmtree(file.parent),
    "a directory": Path.mkdir,
    "the database of another application": another_application,
    "garbage": lambda file: file.write_bytes(b"no database " * 1000),
}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Opened, read, and then without its file."""
    folder = tmp_path / "folder"
    folder.mkdir()
    made = Scene(folder / "sessions.db")
    made.open()
    assert made.visitor("ada").does("read", 1)["status"] == 200
    for suffix in ("", "-wal", "-shm"):
        Path(f"{made.file}{suffix}").unlink(missing_ok=True)
    return made


@pytest.mark.parametrize("unfit", UNFIT)
def test_whatever_took_the_place_of_an_open_file_is_503_and_told_until_it_is_gone(
    scene: Scene, unfit: str
) -> None:
    UNFIT[unfit](scene.file)
    with pytest.raises(BackendUnavailable, match="deleted or replaced"):
        scene.manager.blocking.cleanup_expired()
    for verb in ("read", "write", "logout"):
        assert scene.visitor("ada").does(verb, 2)["status"] == 503
    [told] = scene.told("backend_unavailable")
    assert isinstance(told.fields["exception"], BackendError)
    shutil.rmtree(scene.file.parent, ignore_errors=True)
    scene.file.parent.mkdir()
    assert scene.visitor("ada").does("write", 3)["status"] == 200


def test_an_empty_file_in_its_place_is_used_and_shows_nobody_elses_session(scene: Scene) -> None:
    scene.file.touch()
    with pytest.raises(BackendUnavailable, match="deleted or replaced"):
        scene.manager.blocking.cleanup_expired()
    assert scene.visitor("ada").does("read", 2)["body"]["owner"] is None
