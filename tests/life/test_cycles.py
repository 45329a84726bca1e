"""`cycle()` in parallel, by order of somebody else, and late."""

from __future__ import annotations

import pytest

from session_middleware.errors import SessionNotFoundError
from session_middleware.record import Grace
from tests.life.harness import Browser, Site


@pytest.fixture
def known(site: Site, browser: Browser) -> Browser:
    """A visitor with an anonymous session, ten seconds old."""
    browser.visit(lambda session: session.update(a=1))
    site.clock.advance(10)
    site.forget()
    return browser


@pytest.fixture
def ann(site: Site, known: Browser) -> Browser:
    """The same, signed in."""
    known.login("ann")
    site.clock.advance(10)
    site.forget()
    return known


def test_of_parallel_cycles_one_makes_a_generation_and_both_get_its_cookie(
    site: Site, known: Browser
) -> None:
    one, two = known.begin(), known.begin()
    one.session.update(x=1)
    two.session.update(y=1)
    one.session.cycle()
    two.session.cycle()
    first = one.respond().cookie
    site.clock.advance(1)
    second = two.respond().cookie
    assert first == second is not None
    assert len(site.record(known.id).accepted) == 1
    assert known.sees == {"a": 1, "x": 1, "y": 1}
    assert site.told.count("session_cycled") == 1


def test_a_request_goes_on_under_the_generation_its_commit_returned(site: Site, known: Browser) -> None:
    held = known.begin()
    held.session["role"] = "admin"
    site.save(held)
    held.session["b"] = 1
    held.respond()
    held.session["c"] = 1
    held.end()
    assert known.sees == {"a": 1, "role": "admin", "b": 1, "c": 1}
    assert known.generation == site.record(known.id).generation


def test_an_early_save_that_cycled_sends_its_cookie_whatever_the_status(site: Site, known: Browser) -> None:
    held = known.begin()
    held.session.login("ann")
    assert site.save(held)
    response = held.respond(500)
    assert response.cookie == known.cookie is not None
    assert known.generation == site.record(known.id).generation


@pytest.mark.parametrize(("grace", "opens"), [(None, True), (0, False), (5, True)])
def test_an_order_to_cycle_is_carried_out_by_the_next_request_that_looks(
    site: Site, ann: Browser, grace: float | None, *, opens: bool
) -> None:
    old, before = ann.twin(), ann.generation
    site.do("cycle_session", ann.id, grace=grace)
    due = 30.0 if grace is None else float(grace)
    assert (site.record(ann.id).cycle_due, site.record(ann.id).generation) == (due, before)
    assert ann.visit(looks=False).set_cookie is None
    site.forget()
    response = ann.visit()
    record = site.record(ann.id)
    assert site.calls == ["load", "commit"]
    assert (response.cookie, record.generation) == (ann.cookie, ann.generation)
    assert record.cycle_due is None
    assert dict(record.accepted) == ({before: Grace(due)} if opens else {})
    assert bool(old.sees) is opens
    assert site.told == ["session_cycled"]
    site.forget()
    ann.visit()
    assert "session_cycled" not in site.told


def test_an_order_without_grace_outlives_an_apps_own_cycle_with_grace(site: Site, ann: Browser) -> None:
    slow = ann.begin()  # loaded before the order
    slow.session.cycle()
    site.do("cycle_session", ann.id, grace=0)
    slow.respond()
    assert site.record(ann.id).cycle_due == 0
    between = ann.twin()
    site.clock.advance(1)
    ann.visit()
    assert (site.record(ann.id).cycle_due, between.sees) == (None, {})


def test_an_order_for_nobody_is_an_error(site: Site) -> None:
    with pytest.raises(SessionNotFoundError):
        site.do("cycle_session", "X" * 22)


def test_a_late_cycle_waits_for_the_next_request(site: Site, known: Browser) -> None:
    before = known.generation
    held = known.begin()
    held.respond()
    held.session.cycle()
    held.end()
    assert (site.record(known.id).cycle_due, site.record(known.id).generation) == (30.0, before)
    assert known.visit().cookie is not None
    assert known.generation > before


def test_a_late_privilege_of_a_signed_in_session_is_saved_and_cycles_next(site: Site, ann: Browser) -> None:
    old = ann.twin()
    held = ann.begin()
    held.respond()
    held.session["role"] = "admin"
    held.end()
    assert site.record(ann.id).cycle_due == 0
    assert ann.visit().cookie is not None
    assert (ann.sees, old.sees) == ({"a": 1, "role": "admin"}, {})


def test_a_cycle_clears_what_was_due(site: Site, ann: Browser) -> None:
    site.do("cycle_session", ann.id)
    site.do("cycle_session", ann.id, grace=0)
    assert site.record(ann.id).cycle_due == 0  # without wins
    ann.login("ann")
    assert site.record(ann.id).cycle_due is None


def test_a_cycle_moves_no_deadline(site: Site, ann: Browser) -> None:
    before = site.record(ann.id)
    ann.visit(lambda session: session.cycle())
    after = site.record(ann.id)
    assert (after.limit, after.deadline, after.created_at) == (
        before.limit,
        before.deadline,
        before.created_at,
    )
