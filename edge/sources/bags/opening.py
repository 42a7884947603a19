"""Opening of bags: which storage reads a file or a folder.

`rosbags` reads ROS 1 bags and the folders of ROS 2, `mcap` reads MCAP files of any schema. A bag that they
refuse, because it was cut off or never indexed, is read from its start up to the damage.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.sources.bags.rosbags_storage import RosbagsStorage
from edge.sources.bags.sqlite_storage import SqliteStorage
from edge.sources.bags.storage import BagDamageError, BagStorage, BagTopic, Messages, one_line
from edge.sources.image_folder import natural_sort_key

SUFFIXES = (".bag", ".db3", ".mcap")
METADATA = "metadata.yaml"
REMEDY = "pip install 'aerogaze[bags]'"
_ROS1_MAGIC, _SQLITE_MAGIC, _MCAP_MAGIC = b"#ROSBAG V2.0", b"SQLite format 3\0", b"\x89MCAP0\r\n"


def open_storage(path: Path) -> BagStorage:
    """Open a bag: a file of ROS 1, SQLite or MCAP, or the folder of a ROS 2 bag.

    Raises:
        InputError: The libraries are missing, or there is no bag.
    """
    try:
        for package in ("rosbags.rosbag1", "rosbags.rosbag2", "mcap.reader"):
            importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"bags need the packages rosbags and mcap ({error}): {REMEDY}") from error
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; expected a bag that this user may read"
        ) from None


def is_bag_folder(path: Path) -> bool:
    """Return whether a folder is a ROS 2 bag: it has its metadata or, after a crash, its files alone."""
    return path.is_dir() and ((path / METADATA).is_file() or bool(_storage_files(path)))


def _storage_files(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.suffix in SUFFIXES[1:] and path.is_file())
    return sorted(files, key=natural_sort_key)


def _open_folder(path: Path) -> BagStorage:
    from rosbags.rosbag2 import Reader

    reason = f"{METADATA} is missing"
    if (path / METADATA).exists():
        try:
            return RosbagsStorage(path, Reader(path))
        except Exception as error:  # a damaged file raises anything
            reason = f"{METADATA} does not help ({one_line(error)})"
    files = _storage_files(path)
    if not files:
        raise InputError(
            f"{path} is no bag: {reason}, and there is no .db3 or .mcap file; expected a ROS 1 .bag, "
            "an .mcap, or the folder of a ROS 2 bag"
        )
    parts, unreadable = _open_parts(files)
    if not parts:
        raise InputError(unreadable[0])
    return JoinedStorage(parts, [f"{reason}; its files were read alone", *unreadable])


def _open_parts(files: Iterable[Path]) -> tuple[dict[str, BagStorage], list[str]]:
    """Open the files of a bag; return them by name, and why others cannot be read, such as an empty one."""
    parts: dict[str, BagStorage] = {}
    unreadable: list[str] = []
    for file in files:
        try:
            parts[file.name] = _open_file(file)
        except InputError as error:  # noqa: PERF203 (the other files are still to be read)
            unreadable.append(str(error))
    return parts, unreadable


def _open_file(path: Path) -> BagStorage:
    with path.open("rb") as file:
        magic = file.read(16)
    if not magic:
        raise InputError(f"{path} is empty; expected a bag: copy it again")
    if magic.startswith(_SQLITE_MAGIC):
        return SqliteStorage(path)
    if magic.startswith(_MCAP_MAGIC):
        from edge.sources.bags.mcap_storage import open_mcap

        return open_mcap(path)
    if magic.startswith(_ROS1_MAGIC):
        return _open_ros1(path)
    raise InputError(
        f"{path} is no bag; expected a ROS 1 bag (version 2.0), an SQLite or MCAP file of ROS 2, or its "
        "folder"
    )


def _open_ros1(path: Path) -> BagStorage:
    from rosbags.rosbag1 import Reader

    from edge.sources.bags.ros1_scan import ScannedRos1Storage

    try:
        return RosbagsStorage(path, Reader(path))
    except Exception as error:  # a damaged file raises anything
        return ScannedRos1Storage(path, one_line(error))


class JoinedStorage:
    """Files of one bag, one after the other.

    Args:
        parts: The files by name, in the order of their time.
        damage: Why they are not read as one bag, and what is missing.
    """

    def __init__(self, parts: Mapping[str, BagStorage], damage: Iterable[str]) -> None:
        self._parts = parts
        self.topics: dict[str, BagTopic] = {}
        for part in self._parts.values():
            for name, topic in part.topics.items():
                count = topic.count + (self.topics[name].count if name in self.topics else 0)
                self.topics[name] = BagTopic(name, topic.type, topic.encoding, count)
        self.damage = [*damage, *(line for part in self._parts.values() for line in part.damage)]

    def messages(self, topic: str, start_ns: int = 0) -> Messages:
        """Yield the messages of a topic; after the damage of a file, those of the next file follow."""
        for name, part in self._parts.items():
            if topic not in part.topics:
                continue
            try:
                yield from part.messages(topic, start_ns)
            except BagDamageError as error:
                line = f"the rest of {printable(name)} cannot be read: {error}"
                if line not in self.damage:  # a bag is read more than once
                    self.damage.append(line)

    def close(self) -> None:
        """Close the files."""
        for part in self._parts.values():
            part.close()
