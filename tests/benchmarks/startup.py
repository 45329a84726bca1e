"""How long it takes to begin: imports, the first request, the command line.

Reading order: `measure_startup`, then what each figure is. Each run is a process of its own; of several the
quickest counts, since whatever else the machine does only makes one slower.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from tests.benchmarks.remote import ROOT, python_path
from tests.benchmarks.report import machine, table

__all__ = ["STARTUP_SECTION", "Startup", "as_json", "as_markdown", "imported", "measure_startup"]

STARTUP_SECTION = "start-up figures"
_RUNS: Final = 9
_PACKAGES: Final = ("msgspec", "structlog", "itsdangerous", "starlette", "flask", "streamlit", "click")
_MOST: Final = 150.0  # ms that a command may take
ENTRANCES: Final = {
    "session_middleware": "import session_middleware",
    "ASGI": "from session_middleware import SessionMiddleware",
    "WSGI": "from session_middleware import WSGISessionMiddleware",
    "Flask": "import session_middleware.flask",
    "FastAPI": "import session_middleware.fastapi",
    "Streamlit": "import session_middleware.streamlit",
    "Starlette's own": "import starlette.middleware.sessions",
}
COMMANDS: Final = (["--version"], ["--help"], ["report", "--help"], ["doctor", "--help"])
_LINE: Final = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)")
_FIRST_REQUEST: Final = """
import asyncio, time
from tests.benchmarks.apps import handlers
from tests.benchmarks.traffic import Browser, exchange, running
from session_middleware import SessionMiddleware

async def main():
    app = SessionMiddleware(handlers(), "k" * 40)
    async with running(app):
        visitor = Browser()
        for path in ("/seed", "/read", "/write", "/read", "/write"):
            began = time.perf_counter()
            await exchange(app, visitor, path)
            print((time.perf_counter() - began) * 1e3)

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """Milliseconds that an import took: what comes from us, and all of it."""

    ours: float
    whole: float


@dataclass(frozen=True, slots=True)
class Startup:
    """One run on *day* (ISO). Milliseconds."""

    day: str
    imports: dict[str, Imported]
    requests: Sequence[float]  # create, read, write; then read and write again
    commands: dict[str, float]


def measure_startup(day: str, *, quick: bool = False) -> Startup:
    """Everything. *quick*: of fewer runs."""
    runs = 2 if quick else _RUNS
    imports = {}
    for name, statement in ENTRANCES.items():
        found = [imported(statement) for _ in range(runs)]
        imports[name] = Imported(min(one.ours for one in found), min(one.whole for one in found))
    requests = [[float(line) for line in _run(["-c", _FIRST_REQUEST]).stdout.split()] for _ in range(runs)]
    best = [min(run[at] for run in requests) for at in range(len(requests[0]))]
    commands = {" ".join(command): min(_timed(command) for _ in range(runs)) for command in COMMANDS}
    return Startup(day, imports, best, commands)


def imported(statement: str) -> Imported:
    """What this statement imports, in a fresh process, without what Python itself does to start."""
    empty = _modules("pass")
    found = {name: spent for name, spent in _modules(statement).items() if name not in empty}
    ours = sum(spent for name, spent in found.items() if name.split(".")[0] == "session_middleware")
    return Imported(ours / 1000, sum(found.values()) / 1000)


def _modules(statement: str) -> dict[str, int]:
    """Microseconds of each module's own, without what it imports."""
    told = _run(["-X", "importtime", "-c", statement]).stderr
    return {name: int(own) for own, _, name in _LINE.findall(told)}


def _timed(command: Sequence[str]) -> float:
    began = time.perf_counter()
    _run(["-m", "session_middleware", *command])
    return (time.perf_counter() - began) * 1e3


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": python_path(), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )


def as_markdown(found: Startup) -> str:
    """Three tables."""
    named = ", ".join(f"{name} {value}" for name, value in machine(_PACKAGES).items())
    imports = [[name, f"{one.ours:.1f}", f"{one.whole:.1f}"] for name, one in found.imports.items()]
    names = ("first of all (creates a session)", "first read", "first write", "next read", "next write")
    requests = [[name, f"{spent:.2f}"] for name, spent in zip(names, found.requests, strict=True)]
    commands = [
        [f"`session-middleware {name}`", f"{spent:.0f}", f"≤ {_MOST:.0f}", _verdict(spent)]
        for name, spent in found.commands.items()
    ]
    return "\n".join(
        [
            f"Measured on {found.day}.\n{named}.\n",
            table(["import, ms", "our own modules", "with all that they import"], imports),
            table(["request in a new process", "ms"], requests),
            table(["command, from its start to its end", "ms", "goal", ""], commands),
        ]
    )


def _verdict(spent: float) -> str:
    return "reached" if spent <= _MOST else "not reached"


def as_json(found: Startup) -> dict[str, object]:
    """Ready for `json.dumps`."""
    return asdict(found) | {"machine": machine(_PACKAGES)}
