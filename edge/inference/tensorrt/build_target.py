"""What engines are compiled for, as it is written on the command line and in an engine's identity."""

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
    """What engines are compiled for.

    `local`: the GPU at hand, by the full TensorRT. `rtx`: NVIDIA's desk cards, by TensorRT for RTX, which
    needs no GPU; `capabilities` are theirs, as "8.6"; none means its default, 8.0 and later.
    """

    kind: TensorRTKind
    capabilities: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> BuildTarget:
        """Read `local`, `rtx` or `rtx:8.6,8.9`.

        Raises:
            InputError: it is none of these.
        """
        found = _TARGET.fullmatch(text)
        if found is None:
            raise InputError(
                f"no target {text!r}; expected local, rtx, or rtx with compute capabilities as rtx:8.6,8.9"
            )
        if text == "local":
            return cls("tensorrt")
        return cls("rtx", tuple(dict.fromkeys(found[1].split(","))) if found[1] else ())

    def __str__(self) -> str:
        if self.kind == "tensorrt":
            return "local"
        return "rtx" + (f":{','.join(self.capabilities)}" if self.capabilities else "")

    @property
    def folder(self) -> str:
        """Return the name of the folder of its engines: `local`, `rtx` or `rtx-8.6-8.9`."""
        return re.sub("[:,]", "-", str(self))
