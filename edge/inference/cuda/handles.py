"""Handles to CUDA objects. They are valid until their backend is closed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Stream:
    """A CUDA stream: work that runs in order. `handle` is the CUDA handle, as TensorRT expects it."""

    handle: int
    native: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Event:
    """A CUDA event: a position in a stream."""

    native: Any = field(repr=False)


@dataclass(frozen=True, eq=False)
class Memory:
    """A block of memory.

    Attributes:
        address: Its address on the GPU.
        size_bytes: Its size.
        array: The same memory on the CPU; None for memory that only the GPU can access.
        native: The object of the backend.
    """

    address: int
    size_bytes: int
    array: NDArray[Any] | None = None
    native: Any = field(default=None, repr=False)

    @property
    def values(self) -> NDArray[Any]:
        """Return `array` of memory that the CPU can access."""
        assert self.array is not None
        return self.array


@dataclass(frozen=True, eq=False)
class CudaGraph:
    """A captured sequence of GPU work that can be launched repeatedly."""

    native: Any = field(repr=False)
