"""DHF1K: 1,000 videos, split by number; the last 300 are unlabelled (arXiv 1801.07424)."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.clips import DatasetClip, Faults, ImageSequence, Split, folders, layout_error
from trainer.datasets.image_sequences import ImageFolderSequence, VideoSequence

LAST_TRAIN, LAST_VAL = 600, 700


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `video/001.AVI`, labels in `annotation/0001/{maps,fixation}/0001.png`.

    Fixations without a PNG are read from `annotation/0001/fixation/maps/0001.mat`.
    A clip without its video is read from `annotation/0001/images/`, where some keep its frames.

    Raises:
        InputError: neither videos nor frames.
    """
    pictures: dict[int, ImageSequence] = {
        int(folder.name): ImageFolderSequence(folder / "images", faults)
        for folder in folders(root / "annotation")
        if folder.name.isdigit() and (folder / "images").is_dir()
    }
    for path in (root / "video").glob("*"):
        if path.suffix.lower() == ".avi" and path.stem.isdigit():
            pictures[int(path.stem)] = VideoSequence(path, faults)
    if not pictures:
        raise layout_error("DHF1K", root, "video/001.AVI (or annotation/0001/images/0001.png)")
    return [_clip(root, number, pictures[number], faults) for number in sorted(pictures)]


def _clip(root: Path, number: int, pictures: ImageSequence, faults: Faults) -> DatasetClip:
    split: Split = "train" if number <= LAST_TRAIN else "val" if number <= LAST_VAL else "test"
    labels = root / "annotation" / f"{number:04d}"
    return DatasetClip(
        f"{number:03d}",
        split,
        pictures,
        faults,
        density=labels / "maps",
        fixations=labels / "fixation",
        list_mat_files=labels / "fixation" / "maps",
    )
