"""Frames with one tracked box per frame: a proxy for aerial gaze, not eye tracking data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from trainer.datasets.clips import DatasetClip, Faults, LabelSources, layout_error, list_subfolders
from trainer.datasets.image_sequences import ImageFolderSequence


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `<clip>/frames/`, with a line `x,y,w,h` per frame in `<clip>/boxes.txt`.

    Coordinates are in pixels from the top left, `nan` where the target is not visible.

    Raises:
        InputError: There is no such clip, or a `boxes.txt` has lines other than four numbers.
    """
    clips = [
        _create_clip(folder, faults)
        for folder in list_subfolders(root)
        if (folder / "boxes.txt").is_file() and (folder / "frames").is_dir()
    ]
    if not clips:
        raise layout_error("frames and boxes", root, "<clip>/frames/*.jpg and <clip>/boxes.txt")
    return clips


def _create_clip(folder: Path, faults: Faults) -> DatasetClip:
    images, path = ImageFolderSequence(folder / "frames", faults), folder / "boxes.txt"
    boxes = _read_boxes(path)
    if len(boxes) != len(images):
        faults[path] = f"{len(boxes)} lines for {len(images)} frames"
    return DatasetClip(folder.name, None, images, faults, LabelSources(boxes=boxes))


def _read_boxes(path: Path) -> NDArray[np.float64]:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        rows = [[float(word) for word in line.split(",")] for line in lines]
        return np.array(rows, np.float64).reshape(len(rows), 4)
    except ValueError as error:
        raise InputError(f"{path} is malformed ({error}); expected a line x,y,w,h for each frame") from None
