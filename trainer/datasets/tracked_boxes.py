"""Frames and one tracked box a frame: a proxy for aerial gaze, not eye data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from trainer.datasets.clips import DatasetClip, Faults, folders, layout_error
from trainer.datasets.image_sequences import ImageFolderSequence


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `<clip>/frames/`, a line `x,y,w,h` a frame in `<clip>/boxes.txt`.

    Coordinates are in pixels from the top left; `nan` where the target is unseen.

    Raises:
        InputError: no such clip, or a `boxes.txt` that is not four numbers a line.
    """
    clips = [
        _clip(folder, faults)
        for folder in folders(root)
        if (folder / "boxes.txt").is_file() and (folder / "frames").is_dir()
    ]
    if not clips:
        raise layout_error("frames and boxes", root, "<clip>/frames/*.jpg and <clip>/boxes.txt")
    return clips


def _clip(folder: Path, faults: Faults) -> DatasetClip:
    frames, path = ImageFolderSequence(folder / "frames", faults), folder / "boxes.txt"
    boxes = _boxes(path)
    if len(boxes) != len(frames):
        faults[path] = f"{len(boxes)} lines for {len(frames)} frames"
    return DatasetClip(folder.name, None, frames, faults, boxes=boxes)


def _boxes(path: Path) -> NDArray[np.float64]:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        rows = [[float(word) for word in line.split(",")] for line in lines]
        return np.array(rows, np.float64).reshape(len(rows), 4)
    except ValueError as error:
        raise InputError(f"{path} is malformed ({error}); expected a line x,y,w,h for each frame") from None
