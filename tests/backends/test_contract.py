"""The published contract suite on our own backends, and on those that are wrong on purpose.

A suite proves something only where it can fail: each wrong backend must break the very promise it was made to
break, and the slow but right one must keep them all.
"""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from session_middleware.backends.base import Backend
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.moving import MovingBackend
from session_middleware.testing import BackendContract, Skipped, broken, contract_cases
from session_middleware.testing.contract import Case
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer


class TestMemoryBackend(BackendContract):
    @pytest.fixture
    def make_backend(self) -> Callable[[], Backend]:
        backend = MemoryBackend()
        return lambda: backend


class TestSQLiteBackend(BackendContract):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], Backend]:
        sqlite = pytest.importorskip("session_middleware.backends.sqlite")
        return lambda: sqlite.SQLiteBackend(tmp_path / "sessions.db")


class TestPostgresBackend(BackendContract):
    @pytest.fixture
    def make_backend(self, postgres: PostgresServer) -> Callable[[], Backend]:
        module = pytest.importorskip("session_middleware.backends.postgres")
        url = postgres.new_store()
        several = cycle([module.PostgresBackend(url) for _ in range(3)])  # a server has so many connections
        return lambda: next(several)


class TestRedisBackend(BackendContract):
    @pytest.fixture
    def make_backend(self, redis: RedisServer) -> Callable[[], Backend]:
        module = pytest.importorskip("session_middleware.backends.redis")
        url = redis.new_store()
        several = cycle([module.RedisBackend(url) for _ in range(3)])
        return lambda: next(several)


class TestMovingBackend(BackendContract):
    """What one process creates in the source, another moves: each phase of a move is in the cycle."""

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], Backend]:
        def moving(*, moves: bool) -> Backend:
            return MovingBackend(f"sqlite:///{tmp_path}/from.db", f"sqlite:///{tmp_path}/to.db", moves=moves)

        several = cycle([moving(moves=False), moving(moves=True), moving(moves=False)])
        return lambda: next(several)


class TestHesitantBackend(BackendContract):
    """Without the optional capabilities, and with one colour: the suite fits itself to that."""

    colours = ("async",)

    @pytest.fixture
    def make_backend(self) -> Callable[[], Backend]:
        backend = broken.HesitantBackend()
        return lambda: backend


def outcome(case: Case, backend: Backend) -> str:
    try:
        case.run_in("async", lambda: backend)
    except Skipped:
        return "skipped"
    except AssertionError as problem:
        return f"broken: {problem}"
    return "kept"


def named(name: str) -> Case:
    [case] = [case for case in contract_cases() if case.name == name]
    return case


# Each wrong backend with the promises it must be seen to break.
BREAKS = {
    broken.LastWriteWins: [
        "a hundred parallel commits to distinct keys all survive",
        "a hundred parallel increments add up",
        "histories of concurrent operations are linearizable",
    ],
    broken.UpsertSave: [
        "no kind of commit creates a session",
        "no late commit brings a deleted session back",
        "histories of concurrent operations are linearizable",
    ],
    broken.StaleReads: [
        "a load sees every acknowledged commit through any port",
        "histories of concurrent operations are linearizable",
    ],
    broken.ReadModifyWriteCounters: [
        "a hundred parallel increments add up",
        "histories of concurrent operations are linearizable",
    ],
    broken.IgnoredAbsoluteDeadline: ["no renewal passes the limit"],
    broken.ForgetfulDelete: ["a load tells why when and by whom a session was ended"],
    broken.BackwardRenewal: ["a renewal goes forward only", "a clock that went back undoes nothing"],
    broken.CycleWithTwoWinners: ["of many cycles with grace exactly one makes a generation"],
    broken.HalfCommit: [
        "a counter that would leave 64 bits refuses the whole delta",
        "a storm of cancellations leaves every commit whole and the port usable",
    ],
    broken.LateExpiry: ["a session ends exactly at its deadline"],
    broken.OverwritingCreate: ["a create leaves a live session alone"],
    broken.RepeatedCleanup: ["each expiry is reported once"],
    broken.DroppedNul: ["any text is a value"],
    broken.LeaseForTwo: ["of many who want a lease one gets it"],
    broken.ShiftingPages: ["pages do not shift when sessions begin and end"],
    broken.EndsWhatItFound: ["what matches no longer is not ended"],
    broken.CountsBeforeItCreates: [
        "however many are created at once there are never too many",
        "however many logins there are at once a user never has too many",
    ],
    broken.CountsTheDead: ["what has expired is in no sum"],
    broken.EpochForReadersOnly: [
        "what was created before the epoch is ended",
        "an epoch goes forward only",
        "no commit outlives an epoch",
        "the id of a session that an epoch ended is no obstacle",
        "cleanup removes what an epoch ended and reports it once",
    ],
    broken.EpochOfWhatIsThere: [
        "no session is exempt from an epoch for being stored later",
        "the id of a session that an epoch ended is no obstacle",
        "an epoch goes forward only",
    ],
    broken.MendsWhateverIsThere: [
        "a session is mended only while it is as it was salvaged",
        "what ended meanwhile is not mended",
    ],
    broken.WatchesForever: ["who watches can stop at any moment"],
}


def test_every_wrong_backend_is_listed_here() -> None:
    assert set(BREAKS) == set(broken.BROKEN)


@pytest.mark.parametrize(
    ("wrong", "name"), [(wrong, name) for wrong, names in BREAKS.items() for name in names]
)
def test_a_wrong_backend_breaks_the_promise_it_is_made_to_break(
    wrong: type[broken.HesitantBackend], name: str
) -> None:
    assert outcome(named(name), wrong()).startswith("broken: ")


def test_every_case_says_something_of_its_own() -> None:
    names = [case.name for case in contract_cases()]
    assert len(set(names)) == len(names) >= 60


def test_a_suspending_port_is_no_blocking_port() -> None:
    backend = broken.HesitantBackend()
    backend.colours = frozenset({"async", "blocking"})
    with pytest.raises(Exception, match="async port"):
        named("an unknown session loads as none").run_in("blocking", lambda: backend)
