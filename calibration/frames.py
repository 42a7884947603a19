"""Calibration frames: short windows of consecutive frames, spread over footage."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.frames import Source
from edge.preprocess import Preprocessing

MOST = 500
"""Windows kept: NVIDIA's advice for calibration."""
GOLDEN = 8
"""Consecutive frames kept from the start, for the golden set."""


@dataclass(frozen=True)
class CalibrationFrames:
    """Footage at the student's size, uint8 BGR, and where from.

    `windows`: (N, length, height, width, 3), spread over the source; `golden`: (n, height, width, 3),
    its first frames.
    """

    windows: NDArray[np.uint8]
    golden: NDArray[np.uint8]
    source: str

    @property
    def sha256(self) -> str:
        """The hash of the frames' bytes: what the ranges were made from."""
        return hashlib.sha256(np.ascontiguousarray(self.windows).tobytes()).hexdigest()


def read_frames(
    sources: Sequence[Source], preprocessing: Preprocessing, length: int = 2, most: int = MOST
) -> CalibrationFrames:
    """Read up to `most` windows of `length` frames, spread evenly over each source.

    Raises:
        InputError: no sources; one is shorter than a window; nothing is to be seen in any.
    """
    if not sources:
        raise InputError("no calibration frames; expected real footage: give --frames SOURCE")
    share = -(-most // len(sources))
    windows: list[NDArray[np.uint8]] = []
    golden: list[NDArray[np.uint8]] = []
    for number, source in enumerate(sources):
        found = list(_windows(source, preprocessing, length, share, golden if number == 0 else []))
        if not found:
            raise InputError(
                f"{source.name} has fewer than {length} frames; expected footage of a flight: give more"
            )
        windows += found
    stacked = np.stack(windows[:most])
    names = ", ".join(source.name for source in sources)
    if float(stacked.std(axis=(2, 3)).max()) < 1:
        raise InputError(
            f"{names} shows nothing (every frame is of one colour), so ranges made from it would be "
            "wrong; expected real footage: give other frames"
        )
    return CalibrationFrames(stacked, np.stack(golden), names)


def _windows(
    source: Source,
    preprocessing: Preprocessing,
    length: int,
    most: int,
    golden: list[NDArray[np.uint8]],
) -> Iterator[NDArray[np.uint8]]:
    stride = max(1, ((source.length or most) - length + 1) // most)
    recent: deque[NDArray[np.uint8]] = deque(maxlen=length)
    count = 0
    for frame in source:
        recent.append(preprocessing.resize(frame.image))
        if len(golden) < GOLDEN:
            golden.append(recent[-1])
        if len(recent) == length and (frame.index - length + 1) % stride == 0:
            yield np.stack(recent)
            count += 1
            if count == most:
                return
