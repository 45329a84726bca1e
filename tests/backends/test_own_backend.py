"""The backend that the docs build keeps the contract, and is as short as they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from examples.own_backend import FolderBackend
from session_middleware import ConfigurationError, SessionManager
from session_middleware.testing import BackendContract

ROOT = Path(__file__).parents[2]


class TestFolderBackend(BackendContract):
    colours = ("blocking",)

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], FolderBackend]:
        return lambda: FolderBackend(tmp_path)


def test_it_is_as_short_as_the_docs_say() -> None:
    assert len((ROOT / "examples/own_backend.py").read_text().splitlines()) < 150


def test_what_it_cannot_do_is_said_by_name(tmp_path: Path) -> None:
    sessions = SessionManager(FolderBackend(tmp_path), log=False).blocking
    with pytest.raises(ConfigurationError, match="folder://"):
        sessions.get_user_sessions("ada")
    with pytest.raises(ConfigurationError, match="max_sessions"):
        SessionManager(FolderBackend(tmp_path), max_sessions=5)
