"""The figures of starting: what is counted as ours. Nothing here depends on speed."""

from __future__ import annotations

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")

from tests.benchmarks.startup import Imported, Startup, as_json, as_markdown, imported


def test_our_own_modules_are_told_from_those_they_import() -> None:
    alone = imported("import session_middleware.cookies")
    assert 0 < alone.ours < alone.whole
    assert imported("import colorsys").ours == 0


def test_a_command_that_takes_too_long_is_said_so() -> None:
    found = Startup(
        "2026-01-01", {"ASGI": Imported(1.0, 2.0)}, [1.0] * 5, {"--version": 151.0, "--help": 149.0}
    )
    text = as_markdown(found)
    assert "| `session-middleware --version` | 151 | ≤ 150 | not reached |" in text
    assert "| `session-middleware --help` | 149 | ≤ 150 | reached |" in text
    assert as_json(found)["day"] == "2026-01-01"
