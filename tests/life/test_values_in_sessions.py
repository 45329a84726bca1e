"""Values: counters that add up, types that come back, and what cannot be held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from session_middleware.errors import SessionDataError
from session_middleware.session import Session
from tests.life.harness import Browser, Site


@pytest.fixture
def known(site: Site, browser: Browser) -> Browser:
    """A visitor with a counter that stands at 5."""
    browser.visit(lambda session: session.update(n=5, text="x", a=1))
    site.forget()
    return browser


def test_parallel_increments_add_up(site: Site, known: Browser) -> None:
    held = [known.begin() for _ in range(5)]
    assert [request.session.increment("n") for request in held] == [6] * 5
    for request in held:
        request.respond()
        request.end()
    assert known.sees["n"] == 10


def test_parallel_increments_of_a_counter_that_is_not_there_add_up(site: Site, known: Browser) -> None:
    held = [known.begin() for _ in range(3)]
    for request in held:
        request.session.increment("new", 2)
        request.respond()
    assert known.sees["new"] == 6


def test_increments_of_a_new_session_are_its_first_values(site: Site, browser: Browser) -> None:
    browser.visit(lambda session: (session.increment("n"), session.increment("n", 4)))
    assert site.stored(browser.id) == {"n": b"5"}


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda s: (s.increment("n"), s.increment("n", -3)), 18),
        (lambda s: (s.increment("n"), s.update(n=1)), 1),
        (lambda s: (s.update(n=1), s.increment("n", 2)), 3),
        (lambda s: (s.pop("n"), s.increment("n", 2)), 2),
        (lambda s: (s.increment("n"), s.pop("n")), None),
        (lambda s: (s.increment("n"), s.pop("n"), s.increment("n")), 1),
        (lambda s: (s.clear(), s.increment("n")), 1),
    ],
    ids=[
        "twice",
        "then-assigned",
        "after-assigning",
        "after-deleting",
        "then-deleted",
        "deleted-between",
        "cleared",
    ],
)
def test_a_parallel_increment_meets_an_increment_or_an_exact_value(
    site: Site, known: Browser, act: Callable[[Session], object], expected: int | None
) -> None:
    held = known.begin()
    known.visit(lambda session: session.increment("n", 15))
    act(held.session)
    held.respond()
    assert known.sees.get("n") == expected


def test_an_increment_after_an_early_save_counts_once(site: Site, known: Browser) -> None:
    held = known.begin()
    held.session.increment("n")
    site.save(held)
    known.visit(lambda session: session.increment("n"))
    held.session.increment("n")
    held.respond()
    held.session.increment("n")
    held.end()
    assert known.sees["n"] == 9


def test_a_counter_begins_anew_with_the_session_of_another_user(site: Site, known: Browser) -> None:
    known.login("ann")
    held = known.begin()
    held.session.increment("n")
    held.session.login("bob")
    held.respond()
    assert held.session["n"] == 1
    held.session.increment("n")
    held.end()
    assert known.sees == {"n": 2}


@pytest.mark.parametrize(("name", "by"), [("text", 1), ("n", 1.5), ("n", True), ("n", "1")])
def test_what_is_no_integer_cannot_be_incremented(known: Browser, name: str, by: Any) -> None:
    held = known.begin()
    with pytest.raises(SessionDataError, match=name) as refused:
        held.session.increment(name, by)
    assert refused.value.key == name


def test_an_increment_that_meets_text_in_the_backend_is_told_and_nothing_is_saved(
    site: Site, known: Browser
) -> None:
    held = known.begin()
    known.visit(lambda session: session.update(n="text"))
    site.forget()
    held.session.increment("n")
    held.session["b"] = 1
    with pytest.raises(SessionDataError, match="'n'"):
        held.respond()
    assert site.lost() == ("serialization_error", ["b", "n"])
    assert known.sees == {"n": "text", "text": "x", "a": 1}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (object(), "secret-thing"),
        (float("nan"), "nan"),
        ({1: "x"}, "1"),
        ({"deep": {2, 3}}, "2, 3"),
        ("\ud800", "\\ud800"),
    ],
    ids=["object", "nan", "int-key", "set", "surrogate"],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_value_that_cannot_be_held_names_the_key_and_saves_nothing(
    site: Site, known: Browser, value: object, shown: str, *, late: bool
) -> None:
    held = known.begin()
    if late:
        held.respond()
    held.session["fine"] = 1
    held.session["bad"] = value
    with pytest.raises(SessionDataError, match="bad") as refused:
        held.end() if late else held.respond()
    assert refused.value.key == "bad"
    assert shown not in str(refused.value)
    assert "fine" not in known.sees
    assert site.lost() == ("serialization_error", ["bad"])
    assert "commit" not in site.calls


def test_a_value_that_cannot_be_held_makes_no_new_session(site: Site, browser: Browser) -> None:
    held = browser.begin()
    held.session["bad"] = object()
    with pytest.raises(SessionDataError):
        held.respond()
    assert site.calls == []


def test_a_key_that_is_no_text_is_refused_by_name(site: Site, known: Browser) -> None:
    held = known.begin()
    held.session[5] = "x"  # type: ignore[index]
    with pytest.raises(SessionDataError, match="int"):
        held.respond()
    assert site.lost() == ("serialization_error", ["5"])


@pytest.mark.parametrize(
    ("options", "values"),
    [({"max_bytes": 100}, {"b": "x" * 100}), ({"max_keys": 4}, {"b": 1, "c": 1, "d": 1})],
)
def test_an_oversized_session_is_refused_as_a_whole(
    make_site: Callable[..., Site], options: dict[str, int], values: dict[str, object]
) -> None:
    site = make_site(**options)
    browser = site.browser()
    browser.visit(lambda session: session.update(a=1, old=2))
    held = browser.begin()
    held.session.update(values)
    with pytest.raises(SessionDataError, match="limit"):
        held.respond()
    assert site.stored(browser.id) == {"a": b"1", "old": b"2"}
    browser.visit(lambda session: session.update(a=2))
    assert browser.sees == {"a": 2, "old": 2}


def test_nesting_beyond_the_limit_is_refused(known: Browser) -> None:
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    held = known.begin()
    held.session["deep"] = deep
    with pytest.raises(SessionDataError, match="deep"):
        held.respond()
