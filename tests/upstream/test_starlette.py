"""Starlette's own session tests, run against our middleware as they stand.

The tests are not copied: they come from the source archive of the very Starlette that is installed, are kept
in .cache/, and run in an interpreter of their own under Starlette's own pytest settings. Only the two class
names are swapped (`starlette_swap.py`).
"""

import functools
import importlib.metadata
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree as ET

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "upstream"
VERSION = importlib.metadata.version("starlette")
SUITE = "tests/middleware/test_session.py"

# How many tests the suite has, where somebody counted. Another version is held to its own unswapped run.
COUNTED = {"1.10.0": 29}


class Outcome(NamedTuple):
    """The names of the tests by how they ended, and what the run printed."""

    passed: frozenset[str]
    failed: frozenset[str]
    skipped: frozenset[str]
    output: str


class UntrustedArchiveError(Exception):
    """The archive is not the source of the Starlette that is installed."""


@pytest.fixture(scope="session")
def suite(unavailable: Callable[[str], NoReturn]) -> Path:
    """The folder with Starlette's tests, downloaded once per version."""
    folder = CACHE / f"starlette-{VERSION}"
    if not (folder / SUITE).exists():
        archive = CACHE / f"starlette-{VERSION}.tar.gz"
        if not archive.exists() and (complaint := download(CACHE)) is not None:
            unavailable(f"Starlette's source archive is not to be had: {complaint}")
        unpack(archive.read_bytes(), CACHE)
    return folder


@pytest.fixture(scope="session")
def unswapped(suite: Path) -> Outcome:
    return run(suite, None)


def test_the_suite_passes_as_starlette_ships_it(unswapped: Outcome) -> None:
    assert not unswapped.failed | unswapped.skipped, unswapped.output
    assert len(unswapped.passed) == COUNTED.get(VERSION, len(unswapped.passed)) > 0


def test_the_suite_runs_under_both_event_loops(unswapped: Outcome) -> None:
    under = {loop: sum(loop in name for name in unswapped.passed) for loop in ("asyncio", "trio")}
    assert under["asyncio"] == under["trio"] > 0


def test_the_suite_passes_with_our_middleware_in_place_of_starlettes(suite: Path, unswapped: Outcome) -> None:
    ours = run(suite, "session_middleware")
    assert not ours.failed | ours.skipped, ours.output
    assert ours.passed == unswapped.passed


def test_the_suite_catches_a_middleware_that_forgets_what_was_written(suite: Path) -> None:
    assert run(suite, "forgetful").failed


def test_an_archive_of_another_starlette_is_refused(tmp_path: Path) -> None:
    files = {"PKG-INFO": f"Version: {VERSION}\n", "starlette/middleware/sessions.py": "changed = True\n"}
    with pytest.raises(UntrustedArchiveError, match=r"sessions\.py"):
        unpack(archive_of(files), tmp_path)
    with pytest.raises(UntrustedArchiveError, match="PKG-INFO"):
        unpack(archive_of({**files, "PKG-INFO": "Version: 0.1\n"}), tmp_path)


def test_an_archive_writes_nowhere_but_into_its_folder(tmp_path: Path) -> None:
    genuine = {
        "PKG-INFO": f"Version: {VERSION}\n",
        "starlette/middleware/sessions.py": installed_source(),
    }
    unpack(archive_of({**genuine, "tests/../../../escaped.py": ""}), tmp_path / "in" / "here")
    assert not list(tmp_path.rglob("escaped.py"))


def download(folder: Path) -> str | None:
    """Fetches the source archive with pip, which checks its digest; pip's last word where it could not."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary=:all:", "--no-build-isolation", f"--dest={folder}"]
    done = subprocess.run([*command, f"starlette=={VERSION}"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def unpack(archive: bytes, into: Path) -> None:
    """Writes the archive's tests and pytest settings, once it is known to be the installed Starlette."""
    files = files_of(archive)
    if f"Version: {VERSION}" not in files.get("PKG-INFO", b"").decode().splitlines():
        raise UntrustedArchiveError(f"PKG-INFO does not say {VERSION}")
    if files.get("starlette/middleware/sessions.py") != installed_source().encode():
        raise UntrustedArchiveError("sessions.py is not the one that is installed")
    wanted = [name for name in files if name.startswith("tests/") or name == "pyproject.toml"]
    for name in sorted(wanted, key=lambda name: name == SUITE):  # last: it marks the folder as complete
        path = into / f"starlette-{VERSION}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])


def files_of(archive: bytes) -> dict[str, bytes]:
    """The regular files, by their path below the archive's one folder; none whose path climbs."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            content = tar.extractfile(member) if member.isfile() and ".." not in parts else None
            if content is not None:
                files["/".join(parts)] = content.read()
    return files


def archive_of(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"starlette-{VERSION}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


@functools.cache
def installed_source() -> str:
    """The module whose tests these are, as it is installed."""
    files = importlib.metadata.files("starlette") or ()
    return next(file for file in files if file.match("starlette/middleware/sessions.py")).read_text()


def run(suite: Path, swap_in: str | None) -> Outcome:
    """The suite's outcome with the classes of the module `swap_in`; None: as Starlette ships it."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", SUITE]
        command += ["-p", "starlette_swap"] if swap_in is not None else []
        done = subprocess.run(
            command, cwd=suite, env=environment(swap_in), capture_output=True, text=True, check=False
        )
        assert report.exists(), done.stdout + done.stderr
        return outcome(report.read_text(encoding="utf-8"), done.stdout)


def environment(swap_in: str | None) -> dict[str, str]:
    """Ours without what steers this pytest, with the plugin, and with the package wherever it was found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    paths = [str(HERE)]
    spec = importlib.util.find_spec("session_middleware")
    if spec is not None and spec.submodule_search_locations:
        paths += [str(Path(place).parent) for place in spec.submodule_search_locations]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "SWAP_IN": swap_in or ""}


def outcome(report: str, output: str) -> Outcome:
    """Reads pytest's own report; the report is one we asked for, so an ordinary parser will do."""
    ended: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314  (written a moment ago by our own run)
        tags = {child.tag for child in case}
        how = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        ended[how].add(f"{case.get('classname')}::{case.get('name')}")
    passed, failed, skipped = (frozenset(names) for names in ended.values())
    return Outcome(passed, failed, skipped, output)
