"""The driver of the model against the real middleware, on both backends.

Campaigns: `python -m tests.model --system memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from session_middleware import MemoryBackend, opening, perform, plan, record
from session_middleware.backends import memory
from session_middleware.backends.base import LoadAnswer
from session_middleware.changes import Changes, changes_of
from session_middleware.errors import BackendUnavailable
from session_middleware.perform import Performer
from session_middleware.plan import Plan, _lost
from session_middleware.record import GONE, Committed, Delta, Record, Refused, SessionId, replace
from session_middleware.session import Life, RemoveCookie, Session
from session_middleware.values import encode_value
from tests.model.invariants import (
    BEFORE_LOGIN,
    DUE,
    INVARIANTS,
    LIMIT,
    LOCKED_OUT,
    LOGIN_ACKNOWLEDGED,
    LOGOUT,
    LOST_RESPONSE,
    LOST_UPDATE,
    NO_COMEBACK,
    REMOVAL,
    SILENT,
    UNDONE,
    Ledger,
)
from tests.model.real import (
    MemoryShelf,
    PostgresShelf,
    RealSystem,
    RecordsOnly,
    RedisShelf,
    Shelf,
    SQLiteShelf,
    SteppedPort,
)
from tests.model.world import Failure, Op, random_schedule, run

__all__: list[str] = []

ON_MEMORY, ON_SQLITE, ON_A_SERVER, WITH_ANSWERS = 700, 120, 40, 100
CONTROL_SCHEDULES = 2_000


def drive(shelf: Shelf, name: str, **how: Any) -> Failure | None:
    random = Random(name)
    eager = random.random() < 0.3
    return run(lambda: RealSystem(shelf, eager=eager, **how), Ledger, random_schedule(random))


@pytest.mark.parametrize("part", range(4))
def test_every_invariant_holds_on_memory(part: int) -> None:
    for number in range(part, ON_MEMORY, 4):
        failure = drive(MemoryShelf(), f"memory.{number}")
        assert failure is None, str(failure)


def test_every_invariant_holds_on_sqlite(sqlite: Shelf) -> None:
    for number in range(ON_SQLITE):
        failure = drive(sqlite, f"sqlite.{number}")
        assert failure is None, str(failure)


@pytest.mark.parametrize(("server", "shelf"), [("redis", RedisShelf), ("postgres", PostgresShelf)])
def test_every_invariant_holds_on_a_server(
    server: str, shelf: Callable[[str], Shelf], request: pytest.FixtureRequest
) -> None:
    filled = shelf(request.getfixturevalue(server).new_store())
    for number in range(ON_A_SERVER):
        failure = drive(filled, f"{server}.{number}")
        assert failure is None, str(failure)
    for number in range(10):
        ops = random_schedule(Random(f"same.{number}"))
        assert stored_after(MemoryShelf(), ops) == stored_after(filled, ops)
    filled.close()


def test_what_is_stored_keeps_them_when_answers_are_held_up_too() -> None:
    for number in range(WITH_ANSWERS):
        ops = random_schedule(Random(f"answers.{number}"))
        failure = run(lambda: RealSystem(MemoryShelf(), answers=True), RecordsOnly, ops)
        assert failure is None, str(failure)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Shelf]:
    shelf = SQLiteShelf(tmp_path)
    yield shelf
    shelf.close()


def test_both_backends_go_the_same_way(sqlite: Shelf) -> None:
    for number in range(10):
        ops = random_schedule(Random(f"same.{number}"))
        assert stored_after(MemoryShelf(), ops) == stored_after(sqlite, ops)


def stored_after(shelf: Shelf, ops: list[Op]) -> list[Any]:
    system = RealSystem(shelf)
    assert run(lambda: system, Ledger, ops) is None
    return [stored for _, stored in sorted(system.peek().items())]


# What is broken on purpose, by replacing one part of the product


class Upsert(SteppedPort):
    """A commit of what is gone brings it back as it was loaded."""

    def __init__(self, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        self.loaded: dict[SessionId, Record] = {}

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002 - as `Port` has it
        answer = await super().load(id, now)
        if isinstance(answer, Record):
            self.loaded[id] = answer
        return answer

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        answer = await super().commit(id, delta, now)
        if answer is not GONE or id not in self.loaded:
            return answer
        assert isinstance(self.real, MemoryBackend)
        self.real._records[id] = back = replace(self.loaded[id], deadline=now + 600.0)
        return Committed(back.version, back.generation)


class BlindDelete(SteppedPort):
    """A delete that fails passes for one that found something."""

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        with suppress(BackendUnavailable):
            return await super().delete(id, now, reason, by)
        return True


def without_floor(before: Record, delta: Delta, now: float) -> tuple[Record, Committed] | Refused:
    applied = record.apply(before, delta, now)
    return (
        applied if isinstance(applied, Refused) else (replace(applied[0], floors=before.floors), applied[1])
    )


def without_accepted(before: Record, delta: Delta, now: float) -> tuple[Record, Committed] | Refused:
    applied = record.apply(before, delta, now)
    return applied if isinstance(applied, Refused) else (replace(applied[0], accepted={}), applied[1])


def for_anybody(before: Record, delta: Delta, now: float) -> tuple[Record, Committed] | Refused:
    return record.apply(before, replace(delta, admitted=max(delta.admitted or 0, before.floor)), now)


def with_new_limit(before: Record, delta: Delta, now: float) -> tuple[Record, Committed] | Refused:
    moved = before if delta.renew_to is None else replace(before, limit=max(before.limit, now + 3600.0))
    return record.apply(moved, delta, now)


CYCLE_OF = plan._cycle_of


def cycle_of_its_own(life: Life, _: Record | None, *what: Any) -> float | None:
    return CYCLE_OF(life, None, *what)


def all_of_it(session: Session) -> Changes:
    found = changes_of(session)
    encoded = {name: encode_value(name, value) for name, value in session.items()}
    return found if found.is_empty() else Changes(encoded, found.unset, {})


LOSE = Performer._lose


def lose_and_remove(self: Performer, session: Session, *how: Any) -> None:
    LOSE(self, session, *how)
    session.life.owed = RemoveCookie()


def drop_login(session: Session, *_: object) -> Plan:
    return _lost(session.id, changes_of(session), "superseded", even_if_empty=True)


@dataclass(frozen=True, slots=True)
class Control:
    """A broken product and the invariants, any of which may catch it. `patches`: owner, name, replacement."""

    name: str
    caught_by: tuple[str, ...]
    patches: tuple[tuple[Any, str, Any], ...] = ()
    eager: bool = False
    port: type[SteppedPort] = SteppedPort
    ops: tuple[Op, ...] = ()
    """A schedule that catches it, where random ones rarely come by; empty: random ones."""


def applied_by(function: Callable[..., object]) -> tuple[tuple[Any, str, Any], ...]:
    return ((memory, "apply", function),)


FAILED_LOGOUT: tuple[Op, ...] = (
    ("whole", "victim", (("write", "a", "first"),)),
    ("start", "victim", (("logout",),)),
    *[("step", 0, None)] * 3,
    ("step", 0, "before"),
)

CONTROLS = (
    Control("a commit that upserts", (NO_COMEBACK,), port=Upsert),
    Control("a login without a floor", (BEFORE_LOGIN,), applied_by(without_floor)),
    Control("a commit for anybody", (BEFORE_LOGIN,), applied_by(for_anybody)),
    Control("a cycle that accepts nothing older", (LOST_RESPONSE,), applied_by(without_accepted)),
    Control("a renewal that moves the limit", (LIMIT,), applied_by(with_new_limit)),
    Control("a due cycle that is forgotten", (DUE,), ((plan, "_cycle_of", cycle_of_its_own),)),
    Control("the last write wins", (LOST_UPDATE, NO_COMEBACK), ((plan, "changes_of", all_of_it),)),
    Control(
        "a removal cookie for a stale session", (UNDONE, REMOVAL), ((Performer, "_lose", lose_and_remove),)
    ),
    Control("a loss that is not told", (SILENT,), ((Performer, "_not_saved", lambda *_: None),)),
    Control("a logout that hides a failed delete", (LOGOUT, REMOVAL), port=BlindDelete, ops=FAILED_LOGOUT),
    Control(
        "a stale cookie that is anonymous at once",
        (UNDONE,),
        ((opening, "_was_overtaken", lambda *_: False),),
    ),
    Control(
        "a stale cookie that is locked out",
        (LOCKED_OUT,),
        ((opening, "_was_overtaken", lambda old, generation, _: generation < old.floor),),
    ),
    Control(
        "a login that a promise opens",
        (BEFORE_LOGIN,),
        ((plan, "_cycled_at_birth", lambda created: created),),
        eager=True,
    ),
    Control("a login that is dropped", (LOGIN_ACKNOWLEDGED,), ((perform, "plan_refused", drop_login),)),
)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_broken_product_is_caught(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, replacement in control.patches:
        monkeypatch.setattr(owner, name, replacement)
    assert first_caught(control) is not None


def first_caught(control: Control) -> Failure | None:
    for number in range(CONTROL_SCHEDULES):
        ops = control.ops or random_schedule(Random(f"broken.{number}"))
        failure = run(lambda: RealSystem(MemoryShelf(), eager=control.eager, port=control.port), Ledger, ops)
        if failure is not None and failure.invariant in control.caught_by:
            return failure
    return None


def test_every_invariant_has_a_broken_product() -> None:
    assert {invariant for control in CONTROLS for invariant in control.caught_by} == set(INVARIANTS)
