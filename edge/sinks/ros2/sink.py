"""ROS 2 sink: map, overlay, regions, bearing and diagnostics as topics."""

from __future__ import annotations

import array
import importlib
import json
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.frames import Source
from edge.core.run_status import LOG, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.files.jsonl import region_to_json
from edge.sinks.files.map_images import fit_to_aspect
from edge.sinks.files.overlay_video import draw_overlay, overlay_size
from edge.sources.ros.node import NAME, open_node

DEFAULT_NAMESPACE = "saliency"
JPEG_QUALITY = 80
DIAGNOSTICS_PERIOD_S = 1.0
_LEVELS = {"running": 0, "starting": 1, "stalled": 2, "stopped": 3}
"""Levels of `diagnostic_msgs/DiagnosticStatus`: OK, WARN, ERROR, STALE."""


class Ros2Sink:
    """Publishes results; docs/how-to/ros2.md describes the topics.

    Messages have the time stamp and the frame id of the image that they belong to; without them, the time of
    the node's clock. Images are made only if somebody subscribes to them.

    Args:
        namespace: Namespace of the topics.
        source: Source of the frames, for the size of the overlay.
        status: Status of the run, for the diagnostics.
        transform: Applied to each result first, for example to find regions.
        camera: Geometry of the camera, for the bearing; None publishes none.

    Raises:
        InputError: The namespace is not valid, there is no ROS 2, or it does not start.
    """

    def __init__(
        self,
        namespace: str,
        source: Source,
        status: Status,
        transform: ResultTransform = identity,
        camera: CameraGeometry | None = None,
    ) -> None:
        if not NAME.fullmatch(namespace):
            raise InputError(
                f"--ros2 {printable(namespace, 80)!r} is no namespace; expected letters, digits, _ and /, "
                "such as --ros2=/saliency, or --ros2 as the last option"
            )
        self._size = overlay_size(source.width, source.height)
        self._status, self._transform, self._camera = status, transform, camera
        self._is_closed = False
        self._timer: Any = None
        self._ros = open_node()
        try:
            self._create_publishers(namespace)
        except BaseException:
            self._close()
            raise

    def _create_publishers(self, namespace: str) -> None:
        from geometry_msgs.msg import Vector3Stamped
        from sensor_msgs.msg import CompressedImage, Image

        create = self._ros.create_publisher
        self._map = create(Image, f"{namespace}/map")
        self._overlay = create(CompressedImage, f"{namespace}/overlay/compressed")
        self._bearing = create(Vector3Stamped, f"{namespace}/bearing") if self._camera else None
        detections = _optional("vision_msgs.msg", "Detection2DArray")
        if detections is not None:
            self._regions = create(detections, f"{namespace}/regions")
            self._make_regions: Callable[[Result, Any], Any] = _detections
        else:
            from std_msgs.msg import String

            self._regions = create(String, f"{namespace}/regions")
            self._make_regions = self._regions_text
        diagnostics = _optional("diagnostic_msgs.msg", "DiagnosticArray")
        self._diagnostics = None if diagnostics is None else create(diagnostics, "/diagnostics")
        if self._diagnostics is None:
            LOG.warning("ros2: no /diagnostics, because the package diagnostic_msgs is missing")
        else:
            self._timer = self._ros.node.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def write(self, result: Result) -> None:
        """Publish one result to the topics that somebody reads."""
        header = self._header(result)
        if self._map.get_subscription_count():
            self._map.publish(_map_message(result, header))
        result = self._transform(result)
        if self._overlay.get_subscription_count():
            self._overlay.publish(self._overlay_message(result, header))
        if self._regions.get_subscription_count():
            self._regions.publish(self._make_regions(result, header))
        followed = next(iter(result.regions), None)
        if self._bearing is not None and followed is not None and not followed.coasting:
            self._bearing.publish(self._bearing_message(result, followed, header))
        for topic, policy in list(self._ros.qos_problems.items()):
            self._ros.qos_problems.pop(topic, None)  # the sink of another camera may have reported it
            self._status.report_fault(
                "ros2-qos", f"a subscriber of {topic} asks for {policy}, which is not offered"
            )

    def _header(self, result: Result) -> Any:
        from builtin_interfaces.msg import Time
        from std_msgs.msg import Header

        stamp_ns = result.frame.stamp_ns
        if stamp_ns is None:
            stamp_ns = self._ros.node.get_clock().now().nanoseconds - round(result.latency_ms * 1e6)
        seconds, nanoseconds = divmod(max(0, stamp_ns), 10**9)
        return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=result.frame.frame_id)

    def _overlay_message(self, result: Result, header: Any) -> Any:
        from sensor_msgs.msg import CompressedImage

        picture = draw_overlay(result, *self._size)
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        return CompressedImage(header=header, format="bgr8; jpeg compressed bgr8", data=_octets(data))

    def _regions_text(self, result: Result, header: Any) -> Any:
        """Return the regions as JSON, as those of `--jsonl`."""
        from std_msgs.msg import String

        width, height = result.frame.width, result.frame.height
        row = {
            "stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec},
            "frame_id": header.frame_id,
            "frame": result.frame.index,
            "regions": [region_to_json(region, width, height, self._camera) for region in result.regions],
        }
        return String(data=json.dumps(row))

    def _bearing_message(self, result: Result, region: Region, header: Any) -> Any:
        """Return the direction to a region in the camera's optical frame: x right, y down, z ahead."""
        from geometry_msgs.msg import Vector3, Vector3Stamped

        assert self._camera is not None
        width, height = result.frame.width, result.frame.height
        focal = 0.5 / math.tan(math.radians(self._camera.fov_deg) / 2)
        ray = region.x - 0.5, (region.y - 0.5) * height / width, focal
        length = math.hypot(*ray)
        x, y, z = (part / length for part in ray)
        return Vector3Stamped(header=header, vector=Vector3(x=x, y=y, z=z))

    def _publish_diagnostics(self) -> None:
        """Publish state, drops and latency; called each second on the thread of the node."""
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

        snapshot = self._status.snapshot()
        latencies = snapshot.latencies_ms or (0.0,)
        values = {
            "release": f"{snapshot.run_info.release} {snapshot.run_info.precision}",
            "source": snapshot.run_info.source,
            "state": snapshot.state,
            "frames": snapshot.frames,
            "dropped": snapshot.dropped,
            "held": snapshot.held,
            "fps": f"{snapshot.fps:.2f}",
            "latency p50 ms": f"{np.percentile(latencies, 50):.2f}",
            "latency p99 ms": f"{np.percentile(latencies, 99):.2f}",
        }
        level = max(_LEVELS[snapshot.state], 1 if snapshot.open_faults else 0)
        status = DiagnosticStatus(
            level=bytes([level]),
            name=f"aerogaze: saliency {self._status.camera}".strip(),
            message="; ".join(snapshot.open_faults.values()) or snapshot.state,
            hardware_id=snapshot.run_info.engine,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        now = self._ros.node.get_clock().now().to_msg()
        message = DiagnosticArray(status=[status])
        message.header.stamp = now
        assert self._diagnostics is not None
        self._diagnostics.publish(message)

    def finish(self) -> None:
        """Say in the diagnostics that the run has ended."""
        if self._diagnostics is not None:
            self._publish_diagnostics()

    def commit(self) -> None:
        """Close the topics."""
        self._close()

    def discard(self) -> None:
        """Close the topics."""
        self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:  # the source may still use the node
            self._ros.node.destroy_timer(self._timer)
        self._ros.close()


def _map_message(result: Result, header: Any) -> Any:
    from sensor_msgs.msg import Image

    saliency = fit_to_aspect(result.saliency, result.frame.width, result.frame.height)
    height, width = saliency.shape
    return Image(
        header=header,
        height=height,
        width=width,
        encoding="32FC1",
        is_bigendian=0,
        step=4 * width,
        data=_octets(saliency.astype("<f4")),
    )


def _detections(result: Result, header: Any) -> Any:
    """Return the regions as `vision_msgs/Detection2DArray`."""
    from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray, ObjectHypothesisWithPose

    width, height = result.frame.width, result.frame.height
    message = Detection2DArray(header=header)
    for region in result.regions:
        box = BoundingBox2D()
        box.center.position.x = (region.left + region.right) / 2 * width
        box.center.position.y = (region.top + region.bottom) / 2 * height
        box.size_x = (region.right - region.left) * width
        box.size_y = (region.bottom - region.top) * height
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = "salient"
        hypothesis.hypothesis.score = float(region.score)
        detection = Detection2D(header=header, id=str(region.id), bbox=box, results=[hypothesis])
        message.detections.append(detection)
    return message


def _octets(data: Any) -> array.array[int]:
    """Return bytes as rclpy takes them without a check of each value."""
    octets = array.array("B")
    octets.frombytes(np.ascontiguousarray(data).tobytes())
    return octets


def _optional(module: str, name: str) -> Any:
    """Return a message type, None if its package is not installed."""
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return None
