"""Targets that engines are built for, as written on the command line and in an engine's identity."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edge.core.errors import InputError

TensorRTKind = Literal["tensorrt", "rtx"]
"""NVIDIA's full TensorRT, or TensorRT for RTX."""
_TARGET = re.compile(r"local|rtx(?::(\d+\.\d(?:,\d+\.\d)*))?")


@dataclass(frozen=True)
class BuildTarget:
    """The TensorRT and the GPUs that engines are built for.

    `local` is the GPU of this machine, with the full TensorRT. `rtx` are NVIDIA's desktop GPUs, with TensorRT
    for RTX, which builds without a GPU.

    Attributes:
        kind: The TensorRT that builds and runs the engines.
        capabilities: Compute capabilities for `rtx`, such as "8.6"; empty for its default, see
            `edge.inference.tensorrt.engine_identity.RTX_DEFAULT_CAPABILITIES`.
    """

    kind: TensorRTKind
    capabilities: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> BuildTarget:
        """Parse `local`, `rtx` or `rtx:8.6,8.9`.

        Raises:
            InputError: The text is none of these.
        """
        match = _TARGET.fullmatch(text)
        if match is None:
            raise InputError(
                f"no target {text!r}; expected local, rtx, or rtx with compute capabilities as rtx:8.6,8.9"
            )
        if text == "local":
            return cls("tensorrt")
        return cls("rtx", tuple(dict.fromkeys(match[1].split(","))) if match[1] else ())

    def __str__(self) -> str:
        if self.kind == "tensorrt":
            return "local"
        return "rtx" + (f":{','.join(self.capabilities)}" if self.capabilities else "")

    @property
    def folder(self) -> str:
        """Return the name of the folder for its engines: `local`, `rtx` or `rtx-8.6-8.9`."""
        return re.sub("[:,]", "-", str(self))
