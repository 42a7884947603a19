"""MAVLink sink: a camera that reports the region it tracks and can point a gimbal at it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from edge.core.errors import InputError
from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import Result, ResultTransform
from edge.sinks.mavlink.commands import CommandHandler
from edge.sinks.mavlink.gimbal import GimbalController
from edge.sinks.mavlink.link import MavlinkLink, open_link
from edge.sinks.mavlink.messages import CameraMessages
from edge.sinks.mavlink.parser import MessageParser
from edge.sinks.mavlink.tracker import TargetTracker

HEARTBEAT_INTERVAL_S = 1.0
"""Rate that the standard asks for (mavlink.io, "Heartbeat/Connection Protocol")."""
POLL_INTERVAL_S = 0.05
"""Time between two reads of the link."""


class MavlinkSink:
    """MAVLink 2 camera (MAV_COMP_ID_CAMERA) as in the "Camera Protocol v2" of mavlink.io.

    Sends heartbeats from a thread of its own, also when no results come, and CAMERA_TRACKING_IMAGE_STATUS
    for the tracked region. Answers commands that request these messages or control tracking.

    Args:
        link: Name of the link, as for `open_link`.
        status: Status of the run.
        transform: Applied to each result first, to find regions.
        system: MAVLink system id of the vehicle.
        gimbal: Geometry of the camera; given, the gimbal is pointed at the tracked region.
        on_gimbal: The camera is mounted on that gimbal.
        clock: Monotonic clock in seconds.

    Raises:
        InputError: The link cannot be opened, or pymavlink is not installed.
    """

    def __init__(
        self,
        link: str,
        status: Status,
        transform: ResultTransform,
        system: int = 1,
        gimbal: CameraGeometry | None = None,
        on_gimbal: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            from pymavlink.dialects.v20 import common
        except ModuleNotFoundError:
            raise InputError(
                "--mavlink needs pymavlink, which is not installed: pip install 'aerogaze[mavlink]'"
            ) from None
        address = system, int(common.MAV_COMP_ID_CAMERA)
        self._transform, self._clock = transform, clock
        self._link: MavlinkLink = open_link(link)
        self._encoder: Any = common.MAVLink(self._link, *address)
        self._parser = MessageParser(common, self._link, status)
        self._tracker = TargetTracker()
        self._messages = CameraMessages(common, status, self._tracker, clock)
        self._commands = CommandHandler(common, address, self._tracker, self._messages)
        self._lock = threading.RLock()  # for the encoder, the tracker and the gimbal
        self._gimbal = gimbal and GimbalController(common, self._send, address, gimbal, on_gimbal, clock)
        self._last_tracking_s = self._last_heartbeat_s = -math.inf
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="aerogaze-mavlink", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        """Report the tracked region and point the gimbal at it.

        Raises:
            OSError: The line is down. Later results are sent when it works again.
        """
        result = self._transform(result)
        with self._lock:
            self._tracker.update(result)
            now = self._clock()
            if 0 <= self._tracker.interval_s <= now - self._last_tracking_s:
                self._last_tracking_s = now
                self._send(self._messages.tracking_status())
            target = self._tracker.target
            if self._gimbal and target is not None and not target.coasting:
                self._gimbal.point_at(target, self._tracker.frame_height / self._tracker.frame_width)

    def finish(self) -> None:
        """Do nothing: no output is pending."""

    def commit(self) -> None:
        """Report that tracking has ended, release the gimbal and close the link."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join(2 * HEARTBEAT_INTERVAL_S)
        with contextlib.suppress(OSError):
            self._tracker.stop()
            self._send(self._messages.tracking_status())
            self._send(self._messages.heartbeat())
            if self._gimbal:
                self._gimbal.release_control()
        self._link.close()

    def discard(self) -> None:
        """Do the same as `commit`: sent messages cannot be taken back."""
        self.commit()

    def _send(self, message: Any) -> None:
        with self._lock:
            self._encoder.send(message)

    def _serve(self) -> None:
        while not self._closing.wait(POLL_INTERVAL_S):
            with contextlib.suppress(OSError):  # write() reports that the line is down
                now = self._clock()
                if now - self._last_heartbeat_s >= HEARTBEAT_INTERVAL_S:
                    self._last_heartbeat_s = now
                    self._send(self._messages.heartbeat())
                if self._gimbal:
                    self._gimbal.request_control()
                received = self._link.read()
                for data in received:
                    for message in self._parser.parse(data):
                        self._handle(message)
                self._parser.report_recovery(received)

    def _handle(self, message: Any) -> None:
        with self._lock:
            if self._gimbal:
                self._gimbal.handle_message(message)
            for reply in self._commands.handle(message):
                self._send(reply)
