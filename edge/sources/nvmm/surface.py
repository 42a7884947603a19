"""NvBufSurface, the memory of video frames on a Jetson: its header, and its EGL image.

Structures and values are those of nvbufsurface.h of JetPack 5 and 6. Not yet seen on hardware.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from edge.core.errors import InputError

LIBRARY = "libnvbufsurface.so.1.0.0"
SURFACE_ARRAY = 4
"""NVBUF_MEM_SURFACE_ARRAY, the only type of memory that has EGL images."""
NV12_FORMATS = (6, 33)
"""NVBUF_COLOR_FORMAT_NV12 and NV12_709: Y from 16 to 235. The graph takes both for BT.601."""
FULL_RANGE_FORMATS = (7, 34)
"""NV12_ER and NV12_709_ER: Y from 0 to 255, which no graph takes."""


class _Planes(ctypes.Structure):
    """NvBufSurfacePlaneParams."""

    _fields_ = (
        ("count", ctypes.c_uint32),
        ("width", ctypes.c_uint32 * 4),
        ("height", ctypes.c_uint32 * 4),
        ("pitch", ctypes.c_uint32 * 4),
        ("offset", ctypes.c_uint32 * 4),
        ("size", ctypes.c_uint32 * 4),
        ("bytes_per_pixel", ctypes.c_uint32 * 4),
        ("reserved", ctypes.c_void_p * 16),
    )


class Buffer(ctypes.Structure):
    """NvBufSurfaceParams up to the EGL image: one buffer of a surface."""

    _fields_ = (
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("pitch", ctypes.c_uint32),
        ("color_format", ctypes.c_int),
        ("layout", ctypes.c_int),
        ("file_descriptor", ctypes.c_uint64),
        ("data_size", ctypes.c_uint32),
        ("data", ctypes.c_void_p),
        ("planes", _Planes),
        ("mapped", ctypes.c_void_p * 4),
        ("egl_image", ctypes.c_void_p),
    )


class Surface(ctypes.Structure):
    """NvBufSurface up to its buffers."""

    _fields_ = (
        ("gpu", ctypes.c_uint32),
        ("batch", ctypes.c_uint32),
        ("filled", ctypes.c_uint32),
        ("is_contiguous", ctypes.c_bool),
        ("memory_type", ctypes.c_int),
        ("buffers", ctypes.POINTER(Buffer)),
    )


@contextmanager
def map_image(address: int, size_bytes: int, frame_size: tuple[int, int]) -> Iterator[tuple[int, list[int]]]:
    """Make an EGL image of a surface's first buffer, and destroy it at the end.

    Args:
        address: Address of the NvBufSurface.
        size_bytes: Size of the memory there.
        frame_size: Width and height that the buffer must have.

    Returns:
        Handle of the image, and bytes from row to row of its planes.

    Raises:
        InputError: The buffer is no NV12 frame of this size that has an EGL image.
    """
    if size_bytes < ctypes.sizeof(Surface):
        raise InputError(f"the buffer has {size_bytes} bytes; expected an NvBufSurface (NVMM)")
    surface = Surface.from_address(address)
    if not surface.buffers:
        raise InputError("the NvBufSurface has no buffer; expected one")
    if surface.memory_type != SURFACE_ARRAY:
        raise InputError(
            f"the buffer has NvBufSurface's memory type {surface.memory_type}; expected {SURFACE_ARRAY}"
        )
    buffer = surface.buffers[0]
    if (buffer.width, buffer.height) != frame_size:
        width, height = frame_size
        raise InputError(f"a frame is {buffer.width}x{buffer.height}; expected {width}x{height}")
    if buffer.color_format not in NV12_FORMATS:
        kind = "full range" if buffer.color_format in FULL_RANGE_FORMATS else "another format"
        raise InputError(f"a frame has {kind} (NvBufSurface {buffer.color_format}); expected NV12, 16 to 235")
    map_egl_image, unmap_egl_image = _load()
    if map_egl_image(ctypes.c_void_p(address), 0) or not buffer.egl_image:
        raise InputError("NvBufSurfaceMapEglImage refuses the frame")
    try:
        yield buffer.egl_image, buffer.planes.pitch[:2]
    finally:
        unmap_egl_image(ctypes.c_void_p(address), 0)


@cache
def _load() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return the functions of NvBufSurface that make and destroy an EGL image.

    Raises:
        InputError: The library is not installed, or lacks them.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
        return library.NvBufSurfaceMapEglImage, library.NvBufSurfaceUnMapEglImage
    except (OSError, AttributeError) as error:
        raise InputError(f"NvBufSurface cannot be loaded ({error})") from None
