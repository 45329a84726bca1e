"""Figures that survive a restart and add up over all workers of a host: one SQLite file.

A row per day holds that day's figures. A worker adds what it saw since its last flush in one transaction, and
forgets it only when that was committed: nothing is counted twice, whoever dies when.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from session_middleware.errors import ConfigurationError
from session_middleware.monitoring.figures import Figures

__all__ = ["FigureStore"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS monitor_days (day INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS monitor_metrics (timestamp REAL NOT NULL, row BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS monitor_metrics_by_time ON monitor_metrics (timestamp);
"""
_BUSY: Final = 5.0  # seconds to wait for another worker's flush; one takes milliseconds
_SCHEME: Final = "sqlite:///"


class FigureStore:
    """*url* is `sqlite:///relative.db` or `sqlite:////absolute.db`. A connection lives for one call."""

    def __init__(self, url: str) -> None:
        if not str(url).startswith(_SCHEME) or url == _SCHEME:
            raise ConfigurationError(f"store: found {url!r}, pass a file as 'sqlite:///monitor.db'")
        self.path = Path(unquote(url.removeprefix(_SCHEME)))
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"store: the folder {self.path.parent} does not exist: create it first")

    def add(self, days: Mapping[int, Figures], rows: Iterable[Mapping[str, Any]]) -> None:
        """Add these figures and measurements to what is there, all or nothing."""
        with self._transaction() as db:
            for day, figures in days.items():
                stored = db.execute("SELECT state FROM monitor_days WHERE day = ?", (day,)).fetchone()
                merged = Figures()
                if stored is not None:
                    merged.merge(msgspec.json.decode(stored[0]))
                merged.merge(figures.state())
                state = msgspec.json.encode(merged.state())
                db.execute("INSERT OR REPLACE INTO monitor_days VALUES (?, ?)", (day, state))
            values = [(row["timestamp"], msgspec.json.encode(row)) for row in rows]
            db.executemany("INSERT INTO monitor_metrics VALUES (?, ?)", values)

    def states(self) -> list[dict[str, Any]]:
        """The figures of each day, oldest first."""
        with self._transaction() as db:
            found = db.execute("SELECT state FROM monitor_days ORDER BY day").fetchall()
        return [msgspec.json.decode(state) for (state,) in found]

    def rows(self, start: float | None, end: float | None) -> list[dict[str, Any]]:
        """The measurements of this time, oldest first."""
        low, high = float("-inf") if start is None else start, float("inf") if end is None else end
        query = "SELECT row FROM monitor_metrics WHERE timestamp BETWEEN ? AND ? ORDER BY timestamp, rowid"
        with self._transaction() as db:
            return [msgspec.json.decode(row) for (row,) in db.execute(query, (low, high))]

    def drop_before(self, day: int, moment: float) -> int:
        """Forget the days before this one and the measurements before this moment; how many rows went."""
        with self._transaction() as db:
            gone = db.execute("DELETE FROM monitor_days WHERE day < ?", (day,)).rowcount
            return gone + db.execute("DELETE FROM monitor_metrics WHERE timestamp < ?", (moment,)).rowcount

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)) as db:
            db.executescript(_SCHEMA)
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.rollback()
                raise
            db.commit()
