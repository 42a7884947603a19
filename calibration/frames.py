"""Calibration frames: short windows of consecutive frames, spread over footage."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.frames import Source
from edge.preprocess import Preprocessing

FEW = 8
"""Windows of a source below which none are held out."""
MOST = 500
"""Windows kept: NVIDIA's advice for calibration."""
GOLDEN = 8
"""Consecutive frames kept from the start, for the golden set."""


@dataclass(frozen=True)
class CalibrationFrames:
    """Footage at the student's size, uint8 BGR, and where from.

    Windows are (N, length, height, width, 3), each of consecutive frames: `windows` to find ranges on,
    `held_out` to judge them on, from other parts of the footage (the same windows where a source has
    fewer than `FEW`, or is too short for both). `golden`: (n, height, width, 3), the footage's first frames.
    """

    windows: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    golden: NDArray[np.uint8]
    source: str

    @property
    def sha256(self) -> str:
        """The hash of the bytes of `windows`: what the ranges were made from."""
        return hashlib.sha256(np.ascontiguousarray(self.windows).tobytes()).hexdigest()


def read_frames(
    sources: Sequence[Source], preprocessing: Preprocessing, length: int, most: int = MOST
) -> CalibrationFrames:
    """Read up to `most` windows of `length` frames, spread evenly over the sources.

    The last quarter of each source's windows is held out; those before that share frames with them are
    left out, so that no frame is in both.

    Raises:
        InputError: no sources; one is shorter than a window; nothing is to be seen in any.
    """
    if not sources:
        raise InputError("no calibration frames; expected real footage: give --frames SOURCE")
    share = max(1, most // len(sources))
    windows: list[NDArray[np.uint8]] = []
    held_out: list[NDArray[np.uint8]] = []
    golden: list[NDArray[np.uint8]] = []
    for source in sources:
        found, first = _windows(source, preprocessing, length, share)
        if not found:
            raise InputError(
                f"{source.name} has fewer than {length} frames; expected footage of a flight: give more"
            )
        golden = golden or first
        held = found[-(len(found) // 4) :] if len(found) >= FEW else []
        apart = [window for start, window in found if held and start + length <= held[0][0]]
        enough = len(apart) >= FEW // 2
        windows += apart if enough else [window for _, window in found]
        held_out += [window for _, window in (held if enough else found)]
    names = ", ".join(source.name for source in sources)
    if max(float(window.std(axis=(1, 2)).max()) for window in windows) < 1:
        raise InputError(
            f"{names} shows nothing (every frame is of one colour), so ranges made from it would be "
            "wrong; expected real footage: give other frames"
        )
    return CalibrationFrames(np.stack(windows), np.stack(held_out), np.stack(golden), names)


def _windows(
    source: Source, preprocessing: Preprocessing, length: int, most: int
) -> tuple[list[tuple[int, NDArray[np.uint8]]], list[NDArray[np.uint8]]]:
    """Return up to `most` windows, each with its first frame's number, spread over the source however
    long it is; and the source's first frames.
    """
    recent: deque[NDArray[np.uint8]] = deque(maxlen=length)
    first: list[NDArray[np.uint8]] = []
    found: list[tuple[int, NDArray[np.uint8]]] = []
    stride = 1
    for frame in source:
        recent.append(preprocessing.resize(frame.image))
        if len(first) < GOLDEN:
            first.append(recent[-1])
        start = frame.index - length + 1
        if len(recent) == length and start % stride == 0:
            found.append((start, np.stack(recent)))
            if len(found) == 2 * most:  # too many: keep every other one, and go on in that stride
                found, stride = found[::2], 2 * stride
    kept = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return [found[index] for index in kept], first
