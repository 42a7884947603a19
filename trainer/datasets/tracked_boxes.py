"""Frames with one tracked box per frame: a proxy for aerial gaze, not eye tracking data."""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from trainer.datasets.clips import DatasetClip, Faults, LabelSources, layout_error, list_subfolders
from trainer.datasets.image_sequences import ImageFolderSequence


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `<clip>/frames/`, with a line `x,y,w,h` per frame in `<clip>/boxes.txt`.

    Coordinates are in pixels from the top left. Where the target is not visible, they are `nan` or the line
    is blank. Commas, semicolons, tabs or spaces separate them.

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
    # Blank lines behind the last frame's are only the end of the file.
    while len(boxes) > len(images) and np.isnan(boxes[-1]).all():
        boxes = boxes[:-1]
    if len(boxes) != len(images):
        faults[path] = f"{len(boxes)} lines for {len(images)} frames"
    return DatasetClip(folder.name, None, images, faults, LabelSources(boxes=boxes))


def _read_boxes(path: Path) -> NDArray[np.float64]:
    """Return x, y, w, h (N, 4) of each line, NaN for a blank one: the line number is the frame's number."""
    try:
        text = _decode(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
        lines = text.removesuffix("\n").split("\n") if text else []
        rows = [_parse_line(number, line) for number, line in enumerate(lines, 1)]
        return np.array(rows, np.float64).reshape(len(rows), 4)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; expected a line x,y,w,h for each frame"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is malformed ({error}); expected a line x,y,w,h for each frame") from None


def _decode(data: bytes) -> str:
    """Decode text as editors and spreadsheets store it: UTF-8, or UTF-16 with a byte order mark."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def _parse_line(number: int, line: str) -> list[float]:
    words = re.split(r"\s*[,;]\s*|\s+", line.strip())
    if not any(words):  # blank, or separators alone: the target is not visible
        return [math.nan] * 4
    if len(words) != 4:
        raise ValueError(f"line {number} has {len(words)} values")
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f"line {number} is {line.strip()!r:.60}") from None
