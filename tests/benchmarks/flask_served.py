"""The app that gunicorn serves: its kind, its folder and its Redis come from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from tests.benchmarks.flask_apps import Site, made

site = Site(Path(os.environ["BENCH_FOLDER"]), os.environ["BENCH_REDIS"] or None)
app, _ = made(os.environ["BENCH_APP"], site)
