"""A folder of images as a clip, in the order a person would number them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge.errors import InputError
from edge.frames import Frame, Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
FPS = 10.0
"""Frames a second of a folder: images carry no time, so their media time is index / FPS."""


class FolderSource:
    """All images of one folder, which must be of one size.

    Raises:
        InputError: no image, or the first one cannot be read; while reading: an image that cannot
            be read or is of another size, each named.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
            key=numbered,
        )
        if not self._paths:
            raise InputError(f"{folder} has no images; expected {', '.join(sorted(SUFFIXES))}")
        self.name = str(folder)
        self.height, self.width = _read(self._paths[0]).shape[:2]
        self.fps = FPS
        self.length: int | None = len(self._paths)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images."""
        for index, path in enumerate(self._paths):
            image = _read(path)
            if image.shape[:2] != (self.height, self.width):
                raise InputError(
                    f"{path} is {image.shape[1]}x{image.shape[0]}, the first image is "
                    f"{self.width}x{self.height}; expected one size in a folder: sort them apart"
                )
            yield Frame(index, index / self.fps, image)

    def close(self) -> None:
        """Nothing is held open."""


def _read(path: Path) -> Image:
    data = np.fromfile(path, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # as for a header that claims a billion pixels
        image = None
    if image is None:
        raise InputError(f"{path} cannot be read as an image: replace or remove it")
    return image  # type: ignore[return-value]


def numbered(path: Path) -> list[tuple[bool, int, str]]:
    """Return the key that sorts names as a person would number them: 2.png before 10.png."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.name)
    ]
