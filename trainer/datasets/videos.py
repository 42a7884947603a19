"""A tree of video files without labels, such as Kinetics-400 or recordings of a drone."""

from __future__ import annotations

from pathlib import Path

from edge.sources.image_folder import describe_no_file
from trainer.datasets.clips import DatasetClip, Faults, layout_error
from trainer.datasets.image_sequences import VideoSequence

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return a clip for each video below the root, named by its relative path; no video is opened yet.

    Raises:
        InputError: There is no video.
    """
    entries = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    reasons = {path: describe_no_file(path) for path in entries}
    faults.update({path: reason for path, reason in reasons.items() if reason not in (None, "a folder")})
    paths = [path for path in entries if reasons[path] is None]
    if not paths:
        raise layout_error("a tree of video", root, f"**/*{{{','.join(sorted(SUFFIXES))}}}")
    return [
        DatasetClip(str(path.relative_to(root)), None, VideoSequence(path, faults), faults) for path in paths
    ]
