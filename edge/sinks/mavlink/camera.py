"""MAVLink sink: a camera that reports the region it tracks and can point a gimbal at it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.geolocation import Geolocator
from edge.postprocessing.result import Result, ResultTransform
from edge.sinks.mavlink.commands import CommandHandler
from edge.sinks.mavlink.gimbal import GimbalController
from edge.sinks.mavlink.link import LinkGroup, MavlinkLink, SharedLinks, open_links
from edge.sinks.mavlink.messages import CameraMessages
from edge.sinks.mavlink.parser import MessageParser
from edge.sinks.mavlink.pose import PoseReader
from edge.sinks.mavlink.signing import STORE_INTERVAL_S, MessageSigner, TimeStampFile
from edge.sinks.mavlink.tracker import TargetTracker
from edge.sinks.video_stream import NO_REGION, VideoStream

HEARTBEAT_INTERVAL_S = 1.0
"""Rate that the standard asks for (mavlink.io, "Heartbeat/Connection Protocol")."""
POLL_INTERVAL_S = 0.05
"""Time between two reads of the link."""
POSE_INTERVAL_S = 0.01
"""The same if poses are read, which get the time at which they are read."""


@dataclass(frozen=True)
class MavlinkSettings:
    """Settings of the MAVLink sink.

    Attributes:
        system: MAVLink system id of the vehicle.
        camera: Geometry of the camera; None if its field of view is unknown.
        gimbal: Point the gimbal at the tracked region; needs the geometry.
        on_gimbal: The camera is mounted on that gimbal.
        key: Key that signs all messages. Messages that are not signed with it are ignored. None: no signing.
        frame_size: Width and height of the frames in pixels, until the first one comes.
        stream: Video that the run streams, for ground stations to find it.
        locator: Receives the poses of the vehicle and computes where regions are; None for no places.
        stamps: File that keeps the time stamps of signing over a restart; None keeps none.
        number: Number of the camera in the run, from 0, which is added to the id of the component.
    """

    system: int = 1
    camera: CameraGeometry | None = None
    gimbal: bool = False
    on_gimbal: bool = False
    key: bytes | None = None
    frame_size: tuple[int, int] = (0, 0)
    stream: VideoStream | None = None
    locator: Geolocator | None = None
    stamps: Path | None = None
    number: int = 0


class MavlinkSink:
    """MAVLink 2 camera (MAV_COMP_ID_CAMERA and after) as in the "Camera Protocol v2" of mavlink.io.

    Sends heartbeats from a thread of its own, also when no results come, and CAMERA_TRACKING_IMAGE_STATUS
    for the tracked region. Answers commands that request messages or control tracking.

    Args:
        links: Names of the links, as for `open_link`, or the links that all cameras of the run share. All
            carry the same messages.
        status: Status of the run.
        transform: Applied to each result first, to find regions.
        settings: Settings of the camera.
        clock: Monotonic clock in seconds.

    Raises:
        InputError: A link cannot be opened, or pymavlink is not installed.
    """

    def __init__(
        self,
        links: Sequence[str] | SharedLinks,
        status: Status,
        transform: ResultTransform,
        settings: MavlinkSettings = MavlinkSettings(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            from pymavlink.dialects.v20 import common
        except ModuleNotFoundError:
            raise InputError(
                "--mavlink needs pymavlink, which is not installed: pip install 'aerogaze[mavlink]'"
            ) from None
        address = settings.system, int(common.MAV_COMP_ID_CAMERA) + settings.number
        self._transform, self._clock, self._status = transform, clock, status
        stamps = None if settings.stamps is None else TimeStampFile(settings.stamps)
        self._signer = None if settings.key is None else MessageSigner(settings.key, file=stamps)
        # Last of what can fail: only a sink closes them.
        opened = links.share() if isinstance(links, SharedLinks) else open_links(links)
        self._link = LinkGroup(opened)
        self._encoder: Any = common.MAVLink(self._link, *address)
        self._inputs = [(link, MessageParser(common, link, status)) for link in opened]
        self._tracker = TargetTracker(*settings.frame_size)
        camera, locator, self._stream = settings.camera, settings.locator, settings.stream
        self._messages = CameraMessages(
            common, status, self._tracker, clock, camera, settings.stream, self._link.local_host, locator
        )
        self._commands = CommandHandler(common, address, self._tracker, self._messages, clock)
        self._lock = threading.RLock()  # for the encoder, the tracker and the gimbal
        self._gimbal: GimbalController | None = None
        if settings.gimbal and camera is not None:
            self._gimbal = GimbalController(common, self._send, address, camera, settings.on_gimbal, clock)
        self._pose: PoseReader | None = None
        if locator is not None:
            self._pose = PoseReader(common, self._send, address, locator.poses, clock)
        self._last_heartbeat_s = -math.inf
        self._closing = threading.Event()
        self._store_stamps()
        self._threads = [
            threading.Thread(target=target, name=f"aerogaze-mavlink-{target.__name__}", daemon=True)
            for target in (self._serve, self._keep_stamps)
        ]
        for thread in self._threads:
            thread.start()

    def write(self, result: Result) -> None:
        """Report the tracked region and point the gimbal at it.

        Raises:
            OSError: A line is down. Later results are sent when it works again.
        """
        result = self._transform(result)
        with self._lock:
            self._tracker.update(result)
            self._show_target()
            for message in self._messages.due():
                self._send(message)
            target = self._tracker.target
            if self._gimbal and target is not None and not target.coasting:
                self._gimbal.point_at(target, self._tracker.frame_height / self._tracker.frame_width)
            self._link.raise_error()

    def finish(self) -> None:
        """Do nothing: no output is pending."""

    def commit(self) -> None:
        """Report that tracking has ended, release the gimbal and close the link."""
        if self._closing.is_set():
            return
        self._closing.set()
        for thread in self._threads:
            thread.join(2 * HEARTBEAT_INTERVAL_S)
        self._tracker.stop()
        self._send(self._messages.tracking_status())
        self._send(self._messages.heartbeat())
        if self._gimbal:
            self._gimbal.release_control()
        self._link.close()
        self._store_stamps(at_end=True)

    def discard(self) -> None:
        """Do the same as `commit`: sent messages cannot be taken back."""
        self.commit()

    def _send(self, message: Any) -> None:
        with self._lock:
            if self._signer is not None:
                self._signer.prepare(self._encoder)
            self._encoder.send(message)

    def _serve(self) -> None:
        while not self._closing.wait(POSE_INTERVAL_S if self._pose else POLL_INTERVAL_S):
            now = self._clock()
            if now - self._last_heartbeat_s >= HEARTBEAT_INTERVAL_S:
                self._last_heartbeat_s = now
                self._send(self._messages.heartbeat())
            if self._gimbal:
                self._gimbal.request_control()
            if self._pose:
                self._pose.request_messages()
            for link, parser in self._inputs:
                with contextlib.suppress(OSError):  # write() reports that a line is down
                    self._receive(link, parser)

    def _keep_stamps(self) -> None:
        """Store the time stamps regularly, on a thread of its own: a slow disk must not hold up commands."""
        while self._signer is not None and not self._closing.wait(STORE_INTERVAL_S):
            self._store_stamps()

    def _store_stamps(self, at_end: bool = False) -> None:
        if self._signer is None:
            return
        try:
            self._signer.store(at_end)
            self._status.report_recovery("mavlink-stamps")
        except InputError as error:
            self._status.report_fault(
                "mavlink-stamps", f"time stamps of signing are not kept over a restart: {error}"
            )

    def _receive(self, link: MavlinkLink, parser: MessageParser) -> None:
        received = link.read()
        for data in received:
            for message in parser.parse(data):
                if self._is_authentic(message):
                    self._handle(message)
        parser.report_recovery(received)

    def _is_authentic(self, message: Any) -> bool:
        """Return whether a message may be used: with a key, only if it is signed with it."""
        if self._signer is None:
            return True
        if self._signer.verify(message):
            self._status.report_recovery("mavlink-signing")
            return True
        if message.get_type() == "RADIO_STATUS":
            return False  # telemetry radios send it unsigned, whatever the key
        self._status.report_fault(
            "mavlink-signing", "ignored messages that are not signed with the key: set the same key there"
        )
        return False

    def _handle(self, message: Any) -> None:
        with self._lock:
            if self._gimbal:
                self._gimbal.handle_message(message)
            if self._pose:
                self._pose.handle_message(message)
            for reply in self._commands.handle(message):
                self._send(reply)
            self._show_target()

    def _show_target(self) -> None:
        """Let the video mark the region that is followed."""
        if self._stream is not None:
            target = self._tracker.target
            self._stream.followed_id = NO_REGION if target is None else target.id
