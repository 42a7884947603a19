"""UCF-Sports with fixations by the DHF1K group; a fixation is drawn as a small blob."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.clips import DatasetClip, Faults, LabelSources, Split, layout_error, list_subfolders
from trainer.datasets.image_sequences import ImageFolderSequence

SPLITS: dict[str, Split] = {"training": "train", "testing": "test"}


def read(root: Path, faults: Faults, kind: str = "UCF-Sports") -> list[DatasetClip]:
    """Return the clips of `{training,testing}/<clip>/images/`, with labels in `maps` and `fixation`.

    Args:
        root: Folder of the data set.
        faults: Receives the files that cannot be used.
        kind: Name of the data set for error messages.

    Raises:
        InputError: Neither folder contains a clip.
    """
    clips = [
        DatasetClip(
            folder.name,
            split,
            ImageFolderSequence(folder / "images", faults),
            faults,
            LabelSources(density=folder / "maps", fixations=folder / "fixation", fixations_are_blobs=True),
        )
        for split_folder, split in SPLITS.items()
        for folder in list_subfolders(root / split_folder)
        if (folder / "images").is_dir()
    ]
    if not clips:
        raise layout_error(kind, root, "{training,testing}/<clip>/images/*.png")
    return clips
