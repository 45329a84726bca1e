"""The command line: what it finds, does, prints, and exits with."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from session_middleware import SessionManager
from session_middleware.cli.app import COMMANDS, EXIT_CODES, cli
from session_middleware.cli.doctor import findings

ROOT = Path(__file__).parents[2]
KEY = "vY0sN2bq8LZkXw5Rj1TgPd7HcM4uEa9F"


class Shell:
    """Commands over one database, whose sessions a test makes by `sessions`."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/sessions.db"
        self.manager = SessionManager(self.url, log=False)
        self.sessions = self.manager.blocking

    def run(self, *arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(cli, [*arguments, "--backend", self.url], input=answer)

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SESSION_")]:
        monkeypatch.delenv(name)
    made = Shell(tmp_path)
    yield made
    made.sessions.stop()


# --- sessions ---


def test_list_prints_one_line_for_each_newest_first(shell: Shell) -> None:
    made = [shell.sessions.create_session(f"user{number}", {"a": 1, "b": 2}) for number in range(3)]
    rows = shell.rows("list")
    assert {row["session_id"] for row in rows} == {session.id for session in made}
    assert rows[0].keys() >= {"user_id", "status", "created_at", "last_activity", "expires_at", "network"}
    assert {row["num_keys"] for row in rows} == {2}
    assert rows == sorted(rows, key=lambda row: row["created_at"], reverse=True)


def test_list_takes_conditions_and_a_limit(shell: Shell) -> None:
    for number in range(450):
        shell.sessions.create_session("ann" if number % 2 else "bob")
    assert len(shell.rows("list", "--limit", "1000")) == 450
    assert len(shell.rows("list", "--limit", "201")) == 201
    assert len(shell.rows("list")) == 100
    assert {row["user_id"] for row in shell.rows("list", "--user", "ann")} == {"ann"}
    assert shell.rows("list", "--created-before", "1h") == []
    assert len(shell.rows("list", "--created-after", "1h", "--limit", "5")) == 5
    assert shell.rows("list", "--created-after", "2999-01-01") == []


@pytest.mark.parametrize("time", ["yesterday", "5", "5y", "2026-13-01"])
def test_a_time_that_makes_no_sense_is_shown_with_the_right_form(shell: Shell, time: str) -> None:
    result = shell.run("list", "--created-before", time)
    assert result.exit_code == 2
    assert time in result.output
    assert "30m" in result.output


def test_show_tells_everything_but_the_values_unless_asked(shell: Shell) -> None:
    made = shell.sessions.create_session("ann", {"cart": ["secret book"]}, {"note": "m"}, priority=3)
    [facts] = shell.rows("show", made.id)
    assert (facts["user_id"], facts["priority"], facts["keys"]) == ("ann", 3, ["cart"])
    assert facts["metadata"] == {"note": "m"}
    assert "secret book" not in shell.run("show", made.id).output
    [facts] = shell.rows("show", made.id, "--values")
    assert facts["values"] == {"cart": ["secret book"]}


def test_show_of_an_ended_session_tells_why(shell: Shell) -> None:
    made = shell.sessions.create_session("ann")
    shell.sessions.delete_session(made.id, reason="abuse")
    result = shell.run("show", made.id)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ended_because"] == "abuse"
    assert shell.run("show", "nobody").exit_code == 1


def test_revoke_ends_sessions_by_id_and_tells_which_were_alive(shell: Shell) -> None:
    made = shell.sessions.create_session("ann")
    result = shell.run("revoke", made.id, "A" * 22)
    assert result.exit_code == 1
    assert [json.loads(line)["ended"] for line in result.stdout.splitlines()] == [True, False]
    assert shell.sessions.why_ended(made.id).reason == "revoked"


def test_revoke_user_asks_and_keeps_what_it_is_told_to(shell: Shell) -> None:
    kept, *others = [shell.sessions.create_session("ann") for _ in range(3)]
    declined = shell.run("revoke-user", "ann", "--keep", kept.id, answer="n\n")
    assert declined.exit_code == 1
    assert "End 2 sessions" in declined.stderr
    assert len(shell.sessions.get_user_sessions("ann")) == 3
    assert shell.rows("revoke-user", "ann", "--keep", kept.id, "--yes") == [{"ended": 2}]
    assert [session.id for session in shell.sessions.get_user_sessions("ann")] == [kept.id]
    assert all(shell.sessions.get_session(one.id) is None for one in others)


def test_end_tells_how_many_before_it_asks(shell: Shell) -> None:
    for number in range(5):
        shell.sessions.create_session("ann" if number else "bob")
    assert shell.rows("end", "--user", "ann", "--dry-run") == [{"would_end": 4}]
    declined = shell.run("end", "--user", "ann", answer="\n")
    assert declined.exit_code == 1
    assert "End 4 sessions?" in declined.stderr
    assert shell.sessions.count() == 5
    assert shell.rows("end", "--user", "ann", "--yes", "--reason", "leak") == [{"ended": 4}]
    assert shell.sessions.count() == 1


def test_end_of_everything_is_refused(shell: Shell) -> None:
    shell.sessions.create_session()
    result = shell.run("end", "--yes")
    assert result.exit_code == 4
    assert "condition" in result.stderr
    assert shell.sessions.count() == 1


def test_end_before_ends_what_is_older_at_once(shell: Shell) -> None:
    shell.sessions.create_session()
    assert shell.run("end-before", "1h", "--yes").exit_code == 0
    assert shell.sessions.count() == 1
    assert shell.run("end-before", "0s", "--yes").exit_code == 0
    assert shell.sessions.count() == 0


# --- the whole ---


def test_cleanup_removes_what_has_expired_or_what_is_named(shell: Shell) -> None:
    jobs = [shell.sessions.create_session() for _ in range(3)]
    shell.sessions.fail(jobs[0].id, "why")
    assert shell.rows("cleanup") == [{"removed": 0}]
    assert shell.run("cleanup", "--status", "failed", answer="n\n").exit_code == 1
    assert shell.rows("cleanup", "--status", "failed", "--yes") == [{"ended": 1}]
    assert shell.rows("cleanup", "--older-than", "1h", "--yes") == [{"ended": 0}]
    assert shell.sessions.count() == 2


def test_stats_and_health_are_those_of_the_manager(shell: Shell) -> None:
    shell.sessions.create_session()
    [stats] = shell.rows("stats")
    assert stats["total_sessions"] == 1
    assert stats["age_distribution"]["under_1h"] == 1
    [health] = shell.rows("health")
    assert (health["overall_health"], health["session_count"]) == ("healthy", 1)


def test_critical_health_is_an_exit_code(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.sessions.create_session()
    monkeypatch.setenv("SESSION_BACKEND", shell.url)
    monkeypatch.setenv("SESSION_MAX_SESSIONS", "1")
    result = CliRunner().invoke(cli, ["health"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["overall_health"] == "critical"


def test_a_secret_is_new_each_time_and_strong() -> None:
    made = {CliRunner().invoke(cli, ["secret"]).stdout.strip() for _ in range(3)}
    assert len(made) == 3
    for key in made:
        assert SessionManager(secret_key=key, log=False).codec.weak_key is None


# --- which manager ---


def test_without_any_manager_the_error_lists_what_was_tried(shell: Shell) -> None:
    result = CliRunner().invoke(cli, ["list"])
    assert result.exit_code == 4
    for place in ("--app", "--backend", "SESSION_BACKEND", "pyproject.toml"):
        assert place in result.stderr


def test_a_backend_that_is_not_there_is_refused_and_not_created(shell: Shell, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["list", "--backend", f"sqlite:///{tmp_path}/typo.db"])
    assert (result.exit_code, "typo.db" in result.stderr) == (4, True)
    assert not (tmp_path / "typo.db").exists()


def test_the_environment_names_the_backend(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.sessions.create_session("ann")
    monkeypatch.setenv("SESSION_BACKEND", shell.url)
    assert json.loads(CliRunner().invoke(cli, ["list"]).stdout)["user_id"] == "ann"
    monkeypatch.setenv("SESSION_IDLE_TIMEOUT", "soon")
    result = CliRunner().invoke(cli, ["list"])
    assert result.exit_code == 4
    assert "SESSION_IDLE_TIMEOUT='soon'" in result.stderr


def test_the_project_file_names_options_or_an_app(shell: Shell, tmp_path: Path) -> None:
    shell.sessions.create_session("ann")
    project = tmp_path / "pyproject.toml"
    project.write_text(f'[tool.session-middleware]\nbackend = "{shell.url}"\nidle_timeout = 60\n')
    assert json.loads(CliRunner().invoke(cli, ["list"]).stdout)["user_id"] == "ann"
    project.write_text('[tool.session-middleware]\nbakend = "memory://"\n')
    result = CliRunner().invoke(cli, ["list"])
    assert (result.exit_code, "bakend" in result.stderr) == (4, True)
    project.write_text("[tool")
    assert CliRunner().invoke(cli, ["list"]).exit_code == 4


APPS = {
    "starlette": """
        from starlette.applications import Starlette
        from session_middleware import SessionMiddleware
        app = Starlette()
        app.add_middleware(SessionMiddleware, secret_key=KEY, backend=URL, max_sessions=7)
        """,
    "fastapi": """
        from fastapi import FastAPI
        from session_middleware import SessionMiddleware
        app = FastAPI()
        app.add_middleware(SessionMiddleware, secret_key=KEY, backend=URL, max_sessions=7)
        """,
    "flask": """
        from flask import Flask
        from session_middleware.flask import init_app
        app = Flask(__name__)
        app.secret_key = KEY
        init_app(app, backend=URL, max_sessions=7)
        """,
    "wsgi": """
        from session_middleware import WSGISessionMiddleware
        app = WSGISessionMiddleware(lambda environ, start: [], secret_key=KEY, backend=URL, max_sessions=7)
        """,
    "manager": """
        from session_middleware import SessionManager
        class config:
            sessions = SessionManager(URL, secret_key=KEY, max_sessions=7)
        """,
}


@pytest.mark.parametrize("kind", APPS)
def test_an_app_brings_its_own_settings(kind: str, shell: Shell, tmp_path: Path) -> None:
    shell.sessions.create_session("ann")
    source = f"KEY, URL = {KEY!r}, {shell.url!r}\n" + textwrap.dedent(APPS[kind])
    (tmp_path / "served.py").write_text(source)
    attribute = "config.sessions" if kind == "manager" else "app"
    command = [sys.executable, "-m", "session_middleware", "stats", "--app", f"served:{attribute}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["total_sessions"], found["max_capacity"]) == (1, 7)


@pytest.mark.parametrize("app", ["nothing", "missing_module:app", "json:nothing", "json:loads", ":x"])
def test_an_app_that_is_none_is_refused_with_the_right_form(app: str, shell: Shell) -> None:
    result = CliRunner().invoke(cli, ["list", "--app", app])
    assert result.exit_code == 4
    assert "--app" in result.stderr


def test_a_backend_that_cannot_be_reached_is_exit_code_3(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database, though it is long enough to be read" * 50)
    result = CliRunner().invoke(cli, ["list", "--backend", f"sqlite:///{tmp_path}/broken.db"])
    assert result.exit_code == 3
    assert "broken.db" in result.stderr


# --- what is printed ---


def on_a_terminal(command: list[str], cwd: Path, **environment: str) -> str:
    """What a command prints to a terminal of 200 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "200", "TERM": "xterm", **environment}
    with subprocess.Popen(command, cwd=cwd, stdout=theirs, stdin=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        printed = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            if not piece:
                break
            printed += piece
        process.wait(60)
    os.close(ours)
    return printed.decode()


def test_a_terminal_gets_a_table_and_no_color_if_asked(shell: Shell, tmp_path: Path) -> None:
    made = shell.sessions.create_session("ann", metadata={"client": {"network": "192.0.2.0/24"}})
    command = [sys.executable, "-m", "session_middleware", "list", "--backend", shell.url]
    coloured = on_a_terminal(command, ROOT)
    assert made.id in coloured
    assert "\x1b[1m" in coloured
    plain = on_a_terminal(command, ROOT, NO_COLOR="1")
    assert not plain.lstrip().startswith("{")
    assert "192.0.2.0/24" in plain
    assert "\x1b[3" not in plain
    assert on_a_terminal([*command, "--json"], ROOT).startswith("{")


def test_no_text_of_a_visitor_steers_the_terminal(shell: Shell) -> None:
    shell.sessions.create_session("ann\x1b]0;owned\x07", metadata={"client": {"network": "[red]\x1b[31m"}})
    command = [sys.executable, "-m", "session_middleware", "list", "--backend", shell.url]
    printed = on_a_terminal(command, ROOT, NO_COLOR="1")
    assert "\x1b]0" not in printed
    assert "\x1b[31m" not in printed
    assert "\x1b" not in shell.run("list").stdout


def test_nothing_that_is_printed_opens_a_session(shell: Shell) -> None:
    made = shell.sessions.create_session("ann", {"a": 1})
    record = made.life.record
    for arguments in (["list"], ["show", made.id, "--values"], ["stats"], ["health"], ["doctor"]):
        assert record.secret not in shell.run(*arguments).output


# --- the tree ---


def test_every_command_is_listed_and_documented() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert f"`{name}`" in page
        for option in [one for one in command.params if isinstance(one, click.Option)]:
            assert option.help or option.name == "reason", f"{name} {option.name}"
    for code in EXIT_CODES:
        assert f"| {code} |" in page


def test_help_imports_neither_framework_nor_backend() -> None:
    code = (
        "import sys; from session_middleware.cli import main; sys.argv = ['x', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    assert "click" in loaded
    assert not loaded & {"rich", "sqlite3", "starlette", "asyncio", "structlog", "msgspec", "aiosqlite"}


# --- doctor ---


def verdicts(**options: Any) -> dict[str, str]:
    manager = SessionManager(log=False, **options)
    return {one.check: one.verdict for one in findings(manager)}


def test_a_sound_manager_has_nothing_wrong() -> None:
    found = verdicts(secret_key=KEY, session_cookie="__Host-session", https_only=True)
    assert "wrong" not in found.values()
    assert found["workers"] == "advice"


@pytest.mark.parametrize(
    ("options", "check", "verdict"),
    [
        ({"secret_key": "short"}, "secret_key", "wrong"),
        ({"secret_key": KEY, "https_only": False}, "https_only", "wrong"),
        ({"secret_key": KEY, "same_site": "none", "https_only": True}, "same_site", "advice"),
        ({"secret_key": KEY, "domain": "example.com"}, "domain", "advice"),
        ({"secret_key": KEY, "idle_timeout": 60 * 86400}, "idle_timeout", "advice"),
        ({"secret_key": KEY, "absolute_timeout": 365 * 86400}, "absolute_timeout", "advice"),
        ({"secret_key": KEY, "privilege_keys": ()}, "privilege_keys", "advice"),
        ({}, "secret_key", "advice"),
    ],
)
def test_each_weakness_is_found(options: dict[str, Any], check: str, verdict: str) -> None:
    assert verdicts(**options)[check] == verdict


def test_doctor_finds_a_file_that_others_may_read(shell: Shell, tmp_path: Path) -> None:
    shell.sessions.create_session()
    assert shell.run("doctor").exit_code == 0
    (tmp_path / "sessions.db").chmod(0o644)
    result = shell.run("doctor")
    assert result.exit_code == 1
    [wrong] = [row for row in map(json.loads, result.stdout.splitlines()) if row["verdict"] == "wrong"]
    assert (wrong["check"], "chmod 600" in wrong["remedy"]) == ("file mode", True)


def test_doctor_finds_a_clock_that_runs_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = SessionManager(log=False)
    manager.blocking.create_session()
    for now, verdict in ((manager.clock() - 60, "wrong"), (5.0, "wrong"), (manager.clock(), "ok")):
        monkeypatch.setattr("session_middleware.cli.doctor.time.time", lambda now=now: now)
        [clock] = [one for one in findings(manager) if one.check == "clock"]
        assert clock.verdict == verdict


def test_doctor_finds_a_backend_that_is_down(tmp_path: Path) -> None:
    made: Callable[..., SessionManager] = SessionManager
    manager = made(f"sqlite:///{tmp_path}/s.db", log=False)
    manager.blocking.count()
    manager.blocking.stop()
    [backend] = [one for one in findings(manager) if one.check == "backend"]
    assert backend.verdict == "wrong"
