"""Calibration frames: short windows of consecutive frames, chosen from footage for their variety.

Footage is read once, however long it is. What may be chosen waits in a temporary file, not in memory.
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

from calibration.inputs.frame_diversity import DiverseSample, describe_window, median_spread, select_farthest
from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError
from edge.core.frames import Source
from edge.preprocessing.transform import Preprocessing

MIN_WINDOWS_TO_SPLIT = 8
"""Windows of a source below which none of its own are held out."""
SOURCES_PER_HELD_OUT = 4
"""Of so many sources that are too short to be parted, one is held out whole."""
MAX_WINDOWS = 500
"""Windows kept: NVIDIA's advice for calibration."""
GOLDEN_FRAMES = 8
"""Consecutive frames kept from the start, for the golden set."""
MIN_SCENE_SPREAD = 0.5
"""Spread of descriptors below which footage is said to be of one scene: eight sequences of UAV123 and
DTB70 have .02 to .43 each, two of them together .63, all .98."""
MIN_DEVIATION = 1.0
"""Grey levels: a window of frames that all deviate less shows nothing."""


class Windows(Protocol):
    """Windows (N, length, height, width, 3), uint8 BGR: an array, or what reads them one by one."""

    def __len__(self) -> int:
        """Return N."""

    def __iter__(self) -> Iterator[Any]:
        """Yield each, (length, height, width, 3)."""


@dataclass(frozen=True)
class CalibrationFrames:
    """Footage at the student's size, uint8 BGR, and where from.

    Windows are (N, length, height, width, 3), each of consecutive frames: `windows` to find ranges on,
    `held_out` to judge them on, from other parts of the footage (the same windows where a source has
    fewer than `MIN_WINDOWS_TO_SPLIT`, or is too short for both). `golden`: (n, height, width, 3), the footage's first
    frames. `warnings`: what is odd about the footage, a sentence each.
    """

    windows: Windows
    held_out: Windows
    golden: NDArray[np.uint8]
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The hash of the bytes of `windows`: what the ranges were made from."""
        return _hash(self.windows)

    @property
    def is_disjoint(self) -> bool:
        """Whether no frame that ranges were found on is among those that they are judged on."""
        return not _frame_hashes(self.windows) & _frame_hashes(self.held_out)


def _hash(windows: Windows) -> str:
    digest = hashlib.sha256()
    for window in windows:
        digest.update(np.ascontiguousarray(window).tobytes())
    return digest.hexdigest()


def _frame_hashes(windows: Windows) -> set[bytes]:
    return {hashlib.sha256(frame.tobytes()).digest() for window in windows for frame in window}


class _WindowFile:
    """Windows of one shape in a temporary file that vanishes with the process."""

    def __init__(self) -> None:
        with translate_write_errors(Path(tempfile.gettempdir())):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with its owner
        weakref.finalize(self, self._file.close)
        self._free: list[int] = []
        self._slots = 0
        self._shape: tuple[int, ...] = ()

    def put(self, window: NDArray[np.uint8]) -> int:
        self._shape = window.shape
        if not self._free:
            self._free.append(self._slots)
            self._slots += 1
        slot = self._free.pop()
        with translate_write_errors(Path(tempfile.gettempdir())):
            self._file.seek(slot * window.size)
            self._file.write(np.ascontiguousarray(window).data)
            self._file.flush()
        return slot

    def get(self, slot: int) -> NDArray[np.uint8]:
        size = int(np.prod(self._shape))
        self._file.seek(slot * size)
        return np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape)

    def drop(self, slots: Sequence[int]) -> None:
        self._free += slots


class StoredWindows:
    """Windows read one by one from where they wait."""

    def __init__(self, store: _WindowFile, slots: Sequence[int]) -> None:
        self._store, self._slots = store, tuple(slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._store.get(slot) for slot in self._slots)


@dataclass(frozen=True)
class SourceScan:
    """What a source gave: (number, slot) of varied windows with their descriptors, and of even ones."""

    varied: list[tuple[int, int]]
    descriptors: NDArray[np.float32]
    held: list[tuple[int, int]]
    first: list[NDArray[np.uint8]]
    windows: int
    flat: int


def read_frames(
    sources: Sequence[Source], preprocessing: Preprocessing, length: int, most: int = MAX_WINDOWS
) -> CalibrationFrames:
    """Read up to `most` windows of `length` frames: those that are most unlike one another.

    A quarter of them is held out: taken evenly from the last quarter of each source, as footage is.
    Those to find ranges on come from before it, so that no frame is in both; where all sources are too short
    for that, every fourth is held out whole. Windows that show nothing are left out.

    Raises:
        InputError: no sources; one is shorter than a window; nothing is to be seen in any.
    """
    if not sources:
        raise InputError("no calibration frames; expected real footage: give --frames SOURCE")
    share = max(1, most // len(sources))
    store = _WindowFile()
    candidates: list[int] = []
    descriptors: list[NDArray[np.float32]] = []
    starts: list[int] = []
    held_out: list[int] = []
    golden: list[NDArray[np.uint8]] = []
    flat = seen = 0
    footage: list[SourceScan] = []
    for source in sources:
        found = _scan_source(source, preprocessing, length, share, store)
        seen, flat = seen + found.windows, flat + found.flat
        golden = golden or found.first
        if found.varied:
            footage.append(found)
    before = [_indices_before_held_out(found, length, share) for found in footage]
    short = [index for index, kept in enumerate(before) if not kept]
    only_short = len(short) == len(footage)
    aside = (short[SOURCES_PER_HELD_OUT - 1 :: SOURCES_PER_HELD_OUT] or short[1:][-1:]) if only_short else []
    for index, found in enumerate(footage):
        if index not in aside:
            kept = before[index] or range(len(found.varied))
            starts.append(len(candidates))
            candidates += [found.varied[at][1] for at in kept]
            descriptors += [found.descriptors[at] for at in kept]
        if before[index]:
            held_out += [slot for _, slot in found.held]
        elif index in aside or (only_short and not aside):
            held_out += [found.varied[at][1] for at in _even(len(found.varied), share)]
    names = ", ".join(source.name for source in sources)
    if not candidates:
        raise InputError(
            f"{names} shows nothing (every frame is of one colour), so ranges made from it would be "
            "wrong; expected real footage: give other frames"
        )
    looks = np.stack(descriptors)
    chosen = select_farthest(looks, starts, max(len(starts), most - (most // 4 if most >= 4 else 0)))
    warnings = []
    if flat:
        warnings.append(f"{flat} of {seen} windows show nothing and were left out")
    if median_spread(looks[chosen]) < MIN_SCENE_SPREAD:
        warnings.append("the frames look as if of one scene: give footage of more places and times of day")
    return CalibrationFrames(
        StoredWindows(store, [candidates[index] for index in chosen]),
        StoredWindows(store, held_out),
        np.stack(golden),
        names,
        tuple(warnings),
    )


def _indices_before_held_out(found: SourceScan, length: int, share: int) -> list[int]:
    """Return which varied windows end before those that are held out; none if they are too few."""
    begin = found.held[0][0] if found.held else 0
    kept = [index for index, (number, _) in enumerate(found.varied) if number + length <= begin]
    return (
        kept
        if found.windows >= MIN_WINDOWS_TO_SPLIT and len(kept) >= min(MIN_WINDOWS_TO_SPLIT // 2, share)
        else []
    )


def _scan_source(
    source: Source, preprocessing: Preprocessing, length: int, share: int, store: _WindowFile
) -> SourceScan:
    """Read a source to its end, keeping windows in the store.

    Raises:
        InputError: it is shorter than a window.
    """
    recent: deque[NDArray[np.uint8]] = deque(maxlen=length)
    first: list[NDArray[np.uint8]] = []
    varied, even = DiverseSample(2 * share), _LastQuarter(max(1, share // 4))
    windows = flat = 0
    for frame in source:
        recent.append(preprocessing.resize(frame.image))
        if len(first) < GOLDEN_FRAMES:
            first.append(recent[-1])
        if len(recent) < length:
            continue
        window = np.stack(recent)
        number, windows = windows, windows + 1
        if float(window.std(axis=(1, 2)).max()) < MIN_DEVIATION:
            flat += 1
            continue
        descriptor = describe_window(window)
        if varied.wants(descriptor):
            gone = varied.add(descriptor, (number, store.put(window)))
            store.drop([slot for _, slot in gone])
        if even.wants(number):
            gone = even.add((number, store.put(window)))
            store.drop([slot for _, slot in gone])
    if not windows:
        raise InputError(
            f"{source.name} has fewer than {length} frames; expected footage of a flight: give more"
        )
    return SourceScan(varied.items, varied.descriptors, even.items(windows), first, windows, flat)


class _LastQuarter:
    """Items spread evenly over the last quarter of a sequence, whose length nobody knows before."""

    def __init__(self, most: int) -> None:
        self._most, self._stride = most, 1
        self._kept: list[tuple[int, int]] = []

    def wants(self, number: int) -> bool:
        return number % self._stride == 0

    def add(self, item: tuple[int, int]) -> list[tuple[int, int]]:
        """Keep an item; return those that are not needed any longer."""
        before = [*self._kept, item]
        self._kept = [kept for kept in before if kept[0] >= 0.75 * item[0]]
        if len(self._kept) > 2 * self._most:
            self._stride *= 2
            self._kept = [kept for kept in self._kept if self.wants(kept[0])]
        return [kept for kept in before if kept not in self._kept]

    def items(self, total: int) -> list[tuple[int, int]]:
        """Return up to `most` of the last quarter of `total`."""
        last = [kept for kept in self._kept if kept[0] >= total - total // 4]
        return [last[index] for index in _even(len(last), self._most)]


def sample_evenly(windows: Windows, most: int) -> list[NDArray[np.uint8]]:
    """Return up to `most` of the windows, spread evenly."""
    wanted = set(_even(len(windows), most))
    return [window for index, window in enumerate(windows) if index in wanted]


def _even(count: int, most: int) -> list[int]:
    """Return up to `most` indices spread over `count`."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist() if count else []
