"""Image messages of bags: of ROS in its serializations, and of Foxglove in protobuf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from edge.core.errors import InputError
from edge.sources.bags.storage import BagTopic
from edge.sources.ros.encodings import Pixels, decode_message

_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_FOXGLOVE_RAW, _FOXGLOVE_COMPRESSED = "foxglove.RawImage", "foxglove.CompressedImage"
VIDEO_TYPES = {"foxglove.CompressedVideo", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"}
"""Types that hold video instead of images, which are not read."""


@dataclass(frozen=True)
class BagImage:
    """One image message.

    Attributes:
        stamp_ns: Time of its header in nanoseconds; 0 if the header has no time.
        frame_id: Coordinate frame of the camera.
        decode: Returns the pixels and their scale, given the wanted reduction of each side (1 for none).
            Raises ValueError if they cannot be decoded.
    """

    stamp_ns: int
    frame_id: str
    decode: Callable[[int], tuple[Pixels, int]]


Parser = Callable[[bytes], BagImage]
"""Reads a serialized message; raises any exception for damaged bytes."""


def find_parser(topic: BagTopic) -> Parser | None:
    """Return the parser for the images of a topic, None if it has none.

    Raises:
        InputError: The package for its messages is missing.
    """
    type_ = _ros2_name(topic.type)
    if topic.encoding in ("ros1", "cdr") and type_ in (_RAW, _COMPRESSED):
        return _ros_parser(topic.encoding, type_)
    if topic.encoding == "protobuf" and type_ in (_FOXGLOVE_RAW, _FOXGLOVE_COMPRESSED):
        return _foxglove_parser(type_)
    return None


def is_video(topic: BagTopic) -> bool:
    """Return whether a topic holds coded video, which is not read."""
    return _ros2_name(topic.type) in VIDEO_TYPES


def _ros2_name(type_: str) -> str:
    """Return a type in the form of ROS 2, which has /msg/ in its middle."""
    package, slash, name = type_.partition("/")
    return f"{package}/msg/{name}" if slash and not name.startswith("msg/") else type_


@cache
def _typestore(encoding: str) -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if encoding == "ros1" else Stores.ROS2_HUMBLE)


def _ros_parser(encoding: str, type_: str) -> Parser:
    store = _typestore(encoding)
    deserialize = store.deserialize_ros1 if encoding == "ros1" else store.deserialize_cdr

    def parse(data: bytes) -> BagImage:
        message = deserialize(data, type_)
        stamp = message.header.stamp
        stamp_ns = int(stamp.sec) * 10**9 + int(stamp.nanosec)
        return BagImage(
            stamp_ns, message.header.frame_id, partial(decode_message, message, type_ == _COMPRESSED)
        )

    return parse


def _foxglove_parser(type_: str) -> Parser:
    try:
        from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
        from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
    except ImportError as error:
        raise InputError(
            f"images in Foxglove's schemas need foxglove-schemas-protobuf ({error}): "
            "pip install 'aerogaze[bags]'"
        ) from None
    message_type: Any = CompressedImage if type_ == _FOXGLOVE_COMPRESSED else RawImage

    def parse(data: bytes) -> BagImage:
        message = message_type.FromString(data)
        return BagImage(
            message.timestamp.ToNanoseconds(),
            message.frame_id,
            partial(decode_message, message, type_ == _FOXGLOVE_COMPRESSED),
        )

    return parse
