"""The benchmark of Flask: what it refuses to measure, and what it reports. Nothing here depends on speed."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("flask_session", reason="a peer of the benchmarks: pip install -e '.[dev]'")
pytest.importorskip("flask_sqlalchemy", reason="Flask-Session needs it: pip install -e '.[dev]'")
pytest.importorskip("redis", reason="Flask-Session needs it: pip install -e '.[dev]'")
pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")
pytest.importorskip("gunicorn", reason="it serves what is loaded: pip install -e '.[test]'")

from tests.benchmarks import flask_apps
from tests.benchmarks.apps import BARE, CASES, Candidate
from tests.benchmarks.checks import ClaimError, check, check_still_signed_in, signed_in
from tests.benchmarks.flask_apps import COOKIE_SESSION, OURS_FLASK, OURS_FLASK_SQLITE, SQLALCHEMY, Site
from tests.benchmarks.flask_report import FlaskFigures, as_json, as_markdown
from tests.benchmarks.load import DIGITS, Order, run
from tests.benchmarks.measure import Effort, Samples, measure
from tests.benchmarks.redis_server import own_redis
from tests.benchmarks.remote import Remote
from tests.benchmarks.test_harness import verdict
from tests.benchmarks.traffic import Browser, exchange
from tests.benchmarks.under_gunicorn import Loader, Shares, Spell, served
from tests.benchmarks.wsgi_traffic import WSGIServed

pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",  # in Flask-Session
)
ONCE = Effort(rounds=2, requests=2)
SHORT = Spell(rounds=1, seconds=0.05, most=20)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def candidates(site: Site) -> Iterator[list[Candidate]]:
    with flask_apps.in_flask(site) as found:
        yield found


def lazy() -> Candidate:
    """The control: an app that does nothing, and claims to have sessions."""
    app, _ = flask_apps.made(BARE, Site(Path()))
    return replace(flask_apps.candidate_of(BARE, WSGIServed(app)), name="lazy", has_session=True)


def test_every_flask_app_does_what_it_claims(candidates: list[Candidate]) -> None:
    assert {candidate.name: verdict(candidate) for candidate in candidates} == dict.fromkeys(
        [BARE, COOKIE_SESSION, flask_apps.FILES, SQLALCHEMY, OURS_FLASK, OURS_FLASK_SQLITE], ""
    )


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server")
def test_flask_session_over_redis_does_what_it_claims(tmp_path: Path) -> None:
    with own_redis(tmp_path) as url, flask_apps.in_flask(Site(tmp_path, url)) as found:
        [over_redis] = [candidate for candidate in found if candidate.name == flask_apps.REDIS]
        assert verdict(over_redis) == ""


def test_without_a_redis_server_redis_is_left_out(
    site: Site, candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with own_redis(site.folder) as url:
        assert url is None
    assert flask_apps.REDIS not in [candidate.name for candidate in candidates]


def test_a_flask_app_that_does_nothing_is_refused() -> None:
    assert "got no cookie" in verdict(lazy())


def test_a_flask_app_that_does_nothing_cannot_be_measured(candidates: list[Candidate]) -> None:
    with pytest.raises(ClaimError):
        asyncio.run(measure([candidates[0], lazy()], ONCE))


def test_a_cookie_that_a_flask_app_did_not_claim_is_refused(candidates: list[Candidate]) -> None:
    [plain] = [candidate for candidate in candidates if candidate.name == COOKIE_SESSION]
    assert "write was answered with a cookie" in verdict(replace(plain, sets_cookie=frozenset({"new"})))


def test_a_session_that_is_thrown_away_while_it_is_measured_is_found(candidates: list[Candidate]) -> None:
    [ours] = [candidate for candidate in candidates if candidate.name == OURS_FLASK]

    async def after_it_was_lost() -> None:
        visitor = await signed_in(ours)
        await check_still_signed_in(ours, [visitor])
        await check_still_signed_in(ours, [Browser()])

    with pytest.raises(ClaimError, match="lost during the measurement"):
        asyncio.run(after_it_was_lost())


def test_a_slice_calls_the_app_itself_once_per_request_and_closes_each_answer() -> None:
    calls: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        def close(self) -> None:
            calls.append("closed")

    def app(environ: dict[str, object], start_response: object) -> Body:
        calls.append(str(environ["PATH_INFO"]))
        return Body()

    work = WSGIServed(app).slice_of([Browser().scope("/a"), Browser().scope("/b")])
    assert calls == []
    asyncio.run(_awaited(work))
    assert calls == ["/a", "closed", "/b", "closed"]


async def _awaited(work: object) -> None:
    await work()  # type: ignore[operator]


def test_the_environ_is_that_of_the_same_browser(candidates: list[Candidate]) -> None:
    seen: list[dict[str, object]] = []

    def app(environ: dict[str, object], start_response: object) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [("Set-Cookie", "session=abc; Path=/")])  # type: ignore[operator]
        return [b"here"]

    browser = Browser("value")
    answer = asyncio.run(exchange(WSGIServed(app), browser, "/read"))
    assert (answer.status, answer.body, browser.cookie) == (200, b"here", "abc")
    assert str(seen[0]["HTTP_COOKIE"]).endswith("; session=value")
    assert (seen[0]["wsgi.url_scheme"], seen[0]["HTTP_HOST"]) == ("https", "shop.example.org")


def figures(shares: Shares | None) -> FlaskFigures:
    samples = Samples()
    costs = {BARE: 50.0, COOKIE_SESSION: 150.0, SQLALCHEMY: 550.0, OURS_FLASK: 60.0, OURS_FLASK_SQLITE: 70.0}
    for case in CASES:
        for app, cost in costs.items():
            samples.add(app, case, cost)
    return FlaskFigures("2026-01-31", ONCE, samples, samples, SHORT, shares)


def test_the_report_tells_for_each_goal_whether_this_run_reached_it() -> None:
    text = as_markdown(figures(None))
    assert "| read | ours, memory | Flask, cookie | 0.100 | ≤ 0.12 | reached |" in text
    assert "| read | ours, SQLite | Flask-Session, SQLite | 0.040 | ≤ 0.03 | not reached |" in text
    assert "there was no `redis-server`" in text
    assert "gunicorn" not in text


def test_a_share_is_taken_within_each_round_and_then_its_median() -> None:
    shares = Shares()
    for case in CASES:
        for bare, app in ((1000.0, 500.0), (10.0, 9.0), (100.0, 70.0)):
            shares.add(BARE, case, bare)
            shares.add("app", case, app)
    text = as_markdown(figures(shares))
    assert "| app | 0.70 (0.60 to 0.80) |" in text
    found = json.loads(json.dumps(as_json(figures(shares))))
    assert found["gunicorn"]["shares"]["app"]["read"]["median"] == pytest.approx(0.7)


def test_under_gunicorn_an_app_is_checked_and_loaded_and_one_that_does_nothing_is_refused(site: Site) -> None:
    with served(OURS_FLASK_SQLITE, site) as ours, Loader.started() as loader:
        asyncio.run(check(ours.candidate()))
        visitors = [asyncio.run(signed_in(ours.candidate())) for _ in range(2)]
        for case in CASES:
            outcome = loader.load(ours, case, visitors, SHORT)
            assert 0 < outcome.answers <= SHORT.most + len(visitors)
        with pytest.raises(ClaimError, match=r"under load read answered HTTP/1\.1 200 OK b'None'"):
            loader.load(ours, "read", [Browser()], SHORT)
    with served(BARE, site) as bare, Loader.started() as loader:
        claiming = Remote(OURS_FLASK_SQLITE, bare.port, frozenset({"new"}))
        with pytest.raises(ClaimError, match="got no cookie"):
            asyncio.run(check(claiming.candidate()))
        with pytest.raises(ClaimError, match="under load read answered"):
            loader.load(claiming, "read", [Browser()], SHORT)


def _say(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
        connection.recv(65536)


@pytest.mark.parametrize(
    ("answer", "expected", "problem"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\n\r\n1", DIGITS, "HTTP/1.1 503 Busy b'1'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nNone", DIGITS, "HTTP/1.1 200 OK b'None'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", "begun", "HTTP/1.1 200 OK b'1'"),
    ],
)
def test_an_answer_that_is_not_the_expected_one_is_reported_and_ends_the_load(
    answer: bytes, expected: str, problem: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_say, args=(listener, answer))
        thread.start()
        outcome = run(Order(listener.getsockname()[1], ["GET / HTTP/1.1\r\n\r\n"], expected, 5.0, 10))
        thread.join()
    assert (outcome.answers, outcome.wrong) == (0, [problem])
