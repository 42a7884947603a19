"""Readers of a source: resume indices after a reconnect, check order and time stamps, decode ahead."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from edge.core.frames import Frame, Source
from edge.core.run_status import Status
from edge.core.stage_times import DECODE, SOURCE, StageTimes
from edge.pipeline.bounded_queue import BoundedQueue

PREFETCHED_FRAMES = 2
"""Decoded frames that wait: enough to overlap decoding with inference, few enough to save memory."""
MAX_FRAME_AGE_S = 1.0
"""A camera's time stamp is accepted if it is at most this old when the frame arrives."""


class FrameReader:
    """Reads a source once. The source is not closed: it belongs to the caller.

    Args:
        source: Source of frames.
        times: Times of the run, which get the time that a read takes.
        first_index: Index of the first frame, to continue the indices of an earlier source.

    Attributes:
        source: Source of frames.
        next_index: Index that the next frame should have.
        arrival_s: Time when the last frame arrived or was decoded (monotonic clock).
    """

    def __init__(self, source: Source, times: StageTimes, first_index: int = 0) -> None:
        self._times = times
        self.source, self.next_index, self.arrival_s = source, first_index, 0.0
        self._first_index, self._frames = first_index, iter(source)
        self._size: tuple[int, int] | None = None

    def read(self) -> Frame | None:
        """Return the next frame, or None at the end; errors of the source pass through."""
        with self._times.measure(SOURCE):
            frame = next(self._frames, None)
        if frame is not None and self._first_index:
            frame = replace(frame, index=self._first_index + frame.index)
        self.arrival_s = time.monotonic()
        return frame

    def close(self) -> None:
        """Do nothing: this reader has no thread."""

    def check(self, frame: Frame, status: Status) -> Frame | None:
        """Check index, time stamp and size of a camera's frame, and report irregularities as faults.

        Returns:
            The frame, with its time of arrival if its time stamp is wrong; None for a repeated frame.
        """
        status.report_recovery("source")
        missing = frame.index - self.next_index
        if missing < 0:
            status.report_fault(
                "frames", f"got frame {frame.index} where {self.next_index} was expected; it is skipped"
            )
            return None
        self.next_index = frame.index + 1
        if missing:
            status.report_fault(
                "frames", f"{missing} frames before frame {frame.index} were lost or could not be decoded"
            )
            status.count_dropped(missing)
        else:
            status.report_recovery("frames")
        frame = self._check_time_stamp(frame, status)
        self._check_size(frame, status)
        return frame

    def _check_time_stamp(self, frame: Frame, status: Status) -> Frame:
        now = self.arrival_s
        if now - MAX_FRAME_AGE_S <= frame.capture_s <= now:
            status.report_recovery("stamps")
            return frame
        status.report_fault(
            "stamps",
            f"the clock of the source is off by {frame.capture_s - now:+.3f} s: "
            "frames get their time of arrival",
        )
        return replace(frame, capture_s=now)

    def _check_size(self, frame: Frame, status: Status) -> None:
        size = frame.width, frame.height
        self._size = self._size or size
        if size == self._size:
            status.report_recovery("size")
            return
        (width, height), (first_width, first_height) = size, self._size
        status.report_fault(
            "size", f"the frame size changed from {first_width}x{first_height} to {width}x{height}"
        )


class PrefetchingReader(FrameReader):
    """Reader that decodes a file ahead, on a thread of its own, while earlier frames are prepared and run."""

    def __init__(self, source: Source, times: StageTimes) -> None:
        super().__init__(source, times)
        self._decoded: BoundedQueue[tuple[Frame, float]] = BoundedQueue(PREFETCHED_FRAMES)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._decode, name="aerogaze-decoder", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        """Return the next frame, or None at the end; errors of the source pass through."""
        decoded = self._decoded.get()
        if decoded is not None:
            frame, self.arrival_s = decoded
            return frame
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Stop decoding and wake a thread that waits for a frame."""
        self._decoded.abort()
        self._thread.join()

    def _decode(self) -> None:
        try:
            while True:
                with self._times.measure(DECODE):
                    frame = next(self._frames, None)
                if frame is None:
                    break
                if self._decoded.put((frame, time.monotonic())) is None:
                    break
        except BaseException as error:  # also SystemExit, which would silently end this thread only
            self._error = error
        finally:
            self._decoded.finish()
