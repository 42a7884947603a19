"""Command-line options that describe the input of an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from calibration.inputs.image_format import Colour, Layout
from edge.core.errors import InputError
from edge.core.frames import parse_size

Numbers = tuple[float, ...]


# Each field is an option of the same name.
@dataclass(frozen=True)
class InputRequest:
    """Options that describe the input of an ONNX file; None for an option that is not given.

    Attributes:
        layout: Layout of the input.
        size: Size of the input, WIDTHxHEIGHT.
        colour: Order of the channels.
        scale: Scale of pixel values, one number or one per channel.
        offset: Offset of pixel values, one number or one per channel.
        output: Name of the output with the map.
    """

    layout: Layout | None
    size: str | None
    colour: Colour | None
    scale: str | None
    offset: str | None
    output: str | None

    def first_option(self) -> str | None:
        """Return the name of the first option that is given, if any."""
        return next((f"--{f.name}" for f in fields(InputRequest) if getattr(self, f.name) is not None), None)

    def parse_image(self) -> tuple[Layout | None, tuple[int, int] | None, Colour | None, Numbers, Numbers]:
        """Return layout, size (width, height), colour, scale and offset.

        Scale and offset are empty if they are not given.

        Raises:
            InputError: If the size, scale or offset is not understood.
        """
        size = parse_size(self.size, "--size") if self.size is not None else None
        scale, offset = parse_numbers("--scale", self.scale), parse_numbers("--offset", self.offset)
        return self.layout, size, self.colour, scale, offset


def parse_numbers(option: str, text: str | None) -> Numbers:
    """Return the numbers of an option, such as 0.5 or 1/255,1/255,1/255; none if it is not given.

    Raises:
        InputError: The text is not understood.
    """
    try:
        return tuple(_parse_number(part) for part in text.split(",")) if text is not None else ()
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"{option} {text!r} is not understood; expected a number, or one per channel: 0.017,0.0175,0.0174"
        ) from None


def _parse_number(text: str) -> float:
    """Return a number or a fraction such as 1/255."""
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(numerator)
