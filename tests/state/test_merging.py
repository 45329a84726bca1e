"""Parallel requests that touch different parts of the working state lose nothing of each other's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from session_middleware import MemoryBackend, SessionManager, SQLiteBackend
from session_middleware.state import UserSession

Act = Callable[[UserSession], object]
ACTS: dict[str, Act] = {
    "one form": lambda state: state.update_form_data("one", "name", "Grace"),
    "another form": lambda state: state.update_form_data("two", "name", "Ada"),
    "navigation": lambda state: state.navigate_to("page"),
    "cache": lambda state: state.add_cache_key("key", ["dependency"]),
    "role": lambda state: state.add_role("editor"),
    "context": lambda state: state.switch_context("platform", "web"),
}


def shown(state: UserSession) -> dict[str, Any]:
    return {
        "one form": dict(state.get_form_state("one").data),
        "another form": dict(state.get_form_state("two").data),
        "navigation": state.current_page,
        "cache": state.invalidate_cache_keys("dependency"),
        "role": state.has_role("editor"),
        "context": state.contexts.current,
    }


@pytest.fixture(params=["memory", "sqlite"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> SessionManager:
    backend = MemoryBackend() if request.param == "memory" else SQLiteBackend(tmp_path / "s.db")
    return SessionManager(backend, log=False)


@pytest.mark.parametrize(("first", "second"), [*permutations(ACTS, 2)])
def test_both_parts_are_there_whichever_request_ends_first(
    manager: SessionManager, first: str, second: str
) -> None:
    sessions = manager.blocking
    session_id = sessions.create_session("u").id
    one, two = sessions.get_session(session_id), sessions.get_session(session_id)
    ACTS[second](UserSession(two))
    ACTS[first](UserSession(one))
    sessions.save(one)
    sessions.save(two)
    found = shown(UserSession(sessions.get_session(session_id)))
    alone = UserSession(user_id="u")
    ACTS[first](alone)
    ACTS[second](alone)
    assert found == shown(alone)
    sessions.stop()


def test_the_same_form_goes_to_the_last_one_so_the_test_above_can_fail(manager: SessionManager) -> None:
    sessions = manager.blocking
    session_id = sessions.create_session("u").id
    one, two = sessions.get_session(session_id), sessions.get_session(session_id)
    UserSession(one).update_form_data("form", "name", "Grace")
    UserSession(two).update_form_data("form", "city", "London")
    sessions.save(one)
    sessions.save(two)
    assert UserSession(sessions.get_session(session_id)).get_form_state("form").data == {"city": "London"}
    sessions.stop()
