"""Bags of every storage, written by `rosbags`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

from edge.core.frames import Image
from edge.simulation.world import World

Storage = Literal["ros1", "sqlite3", "mcap"]
START_NS = 1_700_000_000_000_000_000
STEP_NS = 50_000_000
"""20 images per second."""


@dataclass(frozen=True)
class Picture:
    """Content of one message; `encoding` is None for a compressed image, whose format is `format`."""

    data: NDArray[Any]
    width: int = 0
    height: int = 0
    encoding: str | None = None
    format: str = ""
    stamp_ns: int | None = None


def raw(image: NDArray[Any], encoding: str = "bgr8") -> Picture:
    """Return an uncompressed picture."""
    return Picture(image, image.shape[1], image.shape[0], encoding)


def compressed(image: NDArray[Any], suffix: str = ".jpg", format_: str = "jpeg") -> Picture:
    """Return a compressed picture."""
    return Picture(cv2.imencode(suffix, image)[1].reshape(-1), format=format_)


def flight(frames: int, width: int = 64, height: int = 48) -> list[Image]:
    """Return pictures of a simulated flight."""
    world = World(7, width, height)
    return [world.frame(index).image for index in range(frames)]


def write_bag(
    path: Path, storage: Storage, topics: Mapping[str, Sequence[Picture]], stamped: bool = True
) -> Path:
    """Write a bag with 20 images per second of each topic; without `stamped` their headers have no time."""
    store = get_typestore(Stores.ROS1_NOETIC if storage == "ros1" else Stores.ROS2_HUMBLE)
    plugin = rosbag2.StoragePlugin.MCAP if storage == "mcap" else rosbag2.StoragePlugin.SQLITE3
    writer: Any = (
        rosbag1.Writer(path) if storage == "ros1" else rosbag2.Writer(path, version=9, storage_plugin=plugin)
    )
    with writer:
        connections = {}
        for topic, pictures in topics.items():
            kind = "Image" if pictures and pictures[0].encoding else "CompressedImage"
            connections[topic] = writer.add_connection(topic, f"sensor_msgs/msg/{kind}", typestore=store)
        for index in range(max(map(len, topics.values()), default=0)):
            for topic, pictures in topics.items():
                if index >= len(pictures):
                    continue
                time_ns = START_NS + index * STEP_NS
                stamp_ns = pictures[index].stamp_ns
                stamp_ns = (time_ns - 10**6 if stamped else 0) if stamp_ns is None else stamp_ns
                message = _message(store, pictures[index], stamp_ns, storage == "ros1")
                serialize = store.serialize_ros1 if storage == "ros1" else store.serialize_cdr
                data = serialize(message, message.__msgtype__)
                writer.write(connections[topic], time_ns, data)
    return path


def _message(store: Any, picture: Picture, stamp_ns: int, is_ros1: bool) -> Any:
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    sequence = {"seq": 0} if is_ros1 else {}
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **sequence)
    data = np.ascontiguousarray(picture.data).view(np.uint8).reshape(-1)
    if picture.encoding is None:
        return types["sensor_msgs/msg/CompressedImage"](header=header, format=picture.format, data=data)
    return types["sensor_msgs/msg/Image"](
        header=header,
        height=picture.height,
        width=picture.width,
        encoding=picture.encoding,
        is_bigendian=0,
        step=data.size // picture.data.shape[0],
        data=data,
    )
