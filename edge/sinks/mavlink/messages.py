"""Messages that the MAVLink camera sends about itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.geolocation import HEADING_SD_DEG, Geolocator
from edge.sinks.mavlink.tracker import TargetTracker
from edge.sinks.video_stream import VideoStream

COASTING_FLAG = 8
"""CAMERA_TRACKING_STATUS_FLAGS_COASTING, which older releases of pymavlink lack."""
H264_ENCODING = 1
"""VIDEO_STREAM_ENCODING_H264, which older releases of pymavlink lack."""
MAVLINK_VERSION = 3
STREAM_ID = 1
DEFAULT_INTERVAL_S = 0.1
"""Minimum time between tracking messages, unless MAV_CMD_SET_MESSAGE_INTERVAL sets another."""


class Interval:
    """Minimum time between two messages of one kind.

    Args:
        clock: Monotonic clock in seconds.

    Attributes:
        seconds: Minimum time in seconds; 0: no minimum; negative: no message is sent.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = DEFAULT_INTERVAL_S
        self._clock, self._last_s = clock, -math.inf

    def is_due(self) -> bool:
        """Return whether the next message is due, which then counts as sent."""
        now = self._clock()
        if not 0 <= self.seconds <= now - self._last_s:
            return False
        self._last_s = now
        return True


class CameraMessages:
    """Builds the messages of the camera.

    Args:
        dialect: MAVLink dialect module of pymavlink.
        status: Status of the run.
        tracker: Gives the tracked region and the size of the frames.
        clock: Monotonic clock in seconds.
        camera: Geometry of the camera; None if unknown.
        stream: Video that the run streams; None for none.
        own_host: Address of this machine as the ground station sees it; None if unknown.
        locator: Computes where regions are; None for no places.

    Attributes:
        requestable: Builds a message that a command may request, by its number; None if there is nothing to
            say at the moment.
        periodic: Interval of the messages that are sent without a request, by their number.
    """

    def __init__(
        self,
        dialect: Any,
        status: Status,
        tracker: TargetTracker,
        clock: Callable[[], float] = time.monotonic,
        camera: CameraGeometry | None = None,
        stream: VideoStream | None = None,
        own_host: str | None = None,
        locator: Geolocator | None = None,
    ) -> None:
        self._dialect, self._status, self._tracker, self._clock = dialect, status, tracker, clock
        self._camera, self._stream, self._own_host, self._locator = camera, stream, own_host, locator
        self._started_s = clock()
        self.requestable: dict[int, Callable[[], Any]] = {
            dialect.MAVLINK_MSG_ID_HEARTBEAT: self.heartbeat,
            dialect.MAVLINK_MSG_ID_CAMERA_INFORMATION: self.camera_information,
            dialect.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS: self.tracking_status,
        }
        self.periodic = {dialect.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS: Interval(clock)}
        if locator is not None:
            number = dialect.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS
            self.requestable[number] = lambda: self._geo_status(locator)
            self.periodic[number] = Interval(clock)
        if stream is not None:
            self.requestable |= {
                dialect.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION: lambda: self._stream_information(stream),
                dialect.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS: lambda: self._stream_status(stream),
            }

    @property
    def has_stream(self) -> bool:
        """Whether the run streams video."""
        return self._stream is not None

    def due(self) -> list[Any]:
        """Return the periodic messages whose time has come."""
        due = [self.requestable[number] for number, interval in self.periodic.items() if interval.is_due()]
        return [message for message in (build() for build in due) if message is not None]

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
        if self.has_stream:
            flags |= dialect.CAMERA_CAP_FLAGS_HAS_VIDEO_STREAM
        if self._locator is not None:
            flags |= dialect.CAMERA_CAP_FLAGS_HAS_TRACKING_GEO_STATUS
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

    def _geo_status(self, locator: Geolocator) -> Any:
        """Return CAMERA_TRACKING_GEO_STATUS of the tracked region; None if it has no coordinate."""
        dialect, tracker, nan = self._dialect, self._tracker, math.nan
        region, aspect = tracker.target, tracker.frame_height / max(1, tracker.frame_width)
        point = None if region is None else locator.locate(region, tracker.frame_s, aspect)
        if point is None:
            return None
        return dialect.MAVLink_camera_tracking_geo_status_message(
            tracking_status=dialect.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE,
            lat=round(point.latitude_deg * 1e7),
            lon=round(point.longitude_deg * 1e7),
            alt=point.altitude_m,
            h_acc=point.accuracy_m,
            v_acc=nan,
            vel_n=nan,
            vel_e=nan,
            vel_d=nan,
            vel_acc=nan,
            dist=point.distance_m,
            hdg=math.radians(point.heading_deg),
            hdg_acc=math.radians(HEADING_SD_DEG),
        )

    def _stream_information(self, stream: VideoStream) -> Any:
        dialect = self._dialect
        is_rtsp = stream.kind == "rtsp"
        return dialect.MAVLink_video_stream_information_message(
            stream_id=STREAM_ID,
            count=1,
            type=dialect.VIDEO_STREAM_TYPE_RTSP if is_rtsp else dialect.VIDEO_STREAM_TYPE_RTPUDP,
            name=b"saliency",
            uri=stream.uri(self._own_host).encode()[:160],
            **_with_known({"encoding": H264_ENCODING}, dialect.MAVLink_video_stream_information_message),
            **self._stream_state(stream),
        )

    def _stream_status(self, stream: VideoStream) -> Any:
        return self._dialect.MAVLink_video_stream_status_message(
            stream_id=STREAM_ID, **self._stream_state(stream)
        )

    def _stream_state(self, stream: VideoStream) -> dict[str, Any]:
        """Return the fields that information and status share."""
        return {
            "flags": self._dialect.VIDEO_STREAM_STATUS_FLAGS_RUNNING if stream.is_running else 0,
            "framerate": stream.fps,
            "resolution_h": stream.width,
            "resolution_v": stream.height,
            "bitrate": stream.bit_rate,
            "rotation": 0,
            "hfov": round(self._camera.fov_deg) if self._camera else 0,
        }


def _encode_name(name: str) -> list[int]:
    """Return a name as 32 bytes, cut or padded with zeros."""
    return list(name.encode()[:32].ljust(32, b"\0"))


def _with_known(fields: dict[str, Any], message_class: Any) -> dict[str, Any]:
    """Return the fields that a message has; older releases of pymavlink lack some extension fields."""
    return {name: value for name, value in fields.items() if name in message_class.fieldnames}
