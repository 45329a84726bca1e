"""Measurements as rows: dictionaries, JSON lines, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from session_middleware.errors import ConfigurationError
from session_middleware.monitoring.facts import Measurement
from session_middleware.reporting import loggable

__all__ = ["exported", "row_of"]

_COLUMNS: Final = ("timestamp", "metric_type", "session_id", "user_id", "value", "metadata")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


def row_of(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON values."""
    metric_type, session_id, user_id, value, timestamp, metadata = measurement
    row = (timestamp, metric_type, session_id, user_id, value, loggable(metadata))
    return dict(zip(_COLUMNS, row, strict=True))


def exported(rows: list[dict[str, Any]], form: str) -> list[dict[str, Any]] | str:
    """The rows as `dicts`, `jsonl` or `csv`."""
    if form == "dicts":
        return rows
    writer = _WRITERS.get(form)
    if writer is None:
        raise ConfigurationError(f"format: found {form!r}, pass 'dicts', 'jsonl' or 'csv'")
    return writer(rows)


def _as_json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(f"{msgspec.json.encode(row).decode()}\n" for row in rows)


def _as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        values = {**row, "metadata": msgspec.json.encode(row["metadata"]).decode()}
        writer.writerow([_cell(values[name]) for name in _COLUMNS])
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


_WRITERS: Final[Mapping[str, Callable[[list[dict[str, Any]]], str]]] = {
    "jsonl": _as_json_lines,
    "csv": _as_csv,
}
