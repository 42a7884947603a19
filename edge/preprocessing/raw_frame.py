"""Raw camera frames: the input of graphs that contain the preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Image, parse_size

PixelFormat = Literal["bgr", "nv12"]
PIXEL_FORMATS: tuple[PixelFormat, ...] = get_args(PixelFormat)


@dataclass(frozen=True)
class RawFrameSpec:
    """Size and pixel format of raw frames, uint8; calling it converts an image.

    "bgr" has the shape (1, H, W, 3). "nv12" has the shape (1, H * 3 / 2, W): the Y plane above a plane with U
    and V interleaved, each for 2 x 2 pixels, BT.601 with Y from 16 to 235, as in OpenCV.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        format: The pixel format.

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
        """Parse a size such as 1280x720.

        Raises:
            InputError: The text is not a size.
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
        """Convert an image to the tensor.

        Args:
            image: Image (H, W, 3), uint8 BGR.
            out: Buffer for the result; None allocates one.

        Returns:
            The tensor of `shape`; `out` if it was passed.

        Raises:
            InputError: The image has another size.
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
        """Convert a BGR image to this format and back. NV12 halves the resolution of colour."""
        if self.format == "bgr":
            return image
        return np.asarray(cv2.cvtColor(_to_nv12(image), cv2.COLOR_YUV2BGR_NV12), np.uint8)

    def stretch(self, image: Image) -> Image:
        """Resize an image to this size by repeating pixels, with the same result on every machine."""
        rows = np.arange(self.height) * image.shape[0] // self.height
        columns = np.arange(self.width) * image.shape[1] // self.width
        return np.ascontiguousarray(image[rows][:, columns])


def _to_nv12(image: Image) -> Image:
    """Convert a BGR image (H, W, 3) to NV12 (H * 3 / 2, W)."""
    height, width = image.shape[:2]
    planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
    chroma = planes[height:].reshape(2, -1).T.reshape(height // 2, width)
    return np.concatenate([planes[:height], chroma])
