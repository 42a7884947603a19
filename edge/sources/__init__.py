"""Sources, a file per kind; each is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path

from edge.errors import InputError
from edge.files import checked_name
from edge.frames import Source

SYNTHETIC = "synthetic:"


def open_source(name: str) -> Source:
    """Open a video file, a folder of images, or `synthetic:SEED[:WIDTHxHEIGHT[:FRAMES]]`.

    Raises:
        InputError: missing, empty, or not readable as what it is.
    """
    if name.startswith(SYNTHETIC):
        from edge.sources.synthetic import SyntheticSource

        return SyntheticSource.parse(name)
    path = Path(checked_name(name))
    if path.is_dir():
        from edge.sources.folder import FolderSource

        return FolderSource(path)
    if path.is_file():
        from edge.sources.video import VideoSource

        return VideoSource(path)
    raise InputError(f"no source {name!r}; expected a video file, a folder of images, or {SYNTHETIC}SEED")
