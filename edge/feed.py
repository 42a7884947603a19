"""A source as it is read, on from where it was left, its frames held to those before."""

from __future__ import annotations

from dataclasses import replace

from edge.frames import Frame, Source
from edge.status import Status

LATE_S = 1.0
"""A stamp of capture is believed if it is at most this old on arrival."""


class Feed:
    """A source that is read once, on from where it was left; its ids go on from `first`."""

    def __init__(self, source: Source, first: int = 0) -> None:
        self.source, self.next = source, first
        """`next`: the id that the next frame should have."""
        self._first, self._frames = first, iter(source)
        self._shape: tuple[int, ...] | None = None

    def read(self) -> Frame | None:
        """Return the next frame, None at the end; raises what the source's frames raise."""
        frame = next(self._frames, None)
        if frame is not None and self._first:
            frame = replace(frame, index=self._first + frame.index)
        return frame

    def checked(self, frame: Frame, now: float, status: Status) -> Frame | None:
        """Hold a camera's frame, read at `now` (monotonic, s), to the ids, clock and size of those before.

        What is odd is told to `status`, once an episode. None: the frame was seen before.
        """
        missed = frame.index - self.next
        status.recovered("source")
        if missed < 0:
            status.fault("frames", f"frame {frame.index} came where {self.next} was due, and is left out")
            return None
        self.next = frame.index + 1
        if missed:
            status.fault("frames", f"{missed} before frame {frame.index} were lost or could not be decoded")
            status.drop(missed)
        else:
            status.recovered("frames")
        if not now - LATE_S <= frame.capture_s <= now:
            off = f"{frame.capture_s - now:+.3f} s"
            status.fault("stamps", f"the source's clock is off by {off}: frames get their time of arrival")
            frame = replace(frame, capture_s=now)
        else:
            status.recovered("stamps")
        shape = frame.image.shape
        self._shape = self._shape or shape
        if shape != self._shape:
            sizes = [f"{width}x{height}" for height, width, *_ in (shape, self._shape)]
            status.fault("size", "frames are {} now, and were {}".format(*sizes))
        else:
            status.recovered("size")
        return frame
