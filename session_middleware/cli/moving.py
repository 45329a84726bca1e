"""The command `migrate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from session_middleware.backends.base import Port
from session_middleware.backends.moving import MovingPort
from session_middleware.blocking import run_blocking
from session_middleware.cli.found import existing, file_of
from session_middleware.cli.output import is_table, show_one
from session_middleware.errors import BackendError, ConfigurationError, SessionError
from session_middleware.manager import Blocking, SessionManager
from session_middleware.migration import Comparison, compare, migrate, missing, move_all

__all__: list[str] = []

_BACKEND_FAILED, _MISCONFIGURED = 3, 4


@click.command("migrate")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--batch", type=click.IntRange(1), default=200, show_default=True, help="Sessions read at once."
)
@click.option("--keep-missing", is_flag=True, help="Keep sessions of TO that FROM does not have.")
@click.option("--move", is_flag=True, help="Move instead, while the app runs over MovingBackend(FROM, TO).")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, as when the output is no terminal.")
def migrate_command(
    source: str,
    target: str,
    batch: int,
    *,
    move: bool,
    as_json: bool,
    **flags: bool,
) -> None:
    """Copy every session of the backend FROM to the backend TO (their URLs), then compare both.

    The app may go on with FROM meanwhile. Run it again shortly before the switch: it copies what is new or
    changed, and ends in TO what has ended in FROM. May be interrupted, and run again. Exit code 1 if both
    sides differ at the end; with --move, if FROM is not empty then.
    """
    try:
        one, other = _managers(source, target)
        with one.blocking, other.blocking:
            if move:
                done = _moved(_port(one), _port(other), one, batch, as_json=as_json)
            else:
                done = _migrated(_port(one), _port(other), one, batch, as_json=as_json, **flags)
    except SessionError as problem:
        click.echo(f"session-middleware: {problem}", err=True)
        sys.exit(_BACKEND_FAILED if isinstance(problem, BackendError) else _MISCONFIGURED)
    if not done:
        sys.exit(1)


def _managers(source: str, target: str) -> tuple[SessionManager, SessionManager]:
    """Of both sides. Raises `ConfigurationError` where nothing could be moved, before anything is opened."""
    managers = SessionManager(source, log=False), SessionManager(target, log=False)
    for named, manager in zip(("FROM", "TO"), managers, strict=True):
        if manager.backend.url == "memory://":
            raise ConfigurationError(
                f"{named}: memory:// lives in the process that uses it; name another backend"
            )
    if _place(managers[0]) == _place(managers[1]):
        raise ConfigurationError(f"TO: {target} is FROM itself; name another backend")
    existing("FROM", managers[0])
    return managers


def _place(manager: SessionManager) -> str:
    """Where its records are, however the URL is written."""
    return str(file_of(manager) or manager.backend.url)


def _port(manager: SessionManager) -> Port:
    return manager.blocking_performer.port


def _migrated(
    source: Port,
    target: Port,
    manager: SessionManager,
    batch: int,
    *,
    keep_missing: bool,
    yes: bool,
    as_json: bool,
) -> bool:
    if not keep_missing and not yes:
        _confirm_endings(source, target, batch)
    with _progress(manager.blocking, as_json=as_json) as progress:
        done = run_blocking(
            migrate(source, target, time.time, batch=batch, end_missing=not keep_missing, progress=progress)
        )
    compared = run_blocking(compare(source, target, time.time, batch=batch))
    show_one({**done._asdict(), **_shown(compared)}, as_json=as_json)
    if not compared.are_equal:
        click.echo("both sides differ: if the app still writes, run this again once it has stopped", err=True)
    return compared.are_equal


def _moved(source: Port, target: Port, manager: SessionManager, batch: int, *, as_json: bool) -> bool:
    port = MovingPort(source, target, moves=True)
    with _progress(manager.blocking, as_json=as_json) as progress:
        done = run_blocking(move_all(port, source, time.time, batch=batch, progress=progress))
    left: int = manager.blocking.count()
    show_one({**done._asdict(), "left_in_source": left}, as_json=as_json)
    return left == 0


def _confirm_endings(source: Port, target: Port, batch: int) -> None:
    async def count() -> int:
        return sum([1 async for _ in missing(source, target, time.time, batch=batch)])

    number = run_blocking(count())
    if number:
        click.confirm(
            f"{number} sessions of TO are not in FROM (any more). End them there?", abort=True, err=True
        )


def _shown(compared: Comparison) -> dict[str, Any]:
    return {
        "sessions_in_source": compared.source,
        "sessions_in_target": compared.target,
        "hash_of_source": compared.source_hash,
        "hash_of_target": compared.target_hash,
        "equal": compared.are_equal,
    }


@contextmanager
def _progress(sessions: Blocking, *, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else nothing."""
    if not is_table(as_json=as_json):
        yield lambda _: None
        return
    from rich.progress import Progress  # noqa: PLC0415  (takes longer to import than all else)

    with Progress() as bar:
        task = bar.add_task("sessions", total=sessions.count())
        yield lambda seen: bar.update(task, completed=seen)
