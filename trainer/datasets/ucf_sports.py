"""UCF-Sports with fixations by the DHF1K group; fixations are drawn as small blobs."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.clips import DatasetClip, Faults, Split, folders, layout_error
from trainer.datasets.image_sequences import ImageFolderSequence

SPLITS: dict[str, Split] = {"training": "train", "testing": "test"}


def read(root: Path, faults: Faults, kind: str = "UCF-Sports") -> list[DatasetClip]:
    """Return the clips of `{training,testing}/<clip>/images/`, labels in `maps` and `fixation`.

    Raises:
        InputError: neither folder holds a clip.
    """
    clips = [
        DatasetClip(
            folder.name,
            split,
            ImageFolderSequence(folder / "images", faults),
            faults,
            density=folder / "maps",
            fixations=folder / "fixation",
            blobs=True,
        )
        for place, split in SPLITS.items()
        for folder in folders(root / place)
        if (folder / "images").is_dir()
    ]
    if not clips:
        raise layout_error(kind, root, "{training,testing}/<clip>/images/*.png")
    return clips
