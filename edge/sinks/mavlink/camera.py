"""MAVLink: a camera that says what it tracks, and may point a gimbal there."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Any

from edge.core.errors import InputError
from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, ResultTransform
from edge.sinks.mavlink.gimbal import GimbalController
from edge.sinks.mavlink.link import MavlinkLink, open_link

COASTING = 8
"""CAMERA_TRACKING_STATUS_FLAGS_COASTING, which older releases of pymavlink do not know."""
HEARTBEAT_S = 1.0
"""The standard's rate (mavlink.io, "Heartbeat/Connection Protocol")."""
TICK_S = 0.05
"""How often what has come is read."""
MOST_STRAY = 280
"""Bytes on a serial line that are no message, before it is told: a longest message cut in two is no news."""
TRACKING_S = 0.1
"""Least time between tracking messages, unless MAV_CMD_SET_MESSAGE_INTERVAL asks for another."""


class MavlinkSink:
    """A MAVLink 2 camera (MAV_COMP_ID_CAMERA), as "Camera Protocol v2" of mavlink.io has it.

    Sends heartbeats from a thread of its own, whether results come or not; CAMERA_TRACKING_IMAGE_STATUS of
    the region to follow; with `gimbal`, setpoints by that camera. Answers commands that ask for its
    messages or say what to track.

    Raises:
        InputError: the link cannot be opened, or pymavlink is missing.
    """

    def __init__(
        self,
        link: str,
        status: Status,
        transform: ResultTransform,
        system: int = 1,
        gimbal: CameraGeometry | None = None,
        on_gimbal: bool = False,
    ) -> None:
        try:
            from pymavlink.dialects.v20 import common
        except ModuleNotFoundError:
            raise InputError(
                "--mavlink needs pymavlink, which is not installed: pip install 'aerogaze[mavlink]'"
            ) from None
        self._dialect: Any = common
        self._address = system, int(common.MAV_COMP_ID_CAMERA)
        self._status, self._transform = status, transform
        self._link: MavlinkLink = open_link(link)
        self._mav = common.MAVLink(self._link, *self._address)
        self._parser = self._fresh_parser()
        self._lock = threading.RLock()
        self._gimbal = gimbal and GimbalController(common, self._send, self._address, gimbal, on_gimbal)
        self._interval_s, self._told_s = TRACKING_S, -math.inf
        self._shape = (0, 0)
        self._regions: tuple[Region, ...] = ()
        self._picked: int | None = None
        self._stopped, self._stray = False, 0
        self._started_s, self._beat_s = time.monotonic(), -math.inf
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="aerogaze-mavlink", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        """Tell which region is followed, and point the gimbal there.

        Raises:
            OSError: the line is down; later results are sent again when it is back.
        """
        result = self._transform(result)
        with self._lock:
            self._shape = result.frame.height, result.frame.width
            self._regions = result.regions
            now = time.monotonic()
            if 0 <= self._interval_s <= now - self._told_s:
                self._told_s = now
                self._send(self._tracking())
            region = self._followed()
            if self._gimbal and region is not None and not region.coasting:
                self._gimbal.point(region, self._shape[0] / self._shape[1])

    def finish(self) -> None:
        """Nothing is left to send."""

    def commit(self) -> None:
        """Say that nothing is tracked any more, give the gimbal back, and close the link."""
        if self._end.is_set():
            return
        self._end.set()
        self._thread.join(2 * HEARTBEAT_S)
        with contextlib.suppress(OSError):
            self._stopped = True
            self._send(self._tracking())
            self._send(self._heartbeat())
            if self._gimbal:
                self._gimbal.release()
        self._link.close()

    def discard(self) -> None:
        """As commit: what was sent cannot be taken back."""
        self.commit()

    def _followed(self) -> Region | None:
        """Return the region that was picked, or the first; None if that is gone, or tracking was stopped."""
        if self._stopped:
            return None
        if self._picked is None:
            return self._regions[0] if self._regions else None
        return next((region for region in self._regions if region.id == self._picked), None)

    def _send(self, message: Any) -> None:
        with self._lock:
            self._mav.send(message)

    def _serve(self) -> None:
        while not self._end.wait(TICK_S):
            with contextlib.suppress(OSError):  # write() tells that the line is down
                now = time.monotonic()
                if now - self._beat_s >= HEARTBEAT_S:
                    self._beat_s = now
                    self._send(self._heartbeat())
                if self._gimbal:
                    self._gimbal.tick()
                came = self._link.read()
                for data in came:
                    self._hear(data)
                if not self._stray or not any(came):
                    self._status.report_recovery("mavlink")

    def _hear(self, data: bytes) -> None:
        messages, stray = self._parsed(data)
        if self._link.whole and data and not messages:
            stray = len(data)  # as one that begins like a message, and ends before it does
        self._stray = self._stray + stray if stray or not messages else 0
        if self._stray > (0 if self._link.whole else MOST_STRAY):
            self._status.report_fault(
                "mavlink", "what comes is not all MAVLink: is it the right port, at its rate?"
            )
        for message in messages:
            with self._lock:
                if self._gimbal:
                    self._gimbal.hear(message)
                if message.get_type() == "COMMAND_LONG" and not self._ours(message):
                    self._obey(message)

    def _ours(self, message: Any) -> bool:
        """Say whether a router has sent us our own message back."""
        return (message.get_srcSystem(), message.get_srcComponent()) == self._address

    def _parsed(self, data: bytes) -> tuple[list[Any], int]:
        """Return the messages, and how many bytes were of none."""
        if self._link.whole:  # so that the end of a spoilt datagram is not looked for in the next
            self._parser = self._fresh_parser()
        try:
            found = list(self._parser.parse_buffer(data) or ())
        except Exception:  # whatever a peer sends, heartbeats go on
            return [], len(data)
        messages = [message for message in found if message.get_type() != "BAD_DATA"]
        return messages, sum(len(one.data) for one in found if one.get_type() == "BAD_DATA")

    def _fresh_parser(self) -> Any:
        parser = self._dialect.MAVLink(None)
        parser.robust_parsing = True  # what is no message is passed over
        return parser

    def _obey(self, command: Any) -> None:
        """Do what a command says and acknowledge it; commands to others, or to all, get no refusal."""
        system, component = command.target_system, command.target_component
        if system not in (0, self._address[0]) or component not in (0, self._address[1]):
            return
        dialect, answer = self._dialect, self._answer(command)
        if answer is False and component == 0:
            return
        result = dialect.MAV_RESULT_UNSUPPORTED if answer is False else dialect.MAV_RESULT_ACCEPTED
        sender = command.get_srcSystem(), command.get_srcComponent()
        self._send(dialect.MAVLink_command_ack_message(command.command, result, 0, 0, *sender))
        if not isinstance(answer, bool):
            self._send(answer)

    def _answer(self, command: Any) -> Any:
        """Return whether the command was understood and done, or the message that it asks for."""
        dialect, one, two = self._dialect, command.param1, command.param2
        if command.command == dialect.MAV_CMD_REQUEST_CAMERA_INFORMATION:
            return self._information()
        if command.command == dialect.MAV_CMD_REQUEST_MESSAGE:
            asked = {
                dialect.MAVLINK_MSG_ID_HEARTBEAT: self._heartbeat,
                dialect.MAVLINK_MSG_ID_CAMERA_INFORMATION: self._information,
                dialect.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS: self._tracking,
            }.get(one)
            return asked() if asked else False
        if command.command == dialect.MAV_CMD_SET_MESSAGE_INTERVAL:
            if one != dialect.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS or not two >= -1:
                return False
            self._interval_s = TRACKING_S if two == 0 else two / 1e6 if two > 0 else -1
            return True
        if command.command == dialect.MAV_CMD_CAMERA_TRACK_POINT:
            return self._pick(one, two)
        if command.command == dialect.MAV_CMD_CAMERA_TRACK_RECTANGLE:
            return self._pick((one + command.param3) / 2, (two + command.param4) / 2)
        if command.command == dialect.MAV_CMD_CAMERA_STOP_TRACKING:
            self._stopped = True
            return True
        return False

    def _pick(self, x: float, y: float) -> bool:
        """Follow the region nearest to a point of the frame."""
        if not self._regions or not (0 <= x <= 1 and 0 <= y <= 1):
            return False
        nearest = min(self._regions, key=lambda region: math.hypot(region.x - x, region.y - y))
        self._picked, self._stopped = nearest.id, False
        return True

    def _heartbeat(self) -> Any:
        dialect = self._dialect
        state = {
            "starting": dialect.MAV_STATE_BOOT,
            "running": dialect.MAV_STATE_ACTIVE,
            "stalled": dialect.MAV_STATE_CRITICAL,
            "stopped": dialect.MAV_STATE_POWEROFF,
        }[self._status.snapshot().state]
        return dialect.MAVLink_heartbeat_message(
            dialect.MAV_TYPE_CAMERA, dialect.MAV_AUTOPILOT_INVALID, 0, 0, state, 3
        )

    def _tracking(self) -> Any:
        dialect, region, nan = self._dialect, self._followed(), math.nan
        if region is None:
            box: tuple[float, ...] = nan, nan, nan, nan
            flags, mode, data = (
                dialect.CAMERA_TRACKING_STATUS_FLAGS_IDLE,
                dialect.CAMERA_TRACKING_MODE_NONE,
                0,
            )
        else:
            box = tuple(min(1.0, max(0.0, v)) for v in (region.left, region.top, region.right, region.bottom))
            flags = dialect.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
            flags |= COASTING if region.coasting else 0
            mode = dialect.CAMERA_TRACKING_MODE_RECTANGLE
            data = dialect.CAMERA_TRACKING_TARGET_DATA_IN_STATUS
        return dialect.MAVLink_camera_tracking_image_status_message(flags, mode, data, nan, nan, nan, *box)

    def _information(self) -> Any:
        dialect, (height, width) = self._dialect, self._shape
        flags = dialect.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT | dialect.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
        run_info = self._status.snapshot().run_info
        return dialect.MAVLink_camera_information_message(
            time_boot_ms=int((time.monotonic() - self._started_s) * 1e3) % 2**32,
            vendor_name=_text("Aerogaze"),
            model_name=_text(run_info.release),
            firmware_version=0,
            focal_length=math.nan,
            sensor_size_h=math.nan,
            sensor_size_v=math.nan,
            resolution_h=min(width, 65535),
            resolution_v=min(height, 65535),
            lens_id=0,
            flags=flags,
            cam_definition_version=0,
            cam_definition_uri=b"",
        )


def _text(words: str) -> list[int]:
    """Return 32 bytes, filled up with zeros."""
    return list(words.encode()[:32].ljust(32, b"\0"))
