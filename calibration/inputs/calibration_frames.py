"""Calibration frames: short windows of consecutive frames, selected from footage for diversity.

Footage is read once and may be of any length. Windows that may be selected wait in a temporary file, not in
memory.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.inputs.frame_diversity import (
    Descriptor,
    DiverseSample,
    describe_window,
    median_spread,
    select_farthest,
)
from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError
from edge.core.frames import Source, find_damage
from edge.preprocessing.transform import Preprocessing

MIN_WINDOWS_TO_SPLIT = 8
"""A source with fewer windows is not split into calibration windows and held-out windows."""
SOURCES_PER_HELD_OUT = 4
"""If all sources are too short to be split, one of this number is held out as a whole."""
MAX_WINDOWS = 500
"""Default limit for the windows kept: NVIDIA's recommendation for calibration."""
GOLDEN_FRAMES = 8
"""Consecutive first frames that are kept for the golden set."""
MIN_SCENE_SPREAD = 0.5
"""Spread of descriptors below which footage seems to show one scene only.

Each of eight sequences of UAV123 and DTB70 has 0.02 to 0.43, two of them together 0.63, all of them 0.98.
"""
MIN_DEVIATION = 1.0
"""Standard deviation, in grey levels, below which a frame shows nothing."""


class Windows(Protocol):
    """Windows (N, length, height, width, 3), uint8 BGR: an array, or an object that reads them one by one."""

    def __len__(self) -> int:
        """Return N."""

    def __iter__(self) -> Iterator[Any]:
        """Yield each window (length, height, width, 3)."""


@dataclass(frozen=True)
class CalibrationFrames:
    """Footage at the student's size, uint8 BGR, and its origin.

    Attributes:
        windows: Windows of consecutive frames to find ranges on, (N, length, height, width, 3).
        held_out: Windows to evaluate the ranges on, from other parts of the footage. They are the same
            windows if a single source is too short to be split.
        golden: The first frames of the footage, (n, height, width, 3).
        source: Names of the sources.
        warnings: Problems of the footage, one sentence each.
    """

    windows: Windows
    held_out: Windows
    golden: NDArray[np.uint8]
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The hash of the bytes of `windows`, from which the ranges are made."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(np.ascontiguousarray(window).tobytes())
        return digest.hexdigest()

    @property
    def is_disjoint(self) -> bool:
        """True if no frame is in both `windows` and `held_out`."""
        return not _frame_hashes(self.windows) & _frame_hashes(self.held_out)


def _frame_hashes(windows: Windows) -> set[bytes]:
    return {hashlib.sha256(frame.tobytes()).digest() for window in windows for frame in window}


class _WindowFile:
    """Windows of one shape in a temporary file that is deleted with the process."""

    def __init__(self) -> None:
        with translate_write_errors(Path(tempfile.gettempdir())):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with its owner
        weakref.finalize(self, self._file.close)
        self._free_slots: list[int] = []
        self._slots = 0
        self._shape: tuple[int, ...] = ()

    def put(self, window: NDArray[np.uint8]) -> int:
        """Write a window and return its slot."""
        self._shape = window.shape
        if not self._free_slots:
            self._free_slots.append(self._slots)
            self._slots += 1
        slot = self._free_slots.pop()
        with translate_write_errors(Path(tempfile.gettempdir())):
            self._file.seek(slot * window.size)
            self._file.write(np.ascontiguousarray(window).data)
            self._file.flush()
        return slot

    def get(self, slot: int) -> NDArray[np.uint8]:
        """Return the window in a slot."""
        size = int(np.prod(self._shape))
        self._file.seek(slot * size)
        return np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape)

    def free(self, slots: Sequence[int]) -> None:
        """Make slots available for other windows."""
        self._free_slots += slots


class StoredWindows:
    """Windows that are read one by one from a temporary file."""

    def __init__(self, file: _WindowFile, slots: Sequence[int]) -> None:
        self._file, self._slots = file, tuple(slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._file.get(slot) for slot in self._slots)


@dataclass(frozen=True)
class SourceScan:
    """Windows kept from one source. A kept window is (number, slot).

    Attributes:
        diverse: Windows selected for diversity, in order.
        descriptors: Their descriptors (N, D).
        last_quarter: Windows spread evenly over the last quarter.
        first_frames: The first frames of the source.
        total: Number of windows read.
        blank: Number of windows that show nothing; they are not kept.
    """

    diverse: list[tuple[int, int]]
    descriptors: NDArray[np.float32]
    last_quarter: list[tuple[int, int]]
    first_frames: list[NDArray[np.uint8]]
    total: int
    blank: int


@dataclass(frozen=True)
class HoldoutSplit:
    """Windows split into candidates for calibration and held-out windows.

    Attributes:
        candidates: Slots of the candidates.
        descriptors: Their descriptors.
        first_of_source: Index of the first candidate of each source.
        held_out: Slots of the held-out windows.
    """

    candidates: list[int]
    descriptors: list[Descriptor]
    first_of_source: list[int]
    held_out: list[int]


def read_frames(
    sources: Sequence[Source], preprocessing: Preprocessing, length: int, max_windows: int = MAX_WINDOWS
) -> CalibrationFrames:
    """Read footage and keep the windows that differ most from one another.

    A quarter of the windows is held out, see `split_holdout`. Windows that show nothing are left out.

    Args:
        sources: The footage.
        preprocessing: Resizes frames to the size of the student.
        length: Frames of a window.
        max_windows: Limit for all windows.

    Raises:
        InputError: If there are no sources, one is shorter than a window, or none shows anything.
    """
    if not sources:
        raise InputError("no calibration frames; expected real footage: give --frames SOURCE")
    per_source = max(1, max_windows // len(sources))
    file = _WindowFile()
    scans = [_scan_source(source, preprocessing, length, per_source, file) for source in sources]
    split = split_holdout([scan for scan in scans if scan.diverse], length, per_source)
    names = ", ".join(source.name for source in sources)
    if not split.candidates:
        raise InputError(
            f"{names} shows nothing (every frame is of one colour), so ranges made from it would be "
            "wrong; expected real footage: give other frames"
        )
    descriptors = np.stack(split.descriptors)
    max_calibration = max_windows - (max_windows // 4 if max_windows >= 4 else 0)
    selected = select_farthest(
        descriptors, split.first_of_source, max(len(split.first_of_source), max_calibration)
    )
    return CalibrationFrames(
        StoredWindows(file, [split.candidates[index] for index in selected]),
        StoredWindows(file, split.held_out),
        np.stack(next(scan.first_frames for scan in scans if scan.first_frames)),
        names,
        (
            *(line for source in sources for line in find_damage(source)),
            *_footage_warnings(scans, descriptors[selected]),
        ),
    )


def _footage_warnings(scans: Sequence[SourceScan], descriptors: NDArray[np.float32]) -> Iterator[str]:
    blank, total = sum(scan.blank for scan in scans), sum(scan.total for scan in scans)
    if blank:
        yield f"{blank} of {total} windows show nothing and were left out"
    if median_spread(descriptors) < MIN_SCENE_SPREAD:
        yield "the frames seem to show one scene only: give footage of more places and times of day"


def split_holdout(scans: Sequence[SourceScan], length: int, per_source: int) -> HoldoutSplit:
    """Split the windows of all sources, so that no frame is on both sides if possible.

    - In a source that is long enough, the windows of the last quarter are held out. Candidates end before
      the first of them.
    - If all sources are too short for that, every fourth one is held out as a whole; of two or three, the
      last one.
    - A single short source serves for both.
    - If there are longer sources as well, short ones serve for calibration only.

    Args:
        scans: Windows of each source; each has at least one diverse window.
        length: Frames of a window.
        per_source: Limit for the windows of a source.
    """
    before_holdout = [_indices_before_holdout(scan, length, per_source) for scan in scans]
    short = [index for index, indices in enumerate(before_holdout) if not indices]
    all_short = len(short) == len(scans)
    whole_holdouts = (
        (short[SOURCES_PER_HELD_OUT - 1 :: SOURCES_PER_HELD_OUT] or short[1:][-1:]) if all_short else []
    )
    split = HoldoutSplit([], [], [], [])
    for index, scan in enumerate(scans):
        if index not in whole_holdouts:
            kept = before_holdout[index] or range(len(scan.diverse))
            split.first_of_source.append(len(split.candidates))
            split.candidates.extend(scan.diverse[at][1] for at in kept)
            split.descriptors.extend(scan.descriptors[at] for at in kept)
        if before_holdout[index]:
            split.held_out.extend(slot for _, slot in scan.last_quarter)
        elif index in whole_holdouts or (all_short and not whole_holdouts):
            indices = _evenly_spaced(len(scan.diverse), per_source)
            split.held_out.extend(scan.diverse[at][1] for at in indices)
    return split


def _indices_before_holdout(scan: SourceScan, length: int, per_source: int) -> list[int]:
    """Return the indices of diverse windows that end before the last quarter; none if they are too few."""
    holdout_start = scan.last_quarter[0][0] if scan.last_quarter else 0
    indices = [index for index, (number, _) in enumerate(scan.diverse) if number + length <= holdout_start]
    is_enough = scan.total >= MIN_WINDOWS_TO_SPLIT and len(indices) >= min(
        MIN_WINDOWS_TO_SPLIT // 2, per_source
    )
    return indices if is_enough else []


def _scan_source(
    source: Source, preprocessing: Preprocessing, length: int, per_source: int, file: _WindowFile
) -> SourceScan:
    """Read a source to its end and keep windows in the file.

    Raises:
        InputError: If the source is shorter than a window.
    """
    recent: deque[NDArray[np.uint8]] = deque(maxlen=length)
    deviations: deque[float] = deque(maxlen=length)
    first_frames: list[NDArray[np.uint8]] = []
    diverse, last_quarter = DiverseSample(2 * per_source), _LastQuarter(max(1, per_source // 4))
    total = blank = 0
    for frame in source:
        recent.append(preprocessing.resize(frame.image))
        deviations.append(float(recent[-1].std(axis=(0, 1)).max()))
        if len(first_frames) < GOLDEN_FRAMES:
            first_frames.append(recent[-1])
        if len(recent) < length:
            continue
        window = np.stack(recent)
        number, total = total, total + 1
        if max(deviations) < MIN_DEVIATION:
            blank += 1
            continue
        descriptor = describe_window(window)
        if diverse.wants(descriptor):
            dropped = diverse.add(descriptor, (number, file.put(window)))
            file.free([slot for _, slot in dropped])
        if last_quarter.wants(number):
            dropped = last_quarter.add((number, file.put(window)))
            file.free([slot for _, slot in dropped])
    if not total:
        raise InputError(
            f"{source.name} has fewer than {length} frames; expected footage of a flight: give a longer one"
        )
    return SourceScan(
        diverse.items, diverse.descriptors, last_quarter.items(total), first_frames, total, blank
    )


class _LastQuarter:
    """Items spread evenly over the last quarter of a sequence of unknown length."""

    def __init__(self, max_items: int) -> None:
        self._max_items, self._stride = max_items, 1
        self._kept: list[tuple[int, int]] = []

    def wants(self, number: int) -> bool:
        """Return whether the item with this number would be kept."""
        return number % self._stride == 0

    def add(self, item: tuple[int, int]) -> list[tuple[int, int]]:
        """Keep an item, and return the items that are no longer needed."""
        items = [*self._kept, item]
        self._kept = [kept for kept in items if kept[0] >= 0.75 * item[0]]
        if len(self._kept) > 2 * self._max_items:
            self._stride *= 2
            self._kept = [kept for kept in self._kept if self.wants(kept[0])]
        return [kept for kept in items if kept not in self._kept]

    def items(self, total: int) -> list[tuple[int, int]]:
        """Return the items in the last quarter of `total`, at most the limit."""
        last = [kept for kept in self._kept if kept[0] >= total - total // 4]
        return [last[index] for index in _evenly_spaced(len(last), self._max_items)]


def sample_evenly(windows: Windows, max_windows: int) -> list[NDArray[Any]]:
    """Return evenly spaced windows, or other arrays in their order, at most `max_windows`."""
    indices = set(_evenly_spaced(len(windows), max_windows))
    return [window for index, window in enumerate(windows) if index in indices]


def _evenly_spaced(count: int, max_indices: int) -> list[int]:
    """Return evenly spaced indices of a sequence of `count` items, at most `max_indices`."""
    if not count:
        return []
    indices: list[int] = np.linspace(0, count - 1, min(max_indices, count)).round().astype(int).tolist()
    return indices
