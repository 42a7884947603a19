from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.sources.opencv_capture import CaptureSource
from edge.sources.pixel_range import PixelRange, measure_range, parse_range


@pytest.mark.parametrize("text", ["", "x", "1", "1,2,3", "2,1", "1,1", "nan,1", "0,inf"])
def test_invalid_range_is_named(text: str) -> None:
    with pytest.raises(InputError, match="expected auto, or LOW,HIGH"):
        parse_range(text)


def test_range_is_parsed() -> None:
    assert parse_range("7000,9500") == PixelRange(7000, 9500)
    assert parse_range("auto") is parse_range(None) is None


def test_hot_pixels_and_values_that_are_no_numbers_do_not_set_the_range() -> None:
    image = np.linspace(20, 40, 10_000, dtype=np.float32).reshape(100, 100)
    image[0, :4] = np.nan, np.inf, -np.inf, 1e9
    measured = measure_range([image])
    assert measured.low == pytest.approx(20, abs=0.3)
    assert measured.high == pytest.approx(40, abs=0.3)
    pixels = measured.to_8_bits(image)
    assert pixels.shape == (100, 100, 3)
    assert pixels[0, :4, 0].tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (7000, 9500), (12.5, 13.25), (-40, 70000)])
def test_each_value_of_16_bits_is_scaled_and_rounded(low: float, high: float) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    before = values.copy()
    pixels = PixelRange(low, high).to_8_bits(values)
    inside = np.clip(values.astype(np.float32), low, high)
    expected = np.rint((inside - low) * (255 / (high - low)))
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(values, before)


def test_image_of_one_value_is_black() -> None:
    image = np.full((8, 8), 500, np.uint16)
    assert measure_range([image]).to_8_bits(image).max() == 0


def test_live_thermal_frames_keep_the_range_of_the_first() -> None:
    class ThermalCapture:
        def __init__(self) -> None:
            self.offset = 0

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.offset += 50
            ramp = np.arange(160, dtype=np.uint16) * 2 + 7000 + self.offset
            return self.offset <= 150, np.tile(ramp, (120, 1))

        def get(self, property: int, /) -> float:  # noqa: A002
            return 10.0 if property == cv2.CAP_PROP_FPS else 0.0

        def release(self) -> None:
            pass

    frames = list(CaptureSource("thermal", ThermalCapture(), "failed", every_frame=True))
    columns = [int(np.argmax(frame.image[0, :, 0] >= 128)) for frame in frames]
    assert columns == [columns[0], columns[0] - 25, columns[0] - 50]
