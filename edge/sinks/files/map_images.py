"""Map image sink: one 16-bit grayscale PNG per frame."""

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
from edge.sinks.files.recovery import OutputLock

LONG_SIDE = 256
"""Longer side of a map image in pixels. No student computes finer maps."""
_MAP_NAME = re.compile(r"\d{6,}\.png")


class MapsSink:
    """Writes a folder of saliency maps: 000000.png, 000001.png, ...

    A value of 65535 is the maximum of that frame, 0 is no saliency. An older folder that holds only such
    maps is replaced.

    Raises:
        InputError: The folder holds other files or cannot be written, or, from `write`, the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._pending = PendingFolder(folder, is_ours=_is_map)
        self._lock = OutputLock(self._pending.path, is_folder=True)

    def write(self, result: Result) -> None:
        """Write the map of one frame."""
        image = to_uint16(fit_to_aspect(result.saliency, result.frame.width, result.frame.height))
        encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        path = self._pending.path / f"{result.frame.index:06d}.png"
        try:
            with translate_write_errors(self._pending.target):
                path.write_bytes(encoded.tobytes())
        except InputError:
            path.unlink(missing_ok=True)  # a full disk leaves a damaged image
            raise

    def finish(self) -> None:
        """Do nothing: each map is already complete."""

    def commit(self) -> None:
        """Move the folder to its final path."""
        self._pending.commit()
        self._lock.release()

    def discard(self) -> None:
        """Remove the folder."""
        self._pending.discard()
        self._lock.release()


def _is_map(entry: Path) -> bool:
    """Return whether a file is a map of this sink: by its name, and as a 16-bit grayscale PNG.

    Cameras write no such PNG, so their images are never taken for maps.
    """
    if not _MAP_NAME.fullmatch(entry.name) or not entry.is_file():
        return False
    with entry.open("rb") as file:
        return file.read(26)[24:26] == b"\x10\x00"  # bit depth and colour type of the IHDR chunk


def fit_to_aspect(saliency: Tensor, width: int, height: int) -> Tensor:
    """Resize a map to the aspect ratio of a width x height frame; its longer side is `LONG_SIDE`."""
    scale = LONG_SIDE / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized: Tensor = cv2.resize(saliency, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return resized


def to_uint16(saliency: Tensor) -> NDArray[np.uint16]:
    """Scale a non-negative map (H, W) to uint16, so that its maximum becomes 65535."""
    maximum = float(saliency.max())
    scale = 65535 / maximum if maximum > 0 else 0
    image: NDArray[np.uint16] = np.rint(saliency * scale).astype(np.uint16)
    return image
