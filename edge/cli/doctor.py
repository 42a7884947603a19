"""The command `aerogaze doctor`."""

from __future__ import annotations

import click


@click.command(epilog="Example: aerogaze doctor")
def doctor() -> None:
    """Show what this machine can do, what it lacks, and how to fix it."""
