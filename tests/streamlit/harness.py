"""A real Streamlit server, and browsers without a window: a cookie jar, and WebSockets that ask for runs.

The script of the server runs whatever the address of the page says (`?code=...`), so one server serves all
tests. A run takes some hundredths of a second.

Reading order: `Server`, `Browser` (one profile), `Tab` (one open page), `Run` (what one run showed).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import coverage
import httpx
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0  # seconds
KEY = "a key of more than thirty-two bytes, for tests"
APP = f"""
import streamlit as st
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route
from session_middleware import SessionManager, SessionMiddleware
from session_middleware.streamlit import session_of

async def sign_in(request):
    session_of(request).login(request.path_params["user"])
    return Response()

async def sign_out(request):
    session_of(request).logout()
    return Response()

manager = SessionManager("sqlite:///sessions.db", secret_key={KEY!r}, check_interval=0.1)
events = []
manager.subscribe(None, lambda event: events.append((event.name, dict(event.fields))))
app = st.App(
    "script.py",
    middleware=[Middleware(SessionMiddleware, manager=manager, eager=True)],
    routes=[
        Route("/sign-in/{{user}}", sign_in, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ],
)
"""
SCRIPT = """
import json
import streamlit as st
from session_middleware.streamlit import *

def show(value):
    st.text(json.dumps(value))

exec(st.query_params.get("code", ""))
"""


class Server:
    """uvicorn over an `app.py` in a folder; on the same port again after it was stopped."""

    def __init__(self, folder: Path, app: str = APP, script: str = SCRIPT, **environment: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "app.py").write_text(app)
        (folder / "script.py").write_text(script)
        settings = folder / ".streamlit"
        settings.mkdir(exist_ok=True)
        (settings / "config.toml").write_text("[browser]\ngatherUsageStats = false\n")
        self.environment = environment
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "http://{}:{}".format(*self.listener.getsockname())
        self.log = folder / "log.txt"
        self.start()

    def start(self) -> None:
        command = [*_python(), "-m", "uvicorn", "app:app", f"--fd={self.listener.fileno()}"]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": paths, **self.environment},
                pass_fds=[self.listener.fileno()],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        answer = httpx.get(f"{self.address}/_stcore/health", timeout=DEADLINE, trust_env=False)
        assert answer.status_code == 200, self.log.read_text()

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)

    def restart(self, how: int = signal.SIGTERM) -> None:
        self.stop(how)
        self.start()

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGINT)  # in order, so that coverage is written too
        self.listener.close()


def _python() -> list[str]:
    """The interpreter; where coverage is measured, that of the server is, too."""
    measured = coverage.Coverage.current()
    if measured is None:
        return [sys.executable]
    data = Path(str(measured.config.data_file)).absolute()
    rest = ["run", "--parallel-mode", f"--rcfile={ROOT / 'pyproject.toml'}", f"--data-file={data}"]
    return [sys.executable, "-m", "coverage", *rest]


@contextmanager
def served(folder: Path, app: str = APP, script: str = SCRIPT, **environment: str) -> Iterator[Server]:
    with closing(Server(folder, app, script, **environment)) as server:
        yield server


class Browser:
    """One profile of a browser: the cookies of all its tabs."""

    def __init__(self, server: Server, path: str = "/") -> None:
        self.server = server
        self.path = path
        self.http = httpx.Client(timeout=DEADLINE, trust_env=False, base_url=server.address)
        self.tabs: list[Tab] = []
        self.sockets = ExitStack()

    def load(self) -> httpx.Response:
        return self.http.get(self.path, headers={"accept": "text/html"})

    def open(self) -> Tab:
        """A new tab: the page, then its WebSocket."""
        self.load()
        return Tab(self)

    @property
    def cookie(self) -> str:
        """As the browser sends it."""
        return "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())

    def close(self) -> None:
        self.sockets.close()
        self.http.close()


class Tab:
    """One open page."""

    def __init__(self, browser: Browser, *, headers: dict[str, str] | None = None) -> None:
        self.browser = browser
        self.id = ""
        self.code = ""
        self.widgets: dict[str, str] = {}  # ids by label
        self.typed: dict[str, str] = {}
        browser.tabs.append(self)
        self.connect(headers or {})

    def connect(self, headers: dict[str, str] | None = None) -> Self:
        """A WebSocket; after the first it goes on with the same session of Streamlit's, as a page does."""
        address = self.browser.server.address.replace("http", "ws") + self.browser.path
        cookie = {"Cookie": self.browser.cookie} if self.browser.cookie else {}
        opened = connect(
            f"{address.rstrip('/')}/_stcore/stream",
            additional_headers={**cookie, **(headers or {})},
            subprotocols=["streamlit", "no-token", *([self.id] if self.id else [])],  # type: ignore[list-item]  # plain text
            max_size=None,
            proxy=None,
        )
        self.socket: ClientConnection = self.browser.sockets.enter_context(opened)
        return self

    def run(self, code: str | None = None, *, press: str | None = None, **typed: Any) -> Run:
        """Run the script, as after a key was pressed. *typed*: by label, on top of what was typed before."""
        self.ask(code, press=press, **typed)
        return self.answer()

    def ask(self, code: str | None = None, *, press: str | None = None, **typed: Any) -> None:
        self.code = self.code if code is None else textwrap.dedent(code)
        message = BackMsg()
        state = message.rerun_script
        state.query_string = urlencode({"code": self.code})
        self.typed |= typed
        for label, value in self.typed.items():
            if label in self.widgets:
                state.widget_states.widgets.add(id=self.widgets[label], string_value=value)
        if press is not None:
            state.widget_states.widgets.add(id=self.widgets[press], trigger_value=True)
        self.socket.send(message.SerializeToString())

    def answer(self) -> Run:
        run = Run()
        while not run.is_over:
            message = ForwardMsg()
            message.ParseFromString(bytes(self.socket.recv(timeout=DEADLINE)))
            run.take(message)
        self.id = run.session_id or self.id
        self.widgets |= run.widgets
        assert not run.exceptions, run.exceptions
        return run

    def value(self, expression: str) -> Any:
        """What *expression* is in the script."""
        return self.run(f"show({expression})").values[-1]

    def closed_with(self) -> int | None:
        """The code with which the server closed the WebSocket; waits for it."""
        with suppress(ConnectionClosed):
            while True:
                self.socket.recv(timeout=DEADLINE)
        return self.socket.close_code


class Run:
    """What one run of the script showed."""

    def __init__(self) -> None:
        self.is_over = False
        self.session_id = ""
        self.texts: list[str] = []
        self.warnings: list[str] = []
        self.exceptions: list[str] = []
        self.widgets: dict[str, str] = {}  # by label
        self.shown: dict[str, str] = {}  # what each text input is filled with, by label

    @property
    def values(self) -> list[Any]:
        """What the script handed to `show`."""
        return [json.loads(text) for text in self.texts]

    def take(self, message: ForwardMsg) -> None:
        match message.WhichOneof("type"):
            case "new_session":
                self.__init__()  # type: ignore[misc]  # a rerun within the run shows all anew
                self.session_id = message.new_session.initialize.session_id
            case "delta" if message.delta.WhichOneof("type") == "new_element":
                self._take_element(message.delta.new_element)
            case "script_finished":
                self.is_over = message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY

    def _take_element(self, element: Any) -> None:
        match element.WhichOneof("type"):
            case "text":
                self.texts.append(element.text.body)
            case "alert":
                self.warnings.append(element.alert.body)
            case "exception":
                self.exceptions.append(f"{element.exception.type}: {element.exception.message}")
            case "text_input":
                box = element.text_input
                self.widgets[box.label] = box.id
                self.shown[box.label] = box.value if box.set_value else box.default
            case "button":
                self.widgets[element.button.label] = element.button.id
