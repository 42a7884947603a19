"""Images of a folder as a clip, in natural order of their names; all readers list and read images here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.frames import Frame, Image
from edge.core.guarded_files import read_bytes
from edge.sources.pixel_range import MEASURED_IMAGES, configured_range, measure_range, to_colour

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
OTHER_SUFFIXES = {
    ".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".j2k", ".apng", ".svg", ".psd", ".exr", ".hdr",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".raw", ".ppm", ".pgm", ".pbm", ".tga", ".jfif", ".rjpeg",
}  # fmt: skip
"""Suffixes of pictures that are not read. Files with them are named, other files in a folder are not."""
MAX_IMAGE_BYTES = 1 << 30
NAMED_FILES = 3
DAMAGED = "damaged or too large"
FPS = 10.0
"""Frame rate of a folder: images have no time stamps, so the media time is index / FPS."""
JPEG_MAGIC = b"\xff\xd8"

_REDUCED_FLAGS = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class ImageFiles:
    """Image files of one clip, read as 8-bit BGR; deeper ones by the rule of `edge.sources.pixel_range`.

    Args:
        paths: The files in the order of the clip.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._range = list(paths), configured_range()

    def read(self, index: int, scale: int = 1) -> tuple[Image, int] | None:
        """Return an image and its scale, or None if it cannot be read; only JPEGs can be decoded smaller."""
        decoded = self._decode(index, scale)
        if decoded is None:
            return None
        image, scale = decoded
        if image.dtype == np.uint8:
            return to_colour(image), scale
        if self._range is None:
            self._range = measure_range(self._measured())
        return self._range.to_8_bits(image), scale

    def _decode(self, index: int, scale: int = 1) -> tuple[NDArray[Any], int] | None:
        try:
            return read_image(self._paths[index], scale=scale)
        except InputError:
            return None

    def _measured(self) -> Iterator[NDArray[Any]]:
        """Yield images of more than 8 bits that are spread over the clip."""
        count = min(MEASURED_IMAGES, len(self._paths))
        for index in np.linspace(0, len(self._paths) - 1, count).round().astype(int):
            decoded = self._decode(index)
            if decoded is not None and decoded[0].dtype != np.uint8:
                yield decoded[0]


class FolderSource:
    """All images of one folder, which must have one size.

    Files that cannot be read as images are left out and named; they leave a gap in the frame indices.

    JPEGs are decoded at the smallest of 1/2, 1/4 and 1/8 that still has `min_size` and divides the size. The
    smaller inverse transform of libjpeg does that, and comes close to the mean of the pixels.

    Args:
        folder: The folder.
        min_size: Width and height that suffice; None for the full size.

    Raises:
        InputError: There is no image that can be read; or, while reading, an image has another size.
    """

    def __init__(self, folder: Path, min_size: tuple[int, int] | None = None) -> None:
        self.name = str(folder)
        self._paths, self._skipped = list_image_files(folder)
        if not self._paths:
            raise InputError(
                f"{folder} has no images; expected {', '.join(sorted(SUFFIXES))}"
                + (f" ({describe_skipped(self._skipped)})" if self._skipped else "")
            )
        self._files = ImageFiles(self._paths)
        self._first, (self.height, self.width) = self._find_first()
        self._scale = choose_scale(self.width, self.height, min_size)
        self.fps = FPS
        self.length: int | None = len(self._paths)

    def _find_first(self) -> tuple[int, tuple[int, int]]:
        """Return the index and the height and width of the first image that can be read."""
        for index, path in enumerate(self._paths):
            decoded = self._files.read(index)
            if decoded is not None:
                return index, (decoded[0].shape[0], decoded[0].shape[1])
            self._skipped[path] = DAMAGED
        raise InputError(
            f"{self.name} has no image that can be read ({describe_skipped(self._skipped)}): replace them"
        )

    @property
    def damage(self) -> list[str]:
        """The files that were left out so far."""
        return [f"{printable(self.name)}: {describe_skipped(self._skipped)}"] if self._skipped else []

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images."""
        for index, path in enumerate(self._paths[self._first :], self._first):
            decoded = self._files.read(index, self._scale)
            if decoded is None:
                self._skipped[path] = DAMAGED
                continue
            frame = Frame(index, index / self.fps, *decoded)
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


def list_image_files(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the images of a folder in natural order, and the reason for each picture that is left out.

    Hidden files and files without a picture's suffix are ignored.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=natural_sort_key)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; expected a folder of images") from None
    paths: list[Path] = []
    skipped: dict[Path, str] = {}
    for path in entries:
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix not in SUFFIXES | OTHER_SUFFIXES:
            continue
        reason = _find_reason_to_skip(path, suffix)
        if reason is None:
            paths.append(path)
        else:
            skipped[path] = reason
    return paths, skipped


def describe_skipped(skipped: dict[Path, str]) -> str:
    """Return the files that are left out as one line, with the reasons."""
    named = [f"{printable(path.name)} ({reason})" for path, reason in list(skipped.items())[:NAMED_FILES]]
    rest = f" and {len(skipped) - NAMED_FILES} more" if len(skipped) > NAMED_FILES else ""
    return f"{len(skipped)} file{'s' * (len(skipped) != 1)} left out: {', '.join(named)}{rest}"


def read_image(path: Path, mode: int | None = None, scale: int = 1) -> tuple[NDArray[Any], int]:
    """Return an image file and its scale.

    Args:
        path: The file.
        mode: Read mode of OpenCV; None for colour (H, W, 3), BGR, at the depth of the file.
        scale: Wanted reduction of each side; only JPEGs can be decoded smaller.

    Raises:
        InputError: The file cannot be read as an image.
    """
    decoded = decode_image(
        np.frombuffer(read_bytes(path, MAX_IMAGE_BYTES, "an image"), np.uint8), mode, scale
    )
    if decoded is None:
        raise InputError(f"{path} cannot be read as an image: replace or remove it")
    return decoded


def decode_image(
    data: NDArray[np.uint8], mode: int | None = None, scale: int = 1
) -> tuple[NDArray[Any], int] | None:
    """Return an encoded image and its scale, as `read_image`; None if it cannot be decoded.

    Args:
        data: Bytes of a JPEG, PNG, WebP or another picture.
        mode: Read mode of OpenCV; None for colour (H, W, 3), BGR, at the depth of the picture.
        scale: Wanted reduction of each side; only JPEGs can be decoded smaller.
    """
    scale = scale if data[:2].tobytes() == JPEG_MAGIC else 1
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if mode is None else mode
    try:
        image = cv2.imdecode(data, _REDUCED_FLAGS.get(scale, flags)) if data.size else None
    except cv2.error:  # such as a header that claims more pixels than `edge` allows
        return None
    return None if image is None else (image, scale)


def natural_sort_key(path: Path) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts 2.png before 10.png.

    Numbers are compared by their length and digits, since `int` refuses very long ones.
    """
    parts = re.split(r"([0-9]+)", path.name)
    return [
        (True, len(part.lstrip("0")), part.lstrip("0")) if index % 2 else (False, 0, part)
        for index, part in enumerate(parts)
    ]


def describe_no_file(path: Path) -> str | None:
    """Return what a path is that is no regular file, or no link to one; None for a file."""
    if path.is_symlink() and not path.exists():
        return "a link to a missing file"
    if path.is_dir():
        return "a folder"
    return None if path.is_file() else "no regular file"


def _find_reason_to_skip(path: Path, suffix: str) -> str | None:
    """Return why a file with a picture's suffix cannot be read; None if it may be an image."""
    if (reason := describe_no_file(path)) is not None:
        return reason
    if suffix in OTHER_SUFFIXES:
        return f"{suffix[1:].upper()}: convert it to JPEG or PNG"
    if suffix == ".webp" and _is_animated_webp(path):
        return "animated WebP: convert it to a video"
    return None


def _is_animated_webp(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(21)
    except OSError:
        return False
    return len(head) == 21 and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
