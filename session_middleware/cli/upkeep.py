"""Commands that look after the whole: `cleanup`, `stats`, `health`."""

from __future__ import annotations

import sys
from typing import Any

import click

from session_middleware.cli.found import common
from session_middleware.cli.output import show_one
from session_middleware.cli.times import SPAN
from session_middleware.manager import Blocking

__all__: list[str] = []


@click.command("cleanup")
@click.option("--status", help="End those with exactly this status, too long alive or not.")
@click.option(
    "--older-than", type=SPAN, metavar="DURATION", help="End those created longer ago, such as 30d."
)
@click.option("--inactive-for", type=SPAN, metavar="DURATION", help="End those not used for so long.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def cleanup_command(
    sessions: Blocking,
    status: str | None,
    older_than: float | None,
    inactive_for: float | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove what has expired; with conditions, end what meets all of them."""
    if status is None and older_than is None and inactive_for is None:
        show_one({"removed": sessions.cleanup_expired()}, as_json=as_json)
        return
    if not yes:
        click.confirm("End every session that meets these conditions?", abort=True, err=True)
    ended = sessions.cleanup(status=status, older_than=older_than, inactive_for=inactive_for)
    show_one({"ended": ended}, as_json=as_json)


@click.command("stats")
@common
def stats_command(sessions: Blocking, *, as_json: bool) -> None:
    """How many sessions there are, how old, in which state."""
    show_one(sessions.get_statistics(), as_json=as_json)


@click.command("health")
@common
def health_command(sessions: Blocking, *, as_json: bool) -> None:
    """Whether an operator should look. Exit code 1 if it is critical."""
    health: dict[str, Any] = sessions.get_health()
    show_one(health, as_json=as_json)
    if health["overall_health"] == "critical":
        sys.exit(1)
