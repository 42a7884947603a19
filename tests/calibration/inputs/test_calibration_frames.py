"""Which frames ranges are found on, and which they are judged on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from calibration.inputs.calibration_frames import CalibrationFrames, Windows, read_frames
from edge.core.errors import InputError
from edge.core.frames import Frame, Source
from edge.preprocessing.transform import Preprocessing

PREPARE = Preprocessing(8, 8)


class Numbered:
    """Frames that show their own number, in two of the bytes."""

    fps = 10.0
    width = height = 8

    def __init__(self, length: int, name: str = "numbered", told: bool = True, first: int = 0) -> None:
        self.name, self._frames, self._first = name, length, first
        self.length: int | None = length if told else None

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            image = np.full((8, 8, 3), 99, np.uint8)
            image[0, 0, :2] = (self._first + index) // 256, (self._first + index) % 256
            yield Frame(index, index / 10, image)

    def close(self) -> None:
        pass


def numbers(given: Windows) -> np.ndarray:
    """Return the frames' numbers (N, length) of windows."""
    windows = np.stack(list(given))
    found: np.ndarray = windows[:, :, 0, 0, 0].astype(int) * 256 + windows[:, :, 0, 0, 1]
    return found


class Scenes:
    """Long footage of one scene, with three short others in it, and an end like the beginning."""

    name, fps, width, height = "scenes", 10.0, 8, 8

    def __init__(self, length: int, told: bool = True) -> None:
        self.length: int | None = length if told else None
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


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("length", [100, 999, 3000])
def test_windows_are_chosen_for_variety_and_held_out_ones_are_not(length: int, told: bool) -> None:
    footage = read_frames([Scenes(length, told)], PREPARE, 2, most=20)
    windows = np.stack(list(footage.windows))
    assert 10 <= len(windows) <= 15
    seen = {tuple((window[-1].mean(axis=(0, 1)) > 200).tolist()) for window in windows}
    assert len(seen) == 4  # 12 frames of 3,000, and none is missed
    held = np.stack(list(footage.held_out))
    assert 3 <= len(held) <= 5
    assert footage.is_disjoint
    assert held.max() < 200


def test_held_out_windows_are_spread_over_the_last_quarter() -> None:
    for length in (40, 239, 1400):
        starts = numbers(read_frames([Numbered(length)], PREPARE, 2, most=100).held_out)[:, 0]
        assert min(25, length // 4 - 1) <= len(starts) <= 25
        assert starts[0] >= length * 3 // 4 - 1
        assert starts[-1] >= length - 2 - length // 50
        assert np.diff(starts).max() <= 2 * max(1, np.median(np.diff(starts)))


def test_what_shows_nothing_is_left_out_and_one_scene_is_told() -> None:
    class Dark(Scenes):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(frame.index, frame.capture_s, frame.image * np.uint8(frame.index >= 30))

    footage = read_frames([Dark(100)], PREPARE, 1)
    assert min(window.max() for window in footage.windows) > 0
    assert footage.warnings[0] == "30 of 100 windows show nothing and were left out"
    assert read_frames([Numbered(40)], PREPARE, 1).warnings == (
        "the frames look as if of one scene: give footage of more places and times of day",
    )
    with pytest.raises(InputError, match="shows nothing"):
        read_frames([Dark(30)], PREPARE, 1)


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115  closed with the store
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: full)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
        read_frames([Numbered(20)], PREPARE, 2)


def test_windows_are_consecutive_and_held_out_frames_are_no_others() -> None:
    footage = read_frames([Numbered(60), Numbered(60)], PREPARE, length=3, most=60)
    for windows in (footage.windows, footage.held_out):
        assert (np.diff(numbers(windows), axis=1) == 1).all()
    assert len(footage.held_out) == 14
    half = len(footage.windows) // 2
    assert not set(numbers(list(footage.windows)[:half]).flat) & set(numbers(list(footage.held_out)[:7]).flat)
    assert numbers(footage.golden[:, None])[:, 0].tolist() == list(range(8))


def test_few_windows_serve_twice() -> None:
    footage = read_frames([Numbered(5)], PREPARE, 2)
    np.testing.assert_array_equal(numbers(footage.windows), numbers(footage.held_out))
    assert not footage.is_disjoint


@pytest.mark.parametrize(("sources", "held"), [(2, [1]), (3, [2]), (9, [3, 7])])
def test_of_short_sources_some_are_held_out_whole(sources: int, held: list[int]) -> None:
    footage = read_frames([Numbered(5, first=100 * at) for at in range(sources)], PREPARE, 2)
    assert footage.is_disjoint
    used = [at for at in range(sources) if at not in held]
    assert np.unique(numbers(footage.held_out) // 100).tolist() == held
    assert np.unique(numbers(footage.windows) // 100).tolist() == used


def test_beside_long_footage_short_sources_serve_ranges_alone() -> None:
    footage = read_frames([Numbered(5, first=1000), Numbered(60)], PREPARE, 2, most=60)
    assert footage.is_disjoint
    assert numbers(footage.held_out).max() < 1000
    assert numbers(footage.windows).max() >= 1000


def test_a_frame_in_both_is_told() -> None:
    frames = np.stack([np.full((8, 8, 3), grey, np.uint8) for grey in range(8)])
    windows, held = frames[[[0, 1], [2, 3], [4, 5]]], frames[[[6, 7], [5, 6]]]
    assert CalibrationFrames(windows, held[:1], frames, "made").is_disjoint
    assert not CalibrationFrames(windows, held, frames, "made").is_disjoint


def test_long_windows_of_short_footage_serve_twice_rather_than_share_frames() -> None:
    short, long = (read_frames([Numbered(length)], PREPARE, 9) for length in (20, 40))
    np.testing.assert_array_equal(numbers(short.windows), numbers(short.held_out))
    assert len(long.held_out) == 8
    assert numbers(long.windows).max() < numbers(long.held_out).min()


def test_no_source_is_dropped() -> None:
    sources: list[Source] = [Numbered(20, str(number)) for number in range(7)]
    assert len(read_frames(sources, PREPARE, 2, most=3).windows) == 7


def test_the_hash_is_of_the_windows() -> None:
    first, second = (read_frames([Numbered(length)], PREPARE, 2) for length in (50, 51))
    assert first.sha256 == read_frames([Numbered(50)], PREPARE, 2).sha256 != second.sha256


def test_bad_footage_is_named() -> None:
    with pytest.raises(InputError, match="no calibration frames"):
        read_frames([], PREPARE, 2)
    with pytest.raises(InputError, match="short has fewer than 2 frames"):
        read_frames([Numbered(40), Numbered(1, "short")], PREPARE, 2)
