"""What a user says of the input of an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from calibration.inputs.onnx_import import Colour, Layout
from edge.core.errors import InputError
from edge.core.frames import parse_size

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class InputRequest:
    """What a user says on the command line of how an ONNX file is fed; None is not said."""

    layout: Layout | None
    size: str | None
    colour: Colour | None
    scale: str | None
    offset: str | None
    output: str | None

    def said(self) -> str | None:
        """Return the first option that was given."""
        return next((f"--{f.name}" for f in fields(InputRequest) if getattr(self, f.name) is not None), None)

    def image(self) -> tuple[Layout | None, tuple[int, int] | None, Colour | None, Numbers, Numbers]:
        """Return layout, size (width, height), colour, scale and offset.

        Raises:
            InputError: numbers that are none.
        """
        size = parse_size(self.size, "--size") if self.size is not None else None
        scale, offset = _numbers("--scale", self.scale), _numbers("--offset", self.offset)
        return self.layout, size, self.colour, scale, offset


def _numbers(option: str, text: str | None) -> Numbers:
    try:
        return tuple(_number(part) for part in text.split(",")) if text is not None else ()
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"{option} {text!r} is not understood; expected a number, or one a channel: 0.017,0.0175,0.0174"
        ) from None


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)
