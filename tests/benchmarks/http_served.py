"""The ASGI app that uvicorn serves: its name comes from the environment."""

from __future__ import annotations

import os

from tests.benchmarks.apps import in_memory

app = {candidate.name: candidate.app for candidate in in_memory()}[os.environ["BENCH_APP"]]
