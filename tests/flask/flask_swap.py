"""A pytest plugin: Flask's own tests meet another `session_interface`.

Loaded with `-p flask_swap` before anything is collected; `SWAP_IN` names the module that has the class
`SessionInterface`; empty: as Flask ships it. It stands alone: inside that run the name `tests` belongs to
Flask's own tests.
"""

import importlib
import os

import _pytest.monkeypatch
import pytest

# Flask 3.1's conftest uses a private name that pytest 9 spells otherwise.
if not hasattr(_pytest.monkeypatch, "notset"):
    _pytest.monkeypatch.notset = _pytest.monkeypatch.NOTSET

if os.environ["SWAP_IN"]:
    import flask

    swapped_in = importlib.import_module(os.environ["SWAP_IN"]).SessionInterface
    flask.Flask.session_interface = swapped_in()

    def pytest_collection_finish() -> None:
        """A swap that something undid would compare Flask with itself: refuse to run."""
        if type(flask.Flask("swapped").session_interface) is not swapped_in:
            raise pytest.UsageError("Flask has its own session interface still")
