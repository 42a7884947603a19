"""The CUDA layer by pycuda: source only, compiled against CUDA's toolkit.

pycuda's own stack of contexts belongs to a thread, and ends the process when a thread ends with one on it.
So a context lies there only while something is made or freed; for the calls in between, which ask the driver
alone, it is made current by the driver.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import numpy as np
import pycuda
import pycuda.driver as driver

from edge.core.errors import InputError
from edge.inference.cuda.errors import CudaError
from edge.inference.cuda.handles import CudaGraph, Event, Memory, Shape, Stream

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING; pycuda has no name for it."""
_NAMES = {
    "out of memory": "CUDA_ERROR_OUT_OF_MEMORY",
    "no device": "CUDA_ERROR_NO_DEVICE",
    "launch failed": "CUDA_ERROR_LAUNCH_FAILED",
    "launch timeout": "CUDA_ERROR_LAUNCH_TIMEOUT",
    "ECC uncorrectable": "CUDA_ERROR_ECC_UNCORRECTABLE",
    "operation not supported on current system or device": "CUDA_ERROR_NOT_SUPPORTED",
    "no binary for gpu": "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "unknown": "CUDA_ERROR_UNKNOWN",
}
"""pycuda tells an error's text alone: the driver's, or in older versions its own."""
MOST_CODES = 1000
"""CUresult has gaps, and ends below this."""

T = TypeVar("T")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except driver.Error as error:
        found = re.match(r"(\w+) failed: (.*?)(?: - |$)", str(error).splitlines()[0])
        routine, text = (found[1], found[2]) if found else ("pycuda", str(error))
        raise CudaError(routine, {**_NAMES, **_drivers_names()}.get(text, "an error"), text) from None


def _drivers_names() -> dict[str, str]:
    """Return the driver's names of errors by its texts."""
    library = ctypes.CDLL("libcuda.so.1")
    text, names = ctypes.c_char_p(), {}
    for code in range(1, MOST_CODES):
        with suppress(AttributeError):  # a driver that does not tell
            if library.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
                names[text.value.decode()] = _name_of(library, code)
    return names


def _name_of(library: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    with suppress(AttributeError):
        if library.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value:
            return name.value.decode()
    return f"error {code}"


def _call(function: Callable[..., T], *arguments: Any) -> T:
    with _told():
        return function(*arguments)


class PycudaCuda:
    """The `Cuda` of pycuda; graphs, which pycuda has not, by cuda-bindings on pycuda's streams."""

    def __init__(self) -> None:
        _call(driver.init)
        gpu = _call(driver.Device, 0)
        self._context = _call(gpu.retain_primary_context)
        self._library = ctypes.CDLL("libcuda.so.1")
        self._made: list[Any] = []  # streams and events, which are freed when nobody holds them: we alone do
        self._frees = ExitStack()
        self._graphs: list[CudaGraph] = []
        self.enter()
        integrated = driver.device_attribute.INTEGRATED
        self.integrated = bool(_call(gpu.get_attribute, integrated))
        self.description = f"pycuda {pycuda.VERSION_TEXT}"

    def enter(self) -> None:
        code = self._library.cuCtxSetCurrent(ctypes.c_void_p(self._context.handle))
        if code:
            raise CudaError("cuCtxSetCurrent", _name_of(self._library, code))

    @contextmanager
    def _stacked(self) -> Iterator[None]:
        with _told():
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        self.enter()

    def stream(self) -> Stream:
        with self._stacked():
            self._made.append(driver.Stream(_NON_BLOCKING))
        return Stream(self._made[-1].handle, len(self._made) - 1)

    def event(self, timed: bool = False) -> Event:
        flags = driver.event_flags.DEFAULT if timed else driver.event_flags.DISABLE_TIMING
        with self._stacked():
            self._made.append(driver.Event(flags))
        return Event(len(self._made) - 1)

    def device(self, size_bytes: int) -> Memory:
        with self._stacked():
            native = driver.mem_alloc(size_bytes)
        self._frees.callback(native.free)
        return Memory(int(native), size_bytes, native=native)

    def host(self, shape: Shape, dtype: Any) -> Memory:
        flags = driver.host_alloc_flags.DEVICEMAP | driver.host_alloc_flags.PORTABLE
        with self._stacked():
            array = driver.pagelocked_empty(shape, np.dtype(dtype), mem_flags=flags)
        array[...] = 0
        allocation = array.base
        self._frees.callback(allocation.free)
        return Memory(int(_call(allocation.get_device_pointer)), array.nbytes, array, array)

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        on = self._made[stream.native]
        if source.array is not None:
            assert to.array is None, "the CPU copies from one page of its own to another by itself"
            _call(driver.memcpy_htod_async, to.address, source.array, on)
        elif to.array is not None:
            _call(driver.memcpy_dtoh_async, to.array, source.address, on)
        else:
            _call(driver.memcpy_dtod_async, to.address, source.address, source.size_bytes, on)

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        _call(driver.memset_d8_async, memory.address, byte, memory.size_bytes, self._made[stream.native])

    def record(self, event: Event, stream: Stream) -> None:
        _call(self._made[event.native].record, self._made[stream.native])

    def wait(self, stream: Stream, event: Event) -> None:
        _call(self._made[stream.native].wait_for_event, self._made[event.native])

    def synchronise(self, on: Stream | Event) -> None:
        _call(self._made[on.native].synchronize)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(_call(self._made[start.native].time_till, self._made[end.native]))

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        try:
            from edge.inference.cuda import bindings
        except ImportError as error:
            raise InputError(
                f"pycuda makes no CUDA graphs, and cuda-bindings is not there ({error})"
            ) from None
        graph = CudaGraph(bindings.capture(stream.handle, work))
        self._graphs.append(graph)
        return graph

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        from edge.inference.cuda import bindings

        bindings.launch(graph.native, stream.handle)

    def free_graphs(self) -> None:
        while self._graphs:
            from edge.inference.cuda import bindings

            bindings.destroy(self._graphs.pop().native)

    def free_bytes(self) -> int:
        return int(_call(driver.mem_get_info)[0])

    def close(self) -> None:
        """Detach by name: pycuda's destructor would take a primary context for one of its own."""
        with _told():
            self._context.push()
            with suppress(driver.Error):  # what went wrong before is told there
                driver.Context.synchronize()
            self.free_graphs()
            self._frees.close()
            self._made.clear()
            self._context.detach()
        self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))  # where detaching leaves it


def open_gpu() -> PycudaCuda:
    """Open the first GPU."""
    return PycudaCuda()
