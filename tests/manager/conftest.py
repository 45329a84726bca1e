"""The manager under each driver, for every file here."""

from tests.test_manager import driven  # noqa: F401  (the fixture)
