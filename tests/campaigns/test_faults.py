"""A slice of the histories with faults on. All of them: `python -m tests.campaigns.faults`."""

import asyncio

import pytest

from tests.campaigns.faults import Figures, behind, histories
from tests.servers.postgres import PostgresServer


@pytest.fixture(params=["redis", "postgres"])
def store(request: pytest.FixtureRequest) -> tuple[str, int]:
    server = request.getfixturevalue(request.param)
    return server.new_store(), server.port


def recorded(store: tuple[str, int], count: int, *, control: bool = False) -> Figures:
    async def main() -> Figures:
        async with behind(*store, control=control) as (port, between):
            return await histories(port, between, range(1, 1 + count), until_bad=control)

    return asyncio.run(main())


def test_over_a_network_that_loses_answers_histories_are_linearizable(store: tuple[str, int]) -> None:
    figures = recorded(store, 2)
    assert figures.bad == []
    assert figures.faults > 5


def test_a_commit_that_is_sent_again_is_caught(postgres: PostgresServer) -> None:
    """(On Redis it takes longer: the campaign.)"""
    assert recorded((postgres.new_store(), postgres.port), 60, control=True).bad
