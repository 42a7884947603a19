"""Video files, decoded by OpenCV's FFmpeg. Damaged frames are left out, counted and named."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.frames import Frame, FrameMemory, Image
from edge.sources.video_container import count_frames, is_cut

FALLBACK_FPS = 30.0
"""Frame rate of files that state none, or an impossible one."""
MAX_FAILED_READS = 1000
"""Consecutive failed reads after which a video counts as ended while frames that it announces are missing."""
MAX_FAILED_READS_AT_END = 20
"""The same when no announced frame is missing. 1000 take as long as 10 frames of MPEG-4, and more on a busy
machine. The announced number may be an estimate that is too low, so a few failed reads are no end yet."""
STEADY_STEPS = 8
"""Latest time steps between frames, by which gaps are measured."""
STEP_TOLERANCE = 0.25
"""Largest relative difference of a time step from the median in a steady rhythm."""
NAMED_FRAMES = 5


@dataclass(frozen=True)
class DecodedFrame:
    """A frame of a video.

    Attributes:
        index: Number in the video, counting the frames that were lost before it.
        stamp_s: Time stamp of the container in seconds.
        image: (H, W, 3), uint8, BGR.
    """

    index: int
    stamp_s: float
    image: Image


class VideoSource:
    """A video file, rotated as its metadata says.

    Frames that cannot be decoded leave a gap in the frame indices.

    Raises:
        InputError: The file is empty, is no video, or has no frame that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; expected a video file: copy it again")
        try:
            path.open("rb").close()
        except OSError as error:  # OpenCV gives no reason
            raise InputError(
                f"cannot read {path}: {error.strerror}; expected a video file that this user may read"
            ) from None
        self._capture = open_video(path)
        self._frames = decode_frames(self._capture)
        first = next(self._frames, None) if self._capture.isOpened() else None
        if first is None:
            self._capture.release()
            raise InputError(
                f"{path} has no frame that can be decoded; expected a complete video file that FFmpeg reads "
                "(a truncated MP4 whose index came last cannot be read): copy or convert it again"
            )
        self._path, self._first, self._lost = path, first, set(range(first.index))
        self._end: str | None = None
        self.name = str(path)
        self.height, self.width = first.image.shape[:2]
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._stated_fps = self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else FALLBACK_FPS
        self.length: int | None = announced_frames(self._capture)
        self._notes = _describe_depth(self._capture)

    @property
    def damage(self) -> list[str]:
        """What was damaged in the part that has been read."""
        texts = [describe_damage(self._lost, self._end), self._notes]
        return [f"{printable(self.name)}: {text}" for text in texts if text]

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames that can be decoded."""
        frame: DecodedFrame | None = self._first
        start_s = self._first.stamp_s - (self._first.index / self.fps)
        expected, last_s = self._first.index, -math.inf
        while frame is not None:
            self._lost.update(range(expected, frame.index))
            expected = frame.index + 1
            media_s = frame.stamp_s - max(start_s, 0.0)
            if self.fps != self._stated_fps:  # the user knows better
                media_s = frame.index / self.fps
            elif not media_s > last_s:  # the container has no time stamps
                media_s = last_s + 1 / self.fps if math.isfinite(last_s) else 0.0
            last_s = media_s
            yield Frame(frame.index, media_s, frame.image)
            frame = next(self._frames, None)
        self._end = describe_end(self._path, expected, self.length)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def open_video(path: Path) -> cv2.VideoCapture:
    """Open a video file; the caller checks whether it is open."""
    # The absolute path, because FFmpeg takes "12:00.avi" for a URL.
    return cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)


def announced_frames(capture: cv2.VideoCapture) -> int | None:
    """Return the number of frames that FFmpeg announces, which may be an estimate; None without one."""
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and 0 < count < 1e9 else None


def decode_frames(capture: cv2.VideoCapture, position: int = 0) -> Iterator[DecodedFrame]:
    """Yield the frames that can be decoded.

    Frames are counted. After failed reads, the time since the last frame gives the number of lost frames if
    the rhythm is steady, else the number of failed reads does. Just after damage a decoder also drops frames
    without a failed read; the time tells those, too.

    Args:
        capture: The open video.
        position: Index of the next frame.
    """
    rhythm = _Rhythm(capture.get(cv2.CAP_PROP_FPS))
    last_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3 if position else math.nan
    failed_reads, frames_since_damage = 0, STEADY_STEPS
    announced = announced_frames(capture) or math.inf
    memory, shape = FrameMemory(), None
    while failed_reads < (MAX_FAILED_READS if position < announced else MAX_FAILED_READS_AT_END):
        ok, image = _read(capture, memory.new_image(shape) if shape else None)
        if not ok or image is None:
            failed_reads += 1
            frames_since_damage = 0
            continue
        shape = image.shape
        stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        if frames_since_damage == STEADY_STEPS:
            rhythm.add(stamp_s - last_s)
        elif stamp_s <= last_s and rhythm.is_known:
            continue  # a frame that the decoder made up, out of order
        else:
            position += rhythm.count_missing(stamp_s - last_s, failed_reads)
            frames_since_damage += 1
        yield DecodedFrame(position, stamp_s, image)
        position, last_s, failed_reads = position + 1, stamp_s, 0


def count_packets(path: Path) -> int:
    """Return the number of coded frames in a video file, which are read and not decoded."""
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    packets = failed_reads = 0
    while capture.isOpened() and failed_reads < MAX_FAILED_READS:
        if capture.grab():
            packets, failed_reads = packets + 1, 0
        else:
            failed_reads += 1
    capture.release()
    return packets


def describe_end(path: Path, end: int, announced: int | None) -> str | None:
    """Return how a video that was read to its end is incomplete; None if it is not, or it cannot be told.

    Args:
        path: The file.
        end: Number of frames up to the last one that could be decoded.
        announced: Number of frames that FFmpeg announces.
    """
    if announced is None or end >= announced:
        return None
    with suppress(OSError):
        if is_cut(path):
            return f"the file is cut: it ends at frame {end} of the {announced} it announces"
        count = count_frames(path, announced)
        if count is not None and end < count:
            return f"{_count(count - end)} at the end cannot be decoded, of {count} in the file"
    return None


def describe_damage(lost: Collection[int], end: str | None) -> str:
    """Return the damage of a video as one line: the lost frames, and its end; empty without damage."""
    parts = []
    if lost:
        names = [str(index) for index in sorted(lost)]
        rest = f" and {len(names) - NAMED_FRAMES} more" if len(names) > NAMED_FRAMES else ""
        parts.append(f"{_count(len(names))} cannot be decoded: {', '.join(names[:NAMED_FRAMES])}{rest}")
    return "; ".join([*parts, *([end] if end else [])])


def _describe_depth(capture: cv2.VideoCapture) -> str:
    """Return a note for a video of grey values of 10 to 16 bits, such as thermal counts; empty for others."""
    # FFmpeg's tag of these formats is Y1, a zero byte and the number of bits.
    tag = int(max(0.0, capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)))
    bits = tag >> 24
    if tag & 0xFFFFFF != 0x3159 or not 10 <= bits <= 16:
        return ""
    return f"decoding keeps 8 of the {bits} bits of its pixels; extract its frames as 16-bit PNG images"


def _count(frames: int) -> str:
    return f"{frames} frame{'s' * (frames != 1)}"


def _read(capture: cv2.VideoCapture, out: Image | None) -> tuple[bool, Image | None]:
    """Return whether a frame was read, and the frame: `out`, if that has its shape."""
    try:
        ok, image = capture.read(out)
    except cv2.error:  # some versions of OpenCV raise it for a damaged JPEG
        return False, None
    return ok, image  # type: ignore[return-value]


class _Rhythm:
    """Time steps between the latest frames, which tell how many frames a gap lacks."""

    def __init__(self, fps: float) -> None:
        self._step_s = 1 / fps if math.isfinite(fps) and fps > 0 else math.nan
        self._steps: deque[float] = deque(maxlen=STEADY_STEPS)

    @property
    def is_known(self) -> bool:
        """Whether the container has time stamps."""
        return len(self._steps) > 1

    def add(self, step_s: float) -> None:
        """Add the step between two frames without damage."""
        if step_s > 0:
            self._steps.append(step_s)

    def count_missing(self, step_s: float, failed_reads: int) -> int:
        """Return the number of frames that a step lacks."""
        usual = median(self._steps) if self.is_known else self._step_s
        outliers = sum(abs(step - usual) > STEP_TOLERANCE * usual for step in self._steps)
        frames = step_s / usual if usual > 0 else math.nan
        is_steady = outliers <= len(self._steps) // 4 and 0 < frames < 1e9
        if is_steady and abs(frames - round(frames)) <= STEP_TOLERANCE:
            return max(0, round(frames) - 1)
        return failed_reads
