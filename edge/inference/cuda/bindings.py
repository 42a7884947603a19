"""The CUDA layer by NVIDIA's cuda-bindings: wheels for x86 and aarch64, nothing to compile."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import cuda.bindings
import numpy as np
from cuda.bindings import driver

from edge.inference.cuda.errors import CudaError
from edge.inference.cuda.handles import CudaGraph, Event, Memory, Shape, Stream

_NON_BLOCKING = int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
_TIMED, _UNTIMED = (
    int(driver.CUevent_flags.CU_EVENT_DEFAULT),
    int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING),
)
_MAPPED = int(driver.CU_MEMHOSTALLOC_DEVICEMAP) | int(driver.CU_MEMHOSTALLOC_PORTABLE)
_INTEGRATED = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call the driver; return what it gives beside its result code.

    Raises:
        CudaError: the code is not success.
    """
    code, *given = function(*arguments)
    if code != driver.CUresult.CUDA_SUCCESS:
        text = driver.cuGetErrorString(code)[1]
        raise CudaError(function.__name__, code.name, text.decode() if text else "")
    return given[0] if len(given) == 1 else tuple(given)


def capture(stream: int, work: Callable[[], None]) -> Any:
    """Return what `work` gives the stream as a graph ready to launch; of either backend's streams."""
    local = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL  # others may allocate meanwhile
    call(driver.cuStreamBeginCapture, stream, local)
    try:
        work()
    except BaseException:
        code, graph = driver.cuStreamEndCapture(stream)  # so that the stream can be used again
        if code == driver.CUresult.CUDA_SUCCESS:
            driver.cuGraphDestroy(graph)
        raise
    graph = call(driver.cuStreamEndCapture, stream)
    try:
        return call(driver.cuGraphInstantiate, graph, 0)
    finally:
        driver.cuGraphDestroy(graph)


def launch(graph: Any, stream: int) -> None:
    """Run a captured graph on a stream of either backend."""
    call(driver.cuGraphLaunch, graph, stream)


def destroy(graph: Any) -> None:
    """Free a captured graph."""
    driver.cuGraphExecDestroy(graph)


class BindingsCuda:
    """The `Cuda` of cuda-bindings."""

    def __init__(self) -> None:
        call(driver.cuInit, 0)
        gpu = call(driver.cuDeviceGet, 0)
        self._context = call(driver.cuDevicePrimaryCtxRetain, gpu)
        self._made = ExitStack()
        self._graphs: list[CudaGraph] = []
        self._made.callback(driver.cuDevicePrimaryCtxRelease, gpu)
        self.enter()
        self.integrated = bool(call(driver.cuDeviceGetAttribute, _INTEGRATED, gpu))
        self.description = f"cuda-bindings {cuda.bindings.__version__}"

    def enter(self) -> None:
        call(driver.cuCtxSetCurrent, self._context)

    def stream(self) -> Stream:
        native = call(driver.cuStreamCreate, _NON_BLOCKING)
        self._made.callback(driver.cuStreamDestroy, native)
        return Stream(int(native), native)

    def event(self, timed: bool = False) -> Event:
        native = call(driver.cuEventCreate, _TIMED if timed else _UNTIMED)
        self._made.callback(driver.cuEventDestroy, native)
        return Event(native)

    def device(self, size_bytes: int) -> Memory:
        native = call(driver.cuMemAlloc, size_bytes)
        self._made.callback(driver.cuMemFree, native)
        return Memory(int(native), size_bytes, native=native)

    def host(self, shape: Shape, dtype: Any) -> Memory:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = int(call(driver.cuMemHostAlloc, size, _MAPPED))
        self._made.callback(driver.cuMemFreeHost, pointer)
        ctypes.memset(pointer, 0, size)
        array = np.frombuffer((ctypes.c_ubyte * size).from_address(pointer), dtype).reshape(shape)
        address = int(call(driver.cuMemHostGetDevicePointer, pointer, 0))
        return Memory(address, size, array, pointer)

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        if source.array is None:
            copy = driver.cuMemcpyDtoDAsync if to.array is None else driver.cuMemcpyDtoHAsync
        else:
            assert to.array is None, "the CPU copies from one page of its own to another by itself"
            copy = driver.cuMemcpyHtoDAsync
        call(copy, to.native, source.native, source.size_bytes, stream.native)

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        call(driver.cuMemsetD8Async, memory.native, byte, memory.size_bytes, stream.native)

    def record(self, event: Event, stream: Stream) -> None:
        call(driver.cuEventRecord, event.native, stream.native)

    def wait(self, stream: Stream, event: Event) -> None:
        call(driver.cuStreamWaitEvent, stream.native, event.native, 0)

    def synchronise(self, on: Stream | Event) -> None:
        wait = driver.cuStreamSynchronize if isinstance(on, Stream) else driver.cuEventSynchronize
        call(wait, on.native)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(call(driver.cuEventElapsedTime, start.native, end.native))

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        graph = CudaGraph(capture(stream.handle, work))
        self._graphs.append(graph)
        return graph

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        launch(graph.native, stream.handle)

    def free_graphs(self) -> None:
        while self._graphs:
            destroy(self._graphs.pop().native)

    def free_bytes(self) -> int:
        return int(call(driver.cuMemGetInfo)[0])

    def close(self) -> None:
        self.enter()
        driver.cuCtxSynchronize()
        self.free_graphs()
        self._made.close()


def open_gpu() -> BindingsCuda:
    """Open the first GPU."""
    return BindingsCuda()
