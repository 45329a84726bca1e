"""The routes for load balancers: what they answer while all is well, in an outage, and to whom."""

from __future__ import annotations

import json
import threading
from typing import Any, NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from session_middleware import BackendUnavailable, ConfigurationError, SessionManager
from session_middleware.monitoring import SessionMonitor
from session_middleware.monitoring.probes import Probes
from session_middleware.testing import ManualClock
from tests.life.harness import SpyBackend

TOKEN = {"authorization": "Bearer open sesame"}


class Answer(NamedTuple):
    code: int
    type: str
    body: dict[str, Any]
    raw: bytes


class Watched:
    """A manager over a backend that fails when told to, and its probes under one driver."""

    def __init__(self, driver: str) -> None:
        from session_middleware import MemoryBackend

        self.driver = driver
        self.clock = ManualClock()
        self.spy = SpyBackend(MemoryBackend())
        self.manager = SessionManager(self.spy, clock=self.clock, monotonic=self.clock, log=False)
        self.port = self.spy.port("async" if driver == "asgi" else "blocking")
        self.monitor = SessionMonitor(interval=None, clock=self.clock).attach(self.manager)
        self.probes = Probes(self.manager, authorized="open sesame")

    def ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        if self.driver == "asgi":
            app = Starlette(routes=[Mount("/health", app=self.probes.asgi_app)])
            got = TestClient(app).request(method, f"/health/{path}", headers=headers or {})
            raw = got.content
            code, kind = got.status_code, got.headers["content-type"]
            assert got.headers["cache-control"] == "no-store"
        else:
            told: list[Any] = []
            environ = {"REQUEST_METHOD": method, "PATH_INFO": f"/{path}", "SCRIPT_NAME": "/health"}
            environ |= {f"HTTP_{name.upper()}": value for name, value in (headers or {}).items()}
            raw = b"".join(self.probes.wsgi_app(environ, lambda *start: told.extend(start)))
            code, kind = int(told[0].split()[0]), dict(told[1])["content-type"]
            assert dict(told[1])["cache-control"] == "no-store"
        return Answer(code, kind, json.loads(raw or b"{}"), raw)

    def fail(self, times: int = 1) -> None:
        self.port.faults["load"] = [BackendUnavailable("no route to it") for _ in range(times)]


@pytest.fixture(params=["asgi", "wsgi"])
def watched(request: pytest.FixtureRequest) -> Watched:
    return Watched(request.param)


def test_a_sound_process_passes_and_tells_nobody_more_than_that(watched: Watched) -> None:
    for path in ("live", "ready", ""):
        answer = watched.ask(path)
        assert (answer.code, answer.body, answer.type) == (200, {"status": "pass"}, "application/health+json")


def test_live_never_asks_the_backend_and_passes_in_an_outage(watched: Watched) -> None:
    watched.fail()
    assert watched.ask("live", headers=TOKEN).body == {"status": "pass"}
    assert watched.port.log == []


def test_ready_fails_in_an_outage_and_passes_after_it(watched: Watched) -> None:
    watched.fail()
    assert watched.ask("ready").code == 503
    watched.clock.advance(1)
    assert watched.ask("ready").code == 200


def test_the_backend_is_asked_at_most_once_a_second(watched: Watched) -> None:
    for _ in range(5):
        watched.ask("ready")
        watched.ask("")
    assert len(watched.port.log) == 1
    watched.clock.advance(0.9)
    watched.ask("ready")
    assert len(watched.port.log) == 1
    watched.clock.advance(0.1)
    watched.ask("ready")
    assert len(watched.port.log) == 2


def test_a_failure_is_kept_for_a_second_too(watched: Watched) -> None:
    watched.fail()
    assert [watched.ask("ready").code for _ in range(3)] == [503] * 3
    assert len(watched.port.log) == 1


def test_details_are_for_those_with_the_token(watched: Watched) -> None:
    watched.fail()
    plain, wrong = watched.ask(""), watched.ask("", headers={"authorization": "Bearer open"})
    assert plain.body == wrong.body == {"status": "fail"}
    checks = watched.ask("", headers=TOKEN).body["checks"]
    [backend] = checks["backend:responseTime"]
    assert (backend["status"], backend["output"]) == ("fail", "no route to it")
    assert backend["observedUnit"] == "s"
    assert checks["sessions:utilization"][0]["status"] == "pass"
    assert "checks" not in watched.ask("live", headers=TOKEN).body


def test_health_shows_what_the_monitor_found_and_what_to_do(watched: Watched) -> None:
    for _ in range(100):
        watched.manager.reporter.emit(
            "session_data_save_failed", "s", None, watched.clock(), reason="gone", keys=["a"]
        )
    answer = watched.ask("", headers=TOKEN)
    [check] = answer.body["checks"]["sessions:lost_writes"]
    assert (answer.code, answer.body["status"], check["status"]) == (503, "fail", "fail")
    assert "lost_writes" in check["output"]
    assert watched.ask("ready").code == 200  # the backend is well: restarting or unplugging helps nobody


def test_the_monitor_gets_to_know_how_long_the_backend_takes(watched: Watched) -> None:
    watched.ask("ready")
    assert watched.monitor.get_session_health_report()["checks"]["backend_latency"]["status"] == "healthy"


def test_a_manager_that_was_stopped_is_alive_and_not_ready(watched: Watched) -> None:
    watched.manager.blocking.start()
    watched.manager.blocking.stop()
    assert (watched.ask("live").code, watched.ask("ready").code) == (200, 503)


def test_a_head_request_gets_the_status_alone(watched: Watched) -> None:
    answer = watched.ask("ready", "HEAD")
    assert (answer.code, answer.raw) == (200, b"")


def test_other_paths_and_methods_are_refused(watched: Watched) -> None:
    assert watched.ask("secrets").code == 404
    assert watched.ask("ready", "POST").code == 405
    assert watched.port.log == []


def test_without_a_monitor_health_is_that_of_the_backend() -> None:
    watched = Watched("asgi")
    watched.monitor.detach(watched.manager)
    assert list(watched.ask("", headers=TOKEN).body["checks"]) == ["backend:responseTime"]


def test_a_backend_that_hangs_fails_in_time_and_costs_one_thread() -> None:
    watched = Watched("wsgi")
    watched.probes = Probes(watched.manager, timeout=0.01)
    let_go = threading.Event()
    watched.port.meanwhile["load"] = let_go.wait
    try:
        for _ in range(3):
            assert watched.ask("ready").code == 503
            watched.clock.advance(1)
        running = [thread for thread in threading.enumerate() if thread.name == "session-probe"]
        assert len(running) == 1
    finally:
        let_go.set()
    running[0].join(10)
    assert watched.ask("ready").code == 200


def test_a_backend_that_hangs_fails_in_time_under_an_event_loop() -> None:
    watched = Watched("asgi")
    watched.probes = Probes(watched.manager, timeout=0.01, authorized=lambda headers: "x-ops" in headers)

    async def never(*_: object) -> None:
        import asyncio

        await asyncio.Event().wait()

    watched.port.load = never  # type: ignore[method-assign,assignment]  # a backend that hangs
    answer = watched.ask("ready", headers={"x-ops": "1"})
    assert answer.code == 503
    assert "longer than" in answer.body["checks"]["backend:responseTime"][0]["output"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"manager": "x"}, "manager: found str"),
        ({"authorized": ""}, "authorized: found empty text"),
        ({"authorized": 5}, "authorized: found int"),
        ({"timeout": 0}, "timeout"),
        ({"cached": "x"}, "cached"),
    ],
)
def test_an_illegal_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Probes(**{"manager": SessionManager(), **arguments})
