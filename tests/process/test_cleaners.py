"""Eight cleaners and two renewers on a few rows, in threads; cleaners that look too early are caught."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from session_middleware.backends.urls import backend_from
from session_middleware.blocking import run_blocking
from session_middleware.record import SessionId
from tests.process import cleaners
from tests.process.cleaners import CLEANERS, LATER, RENEWERS, Store, checked, outcome

ROWS = 300


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: object) -> Store:
    url = (
        f"sqlite:///{tmp_path}/sessions.db"
        if request.param == "sqlite"
        else request.getfixturevalue(request.param).new_store()
    )
    made = Store(url, ROWS, seed=2026)
    made.fill()
    return made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    together = threading.Barrier(CLEANERS + RENEWERS)
    with ThreadPoolExecutor(CLEANERS + RENEWERS, initializer=cleaners.meet, initargs=(together,)) as threads:
        yield threads


def test_what_is_renewed_is_not_removed_and_each_session_ends_once(
    store: Store, pool: ThreadPoolExecutor
) -> None:
    assert checked(store, outcome(store, pool)) == []


def test_rows_that_the_database_copied_are_those_that_the_product_makes(tmp_path: object) -> None:
    """The campaign's, which has a million."""
    store = Store(f"sqlite:///{tmp_path}/sessions.db", ROWS, seed=2026)
    store.fill_at_once()
    [some, more] = store.to_renew()
    cleaners.meet(threading.Barrier(1))
    renewed = cleaners.renew(store.url, [*some, *more])
    assert len(renewed) == len(some) + len(more) == store.due // 5
    removed = cleaners.cleaned(store.url)
    assert checked(store, cleaners.Outcome(removed, renewed)) == []


# --- controls ---


def looked_first(meanwhile: threading.Barrier) -> Callable[[str], list[str]]:
    """A cleaner that looks what is over, and removes that, whatever became of it meanwhile."""

    def clean(url: str) -> list[str]:
        port = backend_from(url).port("blocking")
        ids = [f"due{number}" for number in range(ROWS * 9 // 10)]
        over = [id_ for id_ in ids if not hasattr(run_blocking(port.load(SessionId(id_), LATER)), "data")]
        meanwhile.wait()  # for the renewers to begin
        meanwhile.wait()  # and to end
        for id_ in over:
            run_blocking(port.delete(SessionId(id_), cleaners.START, "idle_timeout"))
        run_blocking(port.close())
        return over

    return clean


def renewed_between(meanwhile: threading.Barrier) -> Callable[[str, Sequence[str]], list[str]]:
    def renew(url: str, ids: Sequence[str]) -> list[str]:
        meanwhile.wait()
        renewed = cleaners.renewed(url, ids)
        meanwhile.wait()
        return renewed

    return renew


def test_cleaners_that_look_first_and_then_remove_are_caught(tmp_path: object) -> None:
    store = Store(f"sqlite:///{tmp_path}/sessions.db", ROWS, seed=2026)
    store.fill_at_once()
    meanwhile = threading.Barrier(CLEANERS + RENEWERS)
    with ThreadPoolExecutor(CLEANERS + RENEWERS) as pool:
        found = outcome(store, pool, looked_first(meanwhile), renewed_between(meanwhile))
    faults = " | ".join(checked(store, found))
    assert f"{store.due} sessions ended more than once" in faults
    assert f"{store.due // 5} sessions were renewed, and removed" in faults
