"""What the page on logs shows: each set-up in a process of its own, each command over a log."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.monitoring.day import Truth, day, line_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/logs.md").read_text()
WIRINGS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
SESSION = "hF3mZl0a6y5pXr2Bq9TcDw"
USE = """
from session_middleware import SessionManager
SessionManager().blocking.create_session("ada")
"""


@pytest.mark.parametrize("wiring", WIRINGS, ids=range(len(WIRINGS)))
def test_each_set_up_writes_events_as_json_lines(wiring: str) -> None:
    command = [sys.executable, "-c", wiring + USE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["session_created", "session_user_bound"]
    assert {line["user_id"] for line in lines} == {"ada"}
    assert {line["level"] for line in lines} == {"info"}
    assert all("timestamp" in line for line in lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("logs")
    told = "\n".join(line_of(event) for event in day(9, 3, Truth()))
    (made / "app.log").write_text(told.replace("s000003", SESSION).replace("u000003", "ada") + "\n")
    return made


@pytest.mark.parametrize("command", [one for one in COMMANDS if "--follow" not in one])
def test_each_command_finds_something(
    command: str, folder: Path, unavailable: Callable[[str], NoReturn]
) -> None:
    if command.startswith("jq") and shutil.which("jq") is None:
        unavailable("no jq: `make tools` installs it where it may")
    line = command.replace("session-middleware", f"{sys.executable} -m session_middleware", 1)
    told = subprocess.run(
        ["/bin/sh", "-ec", line.replace("--since 2h", "--since 2025-10-09")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stderr == ""
    assert told.stdout.strip() or "--html" in command
