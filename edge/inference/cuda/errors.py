"""CUDA errors as one-line messages: CUDA's name of the error, with a remedy for the common ones."""

from __future__ import annotations

from edge.core.errors import InputError
from edge.hardware.cuda_driver import ERRORS

_RESTART = (
    "all data on the GPU is lost: start the program again; if the error returns, find its cause with "
    "compute-sanitizer"
)
_FATAL = {
    "ILLEGAL_ADDRESS",
    "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT",
    "ECC_UNCORRECTABLE",
    "HARDWARE_STACK_ERROR",
    "ILLEGAL_INSTRUCTION",
    "MISALIGNED_ADDRESS",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "ASSERT",
    "CONTAINED",
    "TENSOR_MEMORY_LEAK",
    "MPS_CLIENT_TERMINATED",
    "EXTERNAL_DEVICE",
}
"""Errors after which the CUDA context cannot be used again (CUDA driver API, `CUresult`)."""
UNKNOWN = "CUDA_ERROR_UNKNOWN"
"""An error after which opening the engine again may help, or never does."""
_REMEDIES = {
    **{error.name: error.remedy for error in ERRORS.values()},
    "CUDA_ERROR_OUT_OF_MEMORY": (
        "the GPU's memory is full: stop other programs that use it (see nvidia-smi or tegrastats)"
    ),
    "CUDA_ERROR_NOT_SUPPORTED": "the driver or the board does not support this: update the driver",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the library was not built for this GPU: install one that was",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the library: update the driver",
    "CUDA_ERROR_ILLEGAL_ADDRESS": _RESTART,
    "CUDA_ERROR_LAUNCH_FAILED": _RESTART,
    "CUDA_ERROR_LAUNCH_TIMEOUT": _RESTART,
    "CUDA_ERROR_ECC_UNCORRECTABLE": (
        "the GPU's memory is damaged: restart the machine; if the error returns, replace the GPU"
    ),
}


class CudaError(InputError):
    """A CUDA call that failed.

    Attributes:
        name: CUDA's name of the error, such as CUDA_ERROR_OUT_OF_MEMORY.
        lost: True if this process cannot use the GPU again and must be restarted.
    """

    def __init__(self, call: str, name: str, text: str = "") -> None:
        self.name, self.lost = name, name.removeprefix("CUDA_ERROR_") in _FATAL
        remedy = _REMEDIES.get(name)
        problem = f"{name} ({text})" if text else name
        super().__init__(f"{call} failed with {problem}" + (f": {remedy}" if remedy else ""))
