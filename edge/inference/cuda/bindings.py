"""CUDA through NVIDIA's cuda-bindings: wheels for x86 and aarch64, nothing to compile."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import cuda.bindings
import numpy as np
from cuda.bindings import driver

from edge.inference.cuda.errors import CudaError
from edge.inference.cuda.handles import CudaGraph, Event, Memory, Stream

_NON_BLOCKING = int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
_UNTIMED = int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
_BLOCKING = int(driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC)
_MAPPED = int(driver.CU_MEMHOSTALLOC_DEVICEMAP) | int(driver.CU_MEMHOSTALLOC_PORTABLE)
_INTEGRATED = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED


def call_driver(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call a function of the driver and return its results without the status code.

    Raises:
        CudaError: The status code is not success.
    """
    code, *results = function(*arguments)
    if code != driver.CUresult.CUDA_SUCCESS:
        text = driver.cuGetErrorString(code)[1]
        raise CudaError(function.__name__, code.name, text.decode() if text else "")
    return results[0] if len(results) == 1 else tuple(results)


def capture_graph(stream: int, work: Callable[[], None]) -> Any:
    """Capture the work that `work` gives a stream, of either backend, as a graph ready to launch."""
    # Thread-local: other threads may allocate memory meanwhile.
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    call_driver(driver.cuStreamBeginCapture, stream, mode)
    try:
        work()
    except BaseException:
        # End the capture even so, otherwise the stream could not be used again.
        code, graph = driver.cuStreamEndCapture(stream)
        if code == driver.CUresult.CUDA_SUCCESS:
            driver.cuGraphDestroy(graph)
        raise
    graph = call_driver(driver.cuStreamEndCapture, stream)
    try:
        return call_driver(driver.cuGraphInstantiate, graph, 0)
    finally:
        driver.cuGraphDestroy(graph)


def launch_graph(graph: Any, stream: int) -> None:
    """Run a captured graph on a stream of either backend."""
    call_driver(driver.cuGraphLaunch, graph, stream)


def destroy_graph(graph: Any) -> None:
    """Free a captured graph."""
    driver.cuGraphExecDestroy(graph)


class BindingsCuda:
    """The `Cuda` protocol on cuda-bindings."""

    def __init__(self) -> None:
        call_driver(driver.cuInit, 0)
        gpu = call_driver(driver.cuDeviceGet, 0)
        self._context = call_driver(driver.cuDevicePrimaryCtxRetain, gpu)
        self._graphs: list[CudaGraph] = []
        with ExitStack() as cleanup:  # a context that cannot be used, as for want of memory, is released
            cleanup.callback(driver.cuDevicePrimaryCtxRelease, gpu)
            self.make_current()
            self.integrated = bool(call_driver(driver.cuDeviceGetAttribute, _INTEGRATED, gpu))
            self._cleanup = cleanup.pop_all()
        self.description = f"cuda-bindings {cuda.bindings.__version__}"

    def make_current(self) -> None:
        call_driver(driver.cuCtxSetCurrent, self._context)

    def create_stream(self) -> Stream:
        native = call_driver(driver.cuStreamCreate, _NON_BLOCKING)
        self._cleanup.callback(driver.cuStreamDestroy, native)
        return Stream(int(native), native)

    def create_event(self, timed: bool = False, blocking: bool = False) -> Event:
        flags = (0 if timed else _UNTIMED) | (_BLOCKING if blocking else 0)
        native = call_driver(driver.cuEventCreate, flags)
        self._cleanup.callback(driver.cuEventDestroy, native)
        return Event(native)

    def allocate(self, size_bytes: int) -> Memory:
        native = call_driver(driver.cuMemAlloc, size_bytes)
        self._cleanup.callback(driver.cuMemFree, native)
        return Memory(int(native), size_bytes, native=native)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: Any) -> Memory:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = int(call_driver(driver.cuMemHostAlloc, size, _MAPPED))
        self._cleanup.callback(driver.cuMemFreeHost, pointer)
        ctypes.memset(pointer, 0, size)
        array = np.frombuffer((ctypes.c_ubyte * size).from_address(pointer), dtype).reshape(shape)
        address = int(call_driver(driver.cuMemHostGetDevicePointer, pointer, 0))
        return Memory(address, size, array, pointer)

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        if source.array is None:
            copy = driver.cuMemcpyDtoDAsync if to.array is None else driver.cuMemcpyDtoHAsync
        else:
            assert to.array is None, "copies between two blocks of CPU memory need no GPU"
            copy = driver.cuMemcpyHtoDAsync
        call_driver(copy, to.native, source.native, source.size_bytes, stream.native)

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        call_driver(driver.cuMemsetD8Async, memory.native, byte, memory.size_bytes, stream.native)

    def record(self, event: Event, stream: Stream) -> None:
        call_driver(driver.cuEventRecord, event.native, stream.native)

    def wait(self, stream: Stream, event: Event) -> None:
        call_driver(driver.cuStreamWaitEvent, stream.native, event.native, 0)

    def synchronize(self, on: Stream | Event) -> None:
        wait = driver.cuStreamSynchronize if isinstance(on, Stream) else driver.cuEventSynchronize
        call_driver(wait, on.native)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(call_driver(driver.cuEventElapsedTime, start.native, end.native))

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        graph = CudaGraph(capture_graph(stream.handle, work))
        self._graphs.append(graph)
        return graph

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        launch_graph(graph.native, stream.handle)

    def free_graphs(self) -> None:
        while self._graphs:
            destroy_graph(self._graphs.pop().native)

    def available_bytes(self) -> int:
        return int(call_driver(driver.cuMemGetInfo)[0])

    def close(self) -> None:
        self.make_current()
        driver.cuCtxSynchronize()
        self.free_graphs()
        self._cleanup.close()


def open_gpu() -> BindingsCuda:
    """Open the first GPU."""
    return BindingsCuda()
