"""Layout and channel order of an image input."""

from __future__ import annotations

from typing import Literal, get_args

Layout = Literal["nchw", "nhwc"]
Colour = Literal["rgb", "bgr"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
COLOURS: tuple[Colour, ...] = get_args(Colour)
