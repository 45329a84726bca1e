"""The command `doctor`: what is wrong, or weaker than it could be, and what to do about it."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click

from session_middleware.cli.found import common
from session_middleware.cli.output import show_rows
from session_middleware.errors import BackendError, ConfigurationError
from session_middleware.manager import Blocking, SessionManager
from session_middleware.policy import DAY

__all__ = ["Finding", "findings"]

_LONG_IDLE: Final = 30 * DAY
_LONG_LIFE: Final = 90 * DAY
_BUILT: Final = 1_764_000_000.0  # the clock cannot be before this package was written (November 2025)
_SKEW: Final = 5.0  # seconds by which a session may come from the future
_PUBLIC: Final = stat.S_IRWXG | stat.S_IRWXO


class Finding(NamedTuple):
    """One check: what was found, and what to do if it is not `ok`."""

    check: str
    verdict: Literal["ok", "advice", "wrong"]
    found: str
    remedy: str | None = None


@click.command("doctor")
@common
def doctor_command(sessions: Blocking, *, as_json: bool) -> None:
    """Check settings, backend and clock. Exit code 1 if something is wrong; advice is no fault."""
    found = list(findings(sessions.manager))
    show_rows((one._asdict() for one in found), as_json=as_json)
    if any(one.verdict == "wrong" for one in found):
        sys.exit(1)


def findings(manager: SessionManager) -> Iterator[Finding]:
    """Every check, in the order in which they are shown."""
    yield _key(manager)
    yield from _cookie(manager)
    yield from _timeouts(manager)
    yield _privileges(manager)
    yield from _backend(manager)
    yield _clock(manager)


def _key(manager: SessionManager) -> Finding:
    try:
        weak = manager.codec.weak_key
    except ConfigurationError:
        return Finding(
            "secret_key", "advice", "none was given", "name the app (--app) to have its key checked"
        )
    if weak is None:
        return Finding("secret_key", "ok", "strong")
    return Finding("secret_key", "wrong", weak, "make one by: session-middleware secret")


def _cookie(manager: SessionManager) -> Iterator[Finding]:
    cookie = manager.cookie
    if cookie.https_only is False:
        yield Finding(
            "https_only", "wrong", "False: the cookie travels unencrypted", "leave it out, or pass True"
        )
    else:
        yield Finding("https_only", "ok", "always" if cookie.https_only else "on https")
    if cookie.same_site == "none":
        yield Finding(
            "same_site", "advice", "none: other sites' requests carry it", "lax, unless you are embedded"
        )
    else:
        yield Finding("same_site", "ok", cookie.same_site)
    if cookie.domain is not None:
        yield Finding(
            "domain", "advice", f"{cookie.domain}: every host below gets the cookie", "leave it out"
        )
    if not cookie.session_cookie.startswith("__Host-"):
        advice = "where every request comes by https: session_cookie='__Host-session', https_only=True"
        yield Finding("session_cookie", "advice", cookie.session_cookie, advice)


def _timeouts(manager: SessionManager) -> Iterator[Finding]:
    policy = manager.policy
    for name, value, most in (
        ("idle_timeout", policy.idle_timeout, _LONG_IDLE),
        ("absolute_timeout", policy.absolute_timeout, _LONG_LIFE),
    ):
        shown = f"{value / 3600:g} h"
        if value > most:
            yield Finding(name, "advice", shown, "a stolen cookie is good for as long; see Policy.aal2()")
        else:
            yield Finding(name, "ok", shown)


def _privileges(manager: SessionManager) -> Finding:
    policy = manager.policy
    if policy.privilege_keys and policy.user_keys:
        return Finding("privilege_keys", "ok", ", ".join(sorted(policy.privilege_keys)))
    return Finding(
        "privilege_keys",
        "advice",
        "privilege_keys or user_keys are turned off",
        "then call session.login() at each sign-in and session.cycle(grace=0) at each change of roles",
    )


def _backend(manager: SessionManager) -> Iterator[Finding]:
    url = manager.backend.url
    began = time.perf_counter()
    try:
        number = manager.blocking.count()
    except BackendError as problem:
        yield Finding(
            "backend", "wrong", f"{url}: {problem}", "see that it is there, and may be read and written"
        )
        return
    took = (time.perf_counter() - began) * 1000
    yield Finding("backend", "ok", f"{url}: {number} live sessions, counted in {took:.1f} ms")
    if url.startswith("memory:"):
        yield Finding(
            "workers",
            "advice",
            "memory is of one process",
            'with more than one worker: backend="sqlite:///…"',
        )
    path = getattr(manager.backend, "path", None)
    if path is not None:
        yield from _file(Path(path))


def _file(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & _PUBLIC:
        yield Finding("file mode", "wrong", f"{mode:o}: others may read it", f"chmod 600 {path}")
    else:
        yield Finding("file mode", "ok", f"{mode:o}")
    yield Finding("SQLite", "ok", sqlite3.sqlite_version)


def _clock(manager: SessionManager) -> Finding:
    now = time.time()
    if now < _BUILT:
        return Finding(
            "clock", "wrong", f"{now:.0f} is before this package was made", "set the machine's clock"
        )
    try:
        ahead = _newest_from_the_future(manager, now)
    except (BackendError, ConfigurationError) as problem:
        return Finding("clock", "advice", f"not compared with the sessions: {problem}")
    if ahead > _SKEW:
        shown = f"a session was created {ahead:.0f} s from now"
        return Finding("clock", "wrong", shown, "compare the clocks of the machines that share the sessions")
    return Finding("clock", "ok", "no session is from the future")


def _newest_from_the_future(manager: SessionManager, now: float) -> float:
    newest: list[Any] = manager.blocking.get_sessions(limit=1)
    created = newest[0].created_at if newest else None
    return 0.0 if created is None else created - now
