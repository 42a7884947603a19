"""Frames that stay in the GPU's memory, for an engine that takes them raw; a small picture goes to the CPU.

A Jetson's decoder or camera writes NV12 frames to NVMM. The pipeline has two ends: `frames`, whose buffers
CUDA copies on the GPU, and `pictures`, which NVIDIA's scaler makes small, for outputs and for the estimate of
the camera's motion. Whatever of this is missing or fails, the CPU path takes over, and the log says why.

Not yet seen on hardware: the texts of the pipelines are tested, and everything else on stand-ins for
GStreamer's elements, NvBufSurface and CUDA.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from edge.core.errors import HangError, InputError
from edge.core.frames import DeviceRequest, Frame, Image, Source, find_damage
from edge.core.locks import LOG
from edge.sources.gstreamer import (
    EVERY_FRAME_SINK,
    JETSON_DECODER,
    JETSON_SCALER,
    NEWEST_FRAME_SINK,
    OPEN_TIMEOUT_S,
    compressed_video,
    csi_camera,
    parse_csi,
)
from edge.sources.image_folder import choose_scale
from edge.sources.nvmm.pipeline import NO_STAMP, Pipeline, Sample
from edge.sources.nvmm.surface import map_image
from edge.sources.opencv_capture import FALLBACK_FPS, GONE_S, FrameGapDetector, open_with_timeout
from edge.sources.public_name import public_name

FRAMES, PICTURES = "frames", "pictures"
"""Names of the ends of the pipeline."""
QUEUE = "queue max-size-buffers=1"
"""Start of a branch, with a thread of its own; a longer one would keep buffers from the decoder."""


def open_nvmm(
    name: str, request: DeviceRequest, every_frame: bool, open_on_cpu: Callable[[], Source]
) -> Source:
    """Open a video file, an RTSP stream or a camera of a Jetson with frames in the GPU's memory.

    Args:
        name: Path, address or `csi:N[:WIDTHxHEIGHT[@FPS]]`.
        request: What the engine takes.
        every_frame: Each frame counts, as of a file; else only the newest does.
        open_on_cpu: Opens the same source with frames in the CPU's memory.

    Returns:
        The source: if anything fails, one with frames in the CPU's memory.

    Raises:
        InputError: The CPU path fails, too.
    """
    if request.is_refused:
        return open_on_cpu()
    try:
        source = open_with_timeout(
            2 * OPEN_TIMEOUT_S,
            lambda: NvmmSource(name, request, every_frame, open_on_cpu),
            f"{public_name(name)} does not open",
        )
    except HangError:  # the CPU path would wait for the same driver
        raise
    except InputError as error:
        _log_cpu_path(public_name(name), error)
        return open_on_cpu()
    LOG.info(f"frames of {source.name} stay in the GPU's memory")
    return source


def nvmm_pipeline(name: str, picture: tuple[int, int], sink: str) -> str:
    """Return the pipeline of a source.

    Args:
        name: Path, address or camera, as for `open_nvmm`.
        picture: Width and height of the pictures.
        sink: The end of both branches, without its name.

    Raises:
        InputError: The hardware does not decode the file, or the name of the camera has another form.
    """
    if name.startswith("csi:"):
        head = csi_camera(*parse_csi(name))
    else:
        head = f"{compressed_video(name)[0]} ! {JETSON_DECODER}"
    return (
        f"{head} ! tee name=split "
        f"split. ! {QUEUE} ! video/x-raw(memory:NVMM),format=NV12 ! {sink} name={FRAMES} "
        f"split. ! {QUEUE} ! {JETSON_SCALER} ! "
        f"video/x-raw,width={picture[0]},height={picture[1]},format=BGRx ! {sink} name={PICTURES}"
    )


class _GoneError(InputError):
    """A camera or a stream gives no more frames: it is lost, and not only to the GPU."""


class NvmmSource:
    """Frames in the GPU's memory, each with a small picture.

    After a frame that cannot be taken on the GPU, the other frames of a file come from the CPU path. A camera
    or a stream ends with an error, and gives frames in the CPU's memory when it is opened again: opening may
    take longer than a live run waits for a frame.

    Args:
        name: Path, address or camera, as for `open_nvmm`.
        request: What the engine takes.
        every_frame: Each frame counts; else only the newest does.
        open_on_cpu: Opens the same source with frames in the CPU's memory.

    Raises:
        InputError: The pipeline, or the first frame, cannot be used. While reading: the source is gone.
    """

    length: int | None = None

    def __init__(
        self, name: str, request: DeviceRequest, every_frame: bool, open_on_cpu: Callable[[], Source]
    ) -> None:
        self.name, self._request, self._every_frame = public_name(name), request, every_frame
        self._open_on_cpu = open_on_cpu
        self._cpu_source: Source | None = None
        self._is_open = False
        self.width, self.height = request.reader.width, request.reader.height
        self.fps = FALLBACK_FPS
        self._scale = choose_scale(self.width, self.height, request.min_picture)
        picture = self.width // self._scale, self.height // self._scale
        sink = EVERY_FRAME_SINK if every_frame else NEWEST_FRAME_SINK
        self._gaps = FrameGapDetector()
        self._pipeline = Pipeline(nvmm_pipeline(name, picture, sink), (FRAMES, PICTURES))
        try:
            self._first = self._read(0, OPEN_TIMEOUT_S)
            if self._first is None:
                raise InputError("the video has no frame")
            self._is_open = True
        except BaseException:
            self._pipeline.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; the first one, which is old by now, only if each frame counts."""
        index, first, self._first = 0, self._first, None
        if self._every_frame and first is not None:
            yield first
            index = 1
        del first  # its memory can be used again
        try:
            while (frame := self._read(index, GONE_S)) is not None:
                index = frame.index + 1
                yield frame
                del frame
        except _GoneError:
            raise
        except InputError as error:
            _log_cpu_path(self.name, error)
        else:
            return
        if not self._every_frame:
            self._request.is_refused = True
            raise InputError(f"{self.name} is opened again, with frames in the CPU's memory")
        yield from self._read_on_cpu(index)

    @property
    def damage(self) -> tuple[str, ...]:
        """What the CPU path could not read; GStreamer tells only of errors, after which it takes over."""
        return () if self._cpu_source is None else find_damage(self._cpu_source)

    def close(self) -> None:
        """Stop the pipeline, and close the source of the CPU path if there is one."""
        self._pipeline.close()
        if self._cpu_source is not None:
            self._cpu_source.close()

    def _read(self, index: int, seconds: float) -> Frame | None:
        """Return the next frame, which keeps no buffer of the pipeline; None at the end of a file.

        Args:
            index: Index of the frame, if none is missing before it.
            seconds: How long to wait for it.

        Raises:
            InputError: There is none, or it cannot be taken on the GPU.
        """
        samples = self._pull(seconds)
        if samples is None:
            return None
        arrival_s = time.monotonic()  # before the copies, so that they count as latency
        if not self._is_open:
            self.fps = samples[FRAMES].fps or FALLBACK_FPS
        if not self._every_frame:
            index += self._gaps.count_missing(samples[FRAMES].stamp_ns / 1e9)
        size = self.width, self.height
        with samples[FRAMES].mapped() as (address, size_bytes), map_image(address, size_bytes, size) as image:
            device = self._request.reader.read(*image)
        capture_s = index / self.fps if self._every_frame else arrival_s
        return Frame(index, capture_s, _read_picture(samples[PICTURES]), self._scale, device=device)

    def _pull(self, seconds: float) -> dict[str, Sample] | None:
        """Return the next frame and its picture; None at the end of a file.

        The branches of a live pipeline may drop different frames: time stamps tell which belong together.

        Raises:
            InputError: There is no frame, or time stamps do not tell which frame and picture belong together.
        """
        end_s = time.monotonic() + seconds
        samples: dict[str, Sample] = {}
        while True:
            for sink in (FRAMES, PICTURES):
                if sink not in samples:
                    sample = self._pipeline.pull(sink, max(0.0, end_s - time.monotonic()))
                    if sample is None:
                        self._check_end(sink, seconds)
                        return None
                    samples[sink] = sample
            frame_ns, picture_ns = (samples[sink].stamp_ns for sink in (FRAMES, PICTURES))
            if frame_ns == picture_ns and (frame_ns != NO_STAMP or self._every_frame):
                return samples
            if self._every_frame or NO_STAMP in (frame_ns, picture_ns):
                raise InputError("time stamps do not tell which frame and picture belong together")
            del samples[FRAMES if frame_ns < picture_ns else PICTURES]

    def _check_end(self, sink: str, seconds: float) -> None:
        """Return if a file has ended.

        Raises:
            InputError: There is no frame for another reason.
        """
        error, is_at_end = self._pipeline.find_error(), self._pipeline.is_at_end(sink)
        if not error and self._every_frame and is_at_end:
            return
        silence = "it has ended" if is_at_end else f"no frame in {seconds:g} s"
        reason = f"GStreamer: {error}" if error else silence
        if self._is_open and not self._every_frame:
            raise _GoneError(f"{self.name} gives no more frames ({reason})")
        raise InputError(reason)

    def _read_on_cpu(self, index: int) -> Iterator[Frame]:
        """Yield the frames of a file from an index on by the CPU path."""
        self._pipeline.close()
        self._cpu_source = source = self._open_on_cpu()
        source.fps = self.fps
        for frame in source:
            if frame.index >= index:
                yield frame


def _read_picture(sample: Sample) -> Image:
    """Return a copy of a BGRx buffer as (H, W, 3), BGR."""
    with sample.mapped() as (address, size_bytes):
        if size_bytes != sample.width * sample.height * 4:
            raise InputError(f"a picture of {sample.width}x{sample.height} has {size_bytes} bytes")
        memory = memoryview((ctypes.c_ubyte * size_bytes).from_address(address))
        pixels = np.frombuffer(memory, np.uint8)
        picture = cv2.cvtColor(pixels.reshape(sample.height, sample.width, 4), cv2.COLOR_BGRA2BGR)
        return np.asarray(picture, np.uint8)


def _log_cpu_path(name: str, error: InputError) -> None:
    LOG.warning(f"frames of {name} pass through the CPU's memory: {error}")
