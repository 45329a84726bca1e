"""The example in two real browsers, over a server that is stopped and started again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.demo.browser import Browser, chromium_with
from tests.streamlit.harness import Server, served

APP = "from examples.streamlit_app import app\n"


class Page:
    """The example as somebody at a browser sees and uses it."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.browser = browser
        self.server = server

    def load(self) -> None:
        self.browser.open(self.server.address)
        self.browser.wait_for("document.readyState === 'complete'")
        try:
            self.sees("Contact")
        except AssertionError as problem:
            shown = self.browser.evaluate("document.body?.innerText")
            raise AssertionError(f"{problem}; shown: {shown!r}; log: {self.server.log.read_text()}") from None

    def is_connected(self) -> None:
        """Streamlit says so of its own WebSocket."""
        self.browser.wait_for("document.querySelector('[data-test-connection-state=CONNECTED]') !== null")

    def sees(self, text: str) -> None:
        self.browser.wait_for(f"document.body?.innerText.includes({json.dumps(text)})")

    def has(self, label: str, value: str) -> None:
        self.browser.wait_for(f"{_input(label)}?.value === {json.dumps(value)}")

    def type(self, label: str, text: str) -> None:
        """Into a field, as fingers do, and Enter."""
        self.browser.wait_for(f"{_input(label)} !== null")
        self.browser.evaluate(f"{_input(label)}.focus()")
        self.browser.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.browser.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r"
            )

    def press(self, button: str) -> None:
        found = (
            f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {json.dumps(button)})"
        )
        self.browser.wait_for(f"({found})?.disabled === false")
        self.browser.evaluate(f"({found}).click()")

    def cookie(self) -> str:
        cookies = self.browser.call("Network.getCookies", urls=[self.server.address])["cookies"]
        return next(str(one["value"]) for one in cookies if one["name"] == "session")

    def set_cookie(self, value: str) -> None:
        self.browser.call("Network.setCookie", name="session", value=value, url=self.server.address)


def _input(label: str) -> str:
    return f"document.querySelector('input[aria-label={label}]')"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path / "app", APP, "", SESSION_BACKEND="sqlite:///sessions.db") as running:
        yield running


@pytest.fixture
def pages(server: Server, chromium: str, tmp_path: Path) -> Iterator[list[Page]]:
    """Of two profiles."""
    with ExitStack() as stack:
        browsers = [stack.enter_context(chromium_with(tmp_path / name, chromium)) for name in ("one", "two")]
        yield [Page(browser, server) for browser in browsers]


def test_work_outlives_a_reload_a_restart_and_a_sign_in_and_is_nobody_elses(
    server: Server, pages: list[Page]
) -> None:
    mine, other = pages
    mine.load()
    mine.type("Name", "Grace Hopper")
    mine.sees("Not saved yet: Name")
    mine.load()  # long before the debounce of two seconds
    mine.has("Name", "Grace Hopper")

    server.restart()  # the page stays open, and its WebSocket reconnects
    mine.is_connected()
    mine.type("City", "Arlington")
    mine.sees("Not saved yet: Name, City")
    mine.load()
    mine.has("Name", "Grace Hopper")
    mine.has("City", "Arlington")

    mine.press("Undo")
    mine.has("City", "")
    mine.press("Redo")
    mine.has("City", "Arlington")
    mine.press("Save")
    mine.sees("Saved: Name, City")

    mine.press("Sign in as Ada")
    mine.sees("Sign out ada")
    mine.has("City", "Arlington")
    mine.press("Editors")
    mine.sees("Welcome to the editors' page, ada.")
    mine.press("Back")
    mine.has("Name", "Grace Hopper")

    other.load()
    other.has("Name", "")
    other.sees("Sign in as Ada")
    other.set_cookie(f"{mine.cookie()[:-4]}AAAA")
    other.load()
    other.has("Name", "")
    other.set_cookie(mine.cookie())  # control: with the true cookie it would be there
    other.load()
    other.has("Name", "Grace Hopper")

    mine.press("Sign out ada")
    mine.sees("Sign in as Ada")
    mine.has("Name", "")
