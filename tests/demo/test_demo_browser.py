"""The demo in two real browsers, over a real server that is stopped, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.browser import DEADLINE, Browser, chromium_with, until

ROOT = Path(__file__).parents[2]


class Server:
    """`python -m examples.demo` with a data folder of its own; on the same port again after a stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = "0"  # any that is free
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PORT": self.port, "DEMO_DATA": str(self.folder)}
        command = [sys.executable, "-m", "examples.demo"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        self.address = next(word for word in told.split() if word.startswith("http://"))
        self.port = self.address.rpartition(":")[2]

    def stop(self, how: Callable[[subprocess.Popen[str]], None] = subprocess.Popen.terminate) -> int:
        how(self.process)
        status = self.process.wait(timeout=DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "data")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> Iterator[Browser]:
    with chromium_with(tmp_path / "here", chromium) as opened:
        yield opened


@pytest.fixture
def second_browser(chromium: str, tmp_path: Path) -> Iterator[Browser]:
    with chromium_with(tmp_path / "there", chromium) as opened:
        yield opened


def sign_in(browser: Browser, server: Server, user: str) -> None:
    """Who is signed in already stays so: nothing would show when another sign-in has been answered."""
    button = f"#sign-in-{user.lower()}"
    browser.open(server.address).wait_for(f"document.querySelector('{button}') !== null")
    if browser.text("#you-title") != f"Signed in as {user}":
        browser.click(button)
    wait_for_person(browser, f"Signed in as {user}")
    wait_for_connection(browser, "live")


def wait_for_person(browser: Browser, shown: str) -> None:
    until(lambda: browser.text("#you-title") == shown, shown)


def wait_for_connection(browser: Browser, is_: str) -> None:
    browser.wait_for(f"document.querySelector('#connection')?.dataset.is === '{is_}'")


def wait_for_event(browser: Browser, name: str, text: str) -> None:
    lines = f"[...document.querySelectorAll('#events [data-name={name}]')]"
    browser.wait_for(f"{lines}.some(line => line.innerText.includes('{text}'))")


def race_a_sign_out(browser: Browser, server: Server, first: str = "null") -> str:
    """How the race ends when the sign-out was in time; on a machine that is too busy, another one is run.

    *first* is evaluated in the page before it begins.
    """
    outcome = "alive"
    while outcome == "alive":
        sign_in(browser, server, "Ada")
        browser.evaluate(first)
        browser.click("#slow")
        browser.evaluate("document.querySelector('#race-sign-out').click()")
        result = "document.querySelector('#race-result').dataset.outcome"
        outcome = browser.wait_for(f"{result} !== 'running' && {result}")
    return outcome


def test_two_profiles_a_sign_out_from_afar_a_race_and_restarts(
    server: Server, browser: Browser, second_browser: Browser
) -> None:
    sign_in(browser, server, "Ada")
    sign_in(second_browser, server, "Ada")

    # The page of the first browser hears of the second one, and signs it out.
    until(lambda: browser.text("#devices-count") == "2")
    browser.click("[data-device=other] button")
    wait_for_person(second_browser, "Nobody is signed in")
    wait_for_event(second_browser, "session_deleted", "revoked")
    assert "revoked" in second_browser.text("#you-hint")
    until(lambda: browser.text("#devices-count") == "1")

    # A slow request does not bring back the session that was signed out meanwhile.
    assert race_a_sign_out(browser, server) == "dead"
    wait_for_event(browser, "session_data_save_failed", "gone")
    wait_for_person(browser, "Nobody is signed in")

    # Everyone stays signed in over a restart, also after a kill, and the pages find back by themselves.
    sign_in(browser, server, "Grace")
    sign_in(second_browser, server, "Linus")
    browser.click("#visit-20")
    until(lambda: browser.text("#visits") == "20")
    browser.click("#more-tea")
    until(lambda: browser.text("#quantity-tea") == "1")
    for how in (subprocess.Popen.terminate, subprocess.Popen.kill):
        server.stop(how)
        for page in (browser, second_browser):
            wait_for_connection(page, "away")
        server.start()
        for page, person in ((browser, "Grace"), (second_browser, "Linus")):
            wait_for_connection(page, "live")
            page.wait_for("document.querySelector('#restart').dataset.outcome === 'survived'")
            wait_for_person(page, f"Signed in as {person}")
    assert (browser.text("#visits"), browser.text("#quantity-tea")) == ("20", "1")


def test_a_session_that_came_back_would_be_noticed(server: Server, browser: Browser) -> None:
    signs_in_again = """
        const real = window.fetch;
        window.fetch = async (path, options) => {
            const answer = await real(path, options);
            if (path === "/slow") await real("/sign-in/ada", options);
            return answer;
        };
        null
    """
    assert race_a_sign_out(browser, server, signs_in_again) == "risen"


def test_the_page_has_no_errors_fits_a_phone_and_names_every_button(server: Server, browser: Browser) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True
    )
    sign_in(browser, server, "Ada")
    assert browser.evaluate("document.documentElement.scrollWidth <= 390")
    assert browser.evaluate("[...document.querySelectorAll('button')].every(one => one.innerText.trim())")
    assert browser.evaluate("document.querySelector('#problem').hidden")


def test_a_page_whose_server_is_away_says_so(server: Server, browser: Browser) -> None:
    sign_in(browser, server, "Ada")
    server.stop()
    wait_for_connection(browser, "away")
    browser.click("#visit")
    until(lambda: "does not answer" in browser.text("#problem"))
    server.start()
    wait_for_connection(browser, "live")
    browser.wait_for("document.querySelector('#problem').hidden")


def test_ctrl_c_stops_the_server_although_streams_are_open(server: Server, browser: Browser) -> None:
    sign_in(browser, server, "Ada")
    assert server.stop(lambda process: process.send_signal(signal.SIGINT)) == 0


def test_a_port_that_is_taken_is_named(server: Server) -> None:
    environment = {**os.environ, "PORT": server.port, "DEMO_DATA": str(server.folder)}
    command = [sys.executable, "-m", "examples.demo"]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert f"Port {server.port} cannot be had" in told.stderr
    assert "Traceback" not in told.stderr
