"""Options of `aerogaze run` for camera angles, places, MAVLink, the video stream and the live page."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from edge.cli.options import FILE, FiniteRange
from edge.cli.run.cameras import Camera, Pairs, check_names, output_path, per_camera_option, pick
from edge.core.errors import InputError
from edge.postprocessing.camera_geometry import CameraGeometry

TOKEN_VARIABLE = "AEROGAZE_HTTP_TOKEN"  # noqa: S105 (the name of a variable)
_OPTIONS = (
    per_camera_option(
        "--fov",
        FiniteRange(0, 180, min_open=True, max_open=True),
        "DEGREES",
        "Horizontal field of view of the camera in degrees; adds bearing and elevation.",
    ),
    per_camera_option(
        "--mount",
        click.STRING,
        "PITCH[,YAW[,ROLL]]",
        "Mounting angles of the camera in degrees: up, right, clockwise.",
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
    click.option(
        "--gimbal", is_flag=True, help="Point the gimbal at the tracked region of the first source."
    ),
    click.option(
        "--on-gimbal",
        is_flag=True,
        help="The camera is mounted on the gimbal: its angles are relative to the gimbal.",
    ),
    per_camera_option(
        "--rtp",
        click.STRING,
        "ADDRESS",
        "Stream video to udp://HOST:PORT, or serve it at rtsp://[HOST]:PORT/PATH.",
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
    """Values of the options for one camera.

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
    """Add the options to a command, which gets a function of a camera and all cameras as `sink_options`."""

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        names = ["fov", "mount", *(field.name for field in fields(SinkOptions) if field.name != "camera")]
        own = {name: values.pop(name) for name in names}
        command(**values, sink_options=functools.partial(_options_of, own))

    return functools.reduce(lambda function, option: option(function), reversed(_OPTIONS), wrapper)


def _options_of(values: dict[str, Any], camera: Camera, cameras: Sequence[Camera]) -> SinkOptions:
    """Return the options of one camera. The gimbal follows the first one.

    Raises:
        InputError: The options do not fit together, or not to these cameras.
    """
    for name in ("fov", "mount", "rtp"):
        check_names(f"--{name}", values[name], cameras)
    options = SinkOptions(
        **{
            **{name: value for name, value in values.items() if name not in ("fov", "mount")},
            "camera": _parse_camera(pick(values["fov"], camera.name), pick(values["mount"], camera.name)),
            "gimbal": values["gimbal"] and camera == cameras[0],
            "geojson": output_path(values["geojson"], "--geojson", camera, cameras),
            "rtp": _pick_address(values["rtp"], camera, cameras),
        }
    )
    _check_combination(options, values["gimbal"])
    return options


def _pick_address(pairs: Pairs[str], camera: Camera, cameras: Sequence[Camera]) -> str | None:
    """Return the address of a camera's video stream.

    Raises:
        InputError: Several cameras would stream to it.
    """
    addresses = [address for each in cameras if (address := pick(pairs, each.name))]
    if twice := [address for index, address in enumerate(addresses) if address in addresses[:index]]:
        raise InputError(
            f"--rtp {twice[0]} is one stream, but several cameras would send to it: give "
            f"--rtp {cameras[0].name}=ADDRESS, another address for each camera"
        )
    return pick(pairs, camera.name)


def _check_combination(options: SinkOptions, any_gimbal: bool) -> None:
    """Reject options without the option that they belong to.

    A token in the environment is allowed without --http: it may be set for all runs of a machine.

    Args:
        options: The options of one camera.
        any_gimbal: Whether the gimbal is pointed by this camera or another one.
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
    if options.on_gimbal and not any_gimbal and not options.locate:
        raise InputError("--on-gimbal has no effect without --gimbal or --locate: add one of them")
    if options.locate and not options.mavlink:
        raise InputError("--locate needs the pose of the vehicle: give --mavlink udpout:HOST:PORT")
    if options.locate and options.camera is None:
        raise InputError("--locate needs the camera's field of view: give --fov DEGREES")
    if any_gimbal and not options.mavlink:
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
