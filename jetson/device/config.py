"""Configuration of a board: `config.json` in its folder, written by its owner and never by a bundle."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.guarded_files import is_missing, read_json
from jetson.device.precision_policy import DEFAULT_POLICY, PrecisionPolicy, parse_policy
from jetson.device.service import NO_SERVICE, CommandService, Service

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 1 << 16
DEFAULT_ROOT = Path("/var/lib/aerogaze")
_EXAMPLE = (
    '{"service": {"restart": ["systemctl", "restart", "aerogaze"], '
    '"health": ["systemctl", "is-active", "aerogaze"]}}'
)


@dataclass(frozen=True)
class BoardConfig:
    """Settings of a board. The fields are the keys of `config.json`, and all are optional.

    Attributes:
        policy: Which precision to fly, in the grammar of `jetson.device.precision_policy`.
        engine: onnxruntime or tensorrt; auto selects TensorRT if the board has it.
        autopilot: Link of the autopilot's heartbeats, as pymavlink expects it (udpin:0.0.0.0:14550,
            /dev/ttyTHS1); None if none is named.
        service: The service that runs the release.
    """

    policy: str = DEFAULT_POLICY
    engine: str = "auto"
    autopilot: str | None = None
    service: Service = NO_SERVICE

    def precision_policy(self) -> PrecisionPolicy:
        """Return the parsed policy."""
        return parse_policy(self.policy)


def load_board_config(root: Path) -> BoardConfig:
    """Read the configuration of a board; without a file, return the defaults.

    Raises:
        InputError: The file cannot be read, is not JSON, or has an unknown key or an invalid value.
    """
    path = root / CONFIG_FILE
    if is_missing(path):
        return BoardConfig()
    document = read_json(path, f"a file as {_EXAMPLE}: run it as its owner or as root", MAX_CONFIG_BYTES)
    known = {field.name for field in fields(BoardConfig)}
    if set(document) - known:
        raise InputError(f"{path} may have {', '.join(sorted(known))}; expected one as {_EXAMPLE}")
    for name in known - {"service"}:
        if not isinstance(document.get(name, ""), str):
            raise InputError(f"{path}: {name} must be text")
    if "service" in document:
        document["service"] = _parse_service(path, document["service"])
    config = BoardConfig(**document)
    config.precision_policy()
    return config


def _parse_service(path: Path, value: Any) -> Service:
    maxima = {"watch_s": 60.0, "every_s": 10.0, "command_s": 60.0}
    commands = ("restart", "health")
    if not isinstance(value, dict) or set(value) - {*maxima, *commands} or "restart" not in value:
        raise InputError(f"{path}: service needs restart, and may have health, {', '.join(maxima)}")
    for name in commands:
        command = value.get(name, ["-"])
        if not isinstance(command, list) or not command or not all(isinstance(w, str) and w for w in command):
            raise InputError(f"{path}: service {name} must be a command as a list of words")
    for name, maximum in maxima.items():
        seconds = value.get(name, maximum)
        # bool is a subclass of int, but true is no number of seconds.
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= maximum:
            raise InputError(f"{path}: service {name} must be a number of seconds, at most {maximum:g}")
    return CommandService(
        tuple(value["restart"]),
        tuple(value.get("health", ())),
        **{name: float(value[name]) for name in maxima if name in value},
    )
