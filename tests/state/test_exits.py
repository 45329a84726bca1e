"""What survives the end of a real process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from session_middleware import SessionManager

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys, time
from session_middleware import SessionManager
from session_middleware.state import BlockingPersistenceEngine
manager = SessionManager("sqlite:///s.db", log=False)
engine = BlockingPersistenceEngine(manager, debounce_delay=600)
session = manager.blocking.get_session(manager.blocking.create_session("u").id)
session["sure"] = 1
engine.persist(session, immediate=True)
session["waits"] = 1
engine.persist(session)
how = sys.argv[1]
if how == "exception": raise ValueError("x")
if how in {"SIGTERM", "SIGKILL"}: os.kill(os.getpid(), getattr(signal, how)); time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "status", "kept"),
    [
        ("exit", 0, {"sure": 1, "waits": 1}),
        ("exception", 1, {"sure": 1, "waits": 1}),
        ("SIGTERM", -signal.SIGTERM, {"sure": 1, "waits": 1}),
        ("SIGKILL", -signal.SIGKILL, {"sure": 1}),
    ],
)
def test_what_a_process_leaves(tmp_path: Path, how: str, status: int, kept: dict[str, int]) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == status
    with SessionManager(f"sqlite:///{tmp_path}/s.db", log=False).blocking as sessions:
        assert dict(sessions.get_session_by_user("u")) == kept


ASYNC = """
import asyncio, os, signal, sys
from session_middleware import SessionManager
from session_middleware.state import PersistenceEngine
async def main(how):
    manager = SessionManager("sqlite:///s.db", log=False)
    engine = PersistenceEngine(manager, debounce_delay=600)
    session = await manager.get_session((await manager.create_session("u")).id)
    session["waits"] = 1
    await engine.persist(session)
    if how == "exception": raise ValueError("x")
    if how == "cancelled": asyncio.current_task().cancel()
    if how == "SIGTERM": os.kill(os.getpid(), signal.SIGTERM)
    if how == "crash": os._exit(3)
    await asyncio.sleep(0.01)
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("how", "status", "kept"),
    [
        ("exit", 0, {"waits": 1}),
        ("exception", 1, {"waits": 1}),
        ("cancelled", 1, {"waits": 1}),
        ("SIGTERM", -signal.SIGTERM, {"waits": 1}),
        ("crash", 3, {}),  # the control: nothing ran that could have written it
    ],
)
def test_what_an_event_loop_leaves(tmp_path: Path, how: str, status: int, kept: dict[str, int]) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", ASYNC, how],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == status, run.stderr
    with SessionManager(f"sqlite:///{tmp_path}/s.db", log=False).blocking as sessions:
        assert dict(sessions.get_session_by_user("u")) == kept
