"""CUDA errors as one-line messages: CUDA's name of the error, with a remedy for the common ones."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress

from edge.core.errors import InputError
from edge.hardware.cuda_driver import ERRORS

_RESTART = (
    "all data on the GPU is lost: start the program again; if the error returns, find its cause with "
    "compute-sanitizer"
)
FATAL = {
    214: ("ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"),
    220: ("NVLINK_UNCORRECTABLE", "uncorrectable NVLink error detected during the execution"),
    226: ("CONTAINED", "Invalid access of peer GPU memory over nvlink or a hardware error"),
    700: ("ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    702: ("LAUNCH_TIMEOUT", "the launch timed out and was terminated"),
    710: ("ASSERT", "device-side assert triggered"),
    714: ("HARDWARE_STACK_ERROR", "hardware stack error"),
    715: ("ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"),
    716: ("MISALIGNED_ADDRESS", "misaligned address"),
    717: ("INVALID_ADDRESS_SPACE", "operation not supported on global/shared address space"),
    718: ("INVALID_PC", "invalid program counter"),
    719: ("LAUNCH_FAILED", "unspecified launch failure"),
    721: ("TENSOR_MEMORY_LEAK", "tensor memory not completely freed"),
    810: ("MPS_CLIENT_TERMINATED", "the MPS client has been terminated by the server"),
    911: ("EXTERNAL_DEVICE", "an async error has occured in external entity outside of CUDA"),
}
"""Name and text of the errors after which the CUDA context cannot be used again (driver API, `CUresult`)."""
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
        self.name = name
        self.lost = any(name == f"CUDA_ERROR_{fatal}" for fatal, _ in FATAL.values())
        remedy = _REMEDIES.get(name)
        problem = f"{name} ({text})" if text else name
        super().__init__(f"{call} failed with {problem}" + (f": {remedy}" if remedy else ""))


def read_error_name(library: ctypes.CDLL, code: int) -> str:
    """Return the driver's name of an error, such as CUDA_ERROR_OUT_OF_MEMORY.

    Args:
        library: libcuda.
        code: What a function returned.
    """
    name = ctypes.c_char_p()
    with suppress(AttributeError):  # old drivers lack the function
        if library.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value:
            return name.value.decode()
    return f"error {code}"


def find_lasting_error(message: str) -> str | None:
    """Return the name of the error in another library's message that loses the GPU, or None.

    TensorRT reports CUDA's errors only as text: `Error Code 1: Cuda Runtime (unspecified launch failure)`, or
    with the number, as `CUDA error 700`.

    Args:
        message: What the library logged.
    """
    codes = {int(code) for code in re.findall(r"\berror (\d+)\b", message, re.IGNORECASE)}
    lowered = message.lower()
    for code, (name, text) in FATAL.items():
        if code in codes or text.lower() in lowered:
            return f"CUDA_ERROR_{name}"
    is_unknown = 999 in codes or re.search(r"cuda (runtime|driver) \(unknown error\)", lowered)
    return UNKNOWN if is_unknown else None
