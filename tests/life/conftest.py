"""Every test here runs six times: over memory and SQLite, in an event loop, without one, and over WSGI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from session_middleware.backends.base import Backend
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.sqlite import SQLiteBackend
from tests.life.harness import Browser, Driver, Site


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return MemoryBackend() if request.param == "memory" else SQLiteBackend(tmp_path / "sessions.db")


@pytest.fixture(params=["async", "blocking", "wsgi"])
def driver(request: pytest.FixtureRequest) -> Driver:
    name: Driver = request.param
    return name


@pytest.fixture
def make_site(backend: Backend, driver: Driver) -> Iterator[Callable[..., Site]]:
    """`make_site(**options)`: a site with these options of `SessionManager`."""
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(backend, driver, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def browser(site: Site) -> Browser:
    """A visitor without a cookie."""
    return site.browser()
