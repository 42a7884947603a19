"""Captures on doubles of a driver, whose time is a manual clock."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.sources.opencv_capture import GONE_S, RETRY_S, CaptureClock, CaptureSource, FrameGapDetector
from tests.support.cameras import FakeDriver

IMAGE = np.zeros((4, 6, 3), np.uint8)


def open_fake(driver: FakeDriver) -> CaptureSource:
    clock = CaptureClock(driver.clock, driver.clock.sleep)
    return CaptureSource("camera", driver, "no camera", clock=clock)


def test_damaged_frames_leave_a_gap_and_the_drivers_stamp_is_kept() -> None:
    damaged = [None, cv2.error("imdecode"), np.empty((0, 0, 3), np.uint8)]
    driver = FakeDriver([(6, 4)], [IMAGE, IMAGE, *damaged, IMAGE])
    source = open_fake(driver)
    assert (source.width, source.height, source.fps) == (6, 4, 30)
    frames = iter(source)
    received = []
    for _ in range(2):
        frame = next(frames)
        received.append(frame.index)
        assert driver.clock() - frame.capture_s == pytest.approx(driver.latency_s)
    assert received[0] == 0
    assert received[1] > 1
    last_frame_s = driver.clock()
    with pytest.raises(InputError, match="gives no more frames"):
        next(frames)
    assert GONE_S < driver.clock() - last_frame_s < GONE_S + 2 * RETRY_S


def test_frames_lost_while_reads_fail_are_counted_by_the_time() -> None:
    class InterruptedStream(FakeDriver):
        """A stream that is down for half a second after its second frame."""

        calls, down_since_s = 0, 0.0

        def read(self) -> tuple[bool, object]:
            self.calls += 1
            if self.calls == 3:
                self.down_since_s = self.clock()
            if self.clock() - self.down_since_s < 0.5:
                return False, None
            return True, IMAGE

    frames = iter(open_fake(InterruptedStream([(6, 4)])))
    first, second, third = (next(frames).index for _ in range(3))
    assert first == 0
    assert second - first - 1 == 15  # 0.5 s at 30 frames per second, and not one per attempt
    assert third == second + 1


def test_frames_that_a_decoder_skips_are_counted_by_their_stamps() -> None:
    gaps = FrameGapDetector()
    stamps = [index / 30 for index in range(60) if index not in (20, 33, 34)]
    gaps_by_frame = {round(stamp * 30): missing for stamp in stamps if (missing := gaps.count_missing(stamp))}
    assert gaps_by_frame == {21: 1, 35: 2}


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ([0.0] * 40, 0),  # a capture without time stamps
        ([1 / 30] * 20 + [1 / 15] * 40 + [1 / 30] * 20, 2),  # slower in the dark, and back
        ([1 / 30] * 20 + [1 / 7.5] * 40 + [1 / 30] * 20, 6),
        ([0.01, 0.01, 0.08] * 100, 0),  # in bursts
        ([1 / 30] * 20 + [500.0] + [1 / 30] * 20, 0),  # a new stream
    ],
)
def test_unsteady_stamps_give_next_to_no_gaps(steps: list[float], most: int) -> None:
    gaps = FrameGapDetector()
    assert sum(gaps.count_missing(stamp) for stamp in itertools.accumulate(steps)) <= most


@pytest.mark.parametrize("latency_s", [-1e6, -0.5, 5.0, 1e6])
def test_stamp_of_another_clock_is_replaced_by_the_time_of_arrival(latency_s: float) -> None:
    driver = FakeDriver([(6, 4)], [IMAGE, IMAGE], latency_s)
    assert next(iter(open_fake(driver))).capture_s == driver.clock()


def test_capture_without_a_first_frame_is_released() -> None:
    driver = FakeDriver([(6, 4)])
    with pytest.raises(InputError, match="no camera at all"):
        CaptureSource("camera", driver, "no camera at all")
    assert driver.released
