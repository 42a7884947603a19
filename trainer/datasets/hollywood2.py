"""Hollywood-2, cut into shots, with fixations by the DHF1K group; the layout is that of UCF-Sports."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets import ucf_sports
from trainer.datasets.clips import DatasetClip, Faults


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return the clips of `{training,testing}/<clip>/images/`, with labels in `maps` and `fixation`.

    Raises:
        InputError: Neither folder contains a clip.
    """
    return ucf_sports.read(root, faults, "Hollywood-2")
