"""Which cookie opens what, at its boundaries; and that the order of cookies never matters."""

from __future__ import annotations

from itertools import permutations

import pytest

from session_middleware.opening import choose, open_promised, open_with
from session_middleware.record import Ended, Grace, Record, SessionId, replace
from session_middleware.session import Fresh, JustEnded, Live, Opening, Overtaken

NOW = 2000.0  # seconds
ID, SECRET = "I" * 22, "S" * 22
RECORD = Record(
    id=SessionId(ID),
    secret=SECRET,
    generation=1_990_000,
    floors=(1_000_000, 1_500_000, 1_980_000),
    accepted={1_985_000: Grace(30.0), 1_986_000: Grace(30.0, NOW), 1_987_000: Grace(30.0, NOW + 0.001)},
    created_at=1000.0,
    deadline=3000.0,
    limit=9000.0,
    last_seen_at=1000.0,
)


@pytest.mark.parametrize(
    ("generation", "opens", "suspicion"),
    [
        (1_990_000, "Live", None),
        (1_985_000, "Live", None),  # waits
        (1_987_000, "Live", None),  # still in time
        (1_986_000, "Fresh", "superseded_cookie"),  # just over
        (1_979_999, "Overtaken", None),
        (1_500_000, "Overtaken", None),  # the first floor above it is 20 s old
        (1_499_999, "Fresh", "superseded_cookie"),  # the first floor above it is old
        (1_000_000, "Fresh", "superseded_cookie"),
        (999_999, "Fresh", "superseded_cookie"),  # below the oldest kept
        (1_988_000, "Fresh", "superseded_cookie"),  # never was
        (1_990_001, "Fresh", "unknown_generation"),
    ],
)
def test_a_generation_opens(generation: int, opens: str, suspicion: str | None) -> None:
    opening, told = open_with((ID, SECRET, generation), RECORD, NOW)
    assert (type(opening).__name__, told) == (opens, suspicion)


@pytest.mark.parametrize("generation", [1_990_000, 1_985_000, 1_987_000])
def test_what_a_cookie_opened_tells_its_generation_and_that_it_came_back(generation: int) -> None:
    opening, _ = open_with((ID, SECRET, generation), RECORD, NOW)
    assert opening == Live(RECORD, generation, promised=False, came_back=True)


def test_another_secret_opens_nothing() -> None:
    assert open_with((ID, "T" * 22, RECORD.generation), RECORD, NOW) == (Fresh(), "unknown_generation")


@pytest.mark.parametrize(
    ("age", "overtaken"), [(-30.0, False), (-29.9, True), (0.0, True), (29.9, True), (30.0, False)]
)
def test_just_now_is_less_than_30_seconds_either_way(age: float, *, overtaken: bool) -> None:
    now = 1980.0 + age
    opening, _ = open_with((ID, SECRET, 1_979_999), RECORD, now)
    assert isinstance(opening, Overtaken) is overtaken
    for reason in ("logout", "superseded"):
        ended, _ = open_with((ID, SECRET, 1), Ended(reason, 1980.0), now)
        assert ended == (JustEnded(SessionId(ID), reason) if overtaken else Fresh(ended_because=reason))


@pytest.mark.parametrize(
    "reason", ["idle_timeout", "absolute_timeout", "revoked", "deleted", "evicted", "undecodable"]
)
def test_other_endings_are_told(reason: str) -> None:
    assert open_with((ID, SECRET, 1), Ended(reason, NOW), NOW) == (Fresh(ended_because=reason), None)


def test_an_unknown_id_opens_nothing() -> None:
    assert open_with((ID, SECRET, 1), None, NOW) == (Fresh(), "unknown_id")


def test_a_record_without_floors_overtakes_nobody() -> None:
    assert open_with((ID, SECRET, 1), replace(RECORD, floors=()), NOW) == (Fresh(), "superseded_cookie")


# --- promises ---


def test_a_promise_of_nothing_yet_keeps_its_id() -> None:
    assert open_promised((ID, SECRET, 1), None, NOW) == (Fresh(promised=(SessionId(ID), SECRET, 1)), None)


@pytest.mark.parametrize(
    ("generation", "secret", "opens", "suspicion"),
    [
        (1_000_000, SECRET, "Live", None),
        (1_990_000, SECRET, "Fresh", "superseded_cookie"),
        (1_000_000, "T" * 22, "Fresh", "unknown_generation"),
    ],
)
def test_a_promise_opens_its_session_until_that_is_cycled(
    generation: int, secret: str, opens: str, suspicion: str | None
) -> None:
    record = replace(RECORD, generation=generation, floors=(1_000_000,), accepted={})
    opening, told = open_promised((ID, secret, 1), record, NOW)
    assert (type(opening).__name__, told) == (opens, suspicion)


def test_what_a_promise_opened_is_told_from_what_a_cookie_opened() -> None:
    record = replace(RECORD, generation=1_000_000, floors=(1_000_000,), accepted={})
    opening, _ = open_promised((ID, SECRET, 1), record, NOW)
    assert opening == Live(record, 1_000_000, promised=True, came_back=True)


def test_a_promise_that_a_login_overtook_is_a_parallel_request() -> None:
    record = replace(RECORD, generation=1_980_000, floors=(1_970_000, 1_980_000), accepted={})
    assert open_promised((ID, SECRET, 1), record, NOW) == (Overtaken(record), None)
    assert open_promised((ID, SECRET, 1), record, NOW + 10) == (Fresh(), "superseded_cookie")


@pytest.mark.parametrize(("floors", "opens"), [(4, "Overtaken"), (5, "Fresh")])
def test_a_promise_is_measured_by_the_creation_only_while_that_is_known(floors: int, opens: str) -> None:
    kept = tuple(1_980_000 + number for number in range(floors))
    record = replace(RECORD, generation=kept[-1], floors=kept, accepted={})
    assert type(open_promised((ID, SECRET, 1), record, NOW)[0]).__name__ == opens


def test_a_promise_of_what_was_ended_is_not_made_again() -> None:
    assert open_promised((ID, SECRET, 1), Ended("logout", NOW), NOW) == (
        JustEnded(SessionId(ID), "logout"),
        None,
    )
    assert open_promised((ID, SECRET, 1), Ended("revoked", NOW), NOW) == (Fresh("revoked"), None)


# --- several ---


def record_of(name: str, user: str | None = None) -> Record:
    return replace(RECORD, id=SessionId(name), user_id=user)


LIVE, OTHER = Live(record_of("live"), 1), Live(record_of("other"), 1)
ANN, BOB = Live(record_of("ann", "ann"), 1), Live(record_of("bob", "bob"), 1)
BEFORE, OVER = Overtaken(record_of("before")), JustEnded(SessionId("over"), "logout")
TOLD, PROMISED, NOBODY = Fresh("revoked"), Fresh(promised=(SessionId("p"), "s", 1)), Fresh()


@pytest.mark.parametrize(
    ("openings", "chosen", "others", "conflict"),
    [
        ((), NOBODY, set(), False),
        ((LIVE, BEFORE, OVER, TOLD), LIVE, set(), False),
        ((LIVE, ANN), ANN, {"live"}, False),
        ((LIVE, OTHER, ANN), ANN, {"live", "other"}, False),
        ((LIVE, OTHER), NOBODY, {"live", "other"}, True),
        ((ANN, BOB), NOBODY, {"ann", "bob"}, True),
        ((ANN, BOB, LIVE), NOBODY, {"ann", "bob", "live"}, True),
        ((BEFORE, OVER, TOLD), BEFORE, set(), False),
        ((OVER, TOLD, NOBODY), OVER, set(), False),
        ((TOLD, NOBODY), TOLD, set(), False),
        ((PROMISED, TOLD, NOBODY), PROMISED, set(), False),
        ((TOLD, Fresh("deleted"), NOBODY), Fresh("deleted"), set(), False),
        # what comes first in the alphabet is not what comes first
        (
            (Overtaken(record_of("z")), JustEnded(SessionId("a"), "logout")),
            Overtaken(record_of("z")),
            set(),
            False,
        ),
        ((JustEnded(SessionId("z"), "logout"), PROMISED), JustEnded(SessionId("z"), "logout"), set(), False),
        ((PROMISED, Fresh("a")), PROMISED, set(), False),
    ],
)
def test_several_cookies_in_any_order_open(
    openings: tuple[Opening, ...], chosen: Opening, others: set[str], *, conflict: bool
) -> None:
    for ordered in permutations(openings):
        opening, rest, conflicts = choose(ordered)
        assert (opening, {record.id for record in rest}, conflicts) == (chosen, others, conflict)
