from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.streamlit.harness import Browser, Server, served


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For all tests that stop nothing."""
    with served(tmp_path_factory.mktemp("streamlit")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """To be stopped and killed."""
    with served(tmp_path / "app") as running:
        yield running


@pytest.fixture
def new_browser() -> Iterator[Callable[[Server], Browser]]:
    made: list[Browser] = []

    def make(server: Server) -> Browser:
        made.append(Browser(server))
        return made[-1]

    yield make
    for browser in made:
        browser.close()


@pytest.fixture
def browser(server: Server, new_browser: Callable[[Server], Browser]) -> Browser:
    return new_browser(server)
