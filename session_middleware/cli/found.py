"""Which manager the commands work on, and what they have in common: options, errors, exit codes.

The first of these that is there: `--app`, `--backend`, `SESSION_BACKEND` (with the other `SESSION_…`
variables), `[tool.session-middleware]` in `pyproject.toml` of the working directory.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click

from session_middleware.errors import BackendError, ConfigurationError, SessionError
from session_middleware.finding import manager_serving
from session_middleware.manager import SessionManager

__all__ = ["common", "existing", "file_of", "found_manager", "manager_of"]

F = TypeVar("F", bound=Callable[..., Any])

_PROJECT: Final = "pyproject.toml"
_TABLE: Final = "session-middleware"
_BACKEND_FAILED, _MISCONFIGURED = 3, 4


def common(command: F) -> F:
    """The options and the exit codes of a command, which is called with the manager and `as_json`."""

    @click.option("--backend", metavar="URL", help="Such as sqlite:////var/lib/app/sessions.db.")
    @click.option("--app", metavar="MODULE:ATTRIBUTE", help="An app or a manager, with its own settings.")
    @click.option("--json", "as_json", is_flag=True, help="JSON lines, as when the output is no terminal.")
    @wraps(command)
    def run(*args: Any, backend: str | None, app: str | None, as_json: bool, **kwargs: Any) -> None:
        try:
            with found_manager(backend, app).blocking as sessions:
                command(sessions, *args, as_json=as_json, **kwargs)
        except SessionError as problem:
            click.echo(f"session-middleware: {problem}", err=True)
            codes = {ConfigurationError: _MISCONFIGURED, BackendError: _BACKEND_FAILED}
            sys.exit(next((code for kind, code in codes.items() if isinstance(problem, kind)), 1))

    return cast("F", run)


def found_manager(backend: str | None = None, app: str | None = None) -> SessionManager:
    """The manager that is meant. Raises `ConfigurationError` that tells where it was looked for."""
    if app is not None:
        return manager_of(app)
    if backend is not None:
        return existing("--backend", SessionManager(backend, log=False))
    if os.environ.get("SESSION_BACKEND", "").strip():
        return SessionManager.from_env(log=False)
    table = _table()
    if table:
        named = table.get("app")
        return SessionManager.from_config(table, log=False) if named is None else manager_of(str(named))
    raise ConfigurationError(
        "no sessions were found: looked for --app and --backend, the variable SESSION_BACKEND, and "
        f"[tool.{_TABLE}] in {Path.cwd() / _PROJECT}; say which by one of them"
    )


def existing(named: str, manager: SessionManager) -> SessionManager:
    """*manager* again. Raises `ConfigurationError` for a file that is not there: a slip would create it.

    *named*: by which argument, for the message.
    """
    path = file_of(manager)
    if path is not None and not path.exists():
        raise ConfigurationError(
            f"{named}: there is no file {path}; check the URL (an absolute path has four slashes, "
            "sqlite:////var/lib/app/sessions.db)"
        )
    return manager


def file_of(manager: SessionManager) -> Path | None:
    """The file its sessions are in, symbolic links followed; None where they are in no file."""
    path = getattr(manager.backend, "path", None)
    return None if path is None else Path(path).resolve()


def manager_of(app: str) -> SessionManager:
    """The manager behind `module:attribute`. Raises `ConfigurationError`."""
    module_name, colon, attribute = app.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigurationError(f"--app: found {app!r}, pass module:attribute, such as shop.main:app")
    sys.path.insert(0, str(Path.cwd()))
    try:
        served: Any = import_module(module_name)
        for name in attribute.split("."):
            served = getattr(served, name)
    except (ImportError, AttributeError) as problem:
        raise ConfigurationError(f"--app: {app!r} cannot be imported: {problem}") from problem
    manager = manager_serving(served)
    if manager is None:
        raise ConfigurationError(
            f"--app: {app!r} is {type(served).__name__}, and no session middleware was found in it; name an "
            "app that has one, or its SessionManager"
        )
    return manager


def _table() -> Mapping[str, Any]:
    try:
        project = tomllib.loads(Path(_PROJECT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeError) as problem:
        raise ConfigurationError(f"{_PROJECT}: cannot be read: {problem}") from problem
    table: Mapping[str, Any] = project.get("tool", {}).get(_TABLE, {})
    return table
