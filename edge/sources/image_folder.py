"""A folder of images as a clip, in natural order of their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Frame, Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
FPS = 10.0
"""Frame rate of a folder: images have no time stamps, so the media time is index / FPS."""
JPEG_MAGIC = b"\xff\xd8"

_REDUCED_FLAGS = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class FolderSource:
    """All images of one folder, which must have one size.

    JPEGs are decoded at the smallest of 1/2, 1/4 and 1/8 that still has `min_size` and divides the size. The
    smaller inverse transform of libjpeg does that, and comes close to the mean of the pixels.

    Args:
        folder: The folder.
        min_size: Width and height that suffice; None for the full size.

    Raises:
        InputError: There is no image, or the first one cannot be read; or, while reading, an image cannot
            be read or has another size.
    """

    def __init__(self, folder: Path, min_size: tuple[int, int] | None = None) -> None:
        self._paths = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
            key=natural_sort_key,
        )
        if not self._paths:
            raise InputError(f"{folder} has no images; expected {', '.join(sorted(SUFFIXES))}")
        self.name = str(folder)
        self.height, self.width = _read_image(self._paths[0])[0].shape[:2]
        self._scale = choose_scale(self.width, self.height, min_size)
        self.fps = FPS
        self.length: int | None = len(self._paths)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images."""
        for index, path in enumerate(self._paths):
            frame = Frame(index, index / self.fps, *_read_image(path, self._scale))
            if (frame.width, frame.height) != (self.width, self.height):
                raise InputError(
                    f"{path} is {frame.width}x{frame.height}, the first image is "
                    f"{self.width}x{self.height}; expected one size in a folder: sort them apart"
                )
            yield frame

    def close(self) -> None:
        """Do nothing: no file is held open."""


def choose_scale(width: int, height: int, min_size: tuple[int, int] | None) -> int:
    """Return the largest of 8, 4, 2, 1 that divides a picture's size and leaves at least `min_size`."""
    if min_size is None:
        return 1
    scales = (
        scale
        for scale in sorted(_REDUCED_FLAGS, reverse=True)
        if width % scale == height % scale == 0
        and width // scale >= min_size[0]
        and height // scale >= min_size[1]
    )
    return next(scales, 1)


def _read_image(path: Path, scale: int = 1) -> tuple[Image, int]:
    """Return an image and its scale; only JPEGs can be decoded smaller."""
    data = np.fromfile(path, np.uint8)
    scale = scale if data[:2].tobytes() == JPEG_MAGIC else 1
    try:
        image = cv2.imdecode(data, _REDUCED_FLAGS.get(scale, cv2.IMREAD_COLOR)) if data.size else None
    except cv2.error:  # such as a header that claims a billion pixels
        image = None
    if image is None:
        raise InputError(f"{path} cannot be read as an image: replace or remove it")
    return image, scale  # type: ignore[return-value]


def natural_sort_key(path: Path) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts 2.png before 10.png."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.name)
    ]
