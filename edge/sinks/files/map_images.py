"""Saliency maps as 16-bit PNG images, one a frame."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.atomic_files import PendingFolder, translate_write_errors
from edge.core.errors import InputError
from edge.core.frames import Tensor
from edge.postprocessing.result import Result

LONG_SIDE = 256
"""Pixels of a map's longer side; the aspect is the frame's. No student computes finer maps."""
_NAME = re.compile(r"\d{6,}\.png")


class MapsSink:
    """Writes `DIR/000000.png` and on: 65535 is the frame's own maximum, 0 is none.

    A folder that holds nothing but such maps is replaced.

    Raises:
        InputError: the folder holds other files, or cannot be written; later: the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._pending = PendingFolder(folder, is_ours=_is_map)

    def write(self, result: Result) -> None:
        """Write the frame's map."""
        image = to_uint16(fit_to_aspect(result.saliency, result.frame.width, result.frame.height))
        encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        path = self._pending.path / f"{result.frame.index:06d}.png"
        try:
            with translate_write_errors(self._pending.target):
                path.write_bytes(encoded.tobytes())
        except InputError:
            path.unlink(missing_ok=True)  # a part of a map is none
            raise

    def finish(self) -> None:
        """Each map was written whole."""

    def commit(self) -> None:
        """Put the folder in its place."""
        self._pending.commit()

    def discard(self) -> None:
        """Remove the folder."""
        self._pending.discard()


def _is_map(entry: Path) -> bool:
    """Say whether a file is a map of ours: its name, and a PNG of 16 bits of grey, as no camera writes."""
    if not _NAME.fullmatch(entry.name) or not entry.is_file():
        return False
    with entry.open("rb") as file:
        return file.read(26)[24:26] == b"\x10\x00"


def fit_to_aspect(saliency: Tensor, width: int, height: int) -> Tensor:
    """Return the map stretched to the aspect of a width x height frame, `LONG_SIDE` long."""
    shrink = LONG_SIDE / max(width, height)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    stretched: Tensor = cv2.resize(saliency, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return stretched


def to_uint16(saliency: Tensor) -> NDArray[np.uint16]:
    """Return the map (H, W), non-negative, divided by its maximum, as uint16."""
    top = float(saliency.max())
    image: NDArray[np.uint16] = np.rint(saliency * (65535 / top if top > 0 else 0)).astype(np.uint16)
    return image
