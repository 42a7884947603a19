"""AVS1K: 1,000 aerial videos as images, in three folders (project page of arXiv 1904.04992)."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.clips import DatasetClip, Faults, Split, folders, layout_error
from trainer.datasets.image_sequences import ImageFolderSequence

SPLITS: dict[str, Split] = {"trainSet": "train", "validSet": "val", "testSet": "test"}


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `{trainSet,validSet,testSet}/Frame/<clip>/`, densities in `Ground`.

    The plain download has no fixations; `Fixation/<clip>/`, beside `Ground`, is read where it is.

    Raises:
        InputError: none of the three holds a clip.
    """
    clips = [
        DatasetClip(
            folder.name,
            split,
            ImageFolderSequence(folder, faults),
            faults,
            density=root / place / "Ground" / folder.name,
            fixations=root / place / "Fixation" / folder.name,
        )
        for place, split in SPLITS.items()
        for folder in folders(root / place / "Frame")
    ]
    if not clips:
        raise layout_error("AVS1K", root, "{trainSet,validSet,testSet}/Frame/<clip>/*.png")
    return clips
