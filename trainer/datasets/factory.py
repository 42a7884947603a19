"""Readers of data sets, a file per layout. numpy and OpenCV only; SciPy where fixations are .mat files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge.core.errors import InputError
from trainer.datasets import avs1k, dhf1k, hollywood2, ucf_sports, videos
from trainer.datasets import tracked_boxes as boxes
from trainer.datasets.clips import DatasetClip, Faults, SaliencyDataset

READERS: dict[str, Callable[[Path, Faults], list[DatasetClip]]] = {
    "avs1k": avs1k.read,
    "dhf1k": dhf1k.read,
    "ucf-sports": ucf_sports.read,
    "hollywood2": hollywood2.read,
    "videos": videos.read,
    "boxes": boxes.read,
}


def open_dataset(kind: str, root: Path, split: str | None = None) -> SaliencyDataset:
    """Return the clips of a data set, of one split ("train", "val", "test") or all.

    Raises:
        InputError: unknown kind, a root without that layout, or no clip of that split.
    """
    if kind not in READERS:
        raise InputError(f"unknown data set {kind!r}; expected one of {', '.join(READERS)}")
    if not root.is_dir():
        raise InputError(f"no folder {root}; expected the root of a {kind} data set")
    faults: Faults = {}
    clips = READERS[kind](root, faults)
    splits = sorted({clip.split for clip in clips if clip.split})
    if split is not None and split not in splits:
        have = f"it has {', '.join(splits)}" if splits else f"{kind} knows no splits: leave it out"
        raise InputError(f"{kind} at {root} has no split {split!r}; {have}")
    chosen = [clip for clip in clips if split in (None, clip.split)]
    return SaliencyDataset(kind, root, split, chosen, faults)
