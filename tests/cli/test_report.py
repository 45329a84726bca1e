"""`report`: what log files tell of sessions, from whatever they are, and to whoever asks."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from session_middleware.cli.app import cli
from session_middleware.events import SessionEvent
from session_middleware.monitoring import logfiles
from session_middleware.monitoring.logfiles import followed
from tests.demo.browser import chromium_with
from tests.monitoring.day import START, Truth, day, line_of

ROOT = Path(__file__).parents[2]
OTHERS = [
    '{"event": "order placed", "session_id": "s000001"}',
    "Traceback (most recent call last):",
    "",
    "[1]",
]


def report(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments], input=given)


def rows(*arguments: str) -> list[dict[str, Any]]:
    result = report(*arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def figures(*arguments: str) -> dict[str, Any]:
    [row] = rows(*arguments)
    return row


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="module")
def lines(truth: Truth) -> list[str]:
    return [line_of(event) for event in day(30, 5, truth)]


@pytest.fixture
def log(tmp_path: Path, lines: list[str]) -> Path:
    return write(tmp_path / "app.log", [*lines, *OTHERS])


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_middleware.cli.reporting.is_table", lambda *, as_json: not as_json)


def write(path: Path, some: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in some))
    return path


def event(name: str, moment: float, session: str | None, user: str | None = None, **fields: object) -> str:
    return line_of(SessionEvent(name, session, user, moment, fields))


# --- statistics ---


def test_the_figures_are_the_true_ones_and_lines_are_told_apart(
    log: Path, lines: list[str], truth: Truth
) -> None:
    found = figures(str(log))
    assert found["totals"] == truth.totals
    assert found["ended"] == truth.ended
    assert found["distinct_users"] == len(truth.users)
    assert found["health"]["status"] in {"healthy", "warning", "critical"}
    assert found["lines"] == {"read": len(lines) + 3, "other": 1, "broken": 2}
    raised = [one["rule"] for one in found["alert_history"] if one["name"] == "alert_raised"]
    assert raised == ["suspicious_activity", "backend_unavailable", "lost_writes"]


def test_gzip_and_standard_input_and_rotated_files_in_any_order_give_the_same(
    log: Path, lines: list[str], tmp_path: Path
) -> None:
    wanted = figures(str(log))
    packed = tmp_path / "app.log.1"  # told by what is in it, not by its name
    packed.write_bytes(gzip.compress(log.read_bytes()))
    assert figures(str(packed)) == wanted
    piped = report("-", given=log.read_text())
    assert json.loads(piped.stdout) == wanted
    half = len(lines) // 2
    newer = write(tmp_path / "a-newer.log", [*lines[half:], *OTHERS])
    older = write(tmp_path / "b-older.log", lines[:half])
    assert figures(str(newer), str(older)) == wanted


def test_a_time_range_begins_with_since_and_ends_before_until(tmp_path: Path) -> None:
    log = write(
        tmp_path / "a.log", [event("session_created", START + hour * 3600, f"s{hour}") for hour in range(4)]
    )
    chosen = figures(str(log), "--since", "2025-10-10T01:00Z", "--until", "2025-10-10T03:00Z")
    assert chosen["created"] == 2
    assert chosen["lines"]["read"] == 4


def test_on_a_terminal_the_verdict_comes_first_and_the_hours_are_plotted(
    log: Path, on_terminal: None
) -> None:
    shown = report(str(log)).stdout.splitlines()
    assert shown[0].startswith("healthy")
    assert "broken" in shown[1]
    assert any("█" in line for line in shown)
    assert any(line.split() == ["created", "30"] for line in shown)


def test_what_is_wrong_is_said_first_with_what_to_do(tmp_path: Path, on_terminal: None) -> None:
    lost = [event("session_data_save_failed", START + n, "s", reason="gone", keys=["a"]) for n in range(40)]
    result = report(str(write(tmp_path / "a.log", lost)))
    assert result.exit_code == 0  # whatever the health
    assert result.stdout.startswith("critical: lost_writes 8 per minute")
    assert "Look at `lost_writes`" in result.stdout


def test_control_characters_of_a_log_line_do_not_reach_the_terminal(
    tmp_path: Path, on_terminal: None
) -> None:
    odd = event("session_deleted", START, "s", "\x1b[31mred", reason="\x1b]0;title\x07")
    log = str(write(tmp_path / "a.log", [odd]))
    assert "\x1b" not in report(log).stdout
    assert "\x1b" not in report(log, "--session", "s").stdout


def test_an_empty_log_has_nothing_in_it_and_is_no_error(tmp_path: Path, on_terminal: None) -> None:
    log = str(write(tmp_path / "a.log", []))
    assert report(log).exit_code == 0
    assert figures(log, "--json")["created"] == 0


# --- timelines ---


def test_the_timeline_of_a_session_is_in_the_order_of_time_with_names_unchanged(log: Path) -> None:
    found = rows(str(log), "--session", "s000003")
    assert [row["event"] for row in found] == [
        "session_created",
        "session_cycled",
        "session_user_bound",
        *["request_finished"] * 5,
        "session_deleted",
    ]
    assert [row["time"] for row in found] == sorted(row["time"] for row in found)
    assert found[-1]["reason"] == "logout"


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([("session_deleted", {"reason": "logout"})], "session_deleted, logout: its user signed out"),
        ([("session_expired", {"reason": "idle_timeout"})], "idle_timeout: nobody used it"),
        ([("session_evicted", {"reason": "max_sessions_per_user"})], "its user signed in elsewhere"),
        ([("session_deleted", {"reason": "house rules"})], "house rules: the reason is the app's own"),
        (
            [("session_data_retrieval_failed", {"reason": "not_found_or_expired"})],
            "its end is not in this log",
        ),
        ([("session_renewed", {})], "had not ended"),
    ],
)
def test_the_verdict_says_why_a_session_ended(
    events: list[tuple[str, dict[str, Any]]], said: str, tmp_path: Path, on_terminal: None
) -> None:
    told = [
        event("session_created", START, "s"),
        *(event(name, START + 9, "s", **facts) for name, facts in events),
    ]
    shown = report(str(write(tmp_path / "a.log", told)), "--session", "s").stdout
    assert said in shown.splitlines()[-1]


def test_a_session_nobody_heard_of_has_no_timeline(log: Path, on_terminal: None) -> None:
    assert report(str(log), "--session", "nobody").stdout == "no event of it is in this log\n"


def test_a_users_timeline_has_the_ends_of_his_sessions_which_name_no_user(tmp_path: Path) -> None:
    told = [
        event("session_created", START, "s1"),
        event("session_user_bound", START + 1, "s1", "ada"),
        event("session_user_bound", START + 2, "s2", "eve"),
        event("session_expired", START + 3, "s1", reason="idle_timeout"),
    ]
    found = rows(str(write(tmp_path / "a.log", told)), "--user", "ada")
    assert [row["event"] for row in found] == ["session_user_bound", "session_expired"]


# --- files that are not as they should be ---


def test_a_gzip_file_that_was_cut_short_gives_what_can_be_read_and_exit_code_1(
    log: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "cut.gz"
    packed.write_bytes(gzip.compress(log.read_bytes())[:-2000])
    result = report(str(packed), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["lines"]["read"] > 10
    assert "damaged or cut short" in result.stderr


def test_a_line_too_long_to_be_kept_counts_as_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(logfiles, "LONGEST_LINE", 1000)
    log = write(tmp_path / "a.log", ["x" * 5000, event("session_created", START, "s"), "y" * 1000])
    found = figures(str(log))
    assert (found["lines"], found["created"]) == ({"read": 3, "other": 0, "broken": 2}, 1)


def test_lines_that_are_no_text_are_broken_and_harm_no_other(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(
        b"\xff\xfe\x00\n" + event("session_created", START, "s").encode() + b'\n{"event": "\xff"}'
    )
    found = figures(str(log))
    assert (found["lines"], found["created"]) == ({"read": 3, "other": 0, "broken": 2}, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing.log"],
        [],
        ["a.log", "--since", "soon"],
        ["a.log", "b.log", "--follow"],
        ["-", "--follow"],
        ["a.log", "--html", "x.html", "--session", "s"],
    ],
)
def test_a_command_line_that_makes_no_sense_is_exit_code_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.log", "b.log"):
        write(tmp_path / name, [])
    assert report(*arguments).exit_code == 2


def test_it_runs_without_rich(log: Path) -> None:
    code = (
        "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None\n"
        "from session_middleware.cli.app import cli; cli()"
    )
    command = [sys.executable, "-c", code, "report", str(log), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(told.stdout)["created"] == 30


# --- the page ---

HOSTILE = '</style></title><script>document.title = "taken"</script><img src=x onerror="document.title=1">'


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [str(value) for name, value in attrs if name in {"src", "href", "xlink:href"}]


@pytest.fixture
def page(tmp_path: Path, lines: list[str]) -> Path:
    odd = event("session_deleted", START + 5, HOSTILE, HOSTILE, reason=HOSTILE)
    made = tmp_path / "page.html"
    figures(str(write(tmp_path / "app.log", [odd, *lines])), "--html", str(made))
    return made


def test_the_page_needs_nothing_else_and_runs_nothing(page: Path) -> None:
    parser = _Tags()
    parser.feed(page.read_text())
    assert parser.tags.isdisjoint({"script", "img", "link", "iframe", "object"})
    assert parser.addresses == []
    assert "url(" not in page.read_text()


def test_the_page_in_a_browser_shows_figures_and_plots(page: Path, chromium: str, tmp_path: Path) -> None:
    with chromium_with(tmp_path / "profile", chromium) as browser:
        browser.open(page.as_uri()).wait_for("document.querySelectorAll('svg').length > 0")
        assert browser.evaluate("document.title") == "Sessions"
        assert browser.evaluate("document.querySelectorAll('svg rect').length") > 20
        assert browser.evaluate(
            "[...document.querySelectorAll('svg rect')].every(r => r.getBBox().height >= 0)"
        )
        assert HOSTILE in str(browser.evaluate("document.body.innerText"))
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# --- a file that grows ---


def test_a_file_is_followed_through_rotation_cutting_and_absence(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("one\ntw")
    left: list[Callable[[], object]] = [
        lambda: append("o\n"),
        lambda: (append("last of the old\n"), log.rename(tmp_path / "a.log.1")),
        lambda: None,
        lambda: log.write_text("first of the new\n"),
        lambda: (log.write_text(""), append("cut\n")),
        lambda: None,
    ]

    def append(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    def wait() -> None:
        left.pop(0)()

    found = list(followed(str(log), wait, idle=lambda: not left))
    assert found == [b"one", b"two", b"last of the old", b"first of the new", b"cut"]


def test_from_the_end_only_what_is_new_is_followed(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\n")
    left: list[Callable[[], object]] = [lambda: log.write_text("old\nnew\n"), lambda: None]

    def wait() -> None:
        left.pop(0)()

    found = list(followed(str(log), wait, from_start=False, idle=lambda: not left))
    assert found == [b"new"]


INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
runpy.run_module("session_middleware", run_name="__main__", alter_sys=True)
"""


def test_following_prints_events_as_they_come_until_it_is_interrupted(tmp_path: Path) -> None:
    log = write(
        tmp_path / "a.log", [event("session_created", START, "s"), event("session_created", START, "t")]
    )
    command = [sys.executable, "-c", INTERRUPTIBLE, "report", str(log), "--follow", "--session", "s"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "session_created"
        with log.open("a") as file:
            file.write(event("session_deleted", START + 1, "s", reason="logout") + "\n")
        assert json.loads(process.stdout.readline())["event"] == "session_deleted"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
