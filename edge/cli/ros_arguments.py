"""Arguments of ROS 2 on the command line: `--ros-args ... [--]`, as every ROS node takes them."""

from __future__ import annotations

import os
import shlex

import click

from edge.cli.options import NonEmptyCommand

START, END = "--ros-args", "--"
ros_args_option = click.option(
    START, metavar="ARGS... [--]", expose_value=False, help="Arguments for ROS 2, as every node takes them."
)
"""The option in the help; `RosCommand` takes its arguments away before click sees them."""


class RosCommand(NonEmptyCommand):
    """Command that leaves the arguments between `--ros-args` and `--` to `rclpy`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the arguments of ROS into the environment, where the node finds them, and parse the others."""
        from edge.sources.ros.node import ARGUMENTS_VARIABLE

        if START in args:
            first = args.index(START)
            last = args.index(END, first) if END in args[first:] else len(args)
            previous = os.environ.get(ARGUMENTS_VARIABLE)
            os.environ[ARGUMENTS_VARIABLE] = shlex.join(args[first + 1 : last])
            ctx.call_on_close(lambda: _restore(ARGUMENTS_VARIABLE, previous))
            args = [*args[:first], *args[last + 1 :]]
        return super().parse_args(ctx, args)


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value
