"""Frames of a video decoder, which are EGL images, copied on the GPU to memory that CUDA owns.

A copy on the GPU is needed in any case: a decoder's frame has gaps between its rows or is stored in blocks,
and the engine reads a frame without gaps at a fixed address. After it, the decoder has its buffer back.

The functions are called through ctypes, because pycuda has none of them. Structures and values are those of
cuda.h and cudaEGL.h. Not yet seen on hardware.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import DeviceFrame, Image
from edge.hardware.cuda_driver import LIBRARY
from edge.inference.cuda.errors import CudaError, read_error_name

_ARRAY_FRAME, _PITCH_FRAME = 0, 1
"""CUeglFrameType."""
_DEVICE, _ARRAY = 2, 3
"""CUmemorytype."""
_NON_BLOCKING = 1
_NV12_PLANES = 2


class _EglFrame(ctypes.Structure):
    """CUeglFrame; `planes` are addresses or, for frames that are stored in blocks, arrays."""

    _fields_ = (
        ("planes", ctypes.c_void_p * 3),
        ("width", ctypes.c_uint),
        ("height", ctypes.c_uint),
        ("depth", ctypes.c_uint),
        ("pitch", ctypes.c_uint),
        ("plane_count", ctypes.c_uint),
        ("channels", ctypes.c_uint),
        ("frame_type", ctypes.c_int),
        ("color_format", ctypes.c_int),
        ("array_format", ctypes.c_int),
    )


class _Side(ctypes.Structure):
    """Half of CUDA_MEMCPY2D: where to read, or where to write."""

    _fields_ = (
        ("x_bytes", ctypes.c_size_t),
        ("y", ctypes.c_size_t),
        ("memory_type", ctypes.c_int),
        ("host", ctypes.c_void_p),
        ("device", ctypes.c_uint64),
        ("array", ctypes.c_void_p),
        ("pitch", ctypes.c_size_t),
    )


class _Copy(ctypes.Structure):
    """CUDA_MEMCPY2D."""

    _fields_ = (
        ("source", _Side),
        ("to", _Side),
        ("width_bytes", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    )


class CudaEglImageReader:
    """The `EglImageReader` on the primary context, which the engine uses as well.

    It opens CUDA at the first frame, so that a failure is one of the frame's. Any thread may use it, one at a
    time. Its memory is freed when neither it nor a frame of it is referred to any more.

    Args:
        width: Width that a frame must have, in pixels.
        height: Height that a frame must have, in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._size_bytes = width * height * 3 // 2
        self._library: Any = None
        self._context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._allocated: list[int] = []
        self._unused: list[int] = []
        self._lock = threading.Lock()

    def read(self, egl_image: int, pitches: Sequence[int]) -> DeviceFrame:
        """Copy an NV12 image on the GPU, as `EglImageReader.read` says."""
        with self._lock:
            self._open()
            with self._current_context():
                resource, image = ctypes.c_void_p(), ctypes.c_void_p(egl_image)
                self._call("cuGraphicsEGLRegisterImage", ctypes.byref(resource), image, 0)
                try:
                    frame = _EglFrame()
                    mapped = ctypes.byref(frame)
                    self._call("cuGraphicsResourceGetMappedEglFrame", mapped, resource, 0, 0)
                    self._check(frame)
                    return self._copy(frame, pitches)
                finally:
                    self._library.cuGraphicsUnregisterResource(resource)

    def _check(self, frame: _EglFrame) -> None:
        if (frame.width, frame.height) != (self.width, self.height):
            raise InputError(
                f"CUDA sees a frame of {frame.width}x{frame.height}; expected {self.width}x{self.height}"
            )
        known = frame.frame_type in (_ARRAY_FRAME, _PITCH_FRAME) and all(frame.planes[:_NV12_PLANES])
        if frame.plane_count != _NV12_PLANES or not known:
            raise InputError(
                f"CUDA sees {frame.plane_count} planes of type {frame.frame_type}; expected the two of NV12"
            )

    def _copy(self, frame: _EglFrame, pitches: Sequence[int]) -> DeviceFrame:
        device_frame = self._new_frame()
        to = device_frame.address
        heights = self.height, self.height // 2
        for plane, pitch, rows in zip(frame.planes[:_NV12_PLANES], pitches, heights, strict=True):
            if frame.frame_type == _PITCH_FRAME:
                source = _Side(memory_type=_DEVICE, device=plane, pitch=pitch)
            else:
                source = _Side(memory_type=_ARRAY, array=plane)
            target = _Side(memory_type=_DEVICE, device=to, pitch=self.width)
            copy = _Copy(source, target, self.width, rows)
            self._call("cuMemcpy2DAsync_v2", ctypes.byref(copy), self._stream)
            to += self.width * rows
        # The decoder writes the next frame into its buffer as soon as it gets it back.
        self._call("cuStreamSynchronize", self._stream)
        return device_frame

    def _new_frame(self) -> DeviceFrame:
        if not self._unused:
            pointer = ctypes.c_uint64()
            self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(self._size_bytes))
            self._allocated.append(pointer.value)
            self._unused.append(pointer.value)
        address = self._unused.pop()
        frame = DeviceFrame(address, self.width, self.height, partial(self._download, address))
        # An append needs no lock: the last reference to a frame may be dropped on any thread.
        weakref.finalize(frame, self._unused.append, address).atexit = False
        return frame

    def _download(self, address: int) -> Image:
        array = np.empty((1, self.height * 3 // 2, self.width), np.uint8)
        with self._current_context():
            self._call(
                "cuMemcpyDtoH_v2", array.ctypes, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes)
            )
        return array

    def _open(self) -> None:
        if self._library is not None:
            return
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise InputError(f"the CUDA driver cannot be loaded ({error})") from None
        self._library = library
        gpu = ctypes.c_int()
        with ExitStack() as undo:
            undo.callback(setattr, self, "_library", None)
            self._call("cuInit", 0)
            self._call("cuDeviceGet", ctypes.byref(gpu), 0)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), gpu)
            undo.callback(library.cuDevicePrimaryCtxRelease_v2, gpu)
            with self._current_context():
                self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
            undo.pop_all()
        free = weakref.finalize(self, _free, library, gpu, self._context, self._stream, self._allocated)
        free.atexit = False

    @contextmanager
    def _current_context(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise InputError(f"this CUDA driver has no {function}: update it") from None
        if code:
            raise CudaError(function, read_error_name(self._library, code))


def _free(
    library: Any,
    gpu: ctypes.c_int,
    context: ctypes.c_void_p,
    stream: ctypes.c_void_p,
    addresses: Sequence[int],
) -> None:
    """Free the memory and the stream, and release the context."""
    library.cuCtxPushCurrent_v2(context)
    for address in addresses:
        library.cuMemFree_v2(ctypes.c_uint64(address))
    library.cuStreamDestroy_v2(stream)
    library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    library.cuDevicePrimaryCtxRelease_v2(gpu)
