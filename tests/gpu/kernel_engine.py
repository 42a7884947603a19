"""Test engine: one CUDA kernel in place of TensorRT, and the same in numpy for the simulated GPU.

    saliency = frame / 2 + past
    next     = frame / 4 + past / 2

Multiplying by powers of two is exact, so numpy gives the same bits. The kernel reads its inputs twice: for
`saliency` when it starts, and for `next` after `SPIN_CYCLES`. A copy that comes too late changes the first,
one that overwrites memory in use changes the second.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge.inference.interface.recurrent_state import RecurrentState
from edge.inference.interface.runner import GraphSignature
from edge.inference.tensorrt.api import EngineTensor
from edge.release.release import StateSpec
from tests.support.cuda_backends import skip_or_fail
from tests.support.simulated_gpu import SimulatedCuda, Work

SHAPE = (1, 1, 64, 64)
START = -1.0
"""Start value of the state."""
SPIN_CYCLES = 400_000
"""Clock cycles of the GPU, about 0.2 ms: longer than a copy."""
THREADS = 256
INPUTS, OUTPUTS = ("frame", "past"), ("saliency", "next")
BAD_ADDRESS = 16
"""An address that belongs to nobody."""
SOURCE = r"""
extern "C" __global__ void step(const volatile float *frame, const volatile float *past, float *saliency,
                                float *next, int count, long long spin) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  saliency[i] = 0.5f * frame[i] + past[i];
  for (long long end = clock64() + spin; clock64() < end;) {}
  next[i] = 0.25f * frame[i] + 0.5f * past[i];
}
"""


def signature(lag_s: float) -> GraphSignature:
    """Return the tensors of the kernel, whose state lags by a time."""
    state = StateSpec("past", "next", SHAPE, START, lag_s)
    return GraphSignature({"frame": SHAPE}, {"saliency": SHAPE}, (state,))


def expected_maps(frames: Sequence[np.ndarray], lag_s: float, fps: float) -> np.ndarray:
    """Return what the kernel must give, computed by numpy."""
    state = RecurrentState(signature(lag_s).states, {"past": np.full(SHAPE, START, np.float32)})
    state.reset(fps)
    maps = []
    for frame in frames:
        saliency, following = step(frame, state.feed()["past"])
        maps.append(saliency)
        state.update({"next": following})
    return np.stack(maps)


def step(frame: np.ndarray, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return saliency and next state."""
    half, quarter = np.float32(0.5), np.float32(0.25)
    return half * frame + past, quarter * frame + half * past


def compile_kernel(compute_capability: str) -> bytes:
    """Compile the kernel for a GPU, or skip the test. This needs NVRTC, but no GPU."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the library
    except (ImportError, RuntimeError) as error:
        skip_or_fail(f"NVRTC cannot be loaded ({error}): pip install nvidia-cuda-nvrtc", "nvrtc")

    def call(function: Any, *arguments: Any) -> Any:
        code, *results = function(*arguments)
        assert code == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"{function.__name__}: {code.name}"
        return results[0] if results else None

    program = call(nvrtc.nvrtcCreateProgram, SOURCE.encode(), b"step.cu", 0, [], [])
    options = [f"--gpu-architecture=sm_{compute_capability.replace('.', '')}".encode(), b"--fmad=false"]
    code, *_ = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        # NVRTC writes into the bytes. An empty log has one, and Python shares objects of one byte.
        log = bytes(2 + call(nvrtc.nvrtcGetProgramLogSize, program))
        call(nvrtc.nvrtcGetProgramLog, program, log)
        pytest.fail(f"{code.name}: {log.decode(errors='replace')}")
    binary = bytes(call(nvrtc.nvrtcGetCUBINSize, program))
    call(nvrtc.nvrtcGetCUBIN, program, binary)
    call(nvrtc.nvrtcDestroyProgram, program)
    return binary


class TestEngine:
    """The part of a `LoadedEngine` that the kernel and its simulation share."""

    __test__ = False  # a name that pytest would collect

    description = "test engine"

    def __init__(self) -> None:
        self._addresses: dict[str, int] = {}

    @property
    def inputs(self) -> list[EngineTensor]:
        return [EngineTensor(name, SHAPE, np.dtype(np.float32)) for name in INPUTS]

    @property
    def outputs(self) -> list[EngineTensor]:
        return [EngineTensor(name, SHAPE, np.dtype(np.float32)) for name in OUTPUTS]

    def set_input_shapes(self, shapes: Any, stream: int) -> None:
        pass

    def bind(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def check_capturable(self, stream: int) -> None:
        pass

    def time_layers(self) -> dict[str, list[float]]:
        return {}

    def inspect(self) -> str:
        return "{}"

    def close(self) -> None:
        pass


class KernelEngine(TestEngine):
    """The kernel on the GPU whose context is current.

    Args:
        binary: Result of `compile_kernel`.
        writes_elsewhere: The kernel writes to `BAD_ADDRESS`, so that the GPU is lost.
    """

    def __init__(self, binary: bytes, writes_elsewhere: bool = False) -> None:
        super().__init__()
        from edge.inference.cuda.bindings import call_driver

        self._driver: Any = __import__("cuda.bindings.driver", fromlist=["driver"])
        self._call, self._writes_elsewhere = call_driver, writes_elsewhere
        self._module = call_driver(self._driver.cuModuleLoadData, binary)
        self._function = call_driver(self._driver.cuModuleGetFunction, self._module, b"step")

    def enqueue(self, stream: int) -> None:
        addresses = [self._addresses[name] for name in (*INPUTS, *OUTPUTS)]
        if self._writes_elsewhere:
            addresses[-1] = BAD_ADDRESS
        count = int(np.prod(SHAPE))
        arguments = (
            (*addresses, count, SPIN_CYCLES),
            (*[ctypes.c_void_p] * len(addresses), ctypes.c_int, ctypes.c_longlong),
        )
        blocks, one = -(-count // THREADS), (1, 1)
        self._call(
            self._driver.cuLaunchKernel, self._function, blocks, *one, THREADS, *one, 0, stream, arguments, 0
        )

    def close(self) -> None:
        self._driver.cuModuleUnload(self._module)


class SimulatedKernelEngine(TestEngine):
    """The kernel on the simulated GPU."""

    def __init__(self, cuda: SimulatedCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def enqueue(self, stream: int) -> None:
        frame, past, saliency, following = (self._addresses[name] for name in (*INPUTS, *OUTPUTS))

        def view(address: int) -> np.ndarray:
            return self._cuda.bytes_at(address).view(np.float32)

        def run() -> None:
            view(saliency)[...], view(following)[...] = step(view(frame).copy(), view(past).copy())

        self._cuda.submit(stream, Work("kernel", run, [frame, past], [saliency, following]))
