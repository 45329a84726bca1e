"""The command `report`: what log files tell of sessions. It needs no manager and no backend."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from session_middleware.cli.output import is_table, moment
from session_middleware.cli.times import MOMENT
from session_middleware.events import SessionEvent
from session_middleware.monitoring.alerts import Change
from session_middleware.monitoring.lines import LineReader
from session_middleware.monitoring.logfiles import (
    STDIN,
    DamagedLog,
    Line,
    followed,
    lines_of,
    oldest_first,
    size_of,
)
from session_middleware.monitoring.monitor import SessionMonitor
from session_middleware.monitoring.page import page
from session_middleware.monitoring.summary import summary
from session_middleware.monitoring.timeline import Filter, event_row, verdict

__all__: list[str] = []

_EVERY_DAY: Final = 36_500  # days: a report leaves none out
_POLL: Final = 0.2  # seconds


@click.command("report")
@click.argument(
    "logs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option("--session", metavar="ID", help="The timeline of this session, and why it ended.")
@click.option("--user", metavar="USER", help="The timeline of this user's sessions.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Only what came at this time or later.")
@click.option("--until", type=MOMENT, metavar="TIME", help="Only what came before this time.")
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", help="Write a page to look at.")
@click.option("--follow", is_flag=True, help="Print events as they are written to the one log, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, as when the output is no terminal.")
def report_command(
    logs: tuple[str, ...],
    session: str | None,
    user: str | None,
    since: float | None,
    until: float | None,
    html: str | None,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    """What JSON log lines tell of sessions: LOGS are files, also gzip, or - for standard input.

    Statistics, health and the busiest hours; of a session or user the timeline. Lines of other loggers are
    passed over. Exit code 0 whatever the health; 1 if a file could be read only in part.
    """
    wanted = Filter(session=session, user=user, since=since, until=until)
    if follow:
        if len(logs) > 1 or logs[0] == STDIN or html is not None:
            raise click.UsageError("--follow: pass one file, and no --html")
        _follow(logs[0], wanted, as_json=as_json)
        return
    if html is not None and wanted.is_about_somebody:
        raise click.UsageError("--html: it is for the statistics; leave out --session and --user")
    reader, problems = LineReader(), list[str]()
    with _progress(logs) as told:
        events = _events(logs, wanted, reader, problems, told)
        if wanted.is_about_somebody:
            _print_timeline(sorted(events, key=_time_of), wanted, as_json=as_json)
        else:
            _print_report(_figures_of(events), reader, html, as_json=as_json)
    for problem in problems:
        click.echo(f"session-middleware: {problem}", err=True)
    if problems:
        sys.exit(1)


# --- what is read ---


def _events(
    logs: Iterable[str], wanted: Filter, reader: LineReader, problems: list[str], told: _Told
) -> Iterator[SessionEvent]:
    for path in oldest_first(list(logs)):
        try:
            yield from _wanted_in(lines_of(path, told.within), wanted, reader)
        except (DamagedLog, OSError) as problem:
            problems.append(str(problem))
        told.next_file()


def _wanted_in(lines: Iterable[Line], wanted: Filter, reader: LineReader) -> Iterator[SessionEvent]:
    events = reader.events(lines)
    return events if wanted.is_everything else filter(wanted.wants, events)


def _figures_of(events: Iterable[SessionEvent]) -> dict[str, Any]:
    """The statistics, with `health`, and `alert_history`: what was raised and cleared, and when."""
    monitor, history = SessionMonitor(interval=None, retention_days=_EVERY_DAY), list[dict[str, Any]]()
    monitor.on_alert(lambda told: history.append(told._asdict()) if isinstance(told, Change) else None)
    monitor.read(events)
    figures = monitor.get_session_statistics()
    return {**figures, "health": monitor.get_session_health_report(), "alert_history": history}


def _time_of(event: SessionEvent) -> float:
    return event.timestamp


# --- what is printed ---


def _print_report(figures: dict[str, Any], reader: LineReader, html: str | None, *, as_json: bool) -> None:
    figures = {**figures, "lines": reader.counts()}
    if html is not None:
        Path(html).write_text(page(figures, moment), encoding="utf-8")
    if is_table(as_json=as_json):
        for line in summary(figures, moment):
            click.echo(line)
    else:
        click.echo(json.dumps(figures))


def _print_timeline(events: list[SessionEvent], wanted: Filter, *, as_json: bool) -> None:
    for event in events:
        _print_event(event, as_json=as_json)
    if wanted.session is not None and is_table(as_json=as_json):
        click.echo(verdict(events, moment))


def _print_event(event: SessionEvent, *, as_json: bool) -> None:
    row = event_row(event, moment)
    if not is_table(as_json=as_json):
        click.echo(json.dumps(row))
        return
    rest = "  ".join(f"{name}={_shown(value)}" for name, value in list(row.items())[2:] if value is not None)
    click.echo(f"{row['time']}  {event.name:<30}  {rest}")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text)


# --- while it runs ---


class _Told:
    """How far the files were read."""

    def __init__(self, update: Any) -> None:
        self._update = update
        self._before = 0

    def within(self, position: int) -> None:
        """This far in the present file."""
        self._update(max(0, position - self._before))
        self._before = max(position, self._before)

    def next_file(self) -> None:
        """The present one is done."""
        self._before = 0


@contextmanager
def _progress(logs: tuple[str, ...]) -> Iterator[_Told]:
    """A bar on the terminal, where there is one and the length is known."""
    size = size_of(logs)
    if size is None or not sys.stderr.isatty():
        yield _Told(lambda _: None)
        return
    with click.progressbar(length=size, label="reading", file=sys.stderr) as bar:
        yield _Told(bar.update)


def _follow(path: str, wanted: Filter, *, as_json: bool) -> None:
    """Until it is interrupted. What is there already is printed if somebody is asked for."""
    reader = LineReader(time.time())
    lines = followed(path, lambda: time.sleep(_POLL), from_start=wanted.is_about_somebody)
    try:
        for event in _wanted_in(lines, wanted, reader):
            _print_event(event, as_json=as_json)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return
