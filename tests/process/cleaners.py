"""Eight cleaners at once on very many rows, while what they are about to remove is being renewed.

    python -m tests.process.cleaners --backend sqlite --rows 1000000 --seed 1

Reading order: `clean` and `renew` (what a process does), `Store` (rows, made by copying a pattern inside the
database), `checked` (what must have come of it). By the clock of the cleaners nine rows of ten are over. The
clocks of the renewers are behind: by theirs all live, and each renews its share of every fifth row, in any
order. Whoever is first at a row has it: it was either renewed, and lives, or was removed, once.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from session_middleware import BackendUnavailable, SessionManager
from session_middleware.backends.capabilities import Counting
from session_middleware.blocking import run_blocking
from session_middleware.record import Committed, Delta, Record, SessionId, replace
from session_middleware.testing.clock import ManualClock
from tests.clocks.wandering import address

__all__ = ["CLEANERS", "Clean", "Outcome", "Renew", "Store", "checked", "clean", "outcome", "renew"]

CLEANERS, RENEWERS = 8, 2
START = 1_760_000_000.0  # what the clocks of the renewers show
LATER = START + 6 * 3600  # what those of the cleaners show
SPAN = 2 * 3600  # seconds within which all fall due
FAR = START + 5 * 86_400  # until when what is renewed lives
_ROUNDS = 3  # in which a cleaner finds nothing, before it ends

Clean = Callable[[str], list[str]]
Renew = Callable[[str, Sequence[str]], list[str]]


@dataclass
class Outcome:
    """What the processes said they did."""

    removed: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)


# --- what a process does ---

_start: Any = None  # a barrier, where all of them meet


def meet(start: Any) -> None:
    """Of a process, or of all threads: where to wait for the others."""
    global _start  # noqa: PLW0603  (there is one per process)
    _start = start


def clean(url: str) -> list[str]:
    """Clean up as the product does, with the others, until there is no more; what was told to end."""
    with _managed(url, LATER) as manager:
        _start.wait()
        return _cleaned(manager)


def cleaned(url: str) -> list[str]:
    """The same alone."""
    with _managed(url, LATER) as manager:
        return _cleaned(manager)


def renew(url: str, ids: Sequence[str]) -> list[str]:
    """Renew these in turn, together with the others; those for which that was acknowledged."""
    with _managed(url, START) as manager:
        _start.wait()
        return _renewed(manager, ids)


def renewed(url: str, ids: Sequence[str]) -> list[str]:
    """The same alone."""
    with _managed(url, START) as manager:
        return _renewed(manager, ids)


def _cleaned(manager: SessionManager) -> list[str]:
    removed: list[str] = []
    manager.subscribe("session_expired", lambda event: removed.append(str(event.session_id)))
    idle = 0
    while idle < _ROUNDS:
        before = len(removed)
        with suppress(BackendUnavailable):  # the others hold it: the product comes again after a while
            manager.blocking.cleanup_expired()
        idle = 0 if len(removed) > before else idle + 1
    return removed


def _renewed(manager: SessionManager, ids: Sequence[str]) -> list[str]:
    port, delta = manager.blocking_performer.port, Delta(renew_to=FAR)
    live: list[str] = []
    for id_ in ids:
        with suppress(BackendUnavailable):  # not renewed then
            if isinstance(run_blocking(port.commit(SessionId(id_), delta, START)), Committed):
                live.append(id_)
    return live


@contextmanager
def _managed(url: str, now: float) -> Iterator[SessionManager]:
    manager = SessionManager(url, clock=lambda: now, log=False)
    with manager.blocking:
        manager.blocking.get_session("nobody")
        yield manager


# --- rows ---


class Store:
    """Rows over one address: *due* of them fall due between the clocks, *live* do not."""

    def __init__(self, url: str, rows: int, seed: int) -> None:
        self.url = url
        self.due = rows * 9 // 10
        self.live = rows - self.due
        self.chance = random.Random(f"cleaners {seed}")

    def deadline(self, number: int) -> float:
        """Of a row that falls due."""
        return START + 60 + number * SPAN / self.due

    def to_renew(self) -> list[list[str]]:
        """Every fifth row that falls due, in any order, dealt out to the renewers."""
        order = list(range(0, self.due, 5))
        self.chance.shuffle(order)
        return [[f"due{number}" for number in order[one::RENEWERS]] for one in range(RENEWERS)]

    def fill(self) -> None:
        """Row by row, through the product."""
        due = [_pattern(f"due{number}", self.deadline(number)) for number in range(self.due)]
        live = [_pattern(f"live{number}", FAR) for number in range(self.live)]
        with _managed(self.url, START) as manager:
            port = manager.blocking_performer.port
            for record in (*due, *live):
                run_blocking(port.create(record, START))

    def fill_at_once(self) -> None:
        """By copying, inside the database."""
        with _managed(self.url, START) as manager:
            port = manager.blocking_performer.port
            for name, deadline in (("due", START + 60), ("live", FAR)):
                run_blocking(port.create(_pattern(name, deadline), START))
        copy = _copied_in_postgres if self.url.startswith("postgres") else _copied_in_sqlite
        copy(self.url, "due", self.due, SPAN / self.due)
        copy(self.url, "live", self.live, 0.0)

    def left(self) -> int:
        """How many live by the clock of the cleaners."""
        with _managed(self.url, START) as manager:
            port = manager.blocking_performer.port
            assert isinstance(port, Counting)
            return run_blocking(port.count(LATER))


def _pattern(id_: str, deadline: float) -> Record:
    manager = SessionManager(clock=ManualClock(START), log=False)
    record = manager.blocking.create_session("ada", {"n": 1}).life.record
    made: Record = replace(record, id=SessionId(id_), deadline=deadline, limit=FAR + 86_400)
    return made


def _copied(names: Sequence[str], table: str, numbers: str, step: float) -> str:
    """A statement that copies the row of a name once for each *i* of *numbers*, *step* seconds apart."""
    changed = {
        "id": "id || i",
        "deadline": f"deadline + i * {step}",
        "bucket": f"CAST((deadline + i * {step}) / 60 AS bigint) + 1",
    }
    values = ",".join(changed.get(name, name) for name in names)
    return f"INSERT INTO {table}({','.join(names)}) SELECT {values} FROM {numbers}, {table} WHERE id="  # noqa: S608  (ours)


def _copied_in_sqlite(url: str, name: str, number: int, step: float) -> None:
    numbers = "(WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < {}) SELECT i FROM c)"
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as database:
        names = [row[1] for row in database.execute("PRAGMA table_info(session)") if row[1] != "n"]
        database.execute(f"{_copied(names, 'session', numbers.format(number - 1), step)}?", [name])
        database.execute("DELETE FROM session WHERE id=?", [name])


def _copied_in_postgres(url: str, name: str, number: int, step: float) -> None:
    import psycopg

    table, numbers = "session_middleware_session", f"generate_series(0, {number - 1}) AS i"
    with psycopg.connect(url, autocommit=True) as database:
        described = database.execute("SELECT * FROM session_middleware_session LIMIT 0").description
        names = [column.name for column in described or ()]
        database.execute(f"{_copied(names, table, numbers, step)}%s", [name])
        database.execute("DELETE FROM session_middleware_session WHERE id=%s", [name])


# --- what must have come of it ---


def outcome(store: Store, pool: Executor, clean: Clean = clean, renew: Renew = renew) -> Outcome:
    """Eight cleaners and two renewers at once, then one cleaner that finds what others held."""
    cleaners = [pool.submit(clean, store.url) for _ in range(CLEANERS)]
    renewers = [pool.submit(renew, store.url, ids) for ids in store.to_renew()]
    found = Outcome()
    for cleaner in cleaners:
        found.removed += cleaner.result()
    for renewer in renewers:
        found.renewed += renewer.result()
    found.removed += cleaned(store.url)
    return found


def checked(store: Store, found: Outcome) -> list[str]:
    """What is wrong."""
    removed, renewed = Counter(found.removed), set(found.renewed)
    twice = [id_ for id_, times in removed.items() if times > 1]
    faults = [f"{len(twice)} sessions ended more than once"] if twice else []
    if both := renewed & removed.keys():
        faults.append(f"{len(both)} sessions were renewed, and removed")
    if strange := {id_ for id_ in removed if not id_.startswith("due")}:
        faults.append(f"{len(strange)} live sessions were removed")
    if neither := store.due - len(renewed | removed.keys()):
        faults.append(f"{neither} sessions were neither renewed nor removed")
    left, expected = store.left(), store.live + len(renewed)
    if left != expected:
        faults.append(f"{left} sessions are left of {expected}")
    return faults


def main() -> int:
    """Run it; prints one line of figures, and each fault. 0: there was none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    with address(given.backend) as url:
        store = Store(url, given.rows, given.seed)
        store.fill_at_once()
        began = time.monotonic()
        processes = get_context("spawn")
        start = processes.Barrier(CLEANERS + RENEWERS)
        with ProcessPoolExecutor(CLEANERS + RENEWERS, processes, meet, (start,)) as pool:
            found = outcome(store, pool)
        took = time.monotonic() - began
        faults = checked(store, found)
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    told = {"backend": given.backend, "rows": given.rows, "removed": len(found.removed)}
    told |= {"renewed": len(found.renewed), "seconds": round(took), "faults": len(faults)}
    sys.stdout.write(f"{json.dumps(told)}\n")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
