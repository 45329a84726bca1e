"""Bits flipped in the file and its write-ahead log, and visitors who come all the same.

    python -m tests.disk.flips --seed 1 --count 3000

Each trial takes a copy of one file with sessions, half of them still in the log, damages it, and lets some
visitors read, write and sign out through the middleware, and an operator list and look up. Nobody may ever be
shown what another session holds; the answers are 200 and 503, never 500; the process lives. Prints one line.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from session_middleware import BackendError, SessionDataError, SessionManager, SQLiteBackend
from tests.disk.visits import Visitor, site

__all__ = ["Folder", "Trials", "main"]

PAGE = 4096
VISITORS = 24
COME = 5  # visitors of one trial
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # spares the disk: what is damaged may be lost


class Folder:
    """A file of sessions as a running process leaves it, and its visitors with their cookies."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.template = folder / "template"
        self.template.mkdir()
        self.cookies: dict[str, str] = {}
        file = folder / "sessions.db"
        names = [f"owner-{number}-{chance.randbytes(8).hex()}" for number in range(VISITORS)]
        self._fill(file, names[: VISITORS // 2]).blocking.stop()  # which copies the log into the file
        manager = self._fill(file, names[VISITORS // 2 :])
        for suffix in ("", "-wal"):
            shutil.copy(f"{file}{suffix}", self.template)
        manager.blocking.stop()

    def _fill(self, file: Path, names: list[str]) -> SessionManager:
        manager, served, _ = site(SQLiteBackend(file))
        for number, name in enumerate(names):
            visitor = Visitor(served, name)
            visitor.does("login" if number % 3 else "write", number)
            visitor.does("grow" if number % 4 == 0 else "write", number)
            assert visitor.client.cookie is not None
            self.cookies[name] = visitor.client.cookie
        return manager

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.template, to)
        return to / "sessions.db"


def flip(content: bytearray, chance: random.Random) -> None:
    """One bit."""
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def flip_header(content: bytearray, chance: random.Random) -> None:
    """One bit of the first hundred bytes: versions, sizes, whose file it is."""
    content[chance.randrange(min(100, len(content)))] ^= 1 << chance.randrange(8)


def flip_many(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randrange(2, 200)):
        flip(content, chance)


def scramble(content: bytearray, chance: random.Random) -> None:
    """One page, of zeros or of random bytes."""
    at = chance.randrange(0, len(content), PAGE)
    size = len(content[at : at + PAGE])
    content[at : at + size] = chance.choice((bytes(size), chance.randbytes(size)))


def swap(content: bytearray, chance: random.Random) -> None:
    """Two pages."""
    one, other = (PAGE * chance.randrange(len(content) // PAGE) for _ in range(2))
    content[one : one + PAGE], content[other : other + PAGE] = (
        content[other : other + PAGE],
        content[one : one + PAGE],
    )


def cut(content: bytearray, chance: random.Random) -> None:
    """Where it ends."""
    del content[chance.randrange(len(content)) :]


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip, flip, flip_header),
    *(flip_many, scramble, swap, cut),
)


class Trials:
    """Damages copies, and notes what visitors met. `faults` tells each broken promise."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.folder = Folder(folder, self.chance)
        self.faults: list[str] = []
        self.met: Counter[str] = Counter()

    def run(self, count: int) -> None:
        for number in range(count):
            with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
                file = self.folder.copy(Path(folder) / "copy")
                damage = self._damage(file)
                self._visit(file, f"{number}: {damage}")

    def _damage(self, file: Path) -> str:
        target = Path(f"{file}{self.chance.choice(('', '-wal'))}")
        content = bytearray(target.read_bytes())
        damage = self.chance.choice(DAMAGES)
        damage(content, self.chance)
        target.write_bytes(content)
        return f"{damage.__name__} in {target.name}"

    def _visit(self, file: Path, where: str) -> None:
        manager, served, _ = site(SQLiteBackend(file))
        told: list[Any] = []
        manager.subscribe(None, told.append)
        for name in self.chance.sample(sorted(self.folder.cookies), COME):
            visitor = Visitor(served, name)
            visitor.client.cookie = self.folder.cookies[name]
            id_ = visitor.session_id
            for verb in ("read", "write", "logout"):
                before = len(told)
                self._answer(visitor, verb, where, [event.name for event in told[before:]])
            self._look_up(manager, id_, name, where)
        self._operate(manager, where)
        self._try(manager.blocking.stop, where)

    def _answer(self, visitor: Visitor, verb: str, where: str, told: list[str]) -> None:
        try:
            answered = visitor.does(verb, 1)
        except Exception as problem:  # noqa: BLE001  (what a server would answer 500 for)
            self.faults.append(f"{where}: {verb} raised {problem!r}")
            return
        body = answered["body"]
        if answered["status"] not in (200, 503):
            self.faults.append(f"{where}: {verb} answered {answered}")
        elif body is None:
            self.met["refused"] += 1
        elif verb == "read":
            self.met["served" if body["owner"] == visitor.name else "anonymous"] += 1
        self._check(body or {}, visitor.name, f"{where}: {verb}")

    def _check(self, data: Mapping[str, Any], name: str, where: str) -> None:
        shown = repr(dict(data))
        self.faults += [
            f"{where}: shown {other}" for other in self.folder.cookies if other != name and other in shown
        ]

    def _look_up(self, manager: SessionManager, id_: str | None, name: str, where: str) -> None:
        session = self._try(lambda: manager.blocking.get_session(id_ or ""), where)
        self._check(session or {}, name, f"{where}: get_session")

    def _operate(self, manager: SessionManager, where: str) -> None:
        """What an operator does. An error is ours, or none."""
        self._try(lambda: manager.blocking.get_sessions(limit=100), where)
        self._try(manager.blocking.get_health, where)
        self._try(manager.blocking.cleanup_expired, where)

    def _try(self, act: Callable[[], Any], where: str) -> Any:
        try:
            return act()
        except (BackendError, SessionDataError):
            self.met["told to the operator"] += 1
        except Exception as problem:  # noqa: BLE001  (each other one is a fault)
            self.faults.append(f"{where}: {problem!r}")
        return None


def main() -> int:
    """Run them; prints one line of figures, and each fault. 0: there was none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=3000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), given.seed)
        trials.run(given.count)
    sys.stdout.write("".join(f"{fault}\n" for fault in trials.faults))
    sys.stdout.write(f"{json.dumps({'trials': given.count, **trials.met, 'faults': len(trials.faults)})}\n")
    return int(bool(trials.faults))


if __name__ == "__main__":
    raise SystemExit(main())
