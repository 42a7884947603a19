"""Which GPU this is: what an engine was built on, and whether it fits."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU; `compute_capability` as "8.7"."""

    name: str
    compute_capability: str


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
