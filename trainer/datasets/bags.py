"""A tree of bags without labels, such as the flights of a robot: ROS 1, ROS 2 and MCAP."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from edge.core.errors import InputError
from edge.core.frames import Image
from edge.sources.bags.messages import find_parser
from edge.sources.bags.opening import SUFFIXES, is_bag_folder, open_storage
from edge.sources.bags.source import BagImages
from edge.sources.bags.storage import BagStorage
from edge.sources.image_folder import natural_sort_key
from trainer.datasets.clips import DatasetClip, Faults, layout_error


def read(root: Path, faults: Faults) -> list[DatasetClip]:
    """Return a clip for each topic with images of each bag, named `PATH#TOPIC`.

    Raises:
        InputError: There is no bag with images, or the libraries that read bags are missing.
    """
    clips: list[DatasetClip] = []
    for path in _find_bags(root):
        try:
            storage = open_storage(path)
        except InputError as error:
            if isinstance(error.__cause__, ImportError):
                raise
            faults[path] = str(error)
            continue
        topics = [name for name, topic in sorted(storage.topics.items()) if find_parser(topic)]
        storage.close()
        if not topics:
            faults[path] = "no images"
        for topic in topics:
            name = f"{path.name if path == root else path.relative_to(root)}#{topic}"
            clips.append(DatasetClip(name, None, BagSequence(path, topic, faults), faults))
    if not clips:
        raise layout_error("a tree of bags with images", root, f"**/*{{{','.join(SUFFIXES)}}}")
    return clips


def _find_bags(root: Path) -> list[Path]:
    """Return the bags below a folder: files, and folders of ROS 2, whose files are not listed again."""
    if is_bag_folder(root) and (root / "metadata.yaml").is_file():
        return [root]
    found: list[Path] = []
    for path in sorted(root.iterdir(), key=natural_sort_key):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += _find_bags(path)
        elif path.suffix in SUFFIXES and path.is_file():
            found.append(path)
    return found


class BagSequence:
    """Images of one topic of a bag; their labels are numbered from 0001.

    Args:
        path: The bag.
        topic: Name of the topic.
        faults: Receives what cannot be read.
    """

    def __init__(self, path: Path, topic: str, faults: Faults) -> None:
        self._path, self._topic, self._faults = path, topic, faults

    @cached_property
    def _times(self) -> list[int]:
        storage, images = self._open()
        try:
            return sorted(images.times())
        finally:
            self._record(storage, images)
            storage.close()

    def _open(self) -> tuple[BagStorage, BagImages]:
        storage = open_storage(self._path)
        topic = storage.topics[self._topic]
        parse = find_parser(topic)
        assert parse is not None
        return storage, BagImages(storage, topic, parse)

    def __len__(self) -> int:
        return len(self._times)

    def key(self, index: int) -> str:
        """Return the number of the image from 1, in four digits."""
        return f"{index + 1:04d}"

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image. Images that cannot be decoded are skipped and recorded."""
        if start >= min(stop, len(self)):
            return
        start_ns = self._times[start]
        storage, images = self._open()
        try:
            for index, _, message in images.messages(bisect_left(self._times, start_ns), start_ns):
                if index >= stop:
                    return
                if index >= start and (decoded := images.decode(index, message)) is not None:
                    yield index, decoded[0]
        finally:
            self._record(storage, images)
            storage.close()

    def _record(self, storage: BagStorage, images: BagImages) -> None:
        lines = [*storage.damage, *([images.end] if images.end else [])]
        lines += [f"image {index}: {reason}" for index, reason in sorted(images.skipped.items())[:3]]
        if lines:
            self._faults[Path(f"{self._path}#{self._topic}")] = "; ".join(lines)
