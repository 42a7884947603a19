"""Name and compute capability of the GPU, which decide whether an engine fits."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver."""


@dataclass(frozen=True)
class Gpu:
    """Name and compute capability, such as "8.7", of the first GPU."""

    name: str
    compute_capability: str


def detect_gpu() -> Gpu | None:
    """Return the first GPU of the CUDA driver, or None without a driver or a GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name, part = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if cuda.cuDeviceGetName(name, len(name), device):
        return None
    parts = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        if cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, device):
            return None
        parts.append(str(part.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(parts))
