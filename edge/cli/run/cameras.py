"""Names of the cameras of a run, and options that may differ from camera to camera."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from edge.cli.console import ERR_CONSOLE
from edge.core.errors import InputError
from edge.sinks.files.output_stream import is_stream
from edge.sources.factory import BAG, HARDWARE, SYNTHETIC, is_camera
from edge.sources.public_name import CREDENTIALS_VARIABLE, has_password, public_name

SOURCE_VARIABLE = "AEROGAZE_SOURCE"
"""Environment variable that names the source, so that its password is not in the list of processes."""
PLACEHOLDER = "{camera}"
"""Part of the name of an output that stands for the name of the camera."""
MAX_CAMERAS = 4
"""Cameras of one run: a browser opens six connections to the live page, and each camera takes one."""
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,15})=(.+)", re.DOTALL)

Value = TypeVar("Value")
Pairs = tuple[tuple[str, Value], ...]
"""Values of an option by camera; the one with an empty name is for all other cameras."""


@dataclass(frozen=True)
class Camera:
    """A source of a run.

    Attributes:
        name: Name that its outputs get; empty for the only source of a run if it was given no name.
        source: Name of the source as the user gave it.
    """

    name: str
    source: str


class SourceType(click.types.StringParamType):
    """Source of frames. The environment variable holds one: its name may contain spaces."""

    name = "source"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Return the value as the only source."""
        return [rv]


class PerCamera(click.ParamType):  # type: ignore[type-arg]
    """Option that is given as VALUE for all cameras, or as NAME=VALUE for one of them.

    Args:
        type_: Type of the value.
    """

    def __init__(self, type_: Any) -> None:
        self.type, self.name = type_, type_.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name of the camera, empty for all, and its value."""
        match = _NAMED.fullmatch(value)
        name, text = (match[1], match[2]) if match else ("", value)
        return name, self.type.convert(text, param, ctx)


def per_camera_option(
    name: str, type_: Any, metavar: str, help_: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator of an option that may differ from camera to camera; its values are `Pairs`."""
    return click.option(name, type=PerCamera(type_), multiple=True, metavar=f"[NAME=]{metavar}", help=help_)


def parse_cameras(arguments: Sequence[str]) -> list[Camera]:
    """Return the cameras of the sources of a command line, each `SOURCE` or `NAME=SOURCE`.

    Raises:
        InputError: There are too many, two have one name, or a word is the rest of a source with spaces.
    """
    pairs = [_split_name(argument) for argument in arguments]
    if len(pairs) == 1:
        return [Camera(*pairs[0])]
    _check_words(pairs)
    if len(pairs) > MAX_CAMERAS:
        raise InputError(
            f"{len(pairs)} sources; expected at most {MAX_CAMERAS} in one run: start another run"
        )
    cameras = [Camera(name or f"camera{number}", source) for number, (name, source) in enumerate(pairs, 1)]
    names = [camera.name for camera in cameras]
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise InputError(f"two sources have the name {twice[0]}; expected different ones: rename one of them")
    return cameras


def pick(pairs: Pairs[Value], camera: str) -> Value | None:
    """Return the value of an option for a camera; None if there is none."""
    values = dict(pairs)
    return values.get(camera, values.get(""))


def check_names(option: str, pairs: Pairs[Any], cameras: Sequence[Camera]) -> None:
    """Check that an option names only cameras of the run.

    Raises:
        InputError: It names another one.
    """
    names = [camera.name for camera in cameras if camera.name]
    for name, _ in pairs:
        if name and name not in names:
            expected = f"one of {', '.join(names)}" if names else f"a value, as the source has no name {name}"
            raise InputError(f"{option} names a camera {name}; expected {expected}: correct the name")


def output_path(path: Path | None, option: str, camera: Camera, cameras: Sequence[Camera]) -> Path | None:
    """Return the path of an output of one camera.

    Raises:
        InputError: Several cameras would write to it.
    """
    if path is None or not camera.name:
        return path
    if PLACEHOLDER in str(path):
        return Path(str(path).replace(PLACEHOLDER, camera.name))
    if len(cameras) == 1:
        return path
    stem, suffix = ("saliency", "") if is_stream(path) else (path.stem, path.suffix)
    raise InputError(
        f"{option} {path} is one output, but {len(cameras)} cameras write: put {PLACEHOLDER} into its name, "
        f"such as {stem}-{PLACEHOLDER}{suffix}"
    )


def warn_about_passwords(cameras: Sequence[Camera]) -> None:
    """Warn if the command line holds a password, which all users of the machine can see."""
    place = click.get_current_context().get_parameter_source("source")
    if place is not click.core.ParameterSource.COMMANDLINE:
        return
    if any(is_camera(camera.source) and has_password(camera.source) for camera in cameras):
        ERR_CONSOLE.print(
            "warning: other users can see the password in the list of processes; give it as "
            f"{CREDENTIALS_VARIABLE}=USER:PASSWORD in the environment, or the source in --config or "
            f"{SOURCE_VARIABLE}",
            highlight=False,
            soft_wrap=True,
        )


def _split_name(argument: str) -> tuple[str, str]:
    match = _NAMED.fullmatch(argument)
    return ("", argument) if match is None or os.path.exists(argument) else (match[1], match[2])


def _check_words(pairs: Sequence[tuple[str, str]]) -> None:
    """Check that each word is a source: a pipeline or a password with spaces must be in quotation marks.

    Raises:
        InputError: A word after an address or a pipeline is no source. It is not shown: it may be secret.
    """
    addresses = [source for _, source in pairs if source.lower().startswith("gst:") or ":/" in source]
    if addresses and not all(_may_be_source(source) for _, source in pairs):
        raise InputError(
            f"more arguments than expected after {public_name(addresses[0])}: put the source into quotation "
            "marks, or correct the names of the other sources"
        )


def _may_be_source(source: str) -> bool:
    kinds = (SYNTHETIC, BAG, HARDWARE)
    is_known = is_camera(source) or source.lower().startswith(kinds) or "://" in source
    return is_known or os.path.exists(source)
