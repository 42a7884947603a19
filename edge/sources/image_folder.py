"""A folder of images as a clip, in the order a person would number them."""

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
"""Frames a second of a folder: images carry no time, so their media time is index / FPS."""

_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class FolderSource:
    """All images of one folder, which must be of one size.

    `wanted`: width and height that are enough. JPEG is then decoded at the least of 1/2, 1/4, 1/8 that has
    them and divides the size: by libjpeg's smaller inverse transform, which is near the mean of the pixels.

    Raises:
        InputError: no image, or the first one cannot be read; while reading: an image that cannot
            be read or is of another size, each named.
    """

    def __init__(self, folder: Path, wanted: tuple[int, int] | None = None) -> None:
        self._paths = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
            key=natural_sort_key,
        )
        if not self._paths:
            raise InputError(f"{folder} has no images; expected {', '.join(sorted(SUFFIXES))}")
        self.name = str(folder)
        self.height, self.width = _read(self._paths[0])[0].shape[:2]
        self._scale = choose_scale(self.width, self.height, wanted)
        self.fps = FPS
        self.length: int | None = len(self._paths)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images."""
        for index, path in enumerate(self._paths):
            frame = Frame(index, index / self.fps, *_read(path, self._scale))
            if (frame.width, frame.height) != (self.width, self.height):
                raise InputError(
                    f"{path} is {frame.width}x{frame.height}, the first image is "
                    f"{self.width}x{self.height}; expected one size in a folder: sort them apart"
                )
            yield frame

    def close(self) -> None:
        """Nothing is held open."""


def choose_scale(width: int, height: int, wanted: tuple[int, int] | None) -> int:
    """Return by how much a picture may be shrunk: the most of 8, 4, 2 that divides it and leaves `wanted`."""
    if wanted is None:
        return 1
    fits = (
        scale
        for scale in sorted(_REDUCED, reverse=True)
        if width % scale == height % scale == 0
        and width // scale >= wanted[0]
        and height // scale >= wanted[1]
    )
    return next(fits, 1)


def _read(path: Path, scale: int = 1) -> tuple[Image, int]:
    """Return an image and the scale it has: only JPEG is decoded smaller."""
    data = np.fromfile(path, np.uint8)
    scale = scale if data[:2].tobytes() == b"\xff\xd8" else 1
    try:
        image = cv2.imdecode(data, _REDUCED.get(scale, cv2.IMREAD_COLOR)) if data.size else None
    except cv2.error:  # as for a header that claims a billion pixels
        image = None
    if image is None:
        raise InputError(f"{path} cannot be read as an image: replace or remove it")
    return image, scale  # type: ignore[return-value]


def natural_sort_key(path: Path) -> list[tuple[bool, int, str]]:
    """Return the key that sorts names as a person would number them: 2.png before 10.png."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.name)
    ]
