"""What the commands print: a table on a terminal, else one JSON object per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

__all__ = ["is_table", "moment", "show_one", "show_rows"]


def is_table(*, as_json: bool) -> bool:
    """Whether people read this."""
    return not as_json and sys.stdout.isatty()


def moment(time: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601, in UTC; the end of time for what never comes."""
    if time is None:
        return None
    try:
        return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "never"


def show_rows(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> int:
    """Print them as they come; how many."""
    return _table_of(rows) if is_table(as_json=as_json) else _lines_of(rows)


def show_one(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing, a line for each fact on a terminal."""
    if is_table(as_json=as_json):
        _table_of({"": name, " ": value} for name, value in facts.items())
    else:
        _lines_of([facts])


def _lines_of(rows: Iterable[Mapping[str, Any]]) -> int:
    number = 0
    for row in rows:
        click.echo(json.dumps(row, ensure_ascii=True))
        number += 1
    return number


def _table_of(rows: Iterable[Mapping[str, Any]]) -> int:
    from rich.console import Console  # noqa: PLC0415  (takes longer to import than all else)
    from rich.table import Table  # noqa: PLC0415  (as above)
    from rich.text import Text  # noqa: PLC0415  (as above)

    listed = list(rows)
    table = Table(box=None, show_header=bool(listed) and "" not in listed[0], header_style="bold")
    for name in listed[0] if listed else ():
        table.add_column(name, overflow="fold")
    for row in listed:
        table.add_row(*(Text(_plain(value)) for value in row.values()))
    Console(highlight=False).print(table)
    return len(listed)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else "-" if value is None else json.dumps(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text)
