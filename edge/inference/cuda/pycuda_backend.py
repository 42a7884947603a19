"""CUDA through pycuda, which is compiled against the CUDA toolkit on the machine.

pycuda keeps a stack of contexts per thread and aborts the process if a thread ends with a context on it.
Therefore the context is on the stack only while objects are created or freed. All other calls ask the driver
directly, which makes the context current without pycuda's stack.
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
from edge.inference.cuda.errors import CudaError, read_error_name
from edge.inference.cuda.handles import CudaGraph, Event, Memory, Stream

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
"""Error names by text: pycuda reports only a text, the driver's or, in older versions, its own."""
MAX_ERROR_CODE = 1000
"""CUresult has gaps; all its values are below this one."""

T = TypeVar("T")


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise `CudaError` instead of pycuda's errors."""
    try:
        yield
    except driver.Error as error:
        match = re.match(r"(\w+) failed: (.*?)(?: - |$)", str(error).splitlines()[0])
        routine, text = (match[1], match[2]) if match else ("pycuda", str(error))
        raise CudaError(
            routine, {**_NAMES, **_read_driver_error_names()}.get(text, "an error"), text
        ) from None


def _read_driver_error_names() -> dict[str, str]:
    """Return the driver's error names by its error texts."""
    library = ctypes.CDLL("libcuda.so.1")
    text, names = ctypes.c_char_p(), {}
    for code in range(1, MAX_ERROR_CODE):
        with suppress(AttributeError):  # old drivers lack the function
            if library.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
                names[text.value.decode()] = read_error_name(library, code)
    return names


def _call(function: Callable[..., T], *arguments: Any) -> T:
    with _translate_errors():
        return function(*arguments)


class PycudaCuda:
    """The `Cuda` protocol on pycuda. CUDA graphs, which pycuda lacks, come from cuda-bindings."""

    def __init__(self) -> None:
        _call(driver.init)
        gpu = _call(driver.Device, 0)
        self._context = _call(gpu.retain_primary_context)
        self._library = ctypes.CDLL("libcuda.so.1")
        # Streams and events are freed when their last reference goes, so only this list refers to them.
        self._handles: list[Any] = []
        self._cleanup = ExitStack()
        self._graphs: list[CudaGraph] = []
        try:
            self.make_current()
            self.integrated = bool(_call(gpu.get_attribute, driver.device_attribute.INTEGRATED))
        except CudaError:  # a context that cannot be used, as for want of memory, is released
            with suppress(driver.Error):
                self._release_context()
            raise
        self.description = f"pycuda {pycuda.VERSION_TEXT}"

    def make_current(self) -> None:
        code = self._library.cuCtxSetCurrent(ctypes.c_void_p(self._context.handle))
        if code:
            raise CudaError("cuCtxSetCurrent", read_error_name(self._library, code))

    @contextmanager
    def _context_on_stack(self) -> Iterator[None]:
        with _translate_errors():
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        self.make_current()

    def create_stream(self) -> Stream:
        with self._context_on_stack():
            self._handles.append(driver.Stream(_NON_BLOCKING))
        return Stream(self._handles[-1].handle, len(self._handles) - 1)

    def create_event(self, timed: bool = False, blocking: bool = False) -> Event:
        flags = driver.event_flags.DEFAULT if timed else driver.event_flags.DISABLE_TIMING
        if blocking:
            flags |= driver.event_flags.BLOCKING_SYNC
        with self._context_on_stack():
            self._handles.append(driver.Event(flags))
        return Event(len(self._handles) - 1)

    def allocate(self, size_bytes: int) -> Memory:
        with self._context_on_stack():
            native = driver.mem_alloc(size_bytes)
        self._cleanup.callback(native.free)
        return Memory(int(native), size_bytes, native=native)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: Any) -> Memory:
        flags = driver.host_alloc_flags.DEVICEMAP | driver.host_alloc_flags.PORTABLE
        with self._context_on_stack():
            array = driver.pagelocked_empty(shape, np.dtype(dtype), mem_flags=flags)
        array[...] = 0
        allocation = array.base
        self._cleanup.callback(allocation.free)
        return Memory(int(_call(allocation.get_device_pointer)), array.nbytes, array, array)

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        on = self._handles[stream.native]
        if source.array is not None:
            assert to.array is None, "copies between two blocks of CPU memory need no GPU"
            _call(driver.memcpy_htod_async, to.address, source.array, on)
        elif to.array is not None:
            _call(driver.memcpy_dtoh_async, to.array, source.address, on)
        else:
            _call(driver.memcpy_dtod_async, to.address, source.address, source.size_bytes, on)

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        _call(driver.memset_d8_async, memory.address, byte, memory.size_bytes, self._handles[stream.native])

    def record(self, event: Event, stream: Stream) -> None:
        _call(self._handles[event.native].record, self._handles[stream.native])

    def wait(self, stream: Stream, event: Event) -> None:
        _call(self._handles[stream.native].wait_for_event, self._handles[event.native])

    def synchronize(self, on: Stream | Event) -> None:
        _call(self._handles[on.native].synchronize)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(_call(self._handles[start.native].time_till, self._handles[end.native]))

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        try:
            from edge.inference.cuda import bindings
        except ImportError as error:
            raise InputError(
                f"pycuda has no CUDA graphs, and cuda-bindings cannot be imported ({error}): "
                "pip install 'aerogaze[cuda]', on JetPack 6 'aerogaze[cuda12]'"
            ) from None
        graph = CudaGraph(bindings.capture_graph(stream.handle, work))
        self._graphs.append(graph)
        return graph

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        from edge.inference.cuda import bindings

        bindings.launch_graph(graph.native, stream.handle)

    def free_graphs(self) -> None:
        while self._graphs:
            from edge.inference.cuda import bindings

            bindings.destroy_graph(self._graphs.pop().native)

    def available_bytes(self) -> int:
        return int(_call(driver.mem_get_info)[0])

    def close(self) -> None:
        """Free everything and detach the context explicitly.

        pycuda's destructor would destroy the primary context as if pycuda had created it.
        """
        with _translate_errors():
            self._context.push()
            with suppress(driver.Error):  # an earlier failure was reported where it happened
                driver.Context.synchronize()
            self.free_graphs()
            self._cleanup.close()
            self._handles.clear()
            self._release_context()

    def _release_context(self) -> None:
        self._context.detach()
        # Detaching leaves the context on the driver's stack.
        self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def open_gpu() -> PycudaCuda:
    """Open the first GPU."""
    return PycudaCuda()
