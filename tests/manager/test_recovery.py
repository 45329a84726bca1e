"""Damaged sessions: what is recovered, and what stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from session_middleware import ConfigurationError, SessionManager, SQLiteBackend
from session_middleware.record import Delta, replace
from session_middleware.salvage import salvage_values
from session_middleware.testing import broken
from session_middleware.testing.clock import ManualClock
from session_middleware.values import Values
from tests.manager.damage import damage, write
from tests.test_manager import NOBODY, ODD_IDS, Driven


def test_what_can_be_read_is_kept_and_the_rest_set_aside(driven: Driven) -> None:
    made = driven.create_session(user_id="ada", data={"a": 1, "b": 2}, metadata={"m": 1})
    damage(driven, made.id, b'{"a":1,"when":{"~dt":"?"},"b":"half of it')
    assert driven.get_session(made.id) is None
    driven.events.clear()
    recovered = driven.recover_session(made.id)
    assert dict(recovered) == {"a": 1, "damaged:when": b'{"~dt":"?"}', "damaged:": b',"b":"half of it'}
    assert (recovered.user_id, recovered.metadata) == ("ada", {"m": 1})
    [saved] = driven.heard("session_data_saved")
    assert saved.fields["deleted_keys"] == ["", "when"]
    assert dict(driven.get_session(made.id)) == dict(recovered)


def test_a_recovered_session_keeps_its_cookie_and_its_deadlines(driven: Driven) -> None:
    made = driven.create_session(data={"a": 1})
    before = driven.record(made.id)
    damage(driven, made.id, b"\xff\xfe")
    driven.clock.advance(60)
    driven.recover_session(made.id)
    after = driven.record(made.id)
    assert before is not None
    assert after is not None
    assert replace(after, data=before.data, version=before.version) == before
    assert after.version > before.version


def test_a_whole_session_is_left_as_it_is(driven: Driven) -> None:
    made = driven.create_session(data={"a": 1})
    before = driven.record(made.id)
    driven.events.clear()
    assert dict(driven.recover_session(made.id)) == {"a": 1}
    assert driven.record(made.id) == before
    assert driven.heard("session_data_saved") == []


@pytest.mark.parametrize("odd", ODD_IDS)
def test_nothing_is_recovered_where_nothing_is(driven: Driven, odd: str) -> None:
    assert driven.recover_session(odd) is None


def test_what_has_expired_is_not_recovered(driven: Driven) -> None:
    made = driven.create_session(data={"a": 1})
    damage(driven, made.id, b"no JSON")
    driven.clock.advance(15 * 24 * 3600)
    assert driven.recover_session(made.id) is None


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Driven]:
    clock = ManualClock()
    backend = SQLiteBackend(tmp_path / "sessions.db")
    made = Driven(SessionManager(backend, clock=clock, monotonic=clock, log=False), "blocking", clock)
    yield made
    made.close()


def test_a_session_whose_facts_are_lost_keeps_its_values_but_not_its_cookie(on_disk: Driven) -> None:
    made = on_disk.create_session(user_id="ada", data={"a": 1}, metadata={"m": 1}, priority=3)
    before = on_disk.record(made.id)
    assert before is not None
    write(on_disk.manager.backend, "facts", '["half', made.id)
    assert on_disk.get_session(made.id) is None
    recovered = on_disk.recover_session(made.id)
    after = on_disk.record(made.id)
    assert after is not None
    assert (dict(recovered), recovered.user_id, recovered.metadata) == ({"a": 1}, "ada", {})
    assert (after.deadline, after.limit, after.created_at) == (
        before.deadline,
        before.limit,
        before.created_at,
    )
    assert after.secret != before.secret
    assert after.floors == (after.generation,)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("deadline", "soon"),
        ("deadline", b"\x00"),
        ("version", "x"),
        ("created_at", b""),
        ("absolute_deadline", ""),
    ],
)
def test_any_column_that_makes_no_sense_is_begun_anew(on_disk: Driven, column: str, value: object) -> None:
    made = on_disk.create_session(user_id="ada", data={"a": 1})
    write(on_disk.manager.backend, column, value, made.id)
    assert on_disk.get_session(made.id) is None
    recovered = on_disk.recover_session(made.id)
    assert (dict(recovered), recovered.user_id) == ({"a": 1}, "ada")
    after = on_disk.record(made.id)
    assert after is not None
    assert on_disk.clock() < after.deadline <= after.limit
    on_disk.update_session(made.id, b=2)
    assert dict(on_disk.get_session(made.id)) == {"a": 1, "b": 2}
    on_disk.clock.advance(31 * 24 * 3600)
    assert on_disk.cleanup_expired() == 1


def test_a_session_that_does_not_tell_its_age_is_opened_by_no_cookie_from_before(on_disk: Driven) -> None:
    made = on_disk.create_session(user_id="ada", data={"a": 1})
    before = on_disk.record(made.id)
    assert before is not None
    on_disk.end_all_before(on_disk.clock())
    write(on_disk.manager.backend, "created_at", b"", made.id)
    on_disk.recover_session(made.id)
    after = on_disk.record(made.id)
    assert after is None or after.secret != before.secret


def test_of_two_who_recover_a_session_one_mends_it(driven: Driven) -> None:
    made = driven.create_session(data={"a": 1})
    damage(driven, made.id, b'{"a":1,')
    port: Any = (
        driven.manager.performer.port if driven.colour == "async" else driven.manager.blocking_performer.port
    )
    mend = port.mend

    async def after_another(record: Any, salvaged: Any) -> bool:
        assert await mend(record, salvaged)
        await port.commit(record.id, Delta(set={"n": b"5"}), driven.clock())
        return bool(await mend(record, salvaged))

    port.mend = after_another
    driven.events.clear()
    assert dict(driven.recover_session(made.id)) == {"a": 1, "damaged:": b",", "n": 5}
    assert driven.heard("session_data_saved") == []


def test_a_backend_that_cannot_salvage_says_so() -> None:
    clock = ManualClock()
    backend = broken.HesitantBackend()
    driven = Driven(SessionManager(backend, clock=clock, monotonic=clock, log=False), "async", clock)
    made = driven.create_session(data={"a": 1})
    [record] = backend.inner._records.values()
    backend.inner._records[record.id] = replace(record, data=Values(b"no JSON"))
    with pytest.raises(ConfigurationError, match="hesitant"):
        driven.recover_session(made.id)
    assert driven.recover_session(NOBODY) is None
    driven.close()


@pytest.mark.parametrize(
    ("packed", "whole", "rest"),
    [
        (b"{}", {}, {}),
        (b"", {}, {}),
        (b' { "a" : 1 , "b":{"c":[2]} } ', {"a": b"1", "b": b'{"c":[2]}'}, {}),
        (b'{"a":1,"a":2}', {"a": b"2"}, {}),
        (b'{"a":NaN,"b":2}', {"b": b"2"}, {"a": b"NaN"}),
        (b'{"a":1 "b":2}', {"a": b"1"}, {"": b'"b":2}'}),
        (b'{"a":1,"\xff":2}', {"a": b"1"}, {"": b',"\xff":2}'}),
        (b'{"a":1}trailing', {"a": b"1"}, {"": b"}trailing"}),
        (b"[1,2]", {}, {"": b"[1,2]"}),
        (b'{"a":1,5:2}', {"a": b"1"}, {"": b",5:2}"}),
        (b'{"a":' + b"[" * 100_000, {}, {"": b'{"a":' + b"[" * 100_000}),
    ],
    ids=range(11),
)
def test_values_are_read_up_to_the_first_byte_that_makes_no_sense(
    packed: bytes, whole: dict[str, bytes], rest: dict[str, bytes]
) -> None:
    assert salvage_values(packed) == (whole, rest)
