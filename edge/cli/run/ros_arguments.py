"""Arguments of ROS 2 on the command line: `--ros-args ... [--]`, as every ROS node takes them."""

from __future__ import annotations

import shlex

import click

from edge.cli.options import NonEmptyCommand, set_variable

START, END = "--ros-args", "--"


def _use_arguments(ctx: click.Context, param: click.Parameter, text: str | None) -> None:
    """Put the arguments of ROS into the environment, where the node finds them."""
    from edge.sources.ros.node import ARGUMENTS_VARIABLE

    set_variable(ctx, ARGUMENTS_VARIABLE, text)


ros_args_option = click.option(
    START,
    metavar="ARGS... [--]",
    expose_value=False,
    callback=_use_arguments,
    help="Arguments for ROS 2, as every node takes them.",
)


class RosCommand(NonEmptyCommand):
    """Command that takes the arguments between `--ros-args` and `--`, or the end, for ROS."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the arguments of ROS, which may be given several times, to one value; parse all."""
        words: list[str] = []
        while START in args:
            first = args.index(START)
            last = args.index(END, first) if END in args[first:] else len(args)
            words += (word for word in args[first + 1 : last] if word != START)
            args = [*args[:first], *args[last + 1 :]]
        return super().parse_args(ctx, [f"{START}={shlex.join(words)}", *args] if words else args)
