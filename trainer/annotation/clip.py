"""Files of an annotated clip: `frames/`, `boxes.txt`, and the annotated frames in `annotation.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from edge.core.atomic_files import atomic_file, atomic_folder
from edge.core.errors import InputError
from edge.core.frames import Source
from trainer.annotation.interpolation import Box, interpolate_boxes

SCHEMA = 1
JPEG_QUALITY = 95
MIN_SIDE = 1.0
"""Smallest side of a box, in pixels."""


@dataclass(frozen=True)
class ClipInfo:
    """What is stored about a clip.

    Attributes:
        source: Name of the source, without passwords.
        frames: Number of frames.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        fps: Frames per second.
    """

    source: str
    frames: int
    width: int
    height: int
    fps: float


class AnnotatedClip:
    """A clip whose annotated frames are written after each change.

    Attributes:
        folder: Folder of the clip.
        info: What is stored about it.
        annotated: Box by frame; None where the target is not visible.
    """

    def __init__(self, folder: Path, info: ClipInfo, annotated: dict[int, Box | None]) -> None:
        self.folder, self.info, self.annotated = folder, info, annotated

    @property
    def boxes_path(self) -> Path:
        """Path of the boxes of all frames."""
        return self.folder / "boxes.txt"

    def annotate(self, frame: int, box: Box | None) -> None:
        """Set the box of a frame, cut to the frame; None says that the target is not visible.

        Raises:
            InputError: There is no such frame, the box is too small or outside, or a file cannot be written.
        """
        self._check_frame(frame)
        value = None if box is None else self._cut(box)
        self._save({**self.annotated, frame: value})

    def remove(self, frame: int) -> None:
        """Forget what was annotated in a frame.

        Raises:
            InputError: There is no such frame, or a file cannot be written.
        """
        self._check_frame(frame)
        self._save({index: box for index, box in self.annotated.items() if index != frame})

    def boxes(self) -> list[Box | None]:
        """Return the box of each frame; None where there is none."""
        rows = interpolate_boxes(self.annotated, self.info.frames)
        return [None if math.isnan(x) else (x, y, width, height) for x, y, width, height in rows.tolist()]

    def _check_frame(self, frame: int) -> None:
        if not 0 <= frame < self.info.frames:
            raise InputError(f"no frame {frame}; expected 0 to {self.info.frames - 1}")

    def _cut(self, box: Box) -> Box:
        x, y, width, height = box
        left, top = max(0.0, x), max(0.0, y)
        right, bottom = min(float(self.info.width), x + width), min(float(self.info.height), y + height)
        if not all(map(math.isfinite, box)) or right - left < MIN_SIDE or bottom - top < MIN_SIDE:
            raise InputError("the box is too small or outside the frame; expected at least one pixel of it")
        return round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)

    def _save(self, annotated: dict[int, Box | None]) -> None:
        document = {
            "schema": SCHEMA,
            **vars(self.info),
            "annotated": {str(index): annotated[index] for index in sorted(annotated)},
        }
        with atomic_file(self.folder / "annotation.json") as path:
            path.write_text(json.dumps(document, indent=1) + "\n")
        self.annotated = annotated
        self.write_boxes()

    def write_boxes(self) -> None:
        """Write `boxes.txt`: a line x,y,w,h for each frame.

        Raises:
            InputError: The file cannot be written.
        """
        lines = [
            "nan,nan,nan,nan" if box is None else ",".join(f"{value:.2f}" for value in box)
            for box in self.boxes()
        ]
        with atomic_file(self.boxes_path) as path:
            path.write_text("\n".join(lines) + "\n")


def create_clip(
    folder: Path, name: str, source: Source, max_frames: int, on_frame: Callable[[], object]
) -> AnnotatedClip:
    """Write the frames of a source as JPEGs, and return the clip without annotations.

    Args:
        folder: Folder of the clip, without frames.
        name: Name of the source, without passwords.
        source: The open source.
        max_frames: Number of first frames to take.
        on_frame: Called after each frame.

    Raises:
        InputError: The source cannot be read, or a file cannot be written.
    """
    if (folder / "boxes.txt").exists() or (folder / "frames").exists():
        raise InputError(
            f"{folder} holds frames or boxes that aerogaze annotate did not write; choose another --out"
        )
    count, size = 0, (0, 0)
    with atomic_folder(folder / "frames", lambda path: path.suffix == ".jpg") as frames:
        for frame in source:
            path = frames / f"{count:06d}.jpg"
            if not cv2.imwrite(str(path), frame.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise InputError(f"cannot write {path}: is the disk full?")
            count, size = count + 1, (frame.width, frame.height)
            on_frame()
            if count == max_frames:
                break
    clip = AnnotatedClip(folder, ClipInfo(name, count, *size, fps=round(source.fps, 3)), {})
    clip._save({})
    return clip


def load_clip(folder: Path) -> AnnotatedClip | None:
    """Return the clip that `create_clip` wrote into a folder, with its annotations; None if there is none.

    Raises:
        InputError: Its files are damaged.
    """
    path = folder / "annotation.json"
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text())
        clip = _parse_clip(folder, document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it, or remove {folder} to start "
            "again"
        ) from None
    found = sum(path.suffix == ".jpg" for path in (folder / "frames").glob("[0-9]*"))
    if found != clip.info.frames:
        raise InputError(
            f"{folder}/frames holds {found} frames, expected {clip.info.frames}; restore them, or remove "
            f"{folder} to start again"
        )
    return clip


def _parse_clip(folder: Path, document: dict[str, Any]) -> AnnotatedClip:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']}, expected {SCHEMA}")
    info = ClipInfo(
        str(document["source"]),
        int(document["frames"]),
        int(document["width"]),
        int(document["height"]),
        float(document["fps"]),
    )
    annotated: dict[int, Box | None] = {}
    for key, value in document["annotated"].items():
        if not 0 <= int(key) < info.frames:
            raise ValueError(f"no frame {key}")
        annotated[int(key)] = None if value is None else parse_box(value)
    return AnnotatedClip(folder, info, annotated)


def parse_box(value: object) -> Box:
    """Return a box from a JSON value.

    Raises:
        ValueError: It is no list of four finite numbers.
    """
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("expected a box as [x, y, width, height]")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in value):
        raise ValueError("expected four finite numbers as a box")
    x, y, width, height = map(float, value)
    return x, y, width, height
