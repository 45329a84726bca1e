"""What the repository holds, and that its parts tell one story: versions, extras, no trace of a machine."""

import importlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

TOP_LEVEL = frozenset(
    {
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "docs",
        "examples",
        "pyproject.toml",
        "session_middleware",
        "tests",
    },
)

# What tools make beside what was written, as in .gitignore.
MADE = re.compile(
    r"\.git|\.venv|\.cache|\.coverage.*|\.hypothesis|\.\w+_cache|__pycache__|build|dist|.*\.egg-info|.*\.db",
)

# Written in pieces, so that this file passes its own test. A path is one only with something below it: an app
# may well have a page at /home.
TRACES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w.}>-])/" + r"home/\w",
        r"(?<![\w.}>-])/" + r"root/[\w.]",
        r"(?<![\w.}>-])/" + r"work/[\w.]",
        r"/" + r"Users/\w",
        r"[A-Z]:\\" + r"Users",
        r"\bpypi" + r"\.org",
        r"\bpython" + r"hosted\.org",
        r"\b(?:extra-)?index" + r"-url\b",
        r"\bfind" + r"-links\b",
    )
)

# `pip install 'session-middleware[fastapi]'`, also with several extras.
EXTRAS_NAMED = re.compile(r"session[-_]middleware\[([a-z0-9_, -]+)\]")


def test_the_top_level_holds_what_the_layout_says() -> None:
    assert strangers(tracked_files()) == []


def test_a_stranger_at_the_top_level_is_found() -> None:
    assert strangers(["setup.py", "tests/a.py", ".ci/run", "notes/b.md"]) == ["notes", "setup.py"]


def test_no_file_names_a_machine_or_a_package_index() -> None:
    assert [f"{name}: {found}" for name in tracked_files() for found in traces(text_of(name))] == []


@pytest.mark.parametrize(
    "line",
    [
        "see /" + "home/someone/notes",
        "'/" + "root/.config'",
        "cd /" + "work/checkout",
        "file:///" + "home/a",
        "https://pypi" + ".org/simple",
        "files.python" + "hosted.org",
        "pip install --index" + "-url=x",
    ],
)
def test_a_trace_of_a_machine_is_found(line: str) -> None:
    assert traces(line)


@pytest.mark.parametrize("line", ["get('/home')", "~/network/a", "docs/" + "work/a", "{base}/" + "home/a"])
def test_an_ordinary_path_is_no_trace(line: str) -> None:
    assert not traces(line)


def test_the_version_is_the_same_everywhere() -> None:
    package = importlib.import_module(PROJECT["name"])
    assert getattr(package, "__version__", PROJECT["version"]) == PROJECT["version"]


def test_every_extra_that_anything_names_exists() -> None:
    named = {extra for name in tracked_files() for extra in extras_in(text_of(name))}
    assert named - set(PROJECT["optional-dependencies"]) == set()


def test_extras_are_read_from_advice_to_install_them() -> None:
    advice = "pip install 'session-" + "middleware[cli, no-such]' session_" + "middleware[fastapi]"
    assert extras_in(advice) == {"cli", "no-such", "fastapi"}


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / PROJECT["name"] / "py.typed").exists()


def tracked_files() -> list[str]:
    """Every file that is or could be committed; without git, or outside a checkout, all that nothing made."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        below = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        return [path.as_posix() for path in below if not any(MADE.fullmatch(part) for part in path.parts)]
    # A pipeline often runs as another user than the one that owns the checkout: hence safe.directory.
    command = [git, "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def strangers(names: Iterable[str]) -> list[str]:
    tops = {name.partition("/")[0] for name in names}
    return sorted(top for top in tops - TOP_LEVEL if not top.startswith("."))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def traces(text: str) -> list[str]:
    return [found.group() for pattern in TRACES for found in pattern.finditer(text)]


def extras_in(text: str) -> set[str]:
    return {extra.strip() for found in EXTRAS_NAMED.findall(text) for extra in found.split(",")}
