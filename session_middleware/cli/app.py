"""The group of commands. Each is imported when it is called, so that help starts at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

__all__ = ["COMMANDS", "EXIT_CODES", "cli"]

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "list": ("sessions", "List live sessions, newest first."),
    "show": ("sessions", "Show one session, or why it ended."),
    "revoke": ("sessions", "End sessions by their ids."),
    "revoke-user": ("sessions", "End the sessions of a user."),
    "end": ("sessions", "End the sessions that meet conditions; a dry run first."),
    "end-before": ("sessions", "End every session created before a moment, at once."),
    "cleanup": ("upkeep", "Remove what has expired, or what conditions name."),
    "stats": ("upkeep", "How many sessions there are, how old, in which state."),
    "health": ("upkeep", "Whether an operator should look; exit code 1 if it is critical."),
    "doctor": ("doctor", "Check settings, backend and clock; exit code 1 if something is wrong."),
    "report": ("reporting", "What log files tell of sessions: figures, health, a session's timeline."),
    "migrate": ("moving", "Move every session to another backend."),
    "secret": ("keys", "Print a new secret key."),
}
"""By name: the module of each, and what it is for."""

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "done",
    1: "found nothing to do it to, or found something wrong",
    2: "the command line makes no sense",
    3: "the backend does not answer",
    4: "no manager was found, or its settings are wrong",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  (as above)
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"session_middleware.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  (as above)
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  (as above)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), what) for code, what in EXIT_CODES.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="session_middleware")
def cli() -> None:
    """Look after the sessions of an app."""
