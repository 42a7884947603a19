"""The few CUDA operations that a runner needs, through one of two libraries.

Only this package imports CUDA libraries. pycuda and cuda-bindings work on the same primary context, which
TensorRT uses as well, and on the same handles.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from edge.core.errors import InputError
from edge.hardware.gpu import find_gpu_problem
from edge.inference.cuda.errors import CudaError
from edge.inference.cuda.handles import CudaGraph, Event, Memory, Stream

__all__ = ["BACKENDS", "Cuda", "CudaError", "CudaGraph", "Event", "Memory", "Stream", "open_cuda"]

BACKENDS = {
    "pycuda": (
        "edge.inference.cuda.pycuda_backend",
        "pip install 'aerogaze[pycuda]' on a machine with the CUDA toolkit",
    ),
    "cuda-bindings": (
        "edge.inference.cuda.bindings",
        "pip install 'aerogaze[cuda]', on JetPack 6 'aerogaze[cuda12]'",
    ),
}
"""Module of each backend, and how to install its library. pycuda is tried first: it is installed only on
purpose, since it must be compiled."""


class Cuda(Protocol):
    """One GPU.

    The thread that opens it may use it at once; other threads call `make_current` first.

    Raises:
        CudaError: From every method, if CUDA refuses the call.
    """

    description: str
    """Backend and version, for reports."""
    integrated: bool
    """True if GPU and CPU share their memory: mapped memory needs no copies."""

    def make_current(self) -> None:
        """Make the GPU's context current in the calling thread."""

    def create_stream(self) -> Stream:
        """Create a stream that does not synchronize with the default stream."""

    def create_event(self, timed: bool = False, blocking: bool = False) -> Event:
        """Create an event.

        Args:
            timed: The event can be passed to `elapsed_ms`.
            blocking: A thread that waits for the event sleeps, instead of asking without pause.
        """

    def allocate(self, size_bytes: int) -> Memory:
        """Allocate memory on the GPU; its content is undefined."""

    def allocate_pinned(self, shape: tuple[int, ...], dtype: Any) -> Memory:
        """Allocate page-locked memory of the CPU, mapped into the GPU's address space, filled with zeros."""

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        """Copy all of `source` on a stream, in any direction that involves the GPU."""

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        """Set every byte of memory on the GPU, on a stream."""

    def record(self, event: Event, stream: Stream) -> None:
        """Record the event after the work that the stream has been given so far."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Make all later work of the stream wait for the event."""

    def synchronize(self, on: Stream | Event) -> None:
        """Block until all work of a stream is done, or until an event is reached."""

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the time between two timed events that have been reached."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        """Capture the work that `work` gives the stream as a CUDA graph, without running it."""

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        """Run a captured graph on a stream."""

    def free_graphs(self) -> None:
        """Free all captured graphs. This must happen before the engine that they run is freed."""

    def available_bytes(self) -> int:
        """Return the amount of free GPU memory."""

    def close(self) -> None:
        """Wait for the GPU and free everything that was created here."""


def open_cuda(backend: str | None = None) -> Cuda:
    """Open the first GPU.

    Args:
        backend: A key of `BACKENDS`; None takes the first one that is installed.

    Raises:
        InputError: There is no GPU, no such backend, or its library is not installed.
        CudaError: The driver refuses.
    """
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"no CUDA backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    problem = find_gpu_problem()
    if problem is not None:
        remedy = problem.remedy or "install the driver"
        raise InputError(f"{problem.text}: {remedy}, or run on ONNX Runtime")
    problems = []
    for name in [backend] if backend else BACKENDS:
        module, remedy = BACKENDS[name]
        try:
            cuda: Cuda = importlib.import_module(module).open_gpu()
        except ImportError as error:
            problems.append(f"{name} cannot be imported ({error}): {remedy}")
        else:
            return cuda
    raise InputError("; or ".join(problems))
