"""What the CUDA layer hands out: handles that stay alive as long as their backend is open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stream:
    """Work in order. `handle`: CUDA's own, as TensorRT takes it."""

    handle: int
    native: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Event:
    """A mark in a stream."""

    native: Any = field(repr=False)


@dataclass(frozen=True, eq=False)
class Memory:
    """A piece of memory. `address`: where the GPU sees it. `array`: where the CPU does; None if it cannot."""

    address: int
    size_bytes: int
    array: NDArray[Any] | None = None
    native: Any = field(default=None, repr=False)

    @property
    def values(self) -> NDArray[Any]:
        """Return the array of memory that the CPU sees."""
        assert self.array is not None
        return self.array


@dataclass(frozen=True, eq=False)
class CudaGraph:
    """Work that was captured, ready to be run as often as wanted."""

    native: Any = field(repr=False)
