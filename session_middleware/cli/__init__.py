"""`session-middleware`: what an operator does with sessions, from a shell. Needs the extra `cli`.

Reading order: `main`, `app` (the group and its options), `found` (which manager), `output`, then a file per
group of commands.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, and exit."""
    try:
        from session_middleware.cli.app import cli  # noqa: PLC0415  (optional)
    except ModuleNotFoundError as problem:
        if problem.name not in {"click", "rich"}:
            raise
        sys.exit('session-middleware needs two more packages: pip install "session_middleware[cli]"')
    cli(prog_name="session-middleware")
