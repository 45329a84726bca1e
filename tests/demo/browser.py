"""A headless Chromium with a profile of its own, driven over its DevTools protocol.

`Browser.wait_for` looks into the page again and again until an expression holds, or a deadline has passed.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

DEADLINE = 60.0  # seconds; a busy machine takes its time to load a page
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@contextmanager
def chromium_with(profile: Path, chromium: str) -> Iterator[Browser]:
    """The one page of a new Chromium over this folder, which is made where it is missing."""
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = until(lambda: _page_address(process, profile / "DevToolsActivePort"))
            with connect(address, max_size=None, proxy=None) as page:
                yield Browser(page)
        finally:
            _stop(process)


class Browser:
    def __init__(self, page: ClientConnection) -> None:
        self._page = page
        self._numbers = count(1)

    def open(self, address: str) -> Self:
        self.call("Page.navigate", url=address)
        return self

    def click(self, selector: str) -> None:
        """Press what is there, as soon as it can be pressed."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} && !{found}.disabled")
        self.evaluate(f"{found}.click()")

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_for(self, expression: str) -> Any:
        """What *expression* is in the page, once that counts as true."""
        return until(lambda: self.evaluate(expression), expression)

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """One command of the protocol; events that come in between are passed over."""
        number = next(self._numbers)
        self._page.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._page.recv(timeout=DEADLINE))).get("id") != number:
            pass
        assert "error" not in answer, answer["error"]
        return dict(answer["result"])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()


def _page_address(process: subprocess.Popen[bytes], told: Path) -> str | None:
    assert process.poll() is None, "Chromium has ended"
    if not told.exists() or not (lines := told.read_text().split()):
        return None
    with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=DEADLINE) as answer:
        pages = [one for one in json.load(answer) if one["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"]) if pages else None


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """What *condition* answers, once that counts as true. Fails when the deadline has passed."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"never came to hold: {what or condition}"
        time.sleep(0.02)
    return answer
