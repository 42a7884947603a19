"""What the CUDA driver itself answers: its version, the result of cuInit, and the GPUs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"


@dataclass(frozen=True)
class DriverError:
    """An error of the CUDA driver: its name and the remedy that helps on most machines."""

    name: str
    remedy: str


ERRORS = {
    3: DriverError("CUDA_ERROR_NOT_INITIALIZED", "see: sudo dmesg | grep -i nvidia"),
    34: DriverError("CUDA_ERROR_STUB_LIBRARY", "take the CUDA toolkit's lib/stubs out of LD_LIBRARY_PATH"),
    46: DriverError(
        "CUDA_ERROR_DEVICE_UNAVAILABLE", "stop the process that uses the GPU exclusively: nvidia-smi"
    ),
    100: DriverError(
        "CUDA_ERROR_NO_DEVICE",
        "there is no NVIDIA GPU, or this user may not use it: join the groups video and render",
    ),
    801: DriverError(
        "CUDA_ERROR_NOT_SUPPORTED", "update the driver or JetPack: this one does not support the GPU"
    ),
    802: DriverError(
        "CUDA_ERROR_SYSTEM_NOT_READY",
        "sudo systemctl start nvidia-fabricmanager, or wait until the driver's services run",
    ),
    803: DriverError(
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "sudo reboot: the driver was updated while it was loaded"
    ),
    804: DriverError(
        "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "take the cuda-compat folder out of LD_LIBRARY_PATH"
    ),
    999: DriverError(
        "CUDA_ERROR_UNKNOWN", "see: sudo dmesg; after a suspend, reload the kernel module nvidia_uvm"
    ),
}
"""Errors of cuInit (`CUresult` of the CUDA driver API). `edge.hardware.gpu.find_remedy` refines them."""
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
        if not self.code:
            return ""
        return ERRORS[self.code].name if self.code in ERRORS else f"error {self.code}"


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
        if library.cuDeviceGetName(name, len(name), device):
            continue
        parts = []
        for attribute in (_MAJOR, _MINOR):
            if library.cuDeviceGetAttribute(ctypes.byref(part), attribute, device):
                break
            parts.append(str(part.value))
        else:
            gpus.append((name.value.decode(errors="replace"), ".".join(parts)))
    return tuple(gpus)
