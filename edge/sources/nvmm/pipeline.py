"""A GStreamer pipeline with several ends, called through ctypes.

OpenCV gives only frames in the CPU's memory. PyGObject is often missing in a virtual environment, and its
mapping of a buffer is a copy in some versions, while an NvBufSurface is found by its address.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from edge.core.errors import InputError

_NULL, _PLAYING, _STATE_CHANGE_FAILURE = 1, 4, 0
_ERROR_MESSAGE = 1 << 1
_READ = 1
NO_STAMP = 2**64 - 1
"""GST_CLOCK_TIME_NONE."""
_FUNCTIONS = {
    "gst_init_check": (ctypes.c_int, 3),
    "gst_parse_launch": (ctypes.c_void_p, 2),
    "gst_bin_get_by_name": (ctypes.c_void_p, 2),
    "gst_element_set_state": (ctypes.c_int, 2),
    "gst_element_get_bus": (ctypes.c_void_p, 1),
    "gst_bus_timed_pop_filtered": (ctypes.c_void_p, 3),
    "gst_message_parse_error": (None, 3),
    "gst_sample_get_buffer": (ctypes.c_void_p, 1),
    "gst_sample_get_caps": (ctypes.c_void_p, 1),
    "gst_caps_get_structure": (ctypes.c_void_p, 2),
    "gst_structure_get_fraction": (ctypes.c_int, 4),
    "gst_structure_get_int": (ctypes.c_int, 3),
    "gst_buffer_map": (ctypes.c_int, 3),
    "gst_buffer_unmap": (None, 2),
    "gst_mini_object_unref": (None, 1),
    "gst_object_unref": (None, 1),
    "g_error_free": (None, 1),
}
"""Type of the result, and number of parameters, of the functions of libgstreamer and its GLib."""


class _GError(ctypes.Structure):
    _fields_ = (("domain", ctypes.c_uint32), ("code", ctypes.c_int), ("message", ctypes.c_char_p))


class _Buffer(ctypes.Structure):
    """GstBuffer up to its time stamp."""

    _fields_ = (
        ("type", ctypes.c_size_t),
        ("references", ctypes.c_int),
        ("lock_state", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("functions", ctypes.c_void_p * 3),
        ("private_uint", ctypes.c_uint),
        ("private_pointer", ctypes.c_void_p),
        ("pool", ctypes.c_void_p),
        ("stamp_ns", ctypes.c_uint64),
    )


class _MapInfo(ctypes.Structure):
    """GstMapInfo."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("max_size", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p * 4),
        ("reserved", ctypes.c_void_p * 4),
    )


class _Libraries(NamedTuple):
    gst: Any
    app: Any


class Sample:
    """A buffer that left the pipeline. It goes back to its pool when nothing refers to the sample any more.

    Attributes:
        stamp_ns: Time stamp in nanoseconds; NO_STAMP if it has none.
        width: Width that its caps say.
        height: Height that its caps say.
        fps: Frame rate that its caps say; 0 if unknown.
    """

    def __init__(self, gst: Any, pointer: int) -> None:
        weakref.finalize(self, gst.gst_mini_object_unref, pointer).atexit = False
        self._gst = gst
        self._buffer = gst.gst_sample_get_buffer(pointer)
        self.stamp_ns = int(_Buffer.from_address(self._buffer).stamp_ns)
        structure = gst.gst_caps_get_structure(gst.gst_sample_get_caps(pointer), 0)
        self.width, self.height = (self._read_int(structure, name) for name in (b"width", b"height"))
        over, under = ctypes.c_int(), ctypes.c_int(1)
        gst.gst_structure_get_fraction(structure, b"framerate", ctypes.byref(over), ctypes.byref(under))
        self.fps = over.value / under.value if under.value else 0.0

    def _read_int(self, structure: int, name: bytes) -> int:
        value = ctypes.c_int()
        self._gst.gst_structure_get_int(structure, name, ctypes.byref(value))
        return value.value

    @contextmanager
    def mapped(self) -> Iterator[tuple[int, int]]:
        """Map the buffer; give the address and the size of its memory.

        Raises:
            InputError: It cannot be mapped.
        """
        info = _MapInfo()
        if not self._gst.gst_buffer_map(self._buffer, ctypes.byref(info), _READ):
            raise InputError("GStreamer cannot map a buffer")
        try:
            yield info.data or 0, info.size
        finally:
            self._gst.gst_buffer_unmap(self._buffer, ctypes.byref(info))


class Pipeline:
    """A running pipeline.

    Args:
        description: The pipeline in the syntax of gst-launch.
        sinks: Names of its appsinks.

    Raises:
        InputError: GStreamer or an element is missing, or the pipeline does not start.
    """

    def __init__(self, description: str, sinks: Sequence[str]) -> None:
        self._gst, self._app = _load()
        error = ctypes.POINTER(_GError)()
        self._pipeline = self._gst.gst_parse_launch(description.encode(), ctypes.byref(error))
        if error:  # also if some of the description could be used
            if self._pipeline:
                self._gst.gst_object_unref(self._pipeline)
            raise InputError(f"GStreamer: {self._take_text(error)}")
        self._bus = self._gst.gst_element_get_bus(self._pipeline)
        self._sinks: dict[str, int] = {}
        try:
            for name in sinks:
                sink = self._gst.gst_bin_get_by_name(self._pipeline, name.encode())
                if not sink:
                    raise InputError(f"the pipeline has no appsink {name}")
                self._sinks[name] = sink
            if self._gst.gst_element_set_state(self._pipeline, _PLAYING) == _STATE_CHANGE_FAILURE:
                raise InputError(f"GStreamer: {self.find_error() or 'the pipeline does not start'}")
        except InputError:
            self.close()
            raise

    def pull(self, sink: str, seconds: float) -> Sample | None:
        """Return the next buffer of an appsink; None at the end, after an error, or when the time is over."""
        pointer = self._app.gst_app_sink_try_pull_sample(self._sinks[sink], round(seconds * 1e9))
        return Sample(self._gst, pointer) if pointer else None

    def is_at_end(self, sink: str) -> bool:
        """Return whether an appsink got the end of the stream and gives no more buffers."""
        return bool(self._app.gst_app_sink_is_eos(self._sinks[sink]))

    def find_error(self) -> str:
        """Return the first error that was not yet read; empty if there is none."""
        message = self._gst.gst_bus_timed_pop_filtered(self._bus, 0, _ERROR_MESSAGE)
        if not message:
            return ""
        error = ctypes.POINTER(_GError)()
        self._gst.gst_message_parse_error(message, ctypes.byref(error), None)
        self._gst.gst_mini_object_unref(message)
        return self._take_text(error)

    def close(self) -> None:
        """Stop the pipeline and free it; a second call does nothing."""
        if not self._pipeline:
            return
        self._gst.gst_element_set_state(self._pipeline, _NULL)
        for each in (*self._sinks.values(), self._bus, self._pipeline):
            self._gst.gst_object_unref(each)
        self._pipeline = None

    def _take_text(self, error: Any) -> str:
        """Free a GError and return its message in one line, without addresses, which may hold passwords."""
        if not error:
            return ""
        text = " ".join(error.contents.message.decode(errors="replace").split())
        self._gst.g_error_free(error)
        return re.sub(r"\w+://\S+", "(address)", text)


@cache
def _load() -> _Libraries:
    """Load GStreamer and start it.

    Raises:
        InputError: It is not installed, lacks a function, or does not start.
    """
    try:
        libraries = _Libraries(ctypes.CDLL("libgstreamer-1.0.so.0"), ctypes.CDLL("libgstapp-1.0.so.0"))
        for name, (result, parameters) in _FUNCTIONS.items():
            function = getattr(libraries.gst, name)
            function.restype, function.argtypes = result, [ctypes.c_void_p] * parameters
        pull, is_eos = libraries.app.gst_app_sink_try_pull_sample, libraries.app.gst_app_sink_is_eos
    except (OSError, AttributeError) as error:
        raise InputError(f"GStreamer cannot be loaded ({error})") from None
    libraries.gst.gst_element_set_state.argtypes = [ctypes.c_void_p, ctypes.c_int]
    libraries.gst.gst_caps_get_structure.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    libraries.gst.gst_buffer_map.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    libraries.gst.gst_bus_timed_pop_filtered.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
    pull.restype, pull.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_uint64]
    is_eos.restype, is_eos.argtypes = ctypes.c_int, [ctypes.c_void_p]
    if not libraries.gst.gst_init_check(None, None, None):
        raise InputError("GStreamer does not start")
    return libraries
