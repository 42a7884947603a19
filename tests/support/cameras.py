"""A double of a camera's driver, as OpenCV shows it."""

from __future__ import annotations

import cv2

from tests.support.clocks import ManualClock


class FakeDriver:
    """Capture that sets the nearest of its modes, stamps its frames, and fails on request.

    Attributes:
        modes: Sizes that the camera has.
        latency_s: Age of a frame when it is read.
        rates: Frame rates of raw frames and of JPEGs.
        is_jpeg: JPEGs were asked for.
        requested: Width and height that were asked for last.
        released: The capture was closed.
        clock: Time of the driver.
    """

    def __init__(
        self,
        modes: list[tuple[int, int]],
        reads: list[object] | None = None,
        latency_s: float = 0.02,
        rates: tuple[float, float] = (30.0, 30.0),
    ) -> None:
        self.modes, self.latency_s, self.rates, self.is_jpeg = modes, latency_s, rates, False
        self.reads = iter(reads or [])
        self.requested = [*modes[-1]]
        self.released = False
        self.clock = ManualClock()

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, object]:
        """Return the next of `reads`: an image, None for a failure, or an exception to raise."""
        image = next(self.reads, None)
        if isinstance(image, Exception):
            raise image
        return image is not None, image

    def set(self, property: int, value: float) -> bool:  # noqa: A002
        if property in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
            self.requested[property == cv2.CAP_PROP_FRAME_HEIGHT] = int(value)
        if property == cv2.CAP_PROP_FOURCC:
            self.is_jpeg = int(value) == cv2.VideoWriter.fourcc(*"MJPG")
        return True

    def get(self, property: int) -> float:  # noqa: A002
        width, height = self.requested
        nearest = min(self.modes, key=lambda mode: abs(mode[0] - width) + abs(mode[1] - height))
        return {
            cv2.CAP_PROP_FRAME_WIDTH: nearest[0],
            cv2.CAP_PROP_FRAME_HEIGHT: nearest[1],
            cv2.CAP_PROP_FPS: self.rates[self.is_jpeg],
            cv2.CAP_PROP_POS_MSEC: (self.clock() - self.latency_s) * 1e3,
        }.get(property, 0.0)

    def release(self) -> None:
        self.released = True
