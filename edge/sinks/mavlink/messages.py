"""Messages that the MAVLink camera sends about itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from edge.core.run_status import Status
from edge.sinks.mavlink.tracker import TargetTracker

COASTING_FLAG = 8
"""CAMERA_TRACKING_STATUS_FLAGS_COASTING, which older releases of pymavlink lack."""
MAVLINK_VERSION = 3


class CameraMessages:
    """Builds the heartbeat, tracking and information messages of the camera.

    Args:
        dialect: MAVLink dialect module of pymavlink.
        status: Status of the run.
        tracker: Gives the tracked region and the size of the frames.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        dialect: Any,
        status: Status,
        tracker: TargetTracker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dialect, self._status, self._tracker, self._clock = dialect, status, tracker, clock
        self._started_s = clock()

    def heartbeat(self) -> Any:
        """Return HEARTBEAT with the state of the run."""
        dialect = self._dialect
        state = {
            "starting": dialect.MAV_STATE_BOOT,
            "running": dialect.MAV_STATE_ACTIVE,
            "stalled": dialect.MAV_STATE_CRITICAL,
            "stopped": dialect.MAV_STATE_POWEROFF,
        }[self._status.snapshot().state]
        return dialect.MAVLink_heartbeat_message(
            dialect.MAV_TYPE_CAMERA, dialect.MAV_AUTOPILOT_INVALID, 0, 0, state, MAVLINK_VERSION
        )

    def tracking_status(self) -> Any:
        """Return CAMERA_TRACKING_IMAGE_STATUS with the box of the tracked region."""
        dialect, region, nan = self._dialect, self._tracker.target, math.nan
        if region is None:
            box: tuple[float, ...] = nan, nan, nan, nan
            flags = dialect.CAMERA_TRACKING_STATUS_FLAGS_IDLE
            mode, data = dialect.CAMERA_TRACKING_MODE_NONE, 0
        else:
            edges = (region.left, region.top, region.right, region.bottom)
            box = tuple(min(1.0, max(0.0, edge)) for edge in edges)
            flags = dialect.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
            flags |= COASTING_FLAG if region.coasting else 0
            mode = dialect.CAMERA_TRACKING_MODE_RECTANGLE
            data = dialect.CAMERA_TRACKING_TARGET_DATA_IN_STATUS
        return dialect.MAVLink_camera_tracking_image_status_message(flags, mode, data, nan, nan, nan, *box)

    def camera_information(self) -> Any:
        """Return CAMERA_INFORMATION with the release's name as the model."""
        dialect = self._dialect
        flags = dialect.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT | dialect.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
        return dialect.MAVLink_camera_information_message(
            time_boot_ms=int((self._clock() - self._started_s) * 1e3) % 2**32,
            vendor_name=_encode_name("Aerogaze"),
            model_name=_encode_name(self._status.snapshot().run_info.release),
            firmware_version=0,
            focal_length=math.nan,
            sensor_size_h=math.nan,
            sensor_size_v=math.nan,
            resolution_h=min(self._tracker.frame_width, 65535),
            resolution_v=min(self._tracker.frame_height, 65535),
            lens_id=0,
            flags=flags,
            cam_definition_version=0,
            cam_definition_uri=b"",
        )


def _encode_name(name: str) -> list[int]:
    """Return a name as 32 bytes, cut or padded with zeros."""
    return list(name.encode()[:32].ljust(32, b"\0"))
