"""UCF-Sports with fixations by the DHF1K group; fixations are drawn as small blobs."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.clips import Clip, Faults, Split, folders, wrong_root
from trainer.datasets.image_sequences import Stills

SPLITS: dict[str, Split] = {"training": "train", "testing": "test"}


def read(root: Path, faults: Faults, kind: str = "UCF-Sports") -> list[Clip]:
    """Return the clips of `{training,testing}/<clip>/images/`, labels in `maps` and `fixation`.

    Raises:
        InputError: neither folder holds a clip.
    """
    clips = [
        Clip(
            folder.name,
            split,
            Stills(folder / "images", faults),
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
        raise wrong_root(kind, root, "{training,testing}/<clip>/images/*.png")
    return clips
