"""A disk without room, in three ways, under visitors of the middleware."""

from __future__ import annotations

import errno
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from session_middleware import SQLiteBackend
from tests.disk.test_damage import Scene
from tests.disk.visits import site
from tests.disk.worker import Swallowing, Wrapped


@contextmanager
def no_more_pages(scene: Scene) -> Iterator[None]:
    """`SQLITE_FULL`."""
    writer: Any = scene.manager.backend.port("blocking")

    def allow(pages: int) -> None:
        writer._writer.use(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchall())

    allow(1)
    yield
    allow(2**30)


@contextmanager
def no_longer_files(scene: Scene) -> Iterator[None]:
    """EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{scene.file}-wal").stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_room(scene: Scene) -> Iterator[None]:
    """ENOSPC."""
    ballast = scene.file.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 512):
                pass
        except OSError as problem:
            assert problem.errno == errno.ENOSPC  # noqa: PT017  (it may come with the first write, or the last)
    yield
    ballast.unlink()


WAYS = {"no more pages": no_more_pages, "no longer files": no_longer_files, "no room": no_room}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(way: str, tmp_path: Path) -> Iterator[Path]:
    """Where the file lies: on a file system of two megabytes, where that is to be filled."""
    if way != "no room":
        yield tmp_path
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)  # noqa: S607  (wherever it is)


def test_a_full_disk_refuses_writes_serves_reads_and_heals_by_itself(folder: Path, way: str) -> None:
    scene = Scene(folder / "sessions.db")
    scene.open()
    ada, bob = scene.visitor("ada"), scene.visitor("bob")
    assert ada.does("write", 2)["status"] == 200
    with WAYS[way](scene):
        refused = ada.client.get("/grow/ada/3")
        assert (refused.status, refused.header("retry-after"), refused.set_cookie) == (503, "2", None)
        assert ada.does("read", 0)["body"] == {"owner": "ada", "n": 2, "twin": 2}
        left = bob.does("logout", 0)["status"]
        assert left in (200, 503)
        assert (bob.session_id is None) is (left == 200)
    assert len(scene.told("backend_unavailable")) >= 1
    assert ada.does("grow", 4)["status"] == 200
    assert scene.told("backend_recovered")
    assert bob.does("logout", 0)["status"] == 200
    assert scene.visitor("bob").does("read", 0)["body"]["owner"] is None
    scene.manager.blocking.stop()


def test_a_backend_that_swallows_the_refusal_is_caught(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "sessions.db")
    scene.manager, scene.served, _ = site(Wrapped(SQLiteBackend(scene.file), Swallowing))
    ada = scene.visitor("ada")
    assert ada.does("write", 2)["status"] == 200
    with no_longer_files(scene):
        assert ada.does("grow", 3)["status"] == 200
    assert ada.does("read", 0)["body"]["n"] == 2
    scene.manager.blocking.stop()
