"""The examples: each does the same things, in-process on both backends and once under a real server."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

ROOT = Path(__file__).parents[1]
OTHERS = {"flask_app", "streamlit_app"}  # which are tested beside their own harness
EXAMPLES = sorted({path.stem for path in (ROOT / "examples").glob("*_app.py")} - OTHERS)
LINES = 70  # an example is read in one sitting


@pytest.fixture(params=["memory://", "sqlite:///"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = request.param if request.param == "memory://" else f"sqlite:///{tmp_path}/sessions.db"
    monkeypatch.setenv("SESSION_BACKEND", url)
    return url


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, backend: str) -> ModuleType:
    return loaded(request.param)


@pytest.fixture
def devices(example: ModuleType) -> Iterator[tuple[TestClient, TestClient]]:
    """Two browsers at one running app."""
    with TestClient(example.app, base_url="https://testserver") as phone:
        yield phone, TestClient(example.app, base_url="https://testserver")


Devices = tuple[TestClient, TestClient]


def test_there_is_one_for_each_framework_of_this_release() -> None:
    assert {"asgi_app", "fastapi_app", "starlette_app"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_short(name: str) -> None:
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= LINES


def test_it_counts_visits_for_each_browser(devices: Devices) -> None:
    phone, laptop = devices
    assert [phone.get("/me").json()["visits"] for _ in range(3)] == [1, 2, 3]
    assert laptop.get("/me").json()["visits"] == 1


def test_its_nested_cart_survives_the_next_request(devices: Devices) -> None:
    phone, laptop = devices
    for name in ("tea", "tea", "cake"):
        added = phone.post(f"/cart/{name}").json()
    assert added == {"tea": 2, "cake": 1}
    assert phone.get("/me").json()["cart"] == added
    assert laptop.get("/me").json()["cart"] == {}


def test_login_gives_a_new_cookie_and_keeps_the_cart(devices: Devices) -> None:
    phone, _ = devices
    phone.post("/cart/tea")
    before = phone.cookies["session"]
    assert phone.post("/login/ada").json() == {"user": "ada"}
    assert phone.cookies["session"] != before
    me = phone.get("/me").json()
    assert (me["user"], me["cart"]) == ("ada", {"tea": 1})


def test_logout_ends_the_session_for_good(devices: Devices) -> None:
    phone, laptop = devices
    phone.post("/login/ada")
    stolen = phone.cookies["session"]
    assert phone.post("/logout").json() == {"user": None}
    assert "session" not in phone.cookies
    laptop.cookies.set("session", stolen)
    assert laptop.get("/me").json()["user"] is None


def test_its_devices_are_for_who_is_signed_in(devices: Devices) -> None:
    phone, _ = devices
    assert phone.get("/devices").status_code == 401
    assert phone.delete("/devices").status_code == 401


def test_one_device_signs_the_others_out(devices: Devices) -> None:
    phone, laptop = devices
    phone.post("/login/ada")
    laptop.post("/login/ada")
    assert [one["this"] for one in laptop.get("/devices").json()].count(True) == 1
    assert len(phone.get("/devices").json()) == 2
    assert phone.delete("/devices").json() == {"signed_out": 1}
    assert phone.get("/me").json()["user"] == "ada"
    assert laptop.get("/me").json()["user"] is None


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_keeps_its_visitors_over_a_restart_of_a_real_server(name: str, tmp_path: Path) -> None:
    browser = httpx.Client(timeout=10, trust_env=False)
    with closing(browser):
        with served(name, tmp_path) as address:
            browser.post(f"{address}/login/ada")
            browser.post(f"{address}/cart/tea")
        with served(name, tmp_path) as address:
            me = browser.get(f"{address}/me").json()
    assert (me["user"], me["cart"]) == ("ada", {"tea": 1})


def test_a_server_that_cannot_start_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no_such_example"), served("no_such_example", tmp_path):
        pass


def loaded(name: str) -> Any:
    """The example's module, made anew: its manager is at module level and reads the environment."""
    spec = importlib.util.spec_from_file_location(f"fresh_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(name: str, folder: Path) -> Iterator[str]:
    """The example under uvicorn, on a socket that listens already: no free port to lose to another."""
    listener = socket.create_server(("127.0.0.1", 0))
    with closing(listener):
        process = started(name, folder, listener)
        try:
            address = "http://{}:{}".format(*listener.getsockname())
            wait_for(address, process)
            yield address
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=30)
    assert process.returncode is not None
    assert not re.search(r"Traceback", output), output


def started(name: str, folder: Path, listener: socket.socket) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "uvicorn", f"examples.{name}:app", f"--fd={listener.fileno()}"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "SESSION_BACKEND": f"sqlite:///{folder}/sessions.db"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        pass_fds=[listener.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(address: str, process: subprocess.Popen[str]) -> None:
    """Until the server says that it runs; a server that died says why."""
    line = next((line for line in process.stdout or () if "Uvicorn running" in line or "rror" in line), "")
    assert "Uvicorn running" in line, line + (process.stdout.read() if process.stdout else "")
    httpx.get(f"{address}/me", timeout=30, trust_env=False).raise_for_status()
