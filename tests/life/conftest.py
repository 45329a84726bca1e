"""Every test here runs nine times: over each backend, in an event loop, without one, and over WSGI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from session_middleware.backends.base import Backend
from session_middleware.blocking import run_blocking
from tests.life.harness import Browser, Driver, Site
from tests.test_manager import backend_named


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend = backend_named(request.param, request, tmp_path)
    yield made
    run_blocking(made.port("blocking").close())  # a test may have looked into it


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
