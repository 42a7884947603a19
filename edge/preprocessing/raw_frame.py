"""A raw frame as a camera gives it: the input of graphs that do the preprocessing themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import parse_size

PixelFormat = Literal["bgr", "nv12"]
PIXEL_FORMATS: tuple[PixelFormat, ...] = get_args(PixelFormat)
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class RawFrameSpec:
    """Size and format of a frame, uint8.

    "bgr": (1, H, W, 3). "nv12": (1, H * 3 / 2, W), the plane of Y above that of U and V in turn, each
    of these for 2 x 2 pixels; BT.601, Y 16 to 235, as OpenCV has it.

    Raises:
        InputError: NV12 with an odd side.
    """

    width: int
    height: int
    format: PixelFormat = "bgr"

    def __post_init__(self) -> None:
        if self.format == "nv12" and (self.width % 2 or self.height % 2):
            raise InputError(f"no NV12 frame has {self.width}x{self.height} pixels; expected even sides")

    @classmethod
    def parse(cls, size: str, format: PixelFormat = "bgr") -> RawFrameSpec:  # noqa: A002
        """Read a size as 1280x720.

        Raises:
            InputError: it is none.
        """
        return cls(*parse_size(size, "the camera's frame size"), format)

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.format.upper()}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the tensor."""
        if self.format == "nv12":
            return (1, self.height * 3 // 2, self.width)
        return (1, self.height, self.width, 3)

    def __call__(self, image: Image, out: Image | None = None) -> Image:
        """Return an image (H, W, 3), uint8 BGR, as the tensor. `out`, if given, is filled and returned.

        Raises:
            InputError: it is of another size.
        """
        if image.shape != (self.height, self.width, 3):
            raise InputError(
                f"a frame is {image.shape[1]}x{image.shape[0]}; this release takes raw frames of "
                f"{self.width}x{self.height}: give such footage, or export with --fuse-preprocess "
                f"{image.shape[1]}x{image.shape[0]}"
            )
        tensor = (image if self.format == "bgr" else _to_nv12(image))[None]
        if out is None:
            return np.ascontiguousarray(tensor)
        out[...] = tensor
        return out

    def round_trip(self, image: Image) -> Image:
        """Return the BGR image that is left of one in this format: NV12 halves the resolution of colour."""
        if self.format == "bgr":
            return image
        return np.asarray(cv2.cvtColor(_to_nv12(image), cv2.COLOR_YUV2BGR_NV12), np.uint8)

    def stretch(self, image: Image) -> Image:
        """Return an image stretched to this size by repeating pixels, the same on every machine."""
        rows = np.arange(self.height) * image.shape[0] // self.height
        columns = np.arange(self.width) * image.shape[1] // self.width
        return np.ascontiguousarray(image[rows][:, columns])


def _to_nv12(image: Image) -> Image:
    """Return a BGR image (H, W, 3) as NV12 (H * 3 / 2, W)."""
    height, width = image.shape[:2]
    planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
    colours = planes[height:].reshape(2, -1).T.reshape(height // 2, width)
    return np.concatenate([planes[:height], colours])
