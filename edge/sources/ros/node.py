"""The ROS 2 node of this process, which source and sink share. It uses the `rclpy` that the robot has.

A context of its own leaves signals to Aerogaze. One thread spins the node: its callbacks only store bytes, so
that they never hold up inference.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import re
import shlex
import threading
from collections.abc import Callable
from typing import Any

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.run_status import LOG

NODE_NAME = "aerogaze"
NAME = re.compile(r"(?:~?/)?[A-Za-z_]\w*(?:/[A-Za-z_]\w*)*")
"""Name of a topic or a namespace."""
ARGUMENTS_VARIABLE = "AEROGAZE_ROS_ARGS"
"""Environment variable with the arguments that follow `--ros-args`; that option sets it."""
REMEDY = (
    "source /opt/ros/DISTRO/setup.bash, and run Aerogaze with the Python of that ROS 2, in an environment "
    "made with --system-site-packages"
)
RMW_VARIABLE = "RMW_IMPLEMENTATION"
SPIN_TIMEOUT_S = 1.0
JOIN_TIMEOUT_S = 2.0
_LOCK = threading.Lock()
_OPEN: list[RosNode] = []


class RosNode:
    """A node and the thread that spins it; `open_node` and `close` count its users.

    Attributes:
        node: The node of `rclpy`.
        qos_problems: Policy by topic, where the quality of service of two ends does not match.
    """

    def __init__(self) -> None:
        self.qos_problems: dict[str, str] = {}
        self._users, self._is_closing = 0, False
        rclpy = import_rclpy()
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        self._context = Context()
        try:
            rclpy.init(
                args=_arguments(), context=self._context, signal_handler_options=SignalHandlerOptions.NO
            )
            self.node = rclpy.create_node(NODE_NAME, context=self._context)
        except Exception as error:  # of rclpy's C part; there is no common exception
            rmw = os.environ.get(RMW_VARIABLE) or "the default"
            raise InputError(
                f"ROS 2 does not start ({printable(str(error), 200)}); expected an RMW that is installed "
                f"(now {rmw}) and valid arguments after --ros-args: set RMW_IMPLEMENTATION, or correct them"
            ) from None
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="aerogaze-ros", daemon=True)
        self._thread.start()
        atexit.register(self._shut_down)  # else the C part aborts the process at its end

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        try:
            while self._context.ok() and not self._is_closing:
                self._spin_once()
        except ExternalShutdownException:
            return

    def _spin_once(self) -> None:
        from rclpy.executors import ExternalShutdownException

        try:
            self._executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
        except ExternalShutdownException:
            raise
        except Exception as error:  # a callback failed: the others go on
            if not self._is_closing:
                LOG.warning("ros2: %s: %s", type(error).__name__, error)

    @property
    def rmw(self) -> str:
        """Name of the middleware."""
        return str(import_rclpy().get_rmw_implementation_identifier())

    def resolve(self, topic: str) -> str:
        """Return the full name of a topic, after namespace and remapping."""
        return str(self.node.resolve_topic_name(topic))

    def subscribe_raw(self, type_: Any, topic: str, callback: Callable[[bytes], None]) -> Any:
        """Subscribe to a topic as sensor data, newest message only; the callback gets serialized messages."""
        from rclpy.qos import QoSProfile, qos_profile_sensor_data
        from rclpy.qos_overriding_options import QoSOverridingOptions

        events, _ = _event_types()
        qos = QoSProfile(
            depth=1,
            reliability=qos_profile_sensor_data.reliability,
            durability=qos_profile_sensor_data.durability,
        )
        return self.node.create_subscription(
            type_,
            topic,
            callback,
            qos,
            raw=True,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=events(incompatible_qos=lambda event: self._note_qos(topic, event)),
        )

    def create_publisher(self, type_: Any, topic: str) -> Any:
        """Create a publisher that reliable and best-effort subscribers can use; only the newest is kept."""
        from rclpy.qos import QoSProfile
        from rclpy.qos_overriding_options import QoSOverridingOptions

        _, events = _event_types()
        return self.node.create_publisher(
            type_,
            topic,
            QoSProfile(depth=1),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=events(incompatible_qos=lambda event: self._note_qos(topic, event)),
        )

    def _note_qos(self, topic: str, event: Any) -> None:
        from rclpy.qos import qos_policy_name_from_kind

        policy = str(qos_policy_name_from_kind(event.last_policy_kind))
        self.qos_problems[self.resolve(topic)] = policy.removesuffix("_QOS_POLICY").lower()

    def close(self) -> None:
        """Give the node back; the last user ends it."""
        with _LOCK:
            self._users -= 1
            if self._users:
                return
            _OPEN.clear()
        atexit.unregister(self._shut_down)
        self._shut_down()

    def _shut_down(self) -> None:
        self._is_closing = True
        self._executor.shutdown(timeout_sec=JOIN_TIMEOUT_S)
        self._context.try_shutdown()
        self._thread.join(JOIN_TIMEOUT_S)
        self.node.destroy_node()


def open_node() -> RosNode:
    """Return the node of this process, started for the first user; each user closes it.

    Raises:
        InputError: There is no ROS 2, or it does not start.
    """
    with _LOCK:
        if not _OPEN:
            _OPEN.append(RosNode())
        _OPEN[0]._users += 1
        return _OPEN[0]


def import_rclpy() -> Any:
    """Return the module `rclpy`.

    Raises:
        InputError: It is missing or cannot be loaded.
    """
    _check_rmw()
    try:
        import rclpy
        import sensor_msgs.msg  # noqa: F401 (the messages come in packages of their own)
    except Exception as error:  # a library that is missing raises more than ImportError
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 200)
        raise InputError(f"ROS 2 is not here ({reason}): {REMEDY}") from None
    return rclpy


def _check_rmw() -> None:
    """Refuse a middleware that is not installed: `rcl` would end the process.

    Raises:
        InputError: The library of `RMW_IMPLEMENTATION` cannot be loaded.
    """
    name = os.environ.get(RMW_VARIABLE)
    if not name or importlib.util.find_spec("rclpy") is None:
        return
    try:
        ctypes.CDLL(f"lib{name}.so")
    except OSError as error:
        raise InputError(
            f"{RMW_VARIABLE}={printable(name, 60)} cannot be loaded ({printable(str(error), 120)}); expected "
            "an RMW that is installed, such as rmw_fastrtps_cpp: install it, or unset the variable"
        ) from None


def _event_types() -> tuple[Any, Any]:
    """Return the classes of the events of subscriptions and publishers, which moved after Humble."""
    try:
        from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
    except ImportError:
        from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks
    return SubscriptionEventCallbacks, PublisherEventCallbacks


def _arguments() -> list[str]:
    text = os.environ.get(ARGUMENTS_VARIABLE, "")
    return ["--ros-args", *shlex.split(text)] if text else []
