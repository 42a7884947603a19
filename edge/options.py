"""Options that several commands share."""

from __future__ import annotations

import math
from typing import Any

import click

from edge.engines import CHOICES


class Number(click.FloatRange):
    """A number in a range; NaN, which click takes for one, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


engine_option = click.option(
    "--engine",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="What runs it; auto: TensorRT if an engine that fits was built, else ONNX Runtime.",
)
