"""Options of `aerogaze run` for camera angles, places, MAVLink, the video stream and the live page."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.console import ERR_CONSOLE
from edge.cli.options import FILE, FiniteRange
from edge.core.errors import InputError
from edge.core.frames import Source
from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import ResultTransform
from edge.sinks.sink import Sink
from edge.sinks.video_stream import VideoStream

if TYPE_CHECKING:  # loaded on request: it is not needed for the help
    from edge.postprocessing.geolocation import Geolocator

TOKEN_VARIABLE = "AEROGAZE_HTTP_TOKEN"  # noqa: S105 (the name of a variable)
_OPTIONS = (
    click.option(
        "--fov",
        type=FiniteRange(0, 180, min_open=True, max_open=True),
        metavar="DEGREES",
        help="Horizontal field of view of the camera in degrees; adds bearing and elevation.",
    ),
    click.option(
        "--mount",
        metavar="PITCH[,YAW[,ROLL]]",
        help="Mounting angles of the camera in degrees: up, right, clockwise.",
    ),
    click.option(
        "--locate",
        is_flag=True,
        help="Add latitude and longitude to regions, from the pose of the vehicle (needs --mavlink, --fov).",
    ),
    click.option(
        "--ground",
        "ground_m",
        type=FiniteRange(-500, 9000),
        metavar="METRES",
        help="Height of the ground above sea level (default: that of home).",
    ),
    click.option(
        "--camera-delay",
        "camera_delay_s",
        type=FiniteRange(0, 10),
        metavar="SECONDS",
        default=0.0,
        help="Time between capture and arrival of frames, for --locate (default: 0).",
    ),
    click.option("--geojson", type=FILE, help="Write the places of the regions (needs --locate)."),
    click.option(
        "--mavlink",
        multiple=True,
        metavar="ENDPOINT",
        help="Send MAVLink to udpout:HOST:PORT or /dev/ttyTHS1[:BAUD]; may be repeated.",
    ),
    click.option(
        "--mavlink-system",
        type=click.IntRange(1, 255),
        metavar="ID",
        default=1,
        show_default=True,
        help="MAVLink system id of the vehicle.",
    ),
    click.option(
        "--mavlink-key",
        type=FILE,
        help="File with the key that signs MAVLink messages; others are then ignored.",
    ),
    click.option("--gimbal", is_flag=True, help="Point the gimbal at the tracked region (needs --fov)."),
    click.option(
        "--on-gimbal",
        is_flag=True,
        help="The camera is mounted on the gimbal: its angles are relative to the gimbal.",
    ),
    click.option(
        "--rtp",
        metavar="ADDRESS",
        help="Stream video to udp://HOST:PORT, or serve it at rtsp://[HOST]:PORT/PATH.",
    ),
    click.option(
        "--http", metavar="[HOST]:PORT", help="Serve a live page; without a host, to this machine only."
    ),
    click.option(
        "--http-token",
        metavar="TOKEN",
        envvar=TOKEN_VARIABLE,
        help=f"Token that other machines need for the page (or ${TOKEN_VARIABLE}; default: generated).",
    ),
)


@dataclass(frozen=True)
class SinkOptions:
    """Values of the options.

    Attributes:
        camera: Geometry of the camera; None without a field of view.
        locate: Add latitude and longitude to regions.
        ground_m: Height of the ground above sea level; None takes that of home.
        camera_delay_s: Time between capture and arrival of frames.
        geojson: Path of the places of the regions; None for none.
        mavlink: Names of the MAVLink links; empty for no MAVLink.
        mavlink_system: MAVLink system id of the vehicle.
        mavlink_key: File with the key that signs MAVLink messages; None for no signing.
        gimbal: Point the gimbal at the tracked region.
        on_gimbal: The camera is mounted on the gimbal.
        rtp: Address of the video stream; None for none.
        http: Address of the live page; None for no page.
        http_token: Access token of the live page; None generates one if needed.
    """

    camera: CameraGeometry | None
    locate: bool
    ground_m: float | None
    camera_delay_s: float
    geojson: Path | None
    mavlink: tuple[str, ...]
    mavlink_system: int
    mavlink_key: Path | None
    gimbal: bool
    on_gimbal: bool
    rtp: str | None
    http: str | None
    http_token: str | None

    @property
    def is_viewed(self) -> bool:
        """Whether somebody may look at the frames, so that they must not be small."""
        return self.rtp is not None or self.http is not None


def with_sink_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets their values as `sink_options`."""

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        names = [field.name for field in fields(SinkOptions) if field.name != "camera"]
        camera = _parse_camera(values.pop("fov"), values.pop("mount"))
        sink_options = SinkOptions(camera, **{name: values.pop(name) for name in names})
        _check_combination(sink_options)
        command(**values, sink_options=sink_options)

    return functools.reduce(lambda function, option: option(function), reversed(_OPTIONS), wrapper)


def make_locator(options: SinkOptions) -> Geolocator | None:
    """Return the geolocator that the options ask for, None without `--locate`."""
    if not options.locate or options.camera is None:
        return None
    from edge.postprocessing.geolocation import Geolocator, PoseHistory

    return Geolocator(
        options.camera, PoseHistory(), options.on_gimbal, options.ground_m, options.camera_delay_s
    )


def open_network_sinks(
    options: SinkOptions,
    source: Source,
    status: Status,
    transform: ResultTransform,
    locator: Geolocator | None,
) -> list[Sink]:
    """Open the video stream, the MAVLink sink and the live page, as the options say.

    Args:
        options: The options.
        source: Source of the frames.
        status: Status of the run.
        transform: Finds regions.
        locator: Geolocator that receives the poses of the vehicle; None for no places.

    Raises:
        InputError: A link or an address cannot be opened.
    """
    sinks: list[Sink] = []
    stream: VideoStream | None = None
    try:
        if options.rtp:
            from edge.sinks.rtp.sink import RtpSink, parse_stream

            stream = parse_stream(options.rtp, source)
            sinks.append(RtpSink(stream, status, transform))
        if options.mavlink:
            from edge.sinks.mavlink.camera import MavlinkSettings, MavlinkSink
            from edge.sinks.mavlink.signing import read_key

            settings = MavlinkSettings(
                system=options.mavlink_system,
                camera=options.camera,
                gimbal=options.gimbal,
                on_gimbal=options.on_gimbal,
                key=None if options.mavlink_key is None else read_key(options.mavlink_key),
                frame_size=(source.width, source.height),
                stream=stream,
                locator=locator,
            )
            sinks.append(MavlinkSink(options.mavlink, status, transform, settings))
        if options.http:
            from edge.sinks.web.sink import HttpSink

            page = HttpSink(options.http, options.http_token, status, transform, options.camera)
            sinks.append(page)
            ERR_CONSOLE.print(f"live page: {page.url}", highlight=False, soft_wrap=True)
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return sinks


def _check_combination(options: SinkOptions) -> None:
    """Reject options without the option that they belong to.

    A token in the environment is allowed without --http: it may be set for all runs of a machine.
    """
    context = click.get_current_context()
    option_names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    user_sources = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)
    for name, main_option, main_value in (
        ("http_token", "--http", options.http),
        ("mavlink_system", "--mavlink", options.mavlink),
        ("mavlink_key", "--mavlink", options.mavlink),
        ("ground_m", "--locate", options.locate),
        ("camera_delay_s", "--locate", options.locate),
        ("geojson", "--locate", options.locate),
    ):
        if context.get_parameter_source(name) in user_sources and not main_value:
            raise InputError(f"{option_names[name]} has no effect without {main_option}: give both options")
    if options.on_gimbal and not options.gimbal and not options.locate:
        raise InputError("--on-gimbal has no effect without --gimbal or --locate: add one of them")
    if options.locate and not options.mavlink:
        raise InputError("--locate needs the pose of the vehicle: give --mavlink udpout:HOST:PORT")
    if options.locate and options.camera is None:
        raise InputError("--locate needs the camera's field of view: give --fov DEGREES")
    if options.gimbal and not options.mavlink:
        raise InputError("--gimbal needs a link to the gimbal manager: give --mavlink udpout:HOST:PORT")
    if options.gimbal and options.camera is None:
        raise InputError("--gimbal needs the camera's field of view: give --fov DEGREES")
    if options.on_gimbal and options.camera and options.camera != CameraGeometry(options.camera.fov_deg):
        raise InputError("--on-gimbal takes the camera's angles from the gimbal: leave --mount out")


def _parse_camera(fov_deg: float | None, mount: str | None) -> CameraGeometry | None:
    if fov_deg is None:
        if mount is not None:
            raise InputError("--mount needs the camera's field of view: give --fov DEGREES")
        return None
    if mount is None:
        return CameraGeometry(fov_deg)
    try:
        angles = [float(angle) for angle in mount.split(",")]
    except ValueError:
        angles = []
    if not 1 <= len(angles) <= 3 or not all(-180 <= angle <= 180 for angle in angles):
        raise InputError(
            f"invalid --mount {mount!r}: expected PITCH[,YAW[,ROLL]] in degrees, such as -30 or -30,90,0"
        )
    return CameraGeometry(fov_deg, *angles)
