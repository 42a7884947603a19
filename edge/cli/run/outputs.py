"""Outputs of a run: opens those of each camera, and what the cameras share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.console import ERR_CONSOLE
from edge.cli.run.options import RunOptions
from edge.cli.run.sink_options import SinkOptions
from edge.core.frames import Source
from edge.core.run_status import Status
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.sinks.sink import Sink
from edge.sinks.video_stream import VideoStream

if TYPE_CHECKING:  # loaded on request: they are not needed for the help
    from edge.postprocessing.geolocation import Geolocator
    from edge.sinks.mavlink.link import SharedLinks
    from edge.sinks.web.sink import HttpSink


class Outputs:
    """Opens the outputs of one camera after the other. All cameras share the live page and the MAVLink links.

    Args:
        cameras: Number of cameras.
    """

    def __init__(self, cameras: int) -> None:
        self._cameras = cameras
        self._page: HttpSink | None = None
        self._links: SharedLinks | None = None
        self._mavlink_cameras = 0

    def open(self, options: RunOptions, frames: Source, status: Status, transform: MapAnalyzer) -> list[Sink]:
        """Open all outputs of a camera; they share one map analyzer.

        Raises:
            InputError: An output cannot be opened; the others of this camera were discarded.
        """
        sinks: list[Sink] = []
        locator = _make_locator(options.network)
        try:
            _open_files(sinks, options, frames, status, transform, locator)
            if options.ros2:
                from edge.sinks.ros2.sink import Ros2Sink

                sinks.append(Ros2Sink(options.ros2, frames, status, transform, options.network.camera))
            self._open_network(sinks, options.network, frames, status, transform, locator)
        except BaseException:
            for sink in sinks:
                sink.discard()
            raise
        return sinks

    def _open_network(
        self,
        sinks: list[Sink],
        options: SinkOptions,
        frames: Source,
        status: Status,
        transform: MapAnalyzer,
        locator: Geolocator | None,
    ) -> None:
        """Add the video stream, the MAVLink camera and the live page."""
        stream: VideoStream | None = None
        if options.rtp:
            from edge.sinks.rtp.sink import RtpSink, parse_stream

            stream = parse_stream(options.rtp, frames)
            sinks.append(RtpSink(stream, status, transform, locator=locator))
        if options.mavlink:
            from edge.sinks.mavlink.camera import MavlinkSettings, MavlinkSink
            from edge.sinks.mavlink.link import SharedLinks
            from edge.sinks.mavlink.signing import read_key

            settings = MavlinkSettings(
                system=options.mavlink_system,
                camera=options.camera,
                gimbal=options.gimbal,
                on_gimbal=options.on_gimbal,
                key=None if options.mavlink_key is None else read_key(options.mavlink_key),
                frame_size=(frames.width, frames.height),
                stream=stream,
                locator=locator,
                stamps=_stamps_path(options.mavlink_key, self._mavlink_cameras),
                number=self._mavlink_cameras,
            )
            if self._cameras > 1:
                self._links = self._links or SharedLinks(options.mavlink)
            sinks.append(MavlinkSink(self._links or options.mavlink, status, transform, settings))
            self._mavlink_cameras += 1
        if options.http:
            sinks.append(self._open_view(options.http, options, status, transform))

    def _open_view(
        self, address: str, options: SinkOptions, status: Status, transform: MapAnalyzer
    ) -> HttpSink:
        if self._page is not None:
            return self._page.add_camera(status, transform, options.camera)
        from edge.sinks.web.sink import HttpSink

        self._page = HttpSink(address, options.http_token, status, transform, options.camera)
        ERR_CONSOLE.print(f"live page: {self._page.url}", highlight=False, soft_wrap=True)
        return self._page


def _open_files(
    sinks: list[Sink],
    options: RunOptions,
    frames: Source,
    status: Status,
    transform: MapAnalyzer,
    locator: Geolocator | None,
) -> None:
    """Add the outputs that are files."""
    if options.recorded_overlay:
        from edge.sinks.files.overlay_video import OverlaySink

        sinks.append(OverlaySink(options.recorded_overlay, frames, transform, options.is_live))
    if options.jsonl:
        from edge.sinks.files.jsonl import JsonlSink

        sinks.append(JsonlSink(options.jsonl, transform, options.network.camera, locator))
    if options.maps:
        from edge.sinks.files.map_images import MapsSink

        sinks.append(MapsSink(options.maps))
    if options.mcap:
        from edge.sinks.files.mcap_recording import McapSink

        sinks.append(McapSink(options.mcap, frames, status, transform, options.is_live))
    if options.network.geojson and locator:
        from edge.sinks.files.geojson import GeojsonSink

        sinks.append(GeojsonSink(options.network.geojson, transform, locator))


def _stamps_path(key: Path | None, number: int) -> Path | None:
    """Return the file of the time stamps beside a key: one for each camera, which signs for itself."""
    ending = f"-{number + 1}" if number else ""
    return None if key is None else key.with_name(f"{key.name}.stamps{ending}")


def _make_locator(options: SinkOptions) -> Geolocator | None:
    """Return the geolocator that the options ask for, None without `--locate`."""
    if not options.locate or options.camera is None:
        return None
    from edge.postprocessing.geolocation import Geolocator, PoseHistory

    return Geolocator(
        options.camera, PoseHistory(), options.on_gimbal, options.ground_m, options.camera_delay_s
    )
