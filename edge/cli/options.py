"""Options that several commands share."""

from __future__ import annotations

import math
from typing import Any

import click

from edge.core.errors import InputError
from edge.inference.engine_selection import ENGINE_CHOICES


class NonEmptyCommand(click.Command):
    """A command whose arguments all say something: "" comes of a variable that is not set.

    Raises:
        InputError: one is empty.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        before = ctx.command_path
        for word in args:
            if not word or (word.startswith("--") and word.endswith("=")):
                raise InputError(f"{word or before} is followed by nothing: give a value, or leave it out")
            before = word
        return super().parse_args(ctx, args)


class FiniteRange(click.FloatRange):
    """A number in a range; NaN, which click takes for one, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; fail as click's types do."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINE_CHOICES),
    default="auto",
    show_default=True,
    help="What runs it; auto: TensorRT if an engine that fits was built, else ONNX Runtime.",
)
