"""The long searches, as `make campaign` runs them; their figures belong into docs/reliability.md."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.campaign


@pytest.mark.parametrize(
    ("system", "schedules"),
    [
        ("model", 100_000),
        ("memory", 20_000),
        ("sqlite", 3_000),
        ("redis", 2_000),
        ("postgres", 2_000),
    ],
)
def test_random_interleavings_hold_every_invariant(system: str, schedules: int) -> None:
    run("tests.model", "--system", system, "--schedules", str(schedules), "--seed", "2026")


@pytest.mark.parametrize("backend", ["sqlite", "redis", "postgres"])
@pytest.mark.parametrize("how", ["tasks", "cancelled", "threads", "processes"])
def test_recorded_histories_are_linearizable(how: str, backend: str, request: pytest.FixtureRequest) -> None:
    run(
        "tests.campaigns.histories",
        "--backend",
        backend if backend == "sqlite" else request.getfixturevalue(backend).new_store(),
        "--how",
        how,
        "--histories",
        "300",
        "--seed",
        "2026",
    )


def test_every_order_of_every_pair_holds_every_invariant() -> None:
    run("tests.model.races", "--system", "memory", "--seed", "2026", "--count", "2000")


@pytest.mark.parametrize("system", ["sqlite", "redis", "postgres"])
def test_many_orders_of_every_pair_hold_every_invariant_in_a_database(system: str) -> None:
    run("tests.model.races", "--system", system, "--seed", "2026", "--count", "300", "--orders", "5")


@pytest.mark.parametrize("how", [(), ("--control",)], ids=["product", "control"])
@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_histories_with_faults_are_linearizable_and_those_of_the_control_are_not(
    server: str, how: tuple[str, ...]
) -> None:
    run("tests.campaigns.faults", "--server", server, "--seed", "2026", "--count", "1000", *how)


@pytest.mark.parametrize(
    ("where", "stride"), [("memory", 1), ("sqlite", 1), ("redis", 3), ("postgres", 3)], ids=str
)
def test_whatever_is_interrupted_is_whole_and_the_next_hundred_requests_are_right(
    where: str, stride: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/sessions.db"}.get(where)
    url = url or request.getfixturevalue(where).new_store()
    run("tests.security.interrupted", "--backend", url, "--count", "100", "--stride", str(stride))


@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_in_a_storm_of_two_hundred_users_nobody_meets_anothers_session(server: str) -> None:
    run("tests.security.storm", "--server", server, "--seed", "2026", "--count", "250")


def test_a_careless_pool_is_found_in_a_storm() -> None:
    run("tests.security.storm", "--seed", "2026", "--count", "10", "--control")


@pytest.mark.parametrize("fault", ["KILL", "EIO", "EIO+", "ENOSPC", "ENOSPC+"])
def test_a_fault_at_every_call_that_touches_the_file_loses_nothing_acknowledged(fault: str) -> None:
    run("tests.disk.injection", "--fault", fault, "--durability", "full", "--stride", "1")


def test_flipped_bits_crash_nothing_and_show_nobody_elses_session() -> None:
    run("tests.disk.flips", "--seed", "2026", "--count", "3000")


@pytest.mark.parametrize("how", [(), ("--control", "in-c")], ids=["product", "control"])
def test_a_hostile_cookie_header_of_64_kb_takes_under_5_ms_and_grows_as_its_length(
    how: tuple[str, ...],
) -> None:
    run("tests.security.parsing", "--count", "20", *how)


@pytest.mark.parametrize("how", [(), *(("--control", each) for each in ("case", "last", "signer"))], ids=str)
def test_a_fuzzer_finds_no_header_that_ours_reads_otherwise_than_the_written_rules(
    how: tuple[str, ...], unavailable: Callable[[str], NoReturn]
) -> None:
    if importlib.util.find_spec("atheris") is None:
        unavailable("no atheris: it is made for Linux on x86-64")
    run("tests.campaigns.fuzzing", "--seed", "2026", "--count", "300000", *how)


def test_nine_of_ten_changes_of_what_decides_are_noticed_by_the_tests() -> None:
    run("tests.campaigns.mutation", "--seed", "2026", "--count", "200")


ON_EACH = pytest.mark.parametrize("backend", ["memory", "sqlite", "redis", "postgres"])


@ON_EACH
def test_while_clocks_jump_each_session_lives_exactly_until_its_deadline(backend: str) -> None:
    count = "5000" if backend == "memory" else "300"
    run("tests.clocks.wandering", "--backend", backend, "--seed", "2026", "--count", count)


@ON_EACH
def test_a_thousand_starts_and_stops_leave_nothing_behind(backend: str) -> None:
    run("tests.process.starts", "--backend", backend, "--count", "1000")


@ON_EACH
def test_event_loops_in_several_threads_lose_nothing_and_close_their_sockets(backend: str) -> None:
    run("tests.process.loops", "--backend", backend, "--seed", "2026", "--count", "300")


@pytest.mark.parametrize("how", [(), ("--control",)], ids=["product", "control"])
@pytest.mark.parametrize("backend", ["sqlite", "redis", "postgres"])
def test_sigterm_with_500_requests_in_flight_loses_nothing_acknowledged_but_in_the_control(
    backend: str, how: tuple[str, ...]
) -> None:
    run("tests.process.shutdown", "--backend", backend, "--seed", "2026", "--rounds", "20", *how)


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_eight_cleaners_on_a_million_rows_remove_nothing_that_was_renewed(backend: str) -> None:
    run("tests.process.cleaners", "--backend", backend, "--seed", "2026", "--rows", "1000000")


def run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
