"""Which frames ranges are found on, and which they are judged on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from calibration.frames import Windows, read_frames
from edge.errors import InputError
from edge.frames import Frame, Source
from edge.preprocess import Preprocessing

PREPARE = Preprocessing(8, 8)


class Numbered:
    """Frames that show their own number, in two of the bytes."""

    fps = 10.0
    width = height = 8

    def __init__(self, length: int, name: str = "numbered", told: bool = True) -> None:
        self.name, self._frames = name, length
        self.length: int | None = length if told else None

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            image = np.full((8, 8, 3), 99, np.uint8)
            image[0, 0, :2] = index // 256, index % 256
            yield Frame(index, index / 10, image)

    def close(self) -> None:
        pass


def numbers(given: Windows) -> np.ndarray:
    """Return the frames' numbers (N, length) of windows."""
    windows = np.stack(list(given))
    found: np.ndarray = windows[:, :, 0, 0, 0].astype(int) * 256 + windows[:, :, 0, 0, 1]
    return found


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("length", [40, 239, 999, 1400, 3000])
def test_windows_are_spread_over_all_of_the_footage(length: int, told: bool) -> None:
    footage = read_frames([Numbered(length, told=told)], PREPARE, 2, most=100)
    starts = numbers(np.concatenate([footage.windows, footage.held_out]))[:, 0]
    assert min(100, length - 1) - 1 <= len(starts) <= 100
    assert starts[0] == 0
    assert starts[-1] >= length - 2 - length // 50
    assert np.diff(starts).max() <= 3 * max(1, np.median(np.diff(starts)))  # one is left out


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
    np.testing.assert_array_equal(footage.windows, footage.held_out)


def test_long_windows_of_short_footage_serve_twice_rather_than_share_frames() -> None:
    short, long = (read_frames([Numbered(length)], PREPARE, 9) for length in (20, 40))
    np.testing.assert_array_equal(short.windows, short.held_out)
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
