"""ROS 2 for tests: the Python that has it, and a peer that publishes images and listens."""

from __future__ import annotations

import array
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
PYTHON_VARIABLE = "AEROGAZE_ROS_PYTHON"
STAMP_NS = 1_700_000_000_123_456_789


def find_ros_python() -> Path | None:
    """Return the Python of an environment with ROS 2: from the variable, or that of `make ros2-env`."""
    named = os.environ.get(PYTHON_VARIABLE)
    path = Path(named) if named else ROOT / ".venv-ros2" / "bin" / "python"
    return path if path.exists() else None


def ros_environment() -> dict[str, str]:
    """Return the environment for that Python: with our packages, in a domain that nobody else uses."""
    packages = [str(ROOT), str(Path(np.__file__).parents[1])]
    domain = 1 + os.getpid() % 100
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(packages),
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


class Peer:
    """Another node, with a context of its own: to Aerogaze it is another process."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self._context = Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node("peer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._executor.spin, daemon=True)]
        self._threads[0].start()

    def publish(
        self, topic: str, make: Callable[[int], Any], qos: Any = None, period_s: float = 0.03
    ) -> None:
        """Publish messages on a topic until the end."""
        from rclpy.qos import qos_profile_sensor_data

        publisher = self.node.create_publisher(type(make(0)), topic, qos or qos_profile_sensor_data)

        def work() -> None:
            index = 0
            while not self._stop.wait(period_s):
                publisher.publish(make(index))
                index += 1

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def listen(self, type_: Any, topic: str, qos: Any = 1) -> list[Any]:
        """Return the list that gets the messages of a topic."""
        messages: list[Any] = []
        self.node.create_subscription(type_, topic, messages.append, qos)
        return messages

    def close(self) -> None:
        """End the node and its threads."""
        self._stop.set()
        for thread in self._threads[1:]:
            thread.join()
        self._executor.shutdown()
        self._context.try_shutdown()
        self._threads[0].join()
        self.node.destroy_node()


@contextmanager
def open_peer() -> Iterator[Peer]:
    """Open a peer for a block."""
    peer = Peer()
    try:
        yield peer
    finally:
        peer.close()


def image_message(data: Any, encoding: str = "bgr8", stamp_ns: int = STAMP_NS) -> Any:
    """Return a `sensor_msgs/Image` of an array (H, W) or (H, W, C)."""
    from sensor_msgs.msg import Image

    octets = np.ascontiguousarray(data).tobytes()
    message = Image(height=data.shape[0], width=data.shape[1], encoding=encoding)
    message.step = len(octets) // data.shape[0]
    message.data = array.array("B", octets)
    return stamped(message, stamp_ns)


def stamped(message: Any, stamp_ns: int = STAMP_NS) -> Any:
    """Set the header of a message."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = "camera"
    return message
