"""Frames, the interface of frame sources, and array types."""

from __future__ import annotations

import math
import re
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError

Image = NDArray[np.uint8]
Tensor = NDArray[np.float32]
GraphInput = NDArray[np.float32] | NDArray[np.uint8]
"""Input tensor of a graph: preprocessed (float32), or a raw frame (uint8) if the graph preprocesses it."""


@dataclass(frozen=True, eq=False)
class DeviceFrame:
    """A raw frame in the GPU's memory: NV12 without gaps between its rows, as `RawFrameSpec` makes it.

    Its memory is used for a later frame once nothing refers to it any more.

    Attributes:
        address: Address on the GPU.
        width: Width in pixels.
        height: Height in pixels.
        download: Returns a copy in the CPU's memory, (1, height * 3 / 2, width), uint8.
    """

    address: int
    width: int
    height: int
    download: Callable[[], Image] = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Return the size of the frame."""
        return self.width * self.height * 3 // 2


RawInput = GraphInput | DeviceFrame
PreparedInput = RawInput | tuple[RawInput, GraphInput]
"""What a model prepares from a frame: its inputs in one array, or a raw frame and its small grey image."""


@dataclass(frozen=True)
class Picture:
    """An image that shows itself in a notebook.

    Attributes:
        image: (H, W, 3), uint8, BGR.
    """

    image: Image

    def _repr_png_(self) -> bytes:
        """Return the image as PNG, which Jupyter shows."""
        import cv2

        return cv2.imencode(".png", self.image)[1].tobytes()


@dataclass(frozen=True)
class Frame:
    """One frame of a source; as the last value of a cell, a notebook shows its image.

    Attributes:
        index: Number of the frame in the source, from 0.
        capture_s: Time of capture in seconds on the source's clock: media time for files, monotonic time for
            cameras.
        image: (H, W, 3), uint8, BGR.
        scale: Factor by which the source has already reduced each side of `image`.
        stamp_ns: Time of capture in nanoseconds by the robot's clock, as in the header of a ROS message; None
            for sources without one.
        frame_id: Coordinate frame of the camera, as in the header of a ROS message.
        device: The whole frame in the GPU's memory; `image` is then as small as the outputs allow.
    """

    index: int
    capture_s: float
    image: Image
    scale: int = 1
    stamp_ns: int | None = None
    frame_id: str = ""
    device: DeviceFrame | None = None

    def _repr_png_(self) -> bytes:
        return Picture(self.image)._repr_png_()

    @property
    def width(self) -> int:
        """Return the width of the frame before reduction, in pixels."""
        return int(self.image.shape[1]) * self.scale

    @property
    def height(self) -> int:
        """Return the height of the frame before reduction, in pixels."""
        return int(self.image.shape[0]) * self.scale


class FrameMemory:
    """Memory for the images of a source. It is used again once nothing refers to an image or a view of it.

    Without it, each image gets new memory from the system. The first write to new memory costs a page fault
    for every 4 KB. For an image of 1280 x 720 pixels, these faults take longer than a copy of the image.
    """

    MAX_UNUSED = 8
    """Unused images that are kept at most: somebody may hold many and drop all of them at once."""

    def __init__(self) -> None:
        self._unused: deque[bytearray] = deque(maxlen=self.MAX_UNUSED)

    def new_image(self, shape: tuple[int, ...]) -> Image:
        """Return an image of this shape. Its content is undefined."""
        size = math.prod(shape)
        # The memory that was freed last: most of it is still in the cache.
        memory = self._unused.pop() if self._unused else bytearray(size)
        if len(memory) != size:
            self._unused.clear()
            memory = bytearray(size)
        # Not reshaped: NumPy's views must refer to this array, whose end returns the memory.
        image: Image = np.ndarray(shape, np.uint8, memory)
        # An append needs no lock: the last reference may be dropped on any thread.
        weakref.finalize(image, self._unused.append, memory).atexit = False
        return image


class EglImageReader(Protocol):
    """Copies frames of a video decoder, which are EGL images, to memory of the GPU that CUDA owns."""

    width: int
    """Width that a frame must have."""
    height: int
    """Height that a frame must have."""

    def read(self, egl_image: int, pitches: Sequence[int]) -> DeviceFrame:
        """Copy an NV12 image on the GPU.

        Args:
            egl_image: The handle, an EGLImageKHR.
            pitches: Bytes from row to row of both planes, if the image is pitch-linear.

        Raises:
            InputError: The image cannot be mapped, or is no NV12 frame of the expected size.
        """


@dataclass
class DeviceRequest:
    """What a source that can decode into the GPU's memory is asked for, each time that it is opened.

    Attributes:
        reader: Copies the frames.
        min_picture: Width and height that suffice for the picture that the CPU gets of each frame; None for
            the full size.
        is_refused: A camera or a stream gave a frame that could not be taken: ask for none any more.
    """

    reader: EglImageReader
    min_picture: tuple[int, int] | None
    is_refused: bool = False


class Source(Protocol):
    """Sequence of frames from a file, a camera or a stream.

    Opening a source checks that it has frames and determines their size.
    """

    name: str
    width: int
    height: int
    fps: float
    length: int | None
    """Announced number of frames, None if unknown. Fewer may be readable."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order. A source can be iterated once."""

    def close(self) -> None:
        """Close the file or device."""


def find_damage(source: Source) -> tuple[str, ...]:
    """Return what a source could not read so far, one line each; empty for sources that report no damage."""
    return tuple(getattr(source, "damage", ()))


def parse_size(text: str, option: str, min_side: int = 1, max_side: int = 99_999) -> tuple[int, int]:
    """Return width and height in pixels of a text such as 128x64.

    Args:
        text: WIDTHxHEIGHT.
        option: Name of the option for error messages, such as `--size`.
        min_side: Smallest accepted side, in pixels.
        max_side: Largest accepted side, in pixels.

    Raises:
        InputError: The text has another form, or a side is out of range.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not min_side <= min(sides) <= max(sides) <= max_side:
        bounds = f" with sides of {min_side} to {max_side}" if (min_side, max_side) != (1, 99_999) else ""
        raise InputError(f"{option} {text!r} is not valid; expected WIDTHxHEIGHT{bounds}, such as 128x64")
    return sides
