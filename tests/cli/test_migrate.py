"""Sessions move to another backend: all of them, again and again, interrupted, while the app writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from session_middleware import MemoryBackend, SessionManager, SQLiteBackend
from session_middleware.backends.moving import MovingBackend
from session_middleware.blocking import run_blocking
from session_middleware.cli.app import cli
from session_middleware.migration import Migrated, compare, migrate
from session_middleware.record import Delta, Record
from session_middleware.testing import broken
from session_middleware.testing.clock import ManualClock

ROOT = Path(__file__).parents[2]


class Move:
    """From one manager to another."""

    def __init__(self, source: Any, target: Any) -> None:
        self.clock = ManualClock()
        self.one, self.other = (
            SessionManager(backend, log=False, clock=self.clock) for backend in (source, target)
        )
        self.source, self.target = self.one.blocking_performer.port, self.other.blocking_performer.port

    def run(self, **options: Any) -> Migrated:
        return run_blocking(migrate(self.source, self.target, self.clock, batch=7, **options))

    @property
    def are_equal(self) -> bool:
        return run_blocking(compare(self.source, self.target, self.clock, batch=7)).are_equal

    def records(self, port: Any) -> dict[str, Record]:
        page = run_blocking(port.find(_everything(), self.clock(), limit=10_000))
        return {record.id: record for record in page.records}


def _everything() -> Any:
    from session_middleware import Where

    return Where()


@pytest.fixture(params=["memory-sqlite", "sqlite-memory", "sqlite-sqlite"])
def move(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Move]:
    def backend(kind: str, name: str) -> Any:
        return MemoryBackend() if kind == "memory" else SQLiteBackend(tmp_path / name)

    source, target = request.param.split("-")
    made = Move(backend(source, "from.db"), backend(target, "to.db"))
    yield made
    made.one.blocking.stop()
    made.other.blocking.stop()


def fill(move: Move, number: int = 30) -> list[Any]:
    made = []
    for n in range(number):
        user = f"user{n}" if n % 2 else None
        made.append(move.one.blocking.create_session(user, {"n": n, "when": (1, b"x")}, {"m": n}, priority=n))
        move.clock.advance(1)
    move.one.blocking.set_status(made[0].id, "failed")
    return made


def test_every_session_is_copied_as_it_is(move: Move) -> None:
    made = fill(move)
    assert move.run() == Migrated(copied=30)
    assert move.records(move.target) == move.records(move.source)
    assert move.are_equal
    assert move.other.blocking.get_session(made[3].id)["when"] == (1, b"x")


def test_run_again_it_carries_over_what_has_changed_begun_and_ended(move: Move) -> None:
    made = fill(move)
    move.run()
    move.one.blocking.update_session(made[5].id, n="changed")
    move.one.blocking.delete_session(made[6].id, reason="logout")
    new = move.one.blocking.create_session("new")
    assert not move.are_equal
    assert move.run() == Migrated(copied=1, updated=1, unchanged=28, ended=1)
    assert move.are_equal
    assert move.other.blocking.get_session(made[5].id)["n"] == "changed"
    assert move.other.blocking.get_session(new.id) is not None
    assert move.other.blocking.why_ended(made[6].id).reason == "logout"


def test_what_ended_long_ago_does_not_live_on(move: Move) -> None:
    made = fill(move)
    move.run()
    move.one.blocking.delete_session(made[6].id)
    move.clock.advance(1000)  # by now nobody remembers that it ended
    move.one.blocking.create_session()
    assert move.run().ended == 1
    assert move.other.blocking.get_session(made[6].id) is None


def test_what_ended_in_the_target_is_not_brought_back(move: Move) -> None:
    made = fill(move)
    move.run()
    move.other.blocking.delete_session(made[6].id, reason="logout")
    assert move.run().newer == 1
    assert move.other.blocking.get_session(made[6].id) is None


def test_what_is_newer_in_the_target_is_left_there(move: Move) -> None:
    made = fill(move)
    move.run()
    move.other.blocking.update_session(made[6].id, n="newer")
    assert move.run().newer == 1
    assert move.other.blocking.get_session(made[6].id)["n"] == "newer"


def test_sessions_that_only_the_target_has_can_be_kept(move: Move) -> None:
    fill(move, 3)
    own = move.other.blocking.create_session("ann")
    assert move.run(end_missing=False) == Migrated(copied=3)
    assert move.other.blocking.get_session(own.id) is not None
    assert move.run().ended == 1
    assert move.other.blocking.get_session(own.id) is None


def test_an_app_that_writes_meanwhile_loses_nothing(move: Move) -> None:
    made = fill(move)

    def write(seen: int) -> None:
        """Between two records: a change behind it, one before it, a login, a logout."""
        move.clock.advance(0.1)
        if seen == 10:
            run_blocking(move.source.commit(made[29].id, Delta(set={"late": b"1"}), move.clock()))
            run_blocking(move.source.commit(made[2].id, Delta(set={"late": b"2"}), move.clock()))
            move.one.blocking.create_session("new")
            move.one.blocking.delete_session(made[28].id)
            move.one.blocking.delete_session(made[1].id)

    move.run(progress=write)
    move.run()
    assert move.are_equal
    assert move.records(move.target) == move.records(move.source)


def test_any_field_that_differs_makes_them_unequal(move: Move) -> None:
    made = fill(move, 5)
    move.run()
    assert move.are_equal
    for delta in (Delta(priority=9), Delta(metadata={"m": 2}), Delta(set={"n": b"7"}), Delta(cycle_due=0.0)):
        run_blocking(move.target.commit(made[1].id, delta, move.clock()))
        assert not move.are_equal


def test_a_backend_that_cannot_list_is_refused() -> None:
    move = Move(MemoryBackend(), MemoryBackend())
    with pytest.raises(Exception, match="list"):
        run_blocking(migrate(broken.HesitantBackend(), move.target, move.clock))


# --- the command ---


def filled(folder: Path, number: int = 20) -> tuple[str, str]:
    urls = f"sqlite:///{folder}/from.db", f"sqlite:///{folder}/to.db"
    with SessionManager(urls[0], log=False).blocking as sessions:
        for n in range(number):
            sessions.create_session(f"user{n}", {"n": n})
    return urls


def command(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["migrate", *arguments], input=answer)


def test_the_command_moves_and_compares(tmp_path: Path) -> None:
    source, target = filled(tmp_path)
    result = command(source, target)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["copied"], told["equal"], told["sessions_in_target"]) == (20, True, 20)
    assert told["hash_of_source"] == told["hash_of_target"]


def test_the_command_asks_before_it_ends_what_only_the_target_has(tmp_path: Path) -> None:
    source, target = filled(tmp_path)
    with SessionManager(target, log=False).blocking as sessions:
        sessions.create_session("only here")
    declined = command(source, target, answer="n\n")
    assert declined.exit_code == 1
    assert "1 sessions of TO" in declined.stderr
    kept = command(source, target, "--keep-missing")
    assert kept.exit_code == 1
    assert json.loads(kept.stdout)["equal"] is False
    assert json.loads(command(source, target, "--yes").stdout)["ended"] == 1


def test_a_source_that_is_none_is_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"no database at all, and long enough to be looked at closely" * 30)
    assert command(f"sqlite:///{tmp_path}/bad.db", f"sqlite:///{tmp_path}/to.db").exit_code == 3
    assert command("mysql://x", f"sqlite:///{tmp_path}/to.db").exit_code == 4


def test_a_source_that_is_not_there_is_refused_and_not_created(tmp_path: Path) -> None:
    refused = command(f"sqlite:///{tmp_path}/typo.db", f"sqlite:///{tmp_path}/to.db")
    assert (refused.exit_code, "typo.db" in refused.stderr) == (4, True)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_neither_a_source_nor_a_target(tmp_path: Path) -> None:
    source, target = filled(tmp_path)
    for arguments, named in (((source, "memory://"), "TO"), (("memory://", target), "FROM")):
        refused = command(*arguments, "--yes")
        assert (refused.exit_code, f"{named}: memory://" in refused.stderr) == (4, True)


def test_a_backend_does_not_move_to_itself_however_it_is_written(tmp_path: Path) -> None:
    source, _ = filled(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "from.db")
    for again in (source, f"sqlite:///{tmp_path}/x/../from.db", f"sqlite:///{tmp_path}/link.db"):
        refused = command(source, again, "--yes")
        assert (refused.exit_code, "FROM itself" in refused.stderr) == (4, True)


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    source, target = filled(tmp_path, 3000)
    arguments = [sys.executable, "-m", "session_middleware", "migrate", source, target, "--batch", "5"]
    with SessionManager(target, log=False).blocking as sessions:
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while sessions.count() < 200 and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        there = sessions.count()
    assert 200 <= there < 3000
    told = json.loads(command(source, target, "--yes").stdout)
    assert (told["copied"], told["unchanged"], told["equal"]) == (3000 - there, there, True)


# --- moving while the app goes on ---

WRITER = """
import json, random, sys
from session_middleware import SessionManager
from session_middleware.backends.moving import MovingBackend
source, target, moves, seed, ids = sys.argv[1], sys.argv[2], sys.argv[3] == "moves", sys.argv[4], sys.argv[5:]
chance, counted, ended = random.Random(seed), dict.fromkeys(ids, 0), []
with SessionManager(MovingBackend(source, target, moves=moves), log=False).blocking as sessions:
    print("begun", flush=True)
    for turn in range(300):
        id_ = chance.choice(ids)
        if turn % 40 == 39:
            if sessions.delete_session(id_):
                ended.append(id_)
        elif sessions.get_session(id_) is not None:
            session = sessions.get_session(id_)
            if session is not None:
                session.increment("n")
                if sessions.save(session):
                    counted[id_] += 1
print(json.dumps([counted, ended]))
"""


def written(process: subprocess.Popen[bytes]) -> tuple[dict[str, int], list[str]]:
    told, problems = process.communicate(timeout=120)
    assert process.returncode == 0, problems.decode()
    counted, ended = json.loads(told.splitlines()[-1])
    return counted, ended


@pytest.mark.parametrize("kind", ["redis", "postgres", "sqlite"])
def test_an_app_of_several_processes_goes_on_while_its_sessions_move_and_loses_nothing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two processes of the first phase and two of the second, and the command that moves the rest."""
    source, target = filled(tmp_path, 60)
    if kind != "sqlite":
        target = request.getfixturevalue(kind).new_store()
    with SessionManager(source, log=False).blocking as sessions:
        ids = [session.id for session in sessions.get_sessions(limit=100)]
        for id_ in ids:
            sessions.update_session(id_, n=0)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, source, target, phase, str(seed), *ids],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # a reader's buffer would keep from `communicate` what follows the first line
        )
        for seed, phase in enumerate(["stays", "moves", "stays", "moves"])
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
    moved = command(source, target, "--move")
    acknowledged = [written(writer) for writer in writers]
    counted = {id_: sum(counts[id_] for counts, _ in acknowledged) for id_ in ids}
    ended = [id_ for _, some in acknowledged for id_ in some]
    assert len(ended) == len(set(ended)) > 0
    assert sum(counted.values()) > 100
    assert moved.exit_code == 0, moved.output
    assert json.loads(moved.stdout)["left_in_source"] == 0
    with SessionManager(target, log=False).blocking as sessions:
        found = {session.id: session["n"] for session in sessions.get_sessions(limit=100)}
    assert found == {id_: counted[id_] for id_ in ids if id_ not in ended}


def test_a_move_that_was_cut_short_between_its_halves_is_completed(tmp_path: Path) -> None:
    source, target = filled(tmp_path, 1)
    one, other = SQLiteBackend(source[10:]), SQLiteBackend(target[10:])
    port: Any = MovingBackend(one, other).port("blocking")
    [record] = run_blocking(one.port("blocking").find(_everything(), time.time(), limit=5)).records
    run_blocking(other.port("blocking").create(record, time.time()))  # the first half
    run_blocking(port.commit(record.id, Delta(set={"later": b"1"}), time.time()))
    assert run_blocking(port.move(record.id, time.time())) is True
    assert run_blocking(one.port("blocking").count(time.time())) == 0
    assert run_blocking(port.load(record.id, time.time())).data["later"] == b"1"
    run_blocking(port.close())


def test_a_backend_that_cannot_do_all_of_it_does_not_move() -> None:
    with pytest.raises(Exception, match="target: sessions move between backends that can do all of it"):
        MovingBackend(MemoryBackend(), broken.HesitantBackend()).port("async")
