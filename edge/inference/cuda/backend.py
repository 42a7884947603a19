"""The few CUDA operations that a runner needs, by either of two libraries; the only place that imports them.

pycuda and cuda-bindings work on the same primary context, which TensorRT uses too, and on the same handles.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from edge.core.errors import InputError
from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.errors import CudaError
from edge.inference.cuda.handles import CudaGraph, Event, Memory, Shape, Stream

__all__ = ["BACKENDS", "Cuda", "CudaError", "CudaGraph", "Event", "Memory", "Stream", "open_cuda"]

BACKENDS = {
    "pycuda": (
        "edge.inference.cuda.pycuda_backend",
        "pip install 'aerogaze[pycuda]' where CUDA's toolkit is",
    ),
    "cuda-bindings": (
        "edge.inference.cuda.bindings",
        "pip install 'aerogaze[cuda]', on JetPack 6 'aerogaze[cuda12]'",
    ),
}
"""Module of each backend, and how to get its library. Who has pycuda wants it: it is tried first."""


class Cuda(Protocol):
    """One GPU. Made by a thread; another one calls `enter` before anything else.

    Raises (all methods):
        CudaError: CUDA refused; its own name of the error, and what to do.
    """

    description: str
    """Backend and version, for reports."""
    integrated: bool
    """GPU and CPU share their memory: what is mapped needs no copy."""

    def enter(self) -> None:
        """Make the GPU's context that of the calling thread."""

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""

    def event(self, timed: bool = False) -> Event:
        """Make an event; `timed` ones can be asked for the time between them."""

    def device(self, size_bytes: int) -> Memory:
        """Take memory of the GPU, filled with nothing in particular."""

    def host(self, shape: Shape, dtype: Any) -> Memory:
        """Take page-locked memory of the CPU, mapped for the GPU, as an array of zeros."""

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        """Copy all of `source` on a stream, from wherever to wherever it is."""

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        """Set each byte of the GPU's memory on a stream."""

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event mark what the stream was given so far."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Hold back what the stream is given from now on until the event's mark is reached."""

    def synchronise(self, on: Stream | Event) -> None:
        """Wait for all that a stream was given, or for an event's mark."""

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the time between two timed events that were reached."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        """Turn what `work` gives the stream into a CUDA graph; nothing of it is run."""

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        """Run a captured graph on a stream."""

    def free_graphs(self) -> None:
        """Free all captured graphs, before what they run is freed."""

    def free_bytes(self) -> int:
        """Return how much of the GPU's memory is free."""

    def close(self) -> None:
        """Free everything that was made here, when it has run."""


def open_cuda(backend: str | None = None) -> Cuda:
    """Open the first GPU by a backend, or by whichever is installed.

    Raises:
        InputError: there is no GPU, no such backend, or its library is not installed.
        CudaError: the driver refuses.
    """
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"no CUDA backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    if detect_gpu() is None:
        raise InputError(
            "there is no NVIDIA GPU here, or no driver for one (libcuda.so.1): "
            "install the driver, or run on ONNX Runtime"
        )
    missing = []
    for name in [backend] if backend else BACKENDS:
        module, remedy = BACKENDS[name]
        try:
            opened: Cuda = importlib.import_module(module).open_gpu()
        except ImportError as error:
            missing.append(f"{name} cannot be imported ({error}): {remedy}")
        else:
            return opened
    raise InputError("; or ".join(missing))
