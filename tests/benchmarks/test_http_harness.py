"""The benchmark under uvicorn: what it refuses to count. Nothing here depends on speed."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("starsessions", reason="a peer of the benchmarks: pip install -e '.[dev]'")
pytest.importorskip("httptools", reason="uvicorn parses with it: pip install -e '.[dev]'")
pytest.importorskip("uvloop", reason="uvicorn runs on it: pip install -e '.[dev]'")
if shutil.which("wrk") is None:
    pytest.skip("there is no wrk: apt-get install wrk", allow_module_level=True)

from tests.benchmarks.apps import BARE, CASES, OURS, STARLETTE
from tests.benchmarks.checks import ClaimError, check
from tests.benchmarks.remote import Remote
from tests.benchmarks.traffic import Browser
from tests.benchmarks.under_gunicorn import Shares, Spell
from tests.benchmarks.under_uvicorn import HttpFigures, as_json, as_markdown, loaded, served


def test_an_app_under_uvicorn_does_what_it_claims_and_is_loaded() -> None:
    with served(OURS, frozenset({"new"})) as remote:
        asyncio.run(check(remote.candidate()))
        assert loaded(remote, "none", Browser(), 1) > 0


def test_an_app_that_answers_with_errors_stops_the_run() -> None:
    class Broken(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(ClaimError, match="Non-2xx"):
                loaded(Remote("broken", server.server_address[1], frozenset()), "none", Browser(), 1)
        finally:
            server.shutdown()


def test_an_app_that_is_not_there_stops_the_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ClaimError, match="gone"):
        loaded(Remote("gone", port, frozenset()), "none", Browser(), 1)


def test_the_table_says_which_goals_were_reached() -> None:
    shares = Shares()
    for case in CASES:
        for app, per_second in ((BARE, 100.0), (STARLETTE, 50.0), (OURS, 79.0)):
            shares.add(app, case, per_second)
    figures = HttpFigures("2026-01-01", Spell(1, 1.0), shares)
    text = as_markdown(figures)
    assert "| read | 0.79 | ≥ 0.80 | not reached |" in text
    assert "| write | 0.79 | ≥ 0.75 | reached |" in text
    assert as_json(figures)["shares"][OURS]["read"] == 0.79  # type: ignore[index]
