from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source
from edge.sources.v4l2 import select_mode
from tests.support.cameras import FakeDriver


@pytest.mark.parametrize(
    ("min_size", "expected"),
    [((256, 256), (640, 360)), ((256, 144), (320, 180)), ((1024, 576), (1280, 720)), (None, (1280, 720))],
)
def test_camera_gets_its_smallest_sufficient_mode(
    min_size: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    driver = FakeDriver([(320, 180), (640, 480), (640, 360), (1280, 720)])
    select_mode(driver, "v4l2:0", None, min_size)
    assert (driver.get(cv2.CAP_PROP_FRAME_WIDTH), driver.get(cv2.CAP_PROP_FRAME_HEIGHT)) == expected


def test_mode_that_is_asked_for_is_set_or_refused() -> None:
    select_mode(FakeDriver([(640, 480), (1280, 720)]), "v4l2:0:640x480", (640, 480, 30), (256, 256))
    driver = FakeDriver([(640, 480), (1280, 720)])
    with pytest.raises(InputError, match="no mode 1920x1080; it offers 1280x720"):
        select_mode(driver, "v4l2:0:1920x1080", (1920, 1080, None), None)
    assert driver.released


@pytest.mark.parametrize(("fps", "is_jpeg"), [(10, False), (30, True)])
def test_rate_that_only_jpegs_have_selects_jpegs(fps: int, is_jpeg: bool) -> None:
    driver = FakeDriver([(640, 480), (1280, 720)], rates=(9.99, 30.0))
    select_mode(driver, "v4l2:0", (1280, 720, fps), None)
    assert driver.is_jpeg == is_jpeg


def test_rate_that_the_camera_lacks_is_refused() -> None:
    driver = FakeDriver([(1280, 720)], rates=(10.0, 30.0))
    with pytest.raises(InputError, match="no mode 1280x720@60; it offers 1280x720@30 instead"):
        select_mode(driver, "v4l2:0:1280x720@60", (1280, 720, 60), None)
    assert driver.released


def test_size_that_only_jpegs_have_selects_jpegs() -> None:
    class LargeJpegDriver(FakeDriver):
        def set(self, property: int, value: float) -> bool:  # noqa: A002
            has_property = super().set(property, value)
            self.modes = [(640, 480), (1920, 1080)] if self.is_jpeg else [(640, 480)]
            return has_property

    driver = LargeJpegDriver([(640, 480)])
    select_mode(driver, "v4l2:0:1920x1080", (1920, 1080, None), None)
    assert driver.is_jpeg


def test_driver_that_reports_no_rate_is_trusted() -> None:
    driver = FakeDriver([(1280, 720)], rates=(-1.0, -1.0))
    select_mode(driver, "v4l2:0:1280x720@30", (1280, 720, 30), None)
    with pytest.raises(InputError, match="it offers 1280x720 instead"):
        select_mode(driver, "v4l2:0:640x480@30", (640, 480, 30), None)


def test_real_camera_gives_consecutive_frames() -> None:
    cameras = sorted(Path("/dev").glob("video*"))
    if not cameras:
        pytest.skip("no camera here: connect one that Linux shows as /dev/video*")
    source = open_source(str(cameras[0]))
    frames = iter(source)
    assert [next(frames).index for _ in range(5)] == [0, 1, 2, 3, 4]
    source.close()
