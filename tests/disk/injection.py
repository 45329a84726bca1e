"""Faults at every N-th system call that writes, injected by strace into a worker that serves sessions.

    python -m tests.disk.injection --fault KILL --durability full --stride 1

`KILL` ends the process at the call; `EIO` and `ENOSPC` fail one call; with a plus (`EIO+`) they fail it and
all after it, until the next process. Each kind of call is walked by itself: N grows by `--stride` until a run
comes to its end untouched. After each run the file is opened, checked by SQLite, and held against the ledger.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from session_middleware import SQLiteBackend
from tests.disk.visits import STEPS, Ledger, stored_in
from tests.disk.worker import take

__all__ = ["CALLS", "Figures", "main", "strace_is_missing", "walk"]

ROOT = Path(__file__).parents[2]
CALLS = ("pwrite64", "fdatasync", "ftruncate", "unlink")
SUFFIXES = ("", "-wal", "-shm")


@dataclass
class Figures:
    """What a walk came to; `faults` tells each broken promise."""

    points: int = 0  # runs in which the fault was injected
    acknowledged: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What one worker said, and whether a fault was injected into it."""

    lines: list[dict[str, Any]]
    injected: bool
    status: int
    complaint: str


def strace_is_missing(folder: Path) -> str | None:
    """Why nothing can be injected here; None: it can."""
    if shutil.which("strace") is None:
        return "no strace: `make tools` installs it where it may"
    command = ["strace", "-o", str(folder / "probe"), "-e", "inject=unlink:error=EIO", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


def work(file: Path, *arguments: str, call: str, fault: str, n: int) -> Run:
    """A worker over *file*, under strace."""
    log = file.parent / "calls"
    command = [sys.executable, "-m", "tests.disk.worker", str(file), *arguments]
    effect = "signal=KILL" if fault == "KILL" else f"error={fault.rstrip('+')}"
    when = f"{n}+" if fault.endswith("+") else str(n)
    paths = [part for suffix in SUFFIXES for part in ("-P", f"{file}{suffix}")]
    filters = ["-e", f"trace={call}", "-e", f"inject={call}:{effect}:when={when}"]
    fast = [] if fault == "KILL" else ["--seccomp-bpf"]  # with it, strace 6.1 injects no signals
    command = ["strace", "-f", *fast, "-o", str(log), *paths, *filters, *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")]
    injected = done.returncode == -signal.SIGKILL or "INJECTED" in log.read_text(errors="replace")
    return Run(lines, injected, done.returncode, done.stderr)


def walk(fault: str, call: str, *arguments: str, stride: int = 1, first: int = 1) -> Figures:
    """Inject *fault* into the first, the `stride`-th next … of these calls, until a run is not touched."""
    figures = Figures()
    n, injected = first, True
    while injected:
        with tempfile.TemporaryDirectory() as folder:
            injected = strike(figures, Path(folder) / "sessions.db", fault, call, n, *arguments)
        figures.points += injected
        n += stride
    return figures


def strike(figures: Figures, file: Path, fault: str, call: str, n: int, *arguments: str) -> bool:
    """One run; whether the fault was injected."""
    ledger, run = Ledger(), work(file, *arguments, call=call, fault=fault, n=n)
    ledger.follow(run.lines)
    where = f"{fault} at {call} {n}"
    figures.faults += [f"{where}: {problem}" for problem in judged(file, run, ledger, fault)]
    figures.acknowledged += ledger.acknowledged
    figures.refused += ledger.refused
    return run.injected


def judged(file: Path, run: Run, ledger: Ledger, fault: str) -> Iterator[str]:
    """Every promise that was broken."""
    if fault != "KILL" and (run.status != 0 or len(run.lines) != 2 * len(STEPS)):
        yield f"the worker ended early, with {run.status}: {run.complaint[-300:]}"
    if fault in ("EIO", "ENOSPC") and ledger.refused > 1:
        yield f"one failed call, {ledger.refused} refusals"
    if file.exists():
        with closing(sqlite3.connect(file)) as database:
            answer = database.execute("PRAGMA integrity_check").fetchall()
        if answer != [("ok",)]:
            yield f"integrity_check: {answer[:3]}"
    ledger.judge(stored_in(SQLiteBackend(file)))
    after = Ledger()
    lines: list[dict[str, Any]] = []
    take(SQLiteBackend(file), lines.append)  # without faults, in the same file
    after.follow(lines)
    if after.refused or after.acknowledged != len(STEPS):
        yield f"not healed: {after.acknowledged} answers, {after.refused} refusals"
    yield from ledger.faults + after.faults


def main() -> int:
    """Walk every kind of call; prints one line of figures, and each fault. 0: there was none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fault", default="KILL", choices=("KILL", "EIO", "EIO+", "ENOSPC", "ENOSPC+"))
    parser.add_argument("--durability", default="normal", choices=("normal", "full"))
    parser.add_argument("--backend", default="ours")
    parser.add_argument("--stride", type=int, default=1)
    given = parser.parse_args()
    walked: dict[str, int] = {}
    total = Figures()
    for call in CALLS:
        one = walk(
            given.fault,
            call,
            "--durability",
            given.durability,
            "--backend",
            given.backend,
            stride=given.stride,
        )
        walked[call] = one.points
        total.acknowledged += one.acknowledged
        total.refused += one.refused
        total.faults += one.faults
    counts = {"acknowledged": total.acknowledged, "refused": total.refused, "faults": len(total.faults)}
    sys.stdout.write("".join(f"{fault}\n" for fault in total.faults))
    sys.stdout.write(f"{json.dumps({**walked, **counts})}\n")
    return int(bool(total.faults))


if __name__ == "__main__":
    raise SystemExit(main())
