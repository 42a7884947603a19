"""Click options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
policy_option = click.option(
    "--policy",
    metavar="POLICY",
    help="Which precision to fly (default: that of the board's config.json, else fastest within cc>=0.995).",
)
reinstall_option = click.option(
    "--reinstall", is_flag=True, help="Install the bundle also if its release is the current one."
)
_autopilot_option = click.option(
    "--autopilot",
    metavar="LINK",
    help="Link on the board with the autopilot's heartbeats, as udpin:0.0.0.0:14550 or /dev/ttyTHS1.",
)
_no_autopilot_option = click.option(
    "--no-autopilot", is_flag=True, help="The board has no autopilot: do not check whether it is armed."
)


def autopilot_options(command: Command) -> Command:
    """Add `--autopilot` and `--no-autopilot` to a command."""
    return _autopilot_option(_no_autopilot_option(command))
