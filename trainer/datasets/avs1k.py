"""AVS1K: 1,000 aerial videos as images, in three folders (project page of arXiv 1904.04992)."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.clips import DatasetClip, Faults, LabelSources, Split, layout_error, list_subfolders
from trainer.datasets.image_sequences import ImageFolderSequence

SPLITS: dict[str, Split] = {"trainSet": "train", "validSet": "val", "testSet": "test"}


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `{trainSet,validSet,testSet}/Frame/<clip>/`, with densities in `Ground`.

    The original download has no fixations. If there is `Fixation/<clip>/` next to `Ground`, it is read.

    Raises:
        InputError: None of the three folders contains a clip.
    """
    clips = [
        DatasetClip(
            folder.name,
            split,
            ImageFolderSequence(folder, faults),
            faults,
            LabelSources(
                density=root / split_folder / "Ground" / folder.name,
                fixations=root / split_folder / "Fixation" / folder.name,
            ),
        )
        for split_folder, split in SPLITS.items()
        for folder in list_subfolders(root / split_folder / "Frame")
    ]
    if not clips:
        raise layout_error("AVS1K", root, "{trainSet,validSet,testSet}/Frame/<clip>/*.png")
    return clips
