"""Commands on sessions: `list`, `show`, `revoke`, `revoke-user`, `end`, `end-before`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from session_middleware.cli.found import common
from session_middleware.cli.output import moment, show_one, show_rows
from session_middleware.cli.times import MOMENT
from session_middleware.manager import Blocking
from session_middleware.session import Session

__all__: list[str] = []

F = TypeVar("F", bound=Callable[..., Any])

_PAGE = 200
_CONDITIONS = (
    ("--user", "user_id", None, "Signed in as this user."),
    ("--status", "status", None, "With exactly this status."),
    ("--created-before", "created_before", MOMENT, "Created before this time, or longer ago than this."),
    ("--created-after", "created_after", MOMENT, "Created since."),
    ("--signed-in-before", "authenticated_before", MOMENT, "Signed in before."),
    ("--signed-in-after", "authenticated_after", MOMENT, "Signed in since."),
    ("--seen-before", "seen_before", MOMENT, "Last noted before."),
    ("--seen-after", "seen_after", MOMENT, "Last noted since."),
    ("--network", "network", None, "From a client in this network, such as 203.0.113.0/24."),
    ("--user-agent", "user_agent", None, "From a client whose name contains this."),
)


def _conditions(command: F) -> F:
    for flag, name, kind, what in reversed(_CONDITIONS):
        command = click.option(flag, name, type=kind, help=what)(command)
    return command


def row_of(session: Session) -> dict[str, Any]:
    """What a list shows. Names of values, never the values."""
    client = session.metadata.get("client")
    return {
        "session_id": session.id,
        "user_id": session.user_id,
        "status": session.status,
        "created_at": moment(session.created_at),
        "last_activity": moment(session.last_activity),
        "expires_at": moment(session.expires_at),
        "network": client.get("network") if isinstance(client, dict) else None,
        "num_keys": len(session),
    }


@click.command("list")
@_conditions
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@common
def list_command(sessions: Blocking, limit: int, *, as_json: bool, **conditions: Any) -> None:
    """List live sessions, newest first. Times are such as 2026-11-26T08:00Z, or 30m for that long ago."""
    show_rows((row_of(session) for session in _paged(sessions, limit, conditions)), as_json=as_json)


def _paged(sessions: Blocking, limit: int, conditions: dict[str, Any]) -> Iterator[Session]:
    after: Session | None = None
    while limit > 0:
        page: list[Session] = sessions.get_sessions(limit=min(limit, _PAGE), after=after, **conditions)
        yield from page
        if len(page) < min(limit, _PAGE):
            return
        limit, after = limit - len(page), page[-1]


@click.command("show")
@click.argument("session_id")
@click.option("--values", is_flag=True, help="Show what the session holds, too; it may be private.")
@common
def show_command(sessions: Blocking, session_id: str, *, values: bool, as_json: bool) -> None:
    """Show one session; of an ended one why, when and by whom, as long as that is known."""
    session = sessions.get_session(session_id)
    if session is None:
        _show_ending(sessions, session_id, as_json=as_json)
        return
    facts = {
        **row_of(session),
        "authenticated_at": moment(session.authenticated_at),
        "priority": session.priority,
        "metadata": dict(session.metadata),
        "progress": session.progress,
        "keys": sorted(session),
    }
    if values:
        exported = sessions.export_session(session_id)
        facts["values"] = None if exported is None else exported["data"]
    show_one(facts, as_json=as_json)


def _show_ending(sessions: Blocking, session_id: str, *, as_json: bool) -> None:
    ended = sessions.why_ended(session_id)
    if ended is None:
        click.echo("no live session has this id, and none that ended lately", err=True)
    else:
        facts = {
            "session_id": session_id,
            "ended_because": ended.reason,
            "ended_at": moment(ended.at),
            "ended_by": ended.by,
        }
        show_one(facts, as_json=as_json)
    sys.exit(1)


@click.command("revoke")
@click.argument("session_ids", nargs=-1, required=True)
@click.option("--reason", default="revoked", show_default=True)
@common
def revoke_command(sessions: Blocking, session_ids: tuple[str, ...], reason: str, *, as_json: bool) -> None:
    """End sessions by their ids. Exit code 1 if one of them was not alive."""
    ended = {id_: sessions.delete_session(id_, reason=reason) for id_ in session_ids}
    show_rows(({"session_id": id_, "ended": was_alive} for id_, was_alive in ended.items()), as_json=as_json)
    if not all(ended.values()):
        sys.exit(1)


@click.command("revoke-user")
@click.argument("user")
@click.option("--keep", "keep", multiple=True, metavar="ID", help="But for this session. May be repeated.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def revoke_user_command(
    sessions: Blocking, user: str, keep: tuple[str, ...], *, yes: bool, as_json: bool
) -> None:
    """End the sessions of a user."""
    number = sum(session.id not in keep for session in sessions.get_user_sessions(user))
    _confirm(f"End {number} sessions of this user?", yes=yes)
    show_one({"ended": sessions.delete_user_sessions(user, keep=keep)}, as_json=as_json)


@click.command("end")
@_conditions
@click.option("--reason", default="revoked", show_default=True)
@click.option("--dry-run", is_flag=True, help="Only tell how many it would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def end_command(
    sessions: Blocking, reason: str, *, dry_run: bool, yes: bool, as_json: bool, **conditions: Any
) -> None:
    """End the sessions that meet all of these conditions. Tells how many that are, and asks."""
    number = sessions.end_sessions(dry_run=True, **conditions)
    if dry_run:
        show_one({"would_end": number}, as_json=as_json)
        return
    _confirm(f"End {number} sessions?", yes=yes)
    show_one({"ended": sessions.end_sessions(dry_run=False, reason=reason, **conditions)}, as_json=as_json)


@click.command("end-before")
@click.argument("time", type=MOMENT)
@click.option("--reason", default="revoked", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def end_before_command(sessions: Blocking, time: float, reason: str, *, yes: bool, as_json: bool) -> None:
    """End every session created before TIME (or longer ago than it says), in one write: for a leaked key."""
    _confirm(f"End every session created before {moment(time)}?", yes=yes)
    sessions.end_all_before(time, reason=reason)
    show_one({"ended_before": moment(time)}, as_json=as_json)


def _confirm(question: str, *, yes: bool) -> None:
    """Ask, on standard error; without a terminal only `--yes` says so."""
    if not yes:
        click.confirm(question, abort=True, err=True)
