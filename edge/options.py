"""Options that several commands share."""

from __future__ import annotations

import click

from edge.engines import CHOICES

engine_option = click.option(
    "--engine",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="What runs it; auto: TensorRT if an engine that fits was built, else ONNX Runtime.",
)
