"""What is changed while a commit is under way, by a task beside it, is left for the next commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from session_middleware.record import Ended
from session_middleware.session import Session
from tests.life.harness import Browser, Site


@pytest.fixture
def known(site: Site, browser: Browser) -> Browser:
    """A visitor with an anonymous session, ten seconds old."""
    browser.visit(lambda session: session.update(a=1, n=1))
    site.clock.advance(10)
    site.forget()
    return browser


def visit(
    site: Site,
    browser: Browser,
    act: Callable[[Session], object],
    meanwhile: Callable[[Session], object],
    *,
    during: str = "commit",
) -> None:
    """A request that does *act*, and *meanwhile* while what its response needs is being saved."""
    held = browser.begin()
    act(held.session)
    site.port.meanwhile[during] = lambda: meanwhile(held.session)
    held.respond()
    assert during not in site.port.meanwhile
    held.end()


def test_a_key_set_meanwhile_is_saved_by_the_late_commit(site: Site, known: Browser) -> None:
    visit(site, known, lambda session: session.update(b=1), lambda session: session.update(c=1))
    assert known.sees == {"a": 1, "n": 1, "b": 1, "c": 1}
    assert site.calls[:3] == ["load", "commit", "commit"]


def test_a_key_changed_again_or_removed_meanwhile_is_saved_as_it_was_left(site: Site, known: Browser) -> None:
    def meanwhile(session: Session) -> None:
        session["b"] = [2]
        del session["a"]

    visit(site, known, lambda session: session.update(b=[1]), meanwhile)
    assert known.sees == {"n": 1, "b": [2]}


def test_counts_made_before_and_meanwhile_are_each_added_once(site: Site, known: Browser) -> None:
    visit(site, known, lambda session: session.increment("n"), lambda session: session.increment("n", 10))
    assert known.sees["n"] == 12


def test_a_count_made_meanwhile_of_another_counter_is_added(site: Site, known: Browser) -> None:
    visit(site, known, lambda session: session.increment("n"), lambda session: session.increment("m", 5))
    assert known.sees == {"a": 1, "n": 2, "m": 5}


def test_a_logout_meanwhile_ends_the_session(site: Site, known: Browser) -> None:
    id_ = known.id
    visit(site, known, lambda session: session.update(b=1), lambda session: session.logout())
    assert site.answer(id_) == Ended("logout", site.clock.now)


def test_a_priority_and_metadata_given_meanwhile_are_saved(site: Site, known: Browser) -> None:
    def before(session: Session) -> None:
        session.priority = 1
        session.metadata["first"] = 1

    def meanwhile(session: Session) -> None:
        session.priority = 2
        session.metadata["second"] = 2

    visit(site, known, before, meanwhile)
    record = site.record(known.id)
    assert record.priority == 2
    assert {name: record.metadata[name] for name in ("first", "second")} == {"first": 1, "second": 2}


def test_a_key_set_while_the_session_is_created_is_saved_too(site: Site, browser: Browser) -> None:
    visit(
        site,
        browser,
        lambda session: (session.update(a=1), session.increment("n")),
        lambda session: (session.update(b=1), session.increment("n", 10)),
        during="create",
    )
    assert browser.sees == {"a": 1, "n": 11, "b": 1}


def test_a_key_set_while_another_user_signs_in_goes_to_the_new_session(site: Site, known: Browser) -> None:
    known.login("ann")
    visit(
        site,
        known,
        lambda session: (session.clear(), session.update(b=1), session.login("bob")),
        lambda session: session.update(c=1),
        during="create",
    )
    assert known.sees == {"b": 1, "c": 1}


def test_what_is_set_while_a_logout_is_carried_out_is_told(site: Site, known: Browser) -> None:
    visit(
        site,
        known,
        lambda session: session.logout(),
        lambda session: session.update(c=1),
        during="delete",
    )
    assert site.lost() == ("response_started", ["c"])


def test_what_is_asked_for_shows_while_it_is_under_way(site: Site, known: Browser) -> None:
    seen: list[str | None] = []
    visit(
        site,
        known,
        lambda session: session.login("ann"),
        lambda session: seen.append(session.user_id),
    )
    assert seen == ["ann"]
