"""DHF1K: 1,000 videos, split by number; the last 300 have no labels (arXiv 1801.07424)."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.datasets.clips import (
    DatasetClip,
    Faults,
    ImageSequence,
    LabelSources,
    Split,
    layout_error,
    list_subfolders,
)
from trainer.datasets.image_sequences import ImageFolderSequence, VideoSequence

LAST_TRAIN, LAST_VAL = 600, 700
NUMBER = re.compile(r"[0-9]{1,9}")
"""Name of a clip; `str.isdigit` also accepts digits that `int` does not."""


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `video/001.AVI`, with labels in `annotation/0001/{maps,fixation}/0001.png`.

    Fixations without a PNG are read from `annotation/0001/fixation/maps/0001.mat`. A clip without a video is
    read from `annotation/0001/images/`, where some copies of the data set keep its frames.

    Raises:
        InputError: There are neither videos nor frames.
    """
    sequences: dict[int, ImageSequence] = {
        int(folder.name): ImageFolderSequence(folder / "images", faults)
        for folder in list_subfolders(root / "annotation")
        if NUMBER.fullmatch(folder.name) and (folder / "images").is_dir()
    }
    for path in (root / "video").glob("*"):
        if path.suffix.lower() == ".avi" and NUMBER.fullmatch(path.stem) and path.is_file():
            sequences[int(path.stem)] = VideoSequence(path, faults)
    if not sequences:
        raise layout_error("DHF1K", root, "video/001.AVI (or annotation/0001/images/0001.png)")
    return [_create_clip(root, number, sequences[number], faults) for number in sorted(sequences)]


def _create_clip(root: Path, number: int, images: ImageSequence, faults: Faults) -> DatasetClip:
    split: Split = "train" if number <= LAST_TRAIN else "val" if number <= LAST_VAL else "test"
    folder = root / "annotation" / f"{number:04d}"
    labels = LabelSources(
        density=folder / "maps",
        fixations=folder / "fixation",
        mat_fixations=folder / "fixation" / "maps",
    )
    return DatasetClip(f"{number:03d}", split, images, faults, labels)
