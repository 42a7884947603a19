"""CUDA's errors in one line: its own name, and what to do about the usual ones."""

from __future__ import annotations

from edge.core.errors import InputError

_AGAIN = "what the GPU held is lost: start again; if it comes back, compute-sanitizer tells where"
_LOST = {
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
}
_REMEDIES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU's memory is full: end what else uses it (nvidia-smi, tegrastats)",
    "CUDA_ERROR_NO_DEVICE": "there is no NVIDIA GPU, or this user may not use it (groups video and render)",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process has the GPU for itself: end it",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver was updated while it was loaded: restart the machine",
    "CUDA_ERROR_SYSTEM_NOT_READY": "the driver's services are not up yet: wait, then look at dmesg",
    "CUDA_ERROR_NOT_SUPPORTED": "this driver or board cannot do that: update it",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "this library was not built for this GPU: install one that was",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the library: update the driver",
    "CUDA_ERROR_ILLEGAL_ADDRESS": _AGAIN,
    "CUDA_ERROR_LAUNCH_FAILED": _AGAIN,
    "CUDA_ERROR_LAUNCH_TIMEOUT": _AGAIN,
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the GPU's memory is damaged: restart; if it comes back, change the GPU",
    "CUDA_ERROR_UNKNOWN": "look at dmesg; after suspend, reload the module nvidia_uvm",
}


class CudaError(InputError):
    """CUDA refused a call. `name`: its name of the error, as CUDA_ERROR_OUT_OF_MEMORY.

    `lost`: the process can use the GPU no more and must be started again (CUDA driver API, `CUresult`).
    """

    def __init__(self, call: str, name: str, text: str = "") -> None:
        self.name, self.lost = name, name.removeprefix("CUDA_ERROR_") in _LOST
        remedy = _REMEDIES.get(name)
        said = f"{name} ({text})" if text else name
        super().__init__(f"{call} failed with {said}" + (f": {remedy}" if remedy else ""))
