"""How a board is set up: `config.json` in its folder, written by its owner and never by a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from jetson.device.precision_policy import DEFAULT, PrecisionPolicy, parse_policy
from jetson.device.service import NO_SERVICE, CommandService, Service

CONFIG_FILE = "config.json"
DEFAULT_ROOT = Path("/var/lib/aerogaze")
_EXAMPLE = (
    '{"service": {"restart": ["systemctl", "restart", "aerogaze"], '
    '"health": ["systemctl", "is-active", "aerogaze"]}}'
)


@dataclass(frozen=True)
class BoardConfig:
    """What a board's owner has set; every key may be left out."""

    policy: str = DEFAULT
    engine: str = "auto"
    """onnxruntime or tensorrt; auto: TensorRT where the board has it."""
    autopilot: str | None = None
    """Where heartbeats come from, as pymavlink has it: udpin:0.0.0.0:14550, /dev/ttyTHS1."""
    service: Service = NO_SERVICE

    def precision_policy(self) -> PrecisionPolicy:
        """Return the policy."""
        return parse_policy(self.policy)


def load_board_config(root: Path) -> BoardConfig:
    """Read a board's configuration; without a file everything is as it is set here.

    Raises:
        InputError: it is no such JSON; the key is named.
    """
    place = root / CONFIG_FILE
    try:
        document = json.loads(place.read_text())
    except FileNotFoundError:
        return BoardConfig()
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror}; who may is its owner, or root") from None
    except ValueError as error:
        raise InputError(f"{place} cannot be read as JSON ({error}); expected one as {_EXAMPLE}") from None
    known = {field.name for field in fields(BoardConfig)}
    if not isinstance(document, dict) or (set(document) - known):
        raise InputError(f"{place} may have {', '.join(sorted(known))}; expected one as {_EXAMPLE}")
    for name in known - {"service"}:
        if not isinstance(document.get(name, ""), str):
            raise InputError(f"{place}: {name} must be text")
    if "service" in document:
        document["service"] = _service(place, document["service"])
    config = BoardConfig(**document)
    config.precision_policy()
    return config


def _service(place: Path, value: Any) -> Service:
    numbers = {"watch_s": 60.0, "every_s": 10.0, "command_s": 60.0}
    words = ("restart", "health")
    if not isinstance(value, dict) or set(value) - {*numbers, *words} or "restart" not in value:
        raise InputError(f"{place}: service needs restart, and may have health, {', '.join(numbers)}")
    for name in words:
        given = value.get(name, ["-"])
        if not isinstance(given, list) or not given or not all(isinstance(w, str) and w for w in given):
            raise InputError(f"{place}: service {name} must be a command as a list of words")
    for name, most in numbers.items():
        given = value.get(name, most)
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given <= most:
            raise InputError(f"{place}: service {name} must be a number of seconds, at most {most:g}")
    return CommandService(
        tuple(value["restart"]),
        tuple(value.get("health", ())),
        **{name: float(value[name]) for name in numbers if name in value},
    )
