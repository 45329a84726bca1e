"""What every test may ask for: a reason to be left out, a browser, and examples that repeat."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NoReturn

import pytest
from hypothesis import settings

from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.processes import ServerMissing
from tests.servers.redis import RedisServer, named_redis, redis_server

# A run is the same run on every machine; `make campaign` is where chance looks for more.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("campaign", max_examples=20_000, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def unavailable() -> Callable[[str], NoReturn]:
    """Ends a test for want of something this machine lacks: skipped with the reason, failed where CI=true."""

    def leave(reason: str) -> NoReturn:
        if os.environ.get("CI") == "true":
            pytest.fail(f"may not be left out here: {reason}", pytrace=False)
        pytest.skip(reason)

    return leave


@pytest.fixture(scope="session")
def chromium(unavailable: Callable[[str], NoReturn]) -> str:
    """The path of Chromium; its chromedriver is beside it on PATH. `make browser` installs both."""
    path = shutil.which("chromium")
    if path is None or shutil.which("chromedriver") is None:
        unavailable("no Chromium with its chromedriver: `make browser` installs them where it may")
    return path


@pytest.fixture(scope="session")
def postgres(unavailable: Callable[[str], NoReturn]) -> Iterator[PostgresServer]:
    """A real PostgreSQL of this test run, or the one that `TEST_POSTGRES_URL` names."""
    named = PostgresServer.named()
    try:
        with postgres_server() if named is None else nullcontext(named) as running:
            yield running
    except ServerMissing as problem:
        unavailable(str(problem))


@pytest.fixture(scope="session")
def redis(unavailable: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    """A real Redis of this test run, or the one that `TEST_REDIS_URL` names."""
    named = named_redis()
    try:
        with redis_server() if named is None else nullcontext(named) as running:
            yield running
    except ServerMissing as problem:
        unavailable(str(problem))
