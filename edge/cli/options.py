"""Option types and options that several commands share."""

from __future__ import annotations

import math
from typing import Any

import click

from edge.core.errors import InputError
from edge.inference.engine_selection import ENGINE_CHOICES


class NonEmptyCommand(click.Command):
    """Command that rejects empty arguments, which usually come from an unset shell variable.

    Raises:
        InputError: An argument is empty.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Check the arguments and parse them."""
        previous = ctx.command_path
        for argument in args:
            if not argument or (argument.startswith("--") and argument.endswith("=")):
                raise InputError(f"empty value after {argument or previous}: give a value, or leave it out")
            previous = argument
        return super().parse_args(ctx, args)


class FiniteRange(click.FloatRange):
    """Float range that rejects NaN, which click accepts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail like other click types."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINE_CHOICES),
    default="auto",
    show_default=True,
    help="Inference engine. auto: TensorRT if a matching engine was built, otherwise ONNX Runtime.",
)
