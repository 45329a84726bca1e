"""A small storm. The whole: `python -m tests.security.storm`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.security import storm

SEED = 7
USERS, VISITS = 40, 4


def figures_of(request: pytest.FixtureRequest, where: str, users: int = USERS) -> storm.Figures:
    server = request.getfixturevalue(where)
    return storm.run(server.new_store(), server.port, SEED, users, VISITS)


@pytest.mark.parametrize("where", ["redis", "postgres"])
def test_in_a_storm_of_cancelled_requests_nobody_meets_anothers_session(
    where: str, request: pytest.FixtureRequest
) -> None:
    figures = figures_of(request, where)
    assert not figures.is_bad, figures
    assert figures.cancelled > USERS
    assert figures.answered > USERS


def test_a_connection_taken_back_with_its_answer_unread_is_found(request: pytest.FixtureRequest) -> None:
    with storm.careless_pool():
        figures = figures_of(request, "redis", users=10)
    assert figures.is_bad


def test_an_app_that_mixes_its_visitors_up_is_found(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    async def mixing(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        session.setdefault("name", scope["path"])
        session.increment("visits")
        seen.append(dict(session))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(seen[-1]).encode()})

    monkeypatch.setattr(storm, "app", mixing)
    assert figures_of(request, "redis").crossed > 0
