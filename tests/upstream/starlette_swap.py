"""A pytest plugin: Starlette's session tests meet another `SessionMiddleware` and `Session`.

Loaded with `-p starlette_swap` before anything is collected; `SWAP_IN` names the module that has the two
classes. It stands alone: inside that run the name `tests` belongs to Starlette's own tests.
"""

import importlib
import os

import pytest
import starlette.middleware.sessions as theirs

swapped_in = importlib.import_module(os.environ["SWAP_IN"])
theirs.SessionMiddleware = swapped_in.SessionMiddleware  # type: ignore[misc]
theirs.Session = swapped_in.Session  # type: ignore[misc]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A swap that came too late would compare Starlette with itself: refuse to run."""
    for item in items:
        module = item.getparent(pytest.Module)
        if module is None or module.obj.SessionMiddleware is not swapped_in.SessionMiddleware:
            raise pytest.UsageError(f"{item.nodeid} still has Starlette's SessionMiddleware")
