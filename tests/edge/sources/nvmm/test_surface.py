"""What is no NvBufSurface, and machines without its library; tests/gpu/test_device_frames.py has the rest."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from edge.core.errors import InputError
from edge.sources.nvmm import surface as module
from edge.sources.nvmm.surface import NV12_FORMATS, SURFACE_ARRAY, Buffer, Surface, map_image

SIZE = 64, 48


@pytest.fixture
def surface() -> Iterator[Surface]:
    module._load.cache_clear()
    buffer = Buffer(width=SIZE[0], height=SIZE[1], color_format=NV12_FORMATS[0])
    yield Surface(memory_type=SURFACE_ARRAY, buffers=ctypes.pointer(buffer))
    module._load.cache_clear()


def refuse(surface: Surface, size_bytes: int = ctypes.sizeof(Surface)) -> str:
    """Return why an EGL image of the surface is refused."""
    with pytest.raises(InputError) as error, map_image(ctypes.addressof(surface), size_bytes, SIZE):
        pass
    return str(error.value)


def test_memory_that_is_too_small_is_not_read(surface: Surface) -> None:
    assert refuse(surface, 16) == "the buffer has 16 bytes; expected an NvBufSurface (NVMM)"


def test_surface_without_buffers_is_refused(surface: Surface) -> None:
    surface.buffers = ctypes.POINTER(Buffer)()
    assert refuse(surface) == "the NvBufSurface has no buffer; expected one"


def test_machine_without_the_library_says_so(surface: Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    def cdll(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", cdll)
    expected = "NvBufSurface cannot be loaded (libnvbufsurface.so.1.0.0: cannot open shared object file)"
    assert refuse(surface) == expected


def test_library_that_lacks_a_function_is_an_error(surface: Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    other_library = ctypes.CDLL(None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: other_library)
    assert refuse(surface).startswith("NvBufSurface cannot be loaded (")
    assert "NvBufSurfaceMapEglImage" in refuse(surface)
