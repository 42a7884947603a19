"""`aerogaze run`'s options for who else is told: the camera's angles, MAVLink, the live page."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from edge.cli.console import ERR_CONSOLE
from edge.cli.options import FiniteRange
from edge.core.errors import InputError
from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import ResultTransform
from edge.sinks.sink import Sink

TOKEN_VARIABLE = "AEROGAZE_HTTP_TOKEN"  # noqa: S105 (the name of a variable)


@dataclass(frozen=True)
class SinkOptions:
    """What the options say; `camera` is None where no field of view was given."""

    camera: CameraGeometry | None
    mavlink: str | None
    mavlink_system: int
    gimbal: bool
    on_gimbal: bool
    http: str | None
    http_token: str | None


def with_sink_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as `sink_options`."""
    options = [
        click.option(
            "--fov",
            type=FiniteRange(0, 180, min_open=True, max_open=True),
            help="The camera's horizontal field of view in degrees: gives bearing and elevation.",
        ),
        click.option(
            "--mount",
            metavar="PITCH[,YAW[,ROLL]]",
            help="Where the camera points from straight ahead, in degrees: up, right, clockwise.",
        ),
        click.option(
            "--mavlink", metavar="LINK", help="Tell MAVLink: udpout:HOST:PORT, or /dev/ttyTHS1[:BAUD]."
        ),
        click.option(
            "--mavlink-system",
            type=click.IntRange(1, 255),
            default=1,
            show_default=True,
            help="The vehicle's MAVLink system id.",
        ),
        click.option(
            "--gimbal", is_flag=True, help="Point the gimbal at the region to follow (needs --fov)."
        ),
        click.option(
            "--on-gimbal", is_flag=True, help="The camera rides on that gimbal: angles add to the gimbal's."
        ),
        click.option(
            "--http", metavar="[HOST]:PORT", help="Serve a live page; without a host, to this machine only."
        ),
        click.option(
            "--http-token",
            envvar=TOKEN_VARIABLE,
            help=f"What the page asks for from elsewhere (or ${TOKEN_VARIABLE}; default: one is made).",
        ),
    ]

    @functools.wraps(command)
    def collected(**values: Any) -> None:
        names = ("mavlink", "mavlink_system", "gimbal", "on_gimbal", "http", "http_token")
        camera = _camera(values.pop("fov"), values.pop("mount"))
        said = SinkOptions(camera, **{name: values.pop(name) for name in names})
        _check(said)
        command(**values, sink_options=said)

    return functools.reduce(lambda made, option: option(made), reversed(options), collected)


def open_network_sinks(options: SinkOptions, status: Status, transform: ResultTransform) -> list[Sink]:
    """Open the MAVLink link and the live page, as far as they were asked for.

    Raises:
        InputError: a link or an address that cannot be opened.
    """
    sinks: list[Sink] = []
    try:
        if options.mavlink:
            from edge.sinks.mavlink.camera import MavlinkSink

            gimbal = (options.gimbal and options.camera) or None
            sinks.append(
                MavlinkSink(
                    options.mavlink, status, transform, options.mavlink_system, gimbal, options.on_gimbal
                )
            )
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


def _check(said: SinkOptions) -> None:
    comes_from, source = click.get_current_context().get_parameter_source, click.core.ParameterSource
    asked = (
        source.COMMANDLINE,
        source.DEFAULT_MAP,
    )  # DEFAULT_MAP: --config; a token in the environment may stay
    for option, main, needed in (
        ("http_token", "--http", said.http),
        ("mavlink_system", "--mavlink", said.mavlink),
    ):
        if comes_from(option) in asked and not needed:
            raise InputError(f"--{option.replace('_', '-')} says how {main} is meant: give both")
    if said.on_gimbal and not said.gimbal:
        raise InputError("--on-gimbal says how --gimbal is meant: give both")
    if said.gimbal and not said.mavlink:
        raise InputError("--gimbal needs a link to the gimbal's manager: give --mavlink udpout:HOST:PORT")
    if said.gimbal and said.camera is None:
        raise InputError("--gimbal needs the camera's field of view: give --fov DEGREES")
    if said.on_gimbal and said.camera and said.camera != CameraGeometry(said.camera.fov_deg):
        raise InputError("--on-gimbal takes where the camera points from the gimbal: leave --mount out")


def _camera(fov: float | None, mount: str | None) -> CameraGeometry | None:
    if fov is None:
        if mount is not None:
            raise InputError("--mount alone gives no angles: give --fov DEGREES too")
        return None
    if mount is None:
        return CameraGeometry(fov)
    try:
        angles = [float(angle) for angle in mount.split(",")]
    except ValueError:
        angles = []
    if not 1 <= len(angles) <= 3 or not all(-180 <= angle <= 180 for angle in angles):
        raise InputError(
            f"cannot read --mount {mount!r}: expected PITCH[,YAW[,ROLL]] in degrees, as -30 or -30,90,0"
        )
    return CameraGeometry(fov, *angles)
