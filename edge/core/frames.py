"""Frames and where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError

Image = NDArray[np.uint8]
Tensor = NDArray[np.float32]
Input = NDArray[np.float32] | NDArray[np.uint8]
"""What a graph takes of a frame: prepared, or raw where it prepares by itself."""


@dataclass(frozen=True)
class Frame:
    """One frame: `image` (H, W, 3), uint8 BGR.

    `capture_s`: seconds on the source's clock, media time for files, monotonic time for cameras. `scale`:
    how many times smaller than the source's picture `image` is, each way, where the source could give it so.
    """

    index: int
    capture_s: float
    image: Image
    scale: int = 1

    @property
    def width(self) -> int:
        """Return the width of the source's picture."""
        return int(self.image.shape[1]) * self.scale

    @property
    def height(self) -> int:
        """Return the height of the source's picture."""
        return int(self.image.shape[0]) * self.scale


class Source(Protocol):
    """Frames in order. Opening one checks that it has frames and tells their size."""

    name: str
    width: int
    height: int
    fps: float
    length: int | None
    """Frames announced; None where nobody knows. Fewer may be readable."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once."""

    def close(self) -> None:
        """Let go of the file or device."""


def parse_size(text: str, named: str, least: int = 1, most: int = 99_999) -> tuple[int, int]:
    """Return the width and height in pixels that WIDTHxHEIGHT says. `named`: what says it, as `--size`.

    Raises:
        InputError: it is none, or a side is not from `least` to `most`.
    """
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not least <= min(sides) <= max(sides) <= most:
        bounds = f" with sides of {least} to {most}" if (least, most) != (1, 99_999) else ""
        raise InputError(f"{named} {text!r} is not understood; expected WIDTHxHEIGHT{bounds}, as 128x64")
    return sides
