"""Fixtures of the ASGI tests: a moved clock, both backends, and sites that are closed at the end."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from session_middleware.backends.base import Backend
from session_middleware.testing.clock import ManualClock
from tests.asgi.harness import App, FaultyBackend, FaultyPort, Site, page
from tests.test_manager import backend_named

MakeSite = Callable[..., Site]
NOTHING = page()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    made: Backend = backend_named(request.param, request, tmp_path)
    return made


@pytest.fixture
async def make_site(anyio_backend: str, backend: Backend, clock: ManualClock) -> AsyncIterator[MakeSite]:
    """Makes a `Site` over the backend; each is closed after the test."""
    made: list[Site] = []

    def make(app: App = NOTHING, backend: Backend = backend, **options: Any) -> Site:
        made.append(Site(app, backend, clock, **options))
        return made[-1]

    yield make
    for site in made:
        await site.manager.finisher.drain()
        await site.manager.performer.port.close()
        if site.manager.uses_blocking_port:
            await site.manager.blocking_performer.port.close()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site()


@pytest.fixture
def faulty(backend: Backend) -> FaultyBackend:
    return FaultyBackend(backend)


@pytest.fixture
def faults(faulty: FaultyBackend) -> FaultyPort:
    return faulty.faults


@pytest.fixture
def faulty_site(make_site: MakeSite, faulty: FaultyBackend) -> Site:
    """A site whose backend obeys `faults`."""
    return make_site(backend=faulty)
