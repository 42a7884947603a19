"""Which GPU and which board this is: what an engine was built on, and whether it fits."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU; `compute_capability` as "8.7"."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Board:
    """A Jetson; `jetpack` is its package's version, or that of L4T below it, or None if neither is told."""

    model: str
    jetpack: str | None


def this_gpu() -> Gpu | None:
    """Return the GPU that CUDA's driver names first; None where there is no driver or no GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name, part = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if cuda.cuDeviceGetName(name, len(name), device):
        return None
    capability = []
    for attribute in (_MAJOR, _MINOR):
        if cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, device):
            return None
        capability.append(str(part.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(capability))


def this_board(root: Path = Path("/")) -> Board | None:
    """Return the Jetson that the file system at `root` is of; None elsewhere."""
    model = _text(root / "proc/device-tree/model").strip("\0\n ")
    if "Jetson" not in model:
        return None
    package = re.search(
        r"^Package: nvidia-jetpack$.*?^Version: (\S+)$",
        _text(root / "var/lib/dpkg/status"),
        re.MULTILINE | re.DOTALL,
    )
    if package:
        return Board(model, package[1])
    l4t = re.search(r"R(\d+) .*?REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return Board(model, f"L4T {l4t[1]}.{l4t[2]}" if l4t else None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
