"""Every test here runs four times: over memory and SQLite, with an event loop and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from session_middleware.backends.base import Backend, Colour
from session_middleware.backends.memory import MemoryBackend
from session_middleware.backends.sqlite import SQLiteBackend
from tests.life.harness import Browser, Site


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return MemoryBackend() if request.param == "memory" else SQLiteBackend(tmp_path / "sessions.db")


@pytest.fixture(params=["async", "blocking"])
def colour(request: pytest.FixtureRequest) -> Colour:
    name: Colour = request.param
    return name


@pytest.fixture
def make_site(backend: Backend, colour: Colour) -> Iterator[Callable[..., Site]]:
    """`make_site(**options)`: a site with these options of `SessionManager`."""
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(backend, colour, **options))
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
