"""The benchmark itself: what it computes, and what it refuses to measure. Nothing here depends on speed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")

from session_middleware import SessionMiddleware
from tests.benchmarks import apps
from tests.benchmarks.checks import ClaimError, check
from tests.benchmarks.measure import Effort, Samples, Spread, measure, ratio
from tests.benchmarks.micro import Pair, measure_steps
from tests.benchmarks.report import BEGIN, END, Crowd, Figures, as_json, as_markdown, written_into
from tests.benchmarks.traffic import Browser, exchange, running

KEY = "k" * 40
ONCE = Effort(rounds=2, requests=2)


def verdict(candidate: apps.Candidate) -> str:
    """What the check says of it: nothing, or what it refuses."""

    async def checked() -> None:
        async with running(candidate.app):
            await check(candidate)

    try:
        asyncio.run(checked())
    except ClaimError as problem:
        return str(problem)
    return ""


def ours(pages: dict[str, apps.Page], *sets_cookie: str) -> apps.Candidate:
    """Our middleware around an app with some pages of its own."""
    app = SessionMiddleware(apps.handlers(pages=apps.PAGES | pages), KEY)
    return apps.Candidate("under test", app, frozenset(sets_cookie or {"new"}))


@pytest.mark.parametrize("candidate", apps.in_memory(), ids=lambda candidate: candidate.name)
def test_every_app_in_memory_does_what_it_claims(candidate: apps.Candidate) -> None:
    assert verdict(candidate) == ""


def test_every_app_over_sqlite_does_what_it_claims(tmp_path: Path) -> None:
    assert [verdict(candidate) for candidate in apps.in_sqlite(tmp_path)] == ["", "", ""]


def test_an_app_that_does_nothing_is_refused() -> None:
    lazy = replace(apps.in_memory()[0], name="lazy", has_session=True)
    assert "got no cookie" in verdict(lazy)


def test_an_app_that_does_nothing_cannot_be_measured() -> None:
    lazy = replace(apps.in_memory()[0], name="lazy", has_session=True)
    with pytest.raises(ClaimError):
        asyncio.run(measure([apps.in_memory()[0], lazy], ONCE))


def test_a_counter_that_does_not_grow_is_refused() -> None:
    assert "write answered 200 b'1', not b'2'" in verdict(ours({"/write": lambda request: b"1"}))


def test_a_read_that_does_not_read_is_refused() -> None:
    assert "read answered" in verdict(ours({"/read": lambda request: b"somebody"}))


def test_a_read_that_knows_the_answer_by_heart_is_refused() -> None:
    by_heart = {"/read": lambda request: b"alice@example.org"}
    assert "tampered with" in verdict(ours(by_heart))


def test_a_session_that_forgets_keys_is_refused() -> None:
    assert "of the session's keys" in verdict(ours({"/show": lambda request: b"['user']"}))


def test_a_cookie_that_was_not_claimed_is_refused() -> None:
    quiet = replace(ours({}), sets_cookie=frozenset())
    assert "new was answered with a cookie" in verdict(quiet)


def test_a_cookie_that_was_claimed_and_does_not_come_is_refused() -> None:
    assert "write was answered with no cookie" in verdict(ours({}, "new", "write"))


def test_an_overhead_is_taken_within_each_round_and_then_its_median() -> None:
    samples = Samples()
    for bare, app in ((1.0, 3.0), (10.0, 13.0), (2.0, 6.0)):
        samples.add(apps.BARE, "read", bare)
        samples.add("app", "read", app)
    assert samples.overhead("app", "read") == Spread(3.0, 2.5, 3.5)


def test_a_ratio_is_one_median_of_overheads_over_the_other() -> None:
    samples = Samples()
    for bare, app, peer in ((1.0, 2.0, 11.0), (1.0, 3.0, 21.0), (1.0, 101.0, 31.0)):
        samples.add(apps.BARE, "read", bare)
        samples.add("app", "read", app)
        samples.add("peer", "read", peer)
    assert ratio(samples, "app", "peer", "read") == pytest.approx(2.0 / 20.0)  # a ratio of means would be 1.7


def test_a_bare_app_that_is_as_slow_as_the_app_leaves_no_overhead() -> None:
    samples = Samples()
    samples.add(apps.BARE, "read", 5.0)
    samples.add("app", "read", 5.0)
    assert samples.overhead("app", "read").median == 0.0


def test_each_slice_of_each_app_and_case_is_counted_once_per_round() -> None:
    cpu, wall = asyncio.run(measure(apps.in_memory(), ONCE))
    names = {candidate.name for candidate in apps.in_memory()}
    assert set(cpu.taken) == {(name, case) for name in names for case in apps.CASES} == set(wall.taken)
    assert {len(values) + cpu.left_out for values in cpu.taken.values()} == {ONCE.rounds}


def test_several_clients_at_once_keep_their_sessions_apart(tmp_path: Path) -> None:
    candidate = apps.in_sqlite(tmp_path)[2]

    async def counted() -> list[bytes]:
        async with running(candidate.app):
            browsers = [Browser() for _ in range(8)]
            await asyncio.gather(*(exchange(candidate.app, browser, "/seed") for browser in browsers))
            await exchange(candidate.app, browsers[0], "/write")
            answers = await asyncio.gather(
                *(exchange(candidate.app, browser, "/write") for browser in browsers)
            )
            return [answer.body for answer in answers]

    assert asyncio.run(counted()) == [b"2", *[b"1"] * 7]


def test_the_session_holds_about_500_bytes() -> None:
    assert 450 <= len(json.dumps(apps.PAYLOAD, separators=(",", ":"))) <= 600


def test_the_request_has_eight_headers_and_ours_is_the_third_cookie() -> None:
    headers = Browser("ours").scope("/")["headers"]
    assert len(headers) == 9
    assert [pair.partition(b"=")[0].strip() for pair in headers[-1][1].split(b";")] == [
        b"_ga",
        b"csrftoken",
        b"session",
    ]


def test_single_steps_have_a_figure_each() -> None:
    assert all(pair.ours >= 0 for pair in measure_steps(1))


def figures() -> Figures:
    cpu, _ = asyncio.run(measure(apps.in_memory(), ONCE))
    return Figures(
        "2026-01-31", ONCE, cpu, [], [Pair("a step", 1.0, 4.0, "0.25"), Pair("alone", 2.0, None, "")]
    )


def test_the_report_names_the_day_each_app_and_each_goal() -> None:
    text = as_markdown(figures())
    assert "2026-01-31" in text
    assert all(f"| {name} |" in text for name in (apps.BARE, apps.OURS, apps.STARLETTE, apps.STARSESSIONS))
    assert "| a step | 1.00 | 4.00 | 0.25 | 0.25 |" in text
    assert text.count("reached |") == 7


def test_the_json_holds_what_the_tables_show() -> None:
    found = json.loads(json.dumps(as_json(figures())))
    assert set(found["memory"]["cpu"][apps.OURS]["read"]) == {"median", "low", "high"}
    assert [step["ratio"] for step in found["steps"]] == [0.25, None]


def test_a_crowd_is_reported_in_cpu_and_in_wall_time(tmp_path: Path) -> None:
    cpu, wall = asyncio.run(measure(apps.in_sqlite(tmp_path), ONCE, clients=3))
    text = as_markdown(replace(figures(), crowds=[Crowd(3, cpu, wall)]))
    assert "## SQLite, 3 clients at once: CPU time" in text
    assert "## SQLite, 3 clients at once: wall time" in text


def test_only_what_stands_between_the_marks_is_written_anew() -> None:
    document = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    assert written_into(document, "new\n") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"


def test_a_document_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks"):
        written_into("# Title\n", "new")
