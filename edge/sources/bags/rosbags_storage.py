"""Bags with an index, read by `rosbags`: files of ROS 1, and folders of ROS 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.sources.bags.storage import BagTopic, Messages, as_damage


class RosbagsStorage:
    """A bag with an index, read by `rosbags`.

    Args:
        path: The bag, for messages.
        reader: Reader of `rosbags`, not yet open.
    """

    def __init__(self, path: Path, reader: Any) -> None:
        self.damage: list[str] = []
        self._path, self._reader = path, reader
        reader.open()
        encodings = {c.topic: getattr(c.ext, "serialization_format", "ros1") for c in reader.connections}
        self.topics = {
            name: BagTopic(name, info.msgtype or "several types", encodings[name], info.msgcount)
            for name, info in reader.topics.items()
        }

    def messages(self, topic: str, start_ns: int = 0) -> Messages:
        """Yield the messages of a topic."""
        connections = [c for c in self._reader.connections if c.topic == topic]
        with as_damage():
            for _, time_ns, data in self._reader.messages(connections, start=start_ns):
                yield time_ns, bytes(data)

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()
