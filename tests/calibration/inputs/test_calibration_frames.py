"""Tests of the selection of calibration windows and held-out windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from calibration.inputs.calibration_frames import (
    CalibrationFrames,
    SourceScan,
    Windows,
    read_frames,
    split_holdout,
)
from edge.core.errors import InputError
from edge.core.frames import Frame, Source
from edge.preprocessing.transform import Preprocessing

PREPARE = Preprocessing(8, 8)


class Numbered:
    """A source whose frames contain their own number, in two of the bytes."""

    fps = 10.0
    width = height = 8

    def __init__(self, length: int, name: str = "numbered", has_length: bool = True, first: int = 0) -> None:
        self.name, self._frames, self._first = name, length, first
        self.length: int | None = length if has_length else None

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            image = np.full((8, 8, 3), 99, np.uint8)
            image[0, 0, :2] = (self._first + index) // 256, (self._first + index) % 256
            yield Frame(index, index / 10, image)

    def close(self) -> None:
        pass


def frame_numbers(windows: Windows) -> np.ndarray:
    """Return the numbers (N, length) of the frames of windows."""
    stacked = np.stack(list(windows))
    numbers: np.ndarray = stacked[:, :, 0, 0, 0].astype(int) * 256 + stacked[:, :, 0, 0, 1]
    return numbers


class Scenes:
    """Long footage of one scene that contains three other short scenes, and ends as it begins."""

    name, fps, width, height = "scenes", 10.0, 8, 8

    def __init__(self, length: int, has_length: bool = True) -> None:
        self.length: int | None = length if has_length else None
        self._frames = length

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            image = np.random.default_rng(index).integers(100, 110, (8, 8, 3), np.uint8)
            for scene in (1, 2, 3):
                if 0 <= index - self._frames * scene // 6 < 4:
                    image[:, :, scene - 1] = 250
            yield Frame(index, index / 10, image)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("length", [100, 999, 3000])
def test_windows_are_selected_for_diversity_and_held_out_windows_are_not(
    length: int, has_length: bool
) -> None:
    footage = read_frames([Scenes(length, has_length)], PREPARE, 2, max_windows=20)
    windows = np.stack(list(footage.windows))
    assert 10 <= len(windows) <= 15
    scenes = {tuple((window[-1].mean(axis=(0, 1)) > 200).tolist()) for window in windows}
    assert len(scenes) == 4  # the short scenes are 12 frames of up to 3,000
    held = np.stack(list(footage.held_out))
    assert 3 <= len(held) <= 5
    assert footage.is_disjoint
    assert held.max() < 200


def test_held_out_windows_are_spread_over_the_last_quarter() -> None:
    for length in (40, 239, 1400):
        starts = frame_numbers(read_frames([Numbered(length)], PREPARE, 2, max_windows=100).held_out)[:, 0]
        assert min(25, length // 4 - 1) <= len(starts) <= 25
        assert starts[0] >= length * 3 // 4 - 1
        assert starts[-1] >= length - 2 - length // 50
        assert np.diff(starts).max() <= 2 * max(1, np.median(np.diff(starts)))


def test_blank_windows_are_left_out_and_a_single_scene_is_reported() -> None:
    class Dark(Scenes):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(frame.index, frame.capture_s, frame.image * np.uint8(frame.index >= 30))

    footage = read_frames([Dark(100)], PREPARE, 1)
    assert min(window.max() for window in footage.windows) > 0
    assert footage.warnings[0] == "30 of 100 windows show nothing and were left out"
    assert read_frames([Numbered(40)], PREPARE, 1).warnings == (
        "the frames seem to show one scene only: give footage of more places and times of day",
    )
    with pytest.raises(InputError, match="shows nothing"):
        read_frames([Dark(30)], PREPARE, 1)


def test_full_disk_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115  closed with the store
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: full)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
        read_frames([Numbered(20)], PREPARE, 2)


def test_frames_of_a_window_are_consecutive_and_held_out_frames_are_separate() -> None:
    footage = read_frames([Numbered(60), Numbered(60)], PREPARE, length=3, max_windows=60)
    for windows in (footage.windows, footage.held_out):
        assert (np.diff(frame_numbers(windows), axis=1) == 1).all()
    assert len(footage.held_out) == 14
    half = len(footage.windows) // 2
    assert not set(frame_numbers(list(footage.windows)[:half]).flat) & set(
        frame_numbers(list(footage.held_out)[:7]).flat
    )
    assert frame_numbers(footage.golden[:, None])[:, 0].tolist() == list(range(8))


def test_single_short_source_is_used_for_both() -> None:
    footage = read_frames([Numbered(5)], PREPARE, 2)
    np.testing.assert_array_equal(frame_numbers(footage.windows), frame_numbers(footage.held_out))
    assert not footage.is_disjoint


@pytest.mark.parametrize(("sources", "held"), [(2, [1]), (3, [2]), (9, [3, 7])])
def test_some_of_several_short_sources_are_held_out_as_a_whole(sources: int, held: list[int]) -> None:
    footage = read_frames([Numbered(5, first=100 * at) for at in range(sources)], PREPARE, 2)
    assert footage.is_disjoint
    used = [at for at in range(sources) if at not in held]
    assert np.unique(frame_numbers(footage.held_out) // 100).tolist() == held
    assert np.unique(frame_numbers(footage.windows) // 100).tolist() == used


def scan(total: int, first_slot: int) -> SourceScan:
    """Return a scan whose window number n is in slot `first_slot` + n."""
    windows = [(number, first_slot + number) for number in range(total)]
    return SourceScan(windows, np.zeros((total, 57), np.float32), windows[-(total // 4) :], [], total, 0)


def test_split_of_long_sources_ends_before_the_last_quarter_of_each() -> None:
    split = split_holdout([scan(16, 0), scan(32, 100)], 2, per_source=100)
    assert split.candidates == [
        *range(11),
        *range(100, 123),
    ]  # the window before the last quarter overlaps it
    assert split.first_of_source == [0, 11]
    assert len(split.descriptors) == len(split.candidates)
    assert split.held_out == [*range(12, 16), *range(124, 132)]


def test_split_without_windows_is_empty() -> None:
    split = split_holdout([], 2, per_source=100)
    assert (split.candidates, split.first_of_source, split.held_out) == ([], [], [])


def test_short_source_beside_a_long_one_is_used_for_calibration_only() -> None:
    footage = read_frames([Numbered(5, first=1000), Numbered(60)], PREPARE, 2, max_windows=60)
    assert footage.is_disjoint
    assert frame_numbers(footage.held_out).max() < 1000
    assert frame_numbers(footage.windows).max() >= 1000


def test_frame_on_both_sides_is_detected() -> None:
    frames = np.stack([np.full((8, 8, 3), grey, np.uint8) for grey in range(8)])
    windows, held = frames[[[0, 1], [2, 3], [4, 5]]], frames[[[6, 7], [5, 6]]]
    assert CalibrationFrames(windows, held[:1], frames, "synthetic").is_disjoint
    assert not CalibrationFrames(windows, held, frames, "synthetic").is_disjoint


def test_long_windows_of_short_footage_are_used_for_both_rather_than_share_frames() -> None:
    short, long = (read_frames([Numbered(length)], PREPARE, 9) for length in (20, 40))
    np.testing.assert_array_equal(frame_numbers(short.windows), frame_numbers(short.held_out))
    assert len(long.held_out) == 8
    assert frame_numbers(long.windows).max() < frame_numbers(long.held_out).min()


def test_every_source_contributes_a_window() -> None:
    sources: list[Source] = [Numbered(20, str(number)) for number in range(7)]
    assert len(read_frames(sources, PREPARE, 2, max_windows=3).windows) == 7


def test_hash_depends_on_the_windows() -> None:
    first, second = (read_frames([Numbered(length)], PREPARE, 2) for length in (50, 51))
    assert first.sha256 == read_frames([Numbered(50)], PREPARE, 2).sha256 != second.sha256


def test_missing_or_short_footage_is_refused() -> None:
    with pytest.raises(InputError, match="no calibration frames"):
        read_frames([], PREPARE, 2)
    with pytest.raises(InputError, match="short has fewer than 2 frames"):
        read_frames([Numbered(40), Numbered(1, "short")], PREPARE, 2)
