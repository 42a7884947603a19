"""A source as it is read: on from where it was left, or decoded ahead; its frames held to those before."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from edge.core.frames import Frame, Source
from edge.core.run_status import Status
from edge.pipeline.bounded_queue import BoundedQueue

AHEAD = 2
"""Decoded frames that wait: enough to overlap, few enough to be small."""
LATE_S = 1.0
"""A stamp of capture is believed if it is at most this old on arrival."""


class FrameReader:
    """A source that is read once, on from where it was left; its ids go on from `first`.

    `came_s`: when the last frame came, or was decoded (monotonic, s).
    """

    def __init__(self, source: Source, first: int = 0) -> None:
        self.source, self.next = source, first
        """`next`: the id that the next frame should have."""
        self._first, self._frames, self.came_s = first, iter(source), 0.0
        self._shape: tuple[int, ...] | None = None

    def read(self) -> Frame | None:
        """Return the next frame, None at the end; raises what the source's frames raise."""
        frame = next(self._frames, None)
        if frame is not None and self._first:
            frame = replace(frame, index=self._first + frame.index)
        self.came_s = time.monotonic()
        return frame

    def close(self) -> None:
        """Nothing to let go of: the source is its opener's."""

    def checked(self, frame: Frame, status: Status) -> Frame | None:
        """Hold a camera's frame to the ids, clock and size of those before.

        What is odd is told to `status`, once an episode. None: the frame was seen before.
        """
        missed = frame.index - self.next
        status.report_recovery("source")
        if missed < 0:
            status.report_fault(
                "frames", f"frame {frame.index} came where {self.next} was due, and is left out"
            )
            return None
        self.next = frame.index + 1
        if missed:
            status.report_fault(
                "frames", f"{missed} before frame {frame.index} were lost or could not be decoded"
            )
            status.count_dropped(missed)
        else:
            status.report_recovery("frames")
        now = self.came_s
        if not now - LATE_S <= frame.capture_s <= now:
            off = f"{frame.capture_s - now:+.3f} s"
            status.report_fault(
                "stamps", f"the source's clock is off by {off}: frames get their time of arrival"
            )
            frame = replace(frame, capture_s=now)
        else:
            status.report_recovery("stamps")
        shape = frame.image.shape
        self._shape = self._shape or shape
        if shape != self._shape:
            sizes = [f"{width}x{height}" for height, width, *_ in (shape, self._shape)]
            status.report_fault("size", "frames are {} now, and were {}".format(*sizes))
        else:
            status.report_recovery("size")
        return frame


class PrefetchingReader(FrameReader):
    """A file that is decoded ahead, on a thread of its own, while the frames before are prepared and run."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._decoded: BoundedQueue[tuple[Frame, float]] = BoundedQueue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._decode, name="aerogaze-decoder", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        """As `FrameReader` says."""
        decoded = self._decoded.get()
        if decoded is not None:
            frame, self.came_s = decoded
            return frame
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Decode no more, and let go of whoever waits for a frame; the source stays open."""
        self._decoded.close()
        self._thread.join()

    def _decode(self) -> None:
        try:
            for frame in self._frames:
                if self._decoded.put((frame, time.monotonic())) is None:
                    break
        except BaseException as error:  # SystemExit too: it would end this thread alone
            self._error = error
        finally:
            self._decoded.end()
