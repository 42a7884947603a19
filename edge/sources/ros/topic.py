"""Image topics of ROS 2, `ros2:/camera/image_raw`."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.frames import Frame, Image
from edge.sources.pixel_range import configured_range, measure_range, to_colour
from edge.sources.ros.encodings import Pixels, decode_message
from edge.sources.ros.node import NAME, RosNode, open_node

SCHEME = "ros2:"
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
OPEN_TIMEOUT_S = 5.0
"""Time limit for a publisher and for its first message."""
POLL_S = 0.02
RATE_WAIT_S = 0.5
"""Time that opening waits for a second and third message, for the frame rate."""
RATE_STAMPS = 4
FALLBACK_FPS = 30.0
MAX_AGE_S = 1.0
"""Headers that are older than this have the time of another clock, which is not used."""
NAMED_TOPICS = 8


@dataclass(frozen=True)
class _Arrival:
    """A serialized message: its number, time of arrival (monotonic) and bytes."""

    number: int
    time_s: float
    data: bytes


class Mailbox:
    """The newest message, which a newer one replaces. `put` only stores, and never holds up its caller."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._newest: _Arrival | None = None
        self._count, self._closed = 0, False
        self.stamps_ns: deque[int] = deque(maxlen=RATE_STAMPS)

    def put(self, data: bytes) -> None:
        """Store a message."""
        with self._condition:
            self._newest = _Arrival(self._count, time.monotonic(), data)
            self._count += 1
            self.stamps_ns.append(header_stamp_ns(data))
            self._condition.notify()

    def take(self, timeout_s: float | None = None) -> _Arrival | None:
        """Return the newest message that was not taken yet; None after the time limit or when closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._newest is not None or self._closed, timeout_s)
            newest, self._newest = self._newest, None
            return None if self._closed else newest

    def close(self) -> None:
        """Wake the thread that waits."""
        with self._condition:
            self._closed = True
            self._condition.notify()


class RosTopicSource:
    """Images of a topic, newest first, with the time stamp and the frame id of their headers.

    Messages are numbered as they arrive. One that a newer message replaced leaves a gap in the numbers.

    Args:
        name: `ros2:TOPIC`, of `sensor_msgs/Image` or `sensor_msgs/CompressedImage`.

    Raises:
        InputError: There is no ROS 2, nobody publishes the topic, its type or encoding is not read, its
            quality of service does not match, or no message comes.
    """

    length: int | None = None

    def __init__(self, name: str) -> None:
        topic = name.removeprefix(SCHEME)
        if not NAME.fullmatch(topic):
            raise InputError(
                f"no topic {printable(name)}; expected ros2:TOPIC, such as ros2:/camera/image_raw"
            )
        self._range = configured_range()
        self._mailbox = Mailbox()
        self._ros = open_node()
        self._subscription: Any = None
        try:
            self._topic = self._ros.resolve(topic)
            self.name = f"{SCHEME}{self._topic}"
            self._subscribe()
            self._read_first()
        except BaseException:
            self.close()
            raise

    def _subscribe(self) -> None:
        type_ = self._wait_for_type()
        from sensor_msgs.msg import CompressedImage, Image

        self._is_compressed = type_ == IMAGE_TYPES[1]
        self._type = CompressedImage if self._is_compressed else Image
        self._subscription = self._ros.subscribe_raw(self._type, self._topic, self._mailbox.put)

    def _wait_for_type(self) -> str:
        """Return the type of the topic, once somebody publishes it."""
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while not (types := _publisher_types(self._ros, self._topic)):
            if time.monotonic() > deadline:
                domain = os.environ.get("ROS_DOMAIN_ID") or "0"
                raise InputError(
                    f"nobody publishes {self._topic} (domain {domain}, {self._ros.rmw}); "
                    f"{_list_image_topics(self._ros)}: check ROS_DOMAIN_ID and RMW_IMPLEMENTATION"
                )
            time.sleep(POLL_S)
        for type_ in IMAGE_TYPES:
            if type_ in types:
                return type_
        raise InputError(
            f"{self._topic} has messages of {types[0]}; expected {' or '.join(IMAGE_TYPES)}; "
            f"{_list_image_topics(self._ros)}"
        )

    def _read_first(self) -> None:
        """Find size and frame rate from the first messages."""
        first = self._mailbox.take(OPEN_TIMEOUT_S)
        if first is None:
            policy = self._ros.qos_problems.get(self._topic)
            if policy is not None:
                raise InputError(
                    f"the quality of service of {self._topic} does not match: its publisher does not offer "
                    f"the {policy} that is asked for; see qos_overrides in --ros-args"
                )
            raise InputError(
                f"{self._topic} has a publisher, but no message came in {OPEN_TIMEOUT_S:g} s: "
                "check its camera driver, or take its compressed topic"
            )
        try:
            image, _, _ = self._decode(first.data)
        except ValueError as error:
            raise InputError(f"{self._topic} cannot be read: {error}; choose another topic") from None
        self.height, self.width = image.shape[:2]
        deadline = time.monotonic() + RATE_WAIT_S
        while len(self._mailbox.stamps_ns) < RATE_STAMPS and time.monotonic() < deadline:
            time.sleep(POLL_S)
        steps = [(later - earlier) / 1e9 for earlier, later in pairwise(tuple(self._mailbox.stamps_ns))]
        steps = [step for step in steps if 0.001 < step < 1000]
        self.fps = round(1 / median(steps), 2) if steps else FALLBACK_FPS

    def __iter__(self) -> Iterator[Frame]:
        """Yield the newest image each time; end once closed."""
        first: int | None = None
        while (arrival := self._mailbox.take()) is not None:
            try:
                image, stamp_ns, frame_id = self._decode(arrival.data)
            except ValueError:
                continue  # leaves a gap, which is counted and named
            first = arrival.number if first is None else first
            age_s = (self._ros.node.get_clock().now().nanoseconds - stamp_ns) / 1e9
            age_s -= time.monotonic() - arrival.time_s
            # A negative age of some milliseconds is jitter of two clocks that are kept in step.
            capture_s = arrival.time_s - max(0.0, age_s) if -0.01 < age_s < MAX_AGE_S else arrival.time_s
            yield Frame(
                arrival.number - first, capture_s, image, stamp_ns=stamp_ns or None, frame_id=frame_id
            )

    def _decode(self, data: bytes) -> tuple[Image, int, str]:
        """Return image, time stamp and frame id of a serialized message."""
        from rclpy.serialization import deserialize_message

        message: Any = deserialize_message(data, self._type)
        pixels, _ = decode_message(message, self._is_compressed)
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        return self._to_8_bits(pixels), stamp_ns, message.header.frame_id

    def _to_8_bits(self, pixels: Pixels) -> Image:
        if pixels.dtype == np.uint8:
            return to_colour(pixels)
        if self._range is None:
            self._range = measure_range([pixels])
        return self._range.to_8_bits(pixels)

    def close(self) -> None:
        """Unsubscribe, and give the node back."""
        self._mailbox.close()
        ros, self._ros = self._ros, None  # type: ignore[assignment]
        if ros is None:
            return
        if self._subscription is not None:
            ros.node.destroy_subscription(self._subscription)
        ros.close()


def header_stamp_ns(data: bytes) -> int:
    """Return the time stamp at the start of a serialized message that begins with a header; 0 without one."""
    if len(data) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


def _publisher_types(ros: RosNode, topic: str) -> list[str]:
    return sorted({info.topic_type for info in ros.node.get_publishers_info_by_topic(topic)})


def _list_image_topics(ros: RosNode) -> str:
    """Return the topics with images that are published."""
    names = [
        name
        for name, types in sorted(ros.node.get_topic_names_and_types())
        if set(types) & set(IMAGE_TYPES) and _publisher_types(ros, name)
    ]
    rest = f" and {len(names) - NAMED_TOPICS} more" if len(names) > NAMED_TOPICS else ""
    return f"topics with images here: {printable(', '.join(names[:NAMED_TOPICS])) or 'none'}{rest}"
