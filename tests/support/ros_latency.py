"""Time from an image topic to the map topic, beside a bare echo node.

Run by a Python that has ROS 2 (see `tests.support.ros2`): `python -m tests.support.ros_latency [SECONDS]`.
Publisher, echo node, Aerogaze and listener are processes of their own. Unless a profile of Fast DDS is set,
they use `large_images.xml`: by default, Fast DDS loses most images of this size between two processes.
"""

from __future__ import annotations

import array
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

WIDTH, HEIGHT, FPS = 1280, 720, 30
IMAGES, ECHO, MAPS = "/camera/image_raw", "/echo", "/saliency/map"
MAP_SIDE = 64
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RosLatency:
    """What was measured.

    Attributes:
        seconds: Duration of the measurement.
        echo_p50_ms: Median time from publishing an image to the echo node's answer.
        map_p50_ms: The same to the map.
        sent: Images that were published meanwhile.
        echo_drops: Images without an echo.
        map_drops: Images without a map.
    """

    seconds: float
    echo_p50_ms: float
    map_p50_ms: float
    sent: int
    echo_drops: int
    map_drops: int

    @property
    def beyond_echo_ms(self) -> float:
        """Median time that Aerogaze takes beyond the transport."""
        return self.map_p50_ms - self.echo_p50_ms


def measure_ros_latency(seconds: float) -> RosLatency:
    """Measure for some seconds, after both topics have come."""
    with _Node("listener") as node:
        arrivals: dict[str, list[_Arrival]] = {ECHO: [], MAPS: []}
        for topic in (ECHO, MAPS):
            node.listen(topic, _note_arrival(arrivals[topic]))
        program = [sys.executable, "-m", "tests.support.ros_latency"]
        processes = [subprocess.Popen([*program, role]) for role in ("publish", "echo")]
        run = [sys.executable, "-m", "edge", "run", f"ros2:{IMAGES}", "--ros2"]
        processes.append(subprocess.Popen(run, stdout=subprocess.DEVNULL))
        try:
            node.spin_until(lambda: all(arrivals.values()), START_TIMEOUT_S)
            node.spin(2)  # until the first images, which are slower, have passed
            start_ns = time.time_ns()
            node.spin(seconds)
            end_ns = time.time_ns()
            node.spin(0.5)  # for answers to the last images
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(10)
    within = {
        topic: [each for each in seen if start_ns <= each.sent_ns < end_ns]
        for topic, seen in arrivals.items()
    }
    numbers = [each.number for seen in within.values() for each in seen]
    sent = max(numbers) - min(numbers) + 1
    p50_ms = {topic: median(each.latency_ms for each in seen) for topic, seen in within.items()}
    drops = {topic: sent - len(seen) for topic, seen in within.items()}
    return RosLatency(seconds, p50_ms[ECHO], p50_ms[MAPS], sent, drops[ECHO], drops[MAPS])


@dataclass(frozen=True)
class _Arrival:
    """An answer to an image: the number of the image, when it was sent, and how long the answer took."""

    number: int
    sent_ns: int
    latency_ms: float


def _note_arrival(arrivals: list[_Arrival]) -> Callable[[Any], None]:
    def note(message: Any) -> None:
        stamp = message.header.stamp
        sent_ns = stamp.sec * 10**9 + stamp.nanosec
        number = int(message.header.frame_id)
        arrivals.append(_Arrival(number, sent_ns, (time.time_ns() - sent_ns) / 1e6))

    return note


class _Node:
    """Node in a context of its own."""

    def __init__(self, name: str) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self._context = Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def listen(self, topic: str, callback: Callable[[Any], None]) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image

        self.node.create_subscription(Image, topic, callback, qos_profile_sensor_data)

    def publisher(self, topic: str) -> Any:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image

        return self.node.create_publisher(Image, topic, qos_profile_sensor_data)

    def spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def spin_until(self, condition: Callable[[], bool], seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end_s:
                raise TimeoutError(f"no image has passed in {seconds:g} s")
            self._executor.spin_once(timeout_sec=0.1)

    def __enter__(self) -> _Node:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown()
        self._context.try_shutdown()


def _image(side: tuple[int, int], encoding: str, octets_per_pixel: int) -> Any:
    from sensor_msgs.msg import Image

    width, height = side
    message = Image(width=width, height=height, encoding=encoding, step=width * octets_per_pixel)
    message.data = array.array("B", bytes(range(256)) * (width * height * octets_per_pixel // 256))
    return message


def _publish() -> None:
    with _Node("camera") as node:
        publisher, message = node.publisher(IMAGES), _image((WIDTH, HEIGHT), "bgr8", 3)
        next_s = time.monotonic()
        for number in itertools.count():
            next_s = max(next_s + 1 / FPS, time.monotonic())  # a late camera does not catch up
            time.sleep(max(0.0, next_s - time.monotonic()))
            seconds, nanoseconds = divmod(time.time_ns(), 10**9)
            message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
            message.header.frame_id = str(number)
            publisher.publish(message)


def _echo() -> None:
    with _Node("echo") as node:
        publisher, answer = node.publisher(ECHO), _image((MAP_SIDE, MAP_SIDE), "32FC1", 4)

        def reply(message: Any) -> None:
            answer.header = message.header
            publisher.publish(answer)

        node.listen(IMAGES, reply)
        node.spin(1e9)


if __name__ == "__main__":
    os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(Path(__file__).with_name("large_images.xml")))
    role = sys.argv[1] if len(sys.argv) > 1 else "60"
    if role in ("publish", "echo"):
        {"publish": _publish, "echo": _echo}[role]()
    else:
        result = measure_ros_latency(float(role))
        print(json.dumps({**asdict(result), "beyond_echo_ms": result.beyond_echo_ms}))
