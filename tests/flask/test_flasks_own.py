"""Flask's own tests of sessions, run against our interface as they stand.

The tests are not copied: they come from the source archive of the very Flask that is installed, are kept in
.cache/, and run in an interpreter of their own. Only the class attribute `Flask.session_interface` is swapped
(`flask_swap.py`).
"""

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

pytest.importorskip("flask")

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "upstream"
VERSION = importlib.metadata.version("flask")

# How many tests `-k session` runs, where somebody counted. Another version is held to its own unswapped run.
COUNTED = {"3.1.3": 23}


class Outcome(NamedTuple):
    """The names of the tests by how they ended, and what the run printed."""

    passed: frozenset[str]
    failed: frozenset[str]
    output: str


@pytest.fixture(scope="session")
def suite(unavailable: Callable[[str], NoReturn]) -> Path:
    """The folder with Flask's tests, downloaded once per version."""
    folder = CACHE / f"flask-{VERSION}"
    if not (folder / "pyproject.toml").exists():
        archive = CACHE / f"flask-{VERSION}.tar.gz"
        if not archive.exists() and (complaint := download(CACHE)) is not None:
            unavailable(f"Flask's source archive is not to be had: {complaint}")
        unpack(archive.read_bytes(), CACHE)
    return folder


@pytest.fixture(scope="session")
def unswapped(suite: Path) -> Outcome:
    return run(suite, "")


def test_the_tests_pass_as_flask_ships_them(unswapped: Outcome) -> None:
    assert not unswapped.failed, unswapped.output
    assert len(unswapped.passed) == COUNTED.get(VERSION, len(unswapped.passed)) > 0


def test_the_tests_pass_with_our_interface_in_place_of_flasks(suite: Path, unswapped: Outcome) -> None:
    ours = run(suite, "session_middleware.flask")
    assert not ours.failed, ours.output
    assert ours.passed == unswapped.passed


def test_the_tests_catch_an_interface_that_forgets_what_was_written(suite: Path) -> None:
    assert run(suite, "forgetful").failed


def test_an_archive_of_another_flask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sessions\.py"):
        unpack(archive_of({"src/flask/sessions.py": "changed = True\n"}), tmp_path)


def download(folder: Path) -> str | None:
    """Fetches the source archive with pip, which checks its digest; pip's last word where it could not."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary=:all:", "--no-build-isolation", f"--dest={folder}"]
    done = subprocess.run([*command, f"flask=={VERSION}"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def unpack(archive: bytes, into: Path) -> None:
    """Writes the archive's tests and settings, once it is known to be the installed Flask."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            content = tar.extractfile(member) if member.isfile() and ".." not in parts else None
            if content is not None:
                files["/".join(parts)] = content.read()
    listed = importlib.metadata.files("flask") or ()
    installed = next(file for file in listed if file.match("flask/sessions.py"))
    if files.get("src/flask/sessions.py") != installed.read_text().encode():
        raise ValueError("sessions.py in the archive is not the one that is installed")
    wanted = [name for name in files if name.startswith("tests/") or name == "pyproject.toml"]
    for name in sorted(wanted, key=lambda name: name == "pyproject.toml"):  # the last one
        path = into / f"flask-{VERSION}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])


def archive_of(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"flask-{VERSION}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def run(suite: Path, swap_in: str) -> Outcome:
    """The outcome of Flask's session tests with the interface of the module `swap_in`."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "flask_swap"]
        command += [f"--junitxml={report}", "-k", "session", "tests"]
        done = subprocess.run(
            command, cwd=suite, env=environment(swap_in), capture_output=True, text=True, check=False
        )
        assert report.exists(), done.stdout + done.stderr
        return outcome(report, done.stdout)


def environment(swap_in: str) -> dict[str, str]:
    """Ours without what steers this pytest, with the plugin, and with the package wherever it was found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "FLASK"))}
    paths = [str(HERE)]
    spec = importlib.util.find_spec("session_middleware")
    if spec is not None and spec.submodule_search_locations:
        paths += [str(Path(place).parent) for place in spec.submodule_search_locations]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "SWAP_IN": swap_in}


def outcome(report: Path, output: str) -> Outcome:
    """Reads pytest's own report. What is skipped for want of an optional package is in neither set."""
    ended: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for case in ET.fromstring(report.read_text(encoding="utf-8")).iter("testcase"):  # noqa: S314  (ours)
        tags = {child.tag for child in case}
        how = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        ended[how].add(f"{case.get('classname')}::{case.get('name')}")
    return Outcome(frozenset(ended["passed"]), frozenset(ended["failed"]), output)
