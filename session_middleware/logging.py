"""A ready set-up of structlog and `logging` for apps that have none: one JSON object per line.

The package itself never configures anything; an app that wants this says so:

    from session_middleware.logging import configure
    configure(level="INFO")

Reading order: `configure`, then the processors it installs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

from session_middleware.errors import ConfigurationError

__all__ = ["configure"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def configure(level: str = "INFO", stream: TextIO | None = None, *, force: bool = False) -> None:
    """Log the app's structlog and `logging` lines, and ours, as JSON to `stream`.

    `level`: the lowest level shown, of both. Default "INFO"; "DEBUG" adds several lines per request.
    `stream`: None means standard output as it is at this moment.
    `force`: replaces a set-up of structlog that is there already, instead of refusing.

    Handlers that others put on the root logger stay. uvicorn's own loggers have handlers of their own:
    start it with `log_config=None` to see its lines here too.
    """
    number = _level_number(level)
    if structlog.is_configured() and not force:
        raise ConfigurationError(
            "structlog is configured already, and this would replace it: keep that set-up and drop this "
            "call, or pass force=True"
        )
    target = sys.stdout if stream is None else stream
    _configure_structlog(number, target)
    _configure_stdlib(number, target)


def _level_number(level: str) -> int:
    if level.upper() not in _LEVELS:
        raise ConfigurationError(f"level={level!r} is unknown: pass one of {', '.join(_LEVELS)}")
    return logging.getLevelNamesMapping()[level.upper()]


def _configure_structlog(level: int, stream: TextIO) -> None:
    structlog.configure(
        processors=[*_shared_processors(), *_rendering()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,  # a cached logger would not notice a later set-up
    )


def _configure_stdlib(level: int, stream: TextIO) -> None:
    handler = _JSONHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_shared_processors()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering()],
        )
    )
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, _JSONHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


class _JSONHandler(logging.StreamHandler[TextIO]):
    """A type of its own, so that a second `configure` replaces the first one's handler and no other."""


def _shared_processors() -> list[structlog.types.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _event_time_as_iso,
        structlog.processors.MaybeTimeStamper(fmt="iso"),
    ]


def _rendering() -> list[structlog.types.Processor]:
    # Not `dict_tracebacks`: it shows local variables, and those hold secrets.
    return [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]


def _event_time_as_iso(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    # Our events bring the time of the fact as seconds; all other lines get the time of writing.
    moment = event.get("timestamp")
    if isinstance(moment, float):
        event["timestamp"] = datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
    return event
