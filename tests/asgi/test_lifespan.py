"""The manager's life: as long as the app's lifespan, or request by request where there is none."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from session_middleware import ConfigurationError, MemoryBackend, SessionMiddleware, SQLiteBackend
from session_middleware.backends.base import Backend
from session_middleware.testing.clock import ManualClock
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import KEY, Client, FaultyBackend, FaultyPort, Site, page, put

ROOT = Path(__file__).parents[2]


async def counter(request: Request) -> PlainTextResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return PlainTextResponse(str(request.session["n"]))


def starlette_app(backend: Backend, order: list[str] | None = None) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        (order if order is not None else []).append("app starts")
        yield
        (order if order is not None else []).append("app stops")

    app = Starlette(routes=[Route("/", counter)], lifespan=lifespan)
    app.add_middleware(SessionMiddleware, secret_key=KEY, backend=backend)  # type: ignore[arg-type]
    return app


async def lifespan_of(app: Any, *types: str) -> list[dict[str, Any]]:
    """What the app answers to these lifespan messages."""
    sent: list[dict[str, Any]] = []
    inbox = [{"type": f"lifespan.{type_}"} for type_ in types]

    async def receive() -> dict[str, Any]:
        return inbox.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


# --- with a lifespan ---


@pytest.mark.anyio
async def test_the_manager_starts_before_the_app_and_stops_after_it(site: Site) -> None:
    order: list[str] = []
    site.manager.subscribe("session_manager_initialized", lambda _: order.append("manager starts"))
    site.manager.subscribe("session_manager_stopped", lambda _: order.append("manager stops"))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        order.append("app starts")
        assert site.manager.is_started
        yield
        assert site.manager.is_started
        order.append("app stops")

    site.middleware.app = Starlette(lifespan=lifespan)
    sent = await lifespan_of(site.middleware, "startup", "shutdown")
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert order == ["manager starts", "app starts", "app stops", "manager stops"]
    assert not site.manager.cleaner.is_active


@pytest.mark.anyio
async def test_a_failing_start_is_told_with_its_reason_and_once(
    faulty_site: Site, faults: FaultyPort
) -> None:
    faults.fail("open")
    faulty_site.middleware.app = Starlette()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    with pytest.raises(Exception, match="pulled the plug"):
        await faulty_site.middleware({"type": "lifespan", "state": {}}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "the test pulled the plug"}]
    assert not faulty_site.manager.is_started


@pytest.mark.anyio
async def test_an_app_that_fails_to_start_stops_the_manager(site: Site) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise ZeroDivisionError
        yield

    site.middleware.app = Starlette(lifespan=lifespan)
    with pytest.raises(ZeroDivisionError):
        await lifespan_of(site.middleware, "startup")
    assert not site.manager.is_started
    assert len(site.named("session_manager_stopped")) == 1


@pytest.mark.anyio
async def test_an_app_without_lifespan_works_all_the_same(site: Site) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await page(put(n=1))(scope, receive, send)

    site.middleware.app = app
    with pytest.raises(NotImplementedError):
        await lifespan_of(site.middleware, "startup")
    await site.client.get()
    assert not site.manager.is_started
    assert await site.value("n") == 1


@pytest.mark.anyio
async def test_two_middlewares_over_one_manager_start_and_stop_it_once(make_site: MakeSite) -> None:
    inner = make_site(Starlette())
    outer = SessionMiddleware(inner.middleware, manager=inner.manager)
    await lifespan_of(outer, "startup", "shutdown")
    assert len(inner.named("session_manager_initialized", "session_manager_stopped")) == 2
    assert not inner.manager.is_started


@pytest.mark.anyio
async def test_the_weak_key_is_told_at_the_start(make_site: MakeSite) -> None:
    site = make_site(Starlette(), secret_key="short")
    await lifespan_of(site.middleware, "startup", "shutdown")
    assert site.suspicions() == ["weak_key"]


def test_test_client_runs_it_with_and_without(backend: Backend) -> None:
    app = starlette_app(backend)
    with TestClient(app) as client:
        assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
        cookies = dict(client.cookies)
    with TestClient(app, cookies=cookies) as client:  # started a second time
        assert client.get("/").text == "4"


# --- cleanup ---


@pytest.fixture
async def expired(make_site: MakeSite, faulty: FaultyBackend) -> Site:
    """A site with three sessions, all past their idle timeout, and clocks that agree."""
    site = make_site(page(put(n=1)), backend=faulty, idle_timeout=60)
    for _ in range(3):
        await site.new_client().get()
    site.clock.advance(600)  # backends look at expiry by time slots of a minute or more
    return site


@pytest.mark.anyio
async def test_a_run_deletes_what_has_expired_and_says_so(expired: Site) -> None:
    await expired.manager.cleaner.run_once()
    assert [event.fields["reason"] for event in expired.named("session_expired")] == ["idle_timeout"] * 3
    [cleaned] = expired.named("sessions_cleaned_up")
    assert (cleaned.fields["count"], cleaned.fields["by_reason"]) == (3, {"idle_timeout": 3})
    assert len(expired.named("session_usage")) == 1


@pytest.mark.anyio
async def test_a_run_survives_errors_and_backs_off(expired: Site, faults: FaultyPort) -> None:
    cleaner = expired.manager.cleaner
    assert 270 <= cleaner.pause() <= 330
    faults.fail("delete_expired")
    longest = []
    for _ in range(5):
        await cleaner.run_once()
        longest.append(cleaner.pause() / cleaner.interval)
    assert [
        round(pause, -0) >= floor for pause, floor in zip(longest, (1.8, 3.6, 7.2, 7.2, 7.2), strict=True)
    ]
    assert all(low <= pause <= high for pause, low, high in zip(
        longest, (1.8, 3.6, 7.2, 7.2, 7.2), (2.2, 4.4, 8.8, 8.8, 8.8), strict=True
    ))  # fmt: skip
    assert len(expired.named("sessions_cleanup_failed")) == 5
    faults.fail()
    await cleaner.run_once()
    assert cleaner.pause() <= 330
    assert len(expired.named("session_expired")) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_after_a_jump_of_the_wall_clock_a_run_is_skipped_with_an_alarm(
    backend: Backend, jump: float
) -> None:
    wall, steady = ManualClock(), ManualClock(0.0)
    manager = SessionMiddleware(page(), KEY, backend=MemoryBackend(), clock=wall, monotonic=steady).manager
    failures: list[object] = []
    runs: list[object] = []
    manager.subscribe("sessions_cleanup_failed", lambda event: failures.append(event.fields["exception"]))
    manager.subscribe("sessions_cleaned_up", runs.append)
    wall.advance(300 + jump)
    steady.advance(300)
    await manager.cleaner.run_once()
    assert (len(failures), runs) == (1, [])
    assert f"jumped by {jump:.0f} s" in str(failures[0])
    wall.advance(300)
    steady.advance(300)
    await manager.cleaner.run_once()
    assert (len(failures), len(runs)) == (1, 1)


@pytest.mark.anyio
async def test_a_defect_in_a_backend_does_not_end_cleanup(expired: Site, faults: FaultyPort) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    faults.delete_expired = broken  # type: ignore[attr-defined]
    await expired.manager.cleaner.run_once()
    assert isinstance(expired.named("sessions_cleanup_failed")[0].fields["exception"], ZeroDivisionError)
    del faults.delete_expired  # type: ignore[attr-defined]
    await expired.manager.cleaner.run_once()
    assert len(expired.named("session_expired")) == 3


@pytest.mark.anyio
async def test_the_lifespan_runs_it_as_a_task_and_ends_it(site: Site) -> None:
    before = asyncio.all_tasks()
    await site.manager.start()
    assert site.manager.cleaner.is_active
    assert {str(task.get_coro()).split(" ")[2] for task in asyncio.all_tasks() - before} & {
        "Cleanup._forever"
    }
    await site.manager.stop()
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() - before if "Cleanup" in str(task)]


# --- without a lifespan ---


@pytest.mark.anyio
async def test_a_cleanup_step_runs_now_and_then_after_a_response(expired: Site, faults: FaultyPort) -> None:
    client = expired.new_client()
    assert "delete_expired" not in faults.log
    for _ in range(4):
        await client.get()
    assert faults.log.count("delete_expired") == 2  # one that found some, one that found no more
    assert len(expired.named("session_expired")) == 3
    expired.clock.advance(299)
    await client.get()
    assert faults.log.count("delete_expired") == 2


@pytest.mark.anyio
async def test_a_cleanup_step_that_fails_harms_no_request(expired: Site, faults: FaultyPort) -> None:
    expired.clock.advance(301)
    faults.fail("delete_expired")
    assert (await expired.new_client().get()).status == 200
    assert len(expired.named("sessions_cleanup_failed")) == 1


@pytest.mark.anyio
async def test_no_task_is_left_after_a_request(backend: Backend, make_site: MakeSite) -> None:
    site = make_site(page(put(n=1)), backend=MemoryBackend())
    before = asyncio.all_tasks()
    await site.client.get()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


def test_memory_needs_no_thread() -> None:
    before = threading.active_count()
    asyncio.run(client_gets(SessionMiddleware(page(put(n=1)), KEY), 1))
    assert threading.active_count() == before


async def client_gets(middleware: Any, times: int, client: Client | None = None) -> Client:
    client = client or Client(middleware)
    for _ in range(times):
        await client.get()
    return client


def test_each_request_may_have_an_event_loop_of_its_own(backend: Backend) -> None:
    seen: list[object] = []

    def count(session: Any) -> None:
        session["n"] = session.get("n", 0) + 1
        seen.append(session["n"])

    middleware = SessionMiddleware(page(count), KEY, backend=backend)
    client: Client | None = None
    for _ in range(5):
        client = asyncio.run(client_gets(middleware, 2, client))
    assert seen == list(range(1, 11))
    asyncio.run(middleware.manager.performer.port.close())


def test_dead_event_loops_are_forgotten() -> None:
    middleware = SessionMiddleware(page(put(n=1)), KEY)
    for _ in range(20):
        asyncio.run(client_gets(middleware, 1))
    gc.collect()
    assert len(middleware.manager.heartbeat._timers) <= 1
    assert len(middleware.manager.activity) == 0


SCRIPT = """
import asyncio, sys, threading
from session_middleware import SessionMiddleware
from tests.asgi.harness import KEY, Client, page, put

async def main():
    client = Client(SessionMiddleware(page(put(n=1)), KEY, backend=sys.argv[1]))
    print((await client.get()).status, (await client.get()).status)

asyncio.run(main())
print("end of the script")
"""


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_the_interpreter_exits_although_nobody_closed_anything(url: str, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/s.db" if url == "sqlite" else url
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (run.stdout.split("\n")[:2], run.stderr) == (["200 200", "end of the script"], "")


# --- trio ---


def test_memory_works_under_trio() -> None:
    seen: list[object] = []

    def count(session: Any) -> None:
        session["n"] = session.get("n", 0) + 1
        seen.append(session["n"])

    middleware = SessionMiddleware(page(count), KEY)

    async def main() -> None:
        await middleware.manager.start()
        await client_gets(middleware, 3)
        assert await middleware.manager.stop()

    trio.run(main)
    assert seen == [1, 2, 3]
    assert middleware.manager.heartbeat._trio == {}


def test_a_socket_under_trio_is_closed_when_its_session_is_revoked() -> None:
    middleware = SessionMiddleware(page(put(n=1)), KEY, check_interval=0.01)
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        id_ = scope["session"].id
        await send({"type": "websocket.accept"})
        await middleware.manager.delete_session(id_)
        await receive()

    async def main() -> None:
        client = await client_gets(middleware, 1)
        middleware.app = app
        closed = trio.Event()
        inbox = [{"type": "websocket.connect"}]

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            await closed.wait()
            return {"type": "websocket.disconnect", "code": 1008}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "websocket.close":
                closed.set()

        with trio.fail_after(10):
            await middleware(client.scope(kind="websocket"), receive, send)

    trio.run(main)
    assert [message.get("code") for message in sent] == [None, 1008]


def test_sqlite_is_refused_under_trio(tmp_path: Path) -> None:
    middleware = SessionMiddleware(page(put(n=1)), KEY, backend=SQLiteBackend(tmp_path / "s.db"))
    with pytest.raises(ConfigurationError, match="trio"):
        trio.run(client_gets, middleware, 1)
