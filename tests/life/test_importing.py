"""Old cookies of Starlette and Flask (`import_from`): taken over at first sight, once, and never again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

pytest.importorskip("flask")

from session_middleware.errors import BackendUnavailable
from session_middleware.old_cookies import FlaskCookie, OldSession, StarletteCookie
from session_middleware.record import CreateResult, Ended, Record, SessionId
from tests.importing.old import OLD_KEY, flask_cookie, starlette_cookie
from tests.life.harness import Browser, Driver, Site

VALUES = {"cart": ["tea"], "user_id": "ann"}
READERS = [StarletteCookie(OLD_KEY), FlaskCookie(OLD_KEY)]
COOKIES: dict[str, Callable[..., str]] = {"starlette": starlette_cookie, "flask": flask_cookie}


@pytest.fixture(params=["async", "wsgi"])
def driver(request: pytest.FixtureRequest) -> Driver:
    name: Driver = request.param
    return name


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(import_from=READERS)


@pytest.fixture(params=["starlette", "flask"])
def source(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def old(site: Site, source: str) -> Browser:
    """A visitor who comes with an old cookie."""
    return visitor(site, source)


def visitor(site: Site, source: str, **key: str) -> Browser:
    cookie = COOKIES[source](VALUES, **key)
    site.clock.now = time.time()  # the real packages have no other clock
    return site.browser(cookie)


def test_the_first_request_shows_the_old_session_and_sets_our_cookie(
    site: Site, old: Browser, source: str
) -> None:
    held = old.begin()
    assert dict(held.session) == VALUES
    assert held.session.user_id == "ann"
    assert held.session.metadata["imported_from"] == source
    assert held.respond().cookie is not None
    held.end()
    assert old.sees == VALUES
    assert site.record(old.id).user_id == "ann"
    assert site.told.count("session_created") == site.told.count("session_user_bound") == 1
    assert "session_suspicious_activity" not in site.told


def test_what_the_first_request_changes_is_saved(site: Site, old: Browser) -> None:
    old.visit(lambda session: session["cart"].append("milk"))
    assert old.sees["cart"] == ["tea", "milk"]


def test_parallel_first_requests_come_to_one_session(site: Site, old: Browser) -> None:
    one, two = old.begin(), old.twin().begin()
    one.session["a"], two.session["b"] = 1, 2
    first, second = one.respond(), two.respond()
    assert first.cookie == second.cookie is not None
    assert old.sees == {**VALUES, "a": 1, "b": 2}
    assert site.told.count("session_created") == 1


def test_a_client_that_lost_the_response_tries_again_with_the_old_cookie(site: Site, old: Browser) -> None:
    old.visit(lambda session: session.update(a=1), lost=True)
    site.clock.advance(200)
    assert old.sees == {**VALUES, "a": 1}
    assert old.generation


def test_the_old_cookie_is_worthless_soon_after_the_new_one_came_back(site: Site, old: Browser) -> None:
    thief = old.twin()
    old.visit()
    old.visit()
    site.clock.advance(29)
    assert thief.twin().sees == VALUES
    site.clock.advance(2)
    site.forget()
    assert thief.visit().cookie is None
    assert site.suspicion() == "superseded_cookie"
    assert thief.sees == {}


@pytest.mark.parametrize("later", [0, 20, 700, 3 * 24 * 3600])
def test_a_logout_stays_a_logout_for_whoever_has_a_copy_of_the_old_cookie(
    site: Site, old: Browser, later: float
) -> None:
    thief = old.twin()
    old.visit()
    assert old.visit(lambda session: session.logout()).removes
    site.clock.advance(later)
    site.do("cleanup_expired")
    for _ in range(2):
        held = thief.begin()
        assert (dict(held.session), held.session.user_id) == ({}, None)
        assert held.respond().cookie is None
        held.end()


def test_a_logout_in_the_very_first_request_is_one_too(site: Site, old: Browser) -> None:
    thief = old.twin()
    assert old.visit(lambda session: session.logout()).removes
    site.clock.advance(700)
    assert thief.sees == {}


def test_a_login_makes_the_old_cookie_worthless_at_once(site: Site, old: Browser) -> None:
    thief = old.twin()
    old.login("ann")
    site.clock.advance(40)
    assert thief.sees == {}
    assert old.sees == VALUES


def test_a_cookie_of_ours_goes_before_an_old_one(site: Site, old: Browser) -> None:
    ours = site.browser()
    ours.visit(lambda session: session.update(mine=1))
    assert ours.cookie is not None
    assert old.cookie is not None
    ours.others = (old.cookie,)
    assert ours.sees == {"mine": 1}


def test_an_old_cookie_of_another_key_is_a_bad_signature(site: Site, source: str) -> None:
    stranger = visitor(site, source, key="a key of somebody else")
    assert stranger.sees == {}
    assert site.suspicion() == "bad_signature"
    assert site.calls == []


def test_without_readers_an_old_cookie_means_nothing(make_site: Callable[..., Site], source: str) -> None:
    site = make_site()
    assert visitor(site, source).sees == {}
    assert site.calls == []


def test_a_backend_that_is_down_loses_nothing(site: Site, old: Browser) -> None:
    cookie = old.cookie
    site.port.faults["load"] = [BackendUnavailable("down for the test")]
    assert status_of(old) == 503
    assert old.cookie == cookie
    assert old.sees == VALUES


def test_a_crash_in_the_middle_leaves_the_old_cookie_good(site: Site, old: Browser) -> None:
    """The session is stored, but not yet what remembers the old cookie: nobody has it, nothing is lost."""
    site.port.faults["commit"] = [BackendUnavailable("killed here")]
    assert status_of(old) == 503
    [orphan] = [event.session_id for event in site.events if event.name == "session_created"]
    assert old.sees == VALUES
    assert old.id != orphan


def test_of_two_that_take_it_over_at_once_one_is_kept(site: Site, old: Browser) -> None:
    """The other request remembers the cookie when this one has made its own session already."""
    inner = site.port.inner
    create, entrance = inner.create, site.middleware if site.driver == "async" else site.wsgi._entrance
    found = next(found for one in READERS if (found := one.read(str(old.cookie).encode(), site.clock())))

    async def create_behind_another(record: Record, now: float) -> CreateResult:
        if record.status == "imported":
            inner.create = create  # type: ignore[method-assign]
            assert entrance.importer is not None
            await entrance.importer.open(found, now)
        return await create(record, now)

    inner.create = create_behind_another  # type: ignore[method-assign]
    assert old.sees == VALUES
    ours, other = (event.session_id for event in site.events if event.name == "session_created")
    assert old.id == other
    assert site.answer(SessionId(str(ours))) == Ended("superseded", site.clock())


def status_of(browser: Browser) -> int:
    """Of a request that looks at its session; what the app would make of the error, too."""
    try:
        return browser.visit().status
    except BackendUnavailable:  # raised at the first look, in the handler's own code
        return 503


def test_what_remembers_the_cookie_lives_as_long_as_that_and_opens_nothing(site: Site, old: Browser) -> None:
    reader = next(one for one in READERS if old.cookie and one.read(old.cookie.encode(), site.clock()))
    found = reader.read(str(old.cookie).encode(), site.clock())
    assert isinstance(found, OldSession)
    old.visit()
    remembered = site.record(found.id)
    assert (remembered.deadline, remembered.status, remembered.user_id) == (
        found.expires_at,
        "imported",
        None,
    )
    assert dict(remembered.data) == {}
    assert remembered.secret == ""
