"""ASGI apps under real uvicorns, loaded by wrk: requests per second, as a share of the bare app's.

Reading order: `measure_http` (interleaved rounds), `served` (one uvicorn), `loaded` (one run of wrk),
`as_markdown`.

One server process on one core, wrk on another; only one of the servers is loaded at a time.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.apps import BARE, CASES, OURS, Case, in_memory
from tests.benchmarks.checks import ClaimError, check, check_still_signed_in, signed_in
from tests.benchmarks.remote import PATIENCE, ROOT, Remote, python_path
from tests.benchmarks.report import machine, spread, table
from tests.benchmarks.traffic import Browser
from tests.benchmarks.under_gunicorn import Shares, Spell

__all__ = ["HTTP_SECTION", "HttpFigures", "as_json", "as_markdown", "loaded", "measure_http"]

HTTP_SECTION = "http figures"
CONNECTIONS: Final = 64
GOALS: Final[dict[Case, float]] = {"untouched": 0.92, "read": 0.80, "write": 0.75}
"""The smallest share that we want of the bare app's requests per second."""
_PACKAGES: Final = ("uvicorn", "uvloop", "httptools", "starlette", "starsessions")
_PER_SECOND: Final = re.compile(r"Requests/sec:\s+([\d.]+)")
_WRONG: Final = re.compile(r"(Non-2xx or 3xx responses: \d+|Socket errors: .*)")


@dataclass(frozen=True, slots=True)
class HttpFigures:
    """What one run measured, on *day* (ISO)."""

    day: str
    spell: Spell
    shares: Shares


def measure_http(day: str, spell: Spell) -> HttpFigures:
    """Each app in memory under a uvicorn of its own, checked first, then loaded in turns."""
    if shutil.which("wrk") is None:
        raise RuntimeError("there is no wrk: apt-get install wrk")
    shares = Shares()
    with ExitStack() as stack:
        candidates = {candidate.name: candidate.sets_cookie for candidate in in_memory()}
        remotes = [stack.enter_context(served(name, sets)) for name, sets in candidates.items()]
        ready = [(remote, asyncio.run(_visitor(remote))) for remote in remotes]
        for number in range(spell.rounds):
            for case in CASES:
                for remote, visitor in ready if number % 2 == 0 else ready[::-1]:
                    browser = Browser() if case in {"none", "new"} else visitor
                    shares.add(remote.name, case, loaded(remote, case, browser, spell.seconds))
        for remote, visitor in ready:
            asyncio.run(check_still_signed_in(remote.candidate(), [visitor]))
    return HttpFigures(day, spell, shares)


async def _visitor(remote: Remote) -> Browser:
    await check(remote.candidate())
    return await signed_in(remote.candidate())


@contextmanager
def served(name: str, sets_cookie: frozenset[str]) -> Iterator[Remote]:
    """A uvicorn on a socket that listens already: no port to lose to another, no waiting for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        # Uvicorn takes a socket that it is handed for one of Unix, and leaves Nagle's algorithm on: answers
        # would wait 40 ms for acknowledgements. What is accepted inherits this.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        command = [*_on_core(0), sys.executable, "-m", "uvicorn", "tests.benchmarks.http_served:app"]
        command += [f"--fd={listener.fileno()}", "--no-access-log", "--log-level=warning"]
        command += ["--loop=uvloop", "--http=httptools"]  # the quickest there are: what we cost shows most
        environment = {**os.environ, "BENCH_APP": name, "PYTHONPATH": python_path()}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()])
        try:
            yield Remote(name, listener.getsockname()[1], sets_cookie)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def loaded(remote: Remote, case: str, browser: Browser, seconds: float) -> float:
    """Requests per second. Raises `ClaimError` if any was not answered well."""
    command = [*_on_core(1), "wrk", "--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds:g}s"]
    for name, value in browser.scope(f"/{case}")["headers"]:
        command += ["--header", f"{name.decode().title()}: {value.decode('latin-1')}"]
    run = subprocess.run(
        [*command, f"http://127.0.0.1:{remote.port}/{case}"], capture_output=True, text=True, check=False
    )
    found, wrong = _PER_SECOND.search(run.stdout), _WRONG.search(run.stdout)
    if run.returncode != 0 or found is None or wrong is not None:
        problem = wrong[0] if wrong is not None else run.stdout + run.stderr
        raise ClaimError(f"{remote.name}: under load {case}: {problem}")
    return float(found[1])


def _on_core(number: int) -> Sequence[str]:
    """A prefix that keeps a command on one core, where there are two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) <= number or shutil.which("taskset") is None:
        return ()
    return ("taskset", "--cpu-list", str(cores[number]))


def as_markdown(figures: HttpFigures) -> str:
    """The table, and the goals."""
    shares, spell = figures.shares, figures.spell
    named = ", ".join(f"{name} {value}" for name, value in machine(_PACKAGES).items())
    bare = [f"{BARE}, per second", *(f"{shares.bare(case).median:.0f}" for case in CASES)]
    rows = [[app, *(spread(shares.share(app, case), 2) for case in CASES)] for app in shares.apps()]
    found = [(case, shares.share(OURS, case).median, least) for case, least in GOALS.items()]
    goals = [
        [case, f"{share:.2f}", f"≥ {least:.2f}", "reached" if share >= least else "not reached"]
        for case, share, least in found
    ]
    return "\n".join(
        [
            f"Measured on {figures.day}, {spell.rounds} rounds of {spell.seconds:g} s each.\n{named}.\n",
            f"One process each, wrk with {CONNECTIONS} connections of one visitor on another core.\n",
            table(["share of the bare app's, median (quartiles)", *CASES], [bare, *rows]),
            table(["ours, memory", "share", "goal", ""], goals),
        ]
    )


def as_json(figures: HttpFigures) -> dict[str, object]:
    """Medians, ready for `json.dumps`."""
    shares = figures.shares
    return {
        "day": figures.day,
        "machine": machine(_PACKAGES),
        "per_second": {case: shares.bare(case).median for case in CASES},
        "shares": {app: {case: shares.share(app, case).median for case in CASES} for app in shares.apps()},
    }
