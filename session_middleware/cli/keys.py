"""The command `secret`. Alone, because it needs nothing else of the package."""

from __future__ import annotations

import secrets

import click

__all__: list[str] = []


@click.command("secret")
def secret_command() -> None:
    """Print a new secret key: 32 random bytes."""
    click.echo(secrets.token_urlsafe(32))
