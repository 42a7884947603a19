"""Selection of the reader for a layout of a data set.

Readers need numpy and OpenCV alone, SciPy where fixations are .mat files, and the extra `bags` for bags.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge.core.errors import InputError
from trainer.datasets import avs1k, bags, dhf1k, hollywood2, tracked_boxes, ucf_sports, videos
from trainer.datasets.clips import DatasetClip, Faults, SaliencyDataset

READERS: dict[str, Callable[[Path, Faults], list[DatasetClip]]] = {
    "avs1k": avs1k.read,
    "dhf1k": dhf1k.read,
    "ucf-sports": ucf_sports.read,
    "hollywood2": hollywood2.read,
    "videos": videos.read,
    "bags": bags.read,
    "boxes": tracked_boxes.read,
}


def open_dataset(kind: str, root: Path, split: str | None = None) -> SaliencyDataset:
    """Open a data set.

    Args:
        kind: Name of the layout, a key of `READERS`.
        root: Folder of the data set.
        split: "train", "val" or "test"; None for all clips.

    Raises:
        InputError: The kind is unknown, the root has another layout, or the split has no clip.
    """
    if kind not in READERS:
        raise InputError(f"unknown data set {kind!r}; expected one of {', '.join(READERS)}")
    if not root.is_dir():
        raise InputError(f"no folder {root}; expected the root of a {kind} data set")
    faults: Faults = {}
    clips = READERS[kind](root, faults)
    splits = sorted({clip.split for clip in clips if clip.split})
    if split is not None and split not in splits:
        remedy = f"it has {', '.join(splits)}" if splits else f"{kind} has no splits: leave the split out"
        raise InputError(f"{kind} at {root} has no split {split!r}; {remedy}")
    selected = [clip for clip in clips if split in (None, clip.split)]
    return SaliencyDataset(kind, root, split, selected, faults)
