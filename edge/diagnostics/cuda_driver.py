"""What the CUDA driver itself answers: its version, the result of cuInit, and the GPUs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"
ERROR_NAMES = {
    3: "CUDA_ERROR_NOT_INITIALIZED",
    34: "CUDA_ERROR_STUB_LIBRARY",
    46: "CUDA_ERROR_DEVICE_UNAVAILABLE",
    100: "CUDA_ERROR_NO_DEVICE",
    801: "CUDA_ERROR_NOT_SUPPORTED",
    802: "CUDA_ERROR_SYSTEM_NOT_READY",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    804: "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    999: "CUDA_ERROR_UNKNOWN",
}
"""Errors of cuInit (CUDA driver API, `CUresult`)."""
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True)
class DriverAnswer:
    """Answer of the CUDA driver.

    Attributes:
        code: Result of cuInit, 0 for success; None if the library cannot be loaded.
        cuda: Highest CUDA version that the driver supports, such as "12.6"; None if it is unknown.
        gpus: Name and compute capability of each GPU.
        problem: Why the library cannot be loaded; empty if it can.
    """

    code: int | None
    cuda: str | None = None
    gpus: tuple[tuple[str, str], ...] = ()
    problem: str = ""

    @property
    def error_name(self) -> str:
        """Return CUDA's name of the error of cuInit; empty without an error."""
        return ERROR_NAMES.get(self.code, f"error {self.code}") if self.code else ""


def ask_driver(library: Any = None) -> DriverAnswer:
    """Ask the CUDA driver.

    Args:
        library: The driver's library; None loads it.
    """
    if library is None:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            return DriverAnswer(None, problem=str(error))
    version = ctypes.c_int()
    cuda = None
    if library.cuDriverGetVersion(ctypes.byref(version)) == 0:
        cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    code = int(library.cuInit(0))
    return DriverAnswer(code, cuda, () if code else _list_gpus(library))


def _list_gpus(library: Any) -> tuple[tuple[str, str], ...]:
    count, device, part = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if library.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    gpus = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        if library.cuDeviceGet(ctypes.byref(device), index):
            continue
        library.cuDeviceGetName(name, len(name), device)
        parts = []
        for attribute in (_MAJOR, _MINOR):
            library.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
            parts.append(str(part.value))
        gpus.append((name.value.decode(errors="replace"), ".".join(parts)))
    return tuple(gpus)
