"""Option types and options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edge.core.errors import InputError
from edge.inference.engine_selection import ENGINE_CHOICES
from edge.inference.runner_factory import GPU_WAITS, WAIT_VARIABLE
from edge.sources.pixel_range import RANGE_VARIABLE, parse_range
from edge.sources.public_name import public_name


class FileType(click.Path):
    """Path of a file, which the help calls FILE."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)
        self.name = "file"


class FolderType(click.Path):
    """Path of a folder, which the help calls DIR."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)
        self.name = "dir"


FILE = FileType()
FOLDER = FolderType()


class SectionedCommand(click.Command):
    """Command whose help lists its options under headings.

    Args:
        sections: Names of the options (parameter names of click) by heading.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.sections = dict(sections or {})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; options without one come last, under Options."""
        options = {param.name: param for param in self.get_params(ctx) if isinstance(param, click.Option)}
        placed = {name for names in self.sections.values() for name in names}
        rest = [name for name in options if name not in placed]
        for heading, names in (*self.sections.items(), ("Options", rest)):
            records = [options[name].get_help_record(ctx) for name in names]
            if rows := [record for record in records if record is not None]:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class NonEmptyCommand(SectionedCommand):
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
        names = [argument for argument in args if argument.lower().startswith("gst:") or ":/" in argument]
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if names and "unexpected extra argument" in error.message:  # the rest of a password with a space
                raise InputError(
                    f"more arguments than expected after {public_name(names[0])}: put the source into "
                    "quotation marks"
                ) from None
            raise


class FiniteRange(click.FloatRange):
    """Float range that rejects NaN, which click accepts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail like other click types."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def _use_range(ctx: click.Context, param: click.Parameter, text: str | None) -> None:
    """Set the range for this command and its worker processes."""
    parse_range(text)
    set_variable(ctx, RANGE_VARIABLE, text)


def _use_gpu_wait(ctx: click.Context, param: click.Parameter, wait: str | None) -> None:
    """Set how threads of this command wait for the GPU."""
    set_variable(ctx, WAIT_VARIABLE, wait)


def set_variable(ctx: click.Context, name: str, text: str | None) -> None:
    """Set an environment variable until the command ends; None changes nothing."""
    if text is None:
        return
    previous = os.environ.get(name)
    os.environ[name] = text
    if previous is None:
        ctx.call_on_close(lambda: os.environ.pop(name, None))
    else:
        ctx.call_on_close(lambda: os.environ.update({name: previous}))


range_option = click.option(
    "--range",
    "pixel_range",
    metavar="LOW,HIGH",
    expose_value=False,
    callback=_use_range,
    help="Values of 16-bit images, such as thermal ones, that become black and white (default: percentiles "
    f"of a clip, or ${RANGE_VARIABLE}).",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINE_CHOICES),
    default="auto",
    show_default=True,
    help="Inference engine. auto: TensorRT if a matching engine was built, otherwise ONNX Runtime.",
)
gpu_wait_option = click.option(
    "--gpu-wait",
    type=click.Choice(GPU_WAITS),
    expose_value=False,
    callback=_use_gpu_wait,
    help="How a thread waits for the GPU. spin: without pause, with the least latency; block: asleep, which "
    f"leaves the core to other work (default: spin, or ${WAIT_VARIABLE}).",
)
