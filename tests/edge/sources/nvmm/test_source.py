from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge.core.errors import HangError, InputError
from edge.core.frames import DeviceFrame, DeviceRequest, Frame, find_damage
from edge.sources.gstreamer import EVERY_FRAME_SINK, NEWEST_FRAME_SINK
from edge.sources.nvmm import source as module
from edge.sources.nvmm.pipeline import NO_STAMP
from edge.sources.nvmm.source import NvmmSource, nvmm_pipeline, open_nvmm
from edge.sources.opencv_capture import STEADY_STEPS

VIDEO = Path(__file__).parents[1] / "videos" / "phone.webm"
STREAM = "rtsp://host/path"
BRANCHES = (
    " ! tee name=split split. ! queue max-size-buffers=1 ! video/x-raw(memory:NVMM),format=NV12 ! "
    "{sink} name=frames split. ! queue max-size-buffers=1 ! nvvidconv interpolation-method=5-Tap ! "
    "video/x-raw,width=320,height=180,format=BGRx ! {sink} name=pictures"
)
DECODER = " ! parsebin ! nvv4l2decoder enable-max-performance=true"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("csi:1:1280x720@60", "nvarguscamerasrc sensor-id=1 ! {nvmm},width=1280,height=720,framerate=60/1"),
        ("csi:0", "nvarguscamerasrc sensor-id=0 ! {nvmm},width=1280,height=720,framerate=30/1"),
        (STREAM, f'rtspsrc location="{STREAM}" latency=0 ! application/x-rtp,media=video{DECODER}'),
        (str(VIDEO), f'filesrc location="{VIDEO}"{DECODER}'),
    ],
)
@pytest.mark.parametrize("sink", [EVERY_FRAME_SINK, NEWEST_FRAME_SINK])
def test_pipeline_keeps_frames_in_nvmm_and_makes_small_pictures(name: str, head: str, sink: str) -> None:
    expected = head.format(nvmm="video/x-raw(memory:NVMM)") + BRANCHES.format(sink=sink)
    assert nvmm_pipeline(name, (320, 180), sink) == expected


class FakeSample:
    """A buffer of the fake pipeline: a frame, or a picture of 320 x 180 whose pixels are all its number."""

    width, height, fps = 320, 180, 20.0

    def __init__(self, number: int, stamp_ns: int | None = None) -> None:
        self.pixels = np.full((self.height, self.width, 4), number, np.uint8)
        self.stamp_ns = number * 50_000_000 if stamp_ns is None else stamp_ns

    @contextmanager
    def mapped(self) -> Iterator[tuple[int, int]]:
        yield self.pixels.ctypes.data, self.pixels.nbytes


class FakePipeline:
    """A pipeline whose ends give these buffers."""

    ends: dict[str, list[FakeSample]]
    texts: list[str]
    has_end = True

    def __init__(self, text: str, sinks: Sequence[str]) -> None:
        self.texts.append(text)
        self.is_closed = False

    def pull(self, sink: str, seconds: float) -> FakeSample | None:
        return self.ends[sink].pop(0) if self.ends[sink] else None

    def is_at_end(self, sink: str) -> bool:
        return self.has_end

    def find_error(self) -> str:
        return ""

    def close(self) -> None:
        self.is_closed = True


class FakeReader:
    """Takes frames whose stand-in for an EGL image is their number."""

    width, height = 1280, 720

    def read(self, egl_image: int, pitches: Sequence[int]) -> DeviceFrame:
        if egl_image == 13:
            raise InputError("the frame brings bad luck")
        return DeviceFrame(egl_image, self.width, self.height, lambda: np.zeros(0, np.uint8))


class CpuSource:
    """The same source by the CPU path: five frames."""

    name, width, height, fps = "cpu", 1280, 720, 20.0
    length: int | None = None
    damage = ("frame 4 is damaged",)

    def __init__(self) -> None:
        self.is_closed = False

    def __iter__(self) -> Iterator[Frame]:
        for index in range(5):
            yield Frame(index, index / self.fps, np.zeros((720, 1280, 3), np.uint8))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def cpu() -> CpuSource:
    return CpuSource()


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, cpu: CpuSource) -> Callable[..., Any]:
    """Return a function that opens a source whose pipeline gives frames and pictures of these numbers."""

    @contextmanager
    def map_image(address: int, size_bytes: int, size: tuple[int, int]) -> Iterator[tuple[int, list[int]]]:
        assert size == (1280, 720)
        yield ctypes.c_ubyte.from_address(address).value, [0, 0]

    def open_source(
        frames: Sequence[int | FakeSample],
        pictures: Sequence[int | FakeSample],
        name: str = STREAM,
        request: DeviceRequest | None = None,
    ) -> Any:
        ends = {"frames": frames, "pictures": pictures}
        FakePipeline.ends = {
            sink: [each if isinstance(each, FakeSample) else FakeSample(each) for each in end]
            for sink, end in ends.items()
        }
        FakePipeline.texts = []
        request = request or DeviceRequest(FakeReader(), (256, 144))
        return open_nvmm(name, request, name != STREAM, lambda: cpu)

    monkeypatch.setattr(module, "map_image", map_image)
    monkeypatch.setattr(module, "Pipeline", FakePipeline)
    return open_source


def read_live(source: NvmmSource, reason: str = "it has ended") -> list[Frame]:
    """Return the frames until the stream is gone for this reason."""
    frames: list[Frame] = []
    with pytest.raises(InputError, match=rf"rtsp://host/path gives no more frames \({reason}\)"):
        frames.extend(source)
    return frames


def numbers(frames: Sequence[Frame]) -> list[tuple[int, int]]:
    """Return the number of each frame on the GPU and that of its picture."""
    return [(frame.device.address if frame.device else -1, int(frame.image[0, 0, 0])) for frame in frames]


def test_frame_on_the_gpu_has_a_small_picture_and_the_size_of_the_whole(give: Callable[..., Any]) -> None:
    source = give(range(3), range(3), str(VIDEO))
    assert "width=320,height=180,format=BGRx" in FakePipeline.texts[0]
    assert (source.width, source.height, source.fps) == (1280, 720, 20.0)
    frames = list(source)
    assert numbers(frames) == [(0, 0), (1, 1), (2, 2)]
    assert {(frame.width, frame.height, frame.image.shape) for frame in frames} == {
        (1280, 720, (180, 320, 3))
    }
    assert [frame.capture_s for frame in frames] == [0.0, 0.05, 0.1]


def test_frames_and_pictures_that_were_dropped_differently_are_matched_by_time(
    give: Callable[..., Any],
) -> None:
    frames = read_live(give([0, 1, 3, 4, 6, 8], [0, 2, 3, 5, 6, 7, 8]))
    assert numbers(frames) == [(3, 3), (6, 6), (8, 8)]  # the first frame is old when reading starts


def test_live_frames_without_time_stamps_go_by_the_cpu(
    give: Callable[..., Any], cpu: CpuSource, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "aerogaze"):
        assert give([FakeSample(0, NO_STAMP)], [FakeSample(0, NO_STAMP)]) is cpu
    assert "time stamps do not tell which frame and picture belong together" in caplog.text


def test_frames_of_a_file_without_time_stamps_come_in_order(give: Callable[..., Any]) -> None:
    ends = [[FakeSample(number, NO_STAMP) for number in range(3)] for _ in range(2)]
    assert numbers(list(give(*ends, str(VIDEO)))) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(("pictures", "on_the_gpu"), [([0, 2, 3], 1), ([0, 1, 1, 2, 3], 2)])
def test_cpu_path_goes_on_where_a_branch_of_a_file_lost_or_repeated_a_frame(
    give: Callable[..., Any], pictures: list[int], on_the_gpu: int
) -> None:
    frames = list(give(range(4), pictures, str(VIDEO)))
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.device is not None for frame in frames] == [index < on_the_gpu for index in range(5)]


def test_stream_that_stops_without_an_end_is_gone(
    give: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = give(range(3), range(3))
    monkeypatch.setattr(FakePipeline, "has_end", False)
    assert numbers(read_live(source, "no frame in 1 s")) == [(1, 1), (2, 2)]


def test_capture_time_is_before_the_copies(give: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    read = FakeReader.read

    def copy(reader: FakeReader, egl_image: int, pitches: Sequence[int]) -> DeviceFrame:
        clock.now += 1
        return read(reader, egl_image, pitches)

    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(FakeReader, "read", copy)
    # The first frame, which is left out, was copied from 100 to 101.
    assert [frame.capture_s for frame in read_live(give(range(3), range(3)))] == [101, 102]


def test_missing_frames_of_a_steady_stream_leave_a_gap_in_the_indices(give: Callable[..., Any]) -> None:
    steady = range(STEADY_STEPS + 2)
    arrived = [*steady, steady[-1] + 3]
    frames = read_live(give(arrived, arrived))
    assert [frame.index for frame in frames] == [*range(STEADY_STEPS + 1), STEADY_STEPS + 3]


def test_cpu_path_goes_on_where_a_file_could_not_be_taken_on_the_gpu(
    give: Callable[..., Any], cpu: CpuSource, caplog: pytest.LogCaptureFixture
) -> None:
    source = give([0, 1, 13], [0, 1, 13], str(VIDEO))
    assert find_damage(source) == ()
    with caplog.at_level(logging.WARNING, "aerogaze"):
        frames = [(frame.index, frame.device is not None) for frame in source]
    assert frames == [(0, True), (1, True), (2, False), (3, False), (4, False)]
    assert [record.getMessage() for record in caplog.records] == [
        f"frames of {VIDEO} pass through the CPU's memory: the frame brings bad luck"
    ]
    assert find_damage(source) == cpu.damage
    source.close()
    assert cpu.is_closed


def test_stream_whose_frame_could_not_be_taken_on_the_gpu_is_opened_again_on_the_cpu(
    give: Callable[..., Any], cpu: CpuSource, caplog: pytest.LogCaptureFixture
) -> None:
    request = DeviceRequest(FakeReader(), (256, 144))
    source = give([0, 1, 2, 13], [0, 1, 2, 13], request=request)
    frames: list[Frame] = []
    with pytest.raises(InputError, match="is opened again, with frames in the CPU's memory"):
        frames.extend(source)
    assert numbers(frames) == [(1, 1), (2, 2)]
    assert "pass through the CPU's memory: the frame brings bad luck" in caplog.text
    assert give(range(3), range(3), request=request) is cpu


def test_stream_that_was_lost_is_opened_again_on_the_gpu(give: Callable[..., Any]) -> None:
    request = DeviceRequest(FakeReader(), (256, 144))
    read_live(give(range(3), range(3), request=request))
    assert numbers(read_live(give(range(3), range(3), request=request))) == [(1, 1), (2, 2)]


def test_first_frame_that_cannot_be_taken_opens_the_cpu_path(
    give: Callable[..., Any], cpu: CpuSource
) -> None:
    assert give([13], [13]) is cpu


def test_driver_that_hangs_at_the_opening_is_not_waited_for_twice(
    give: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, closed = threading.Event(), threading.Event()

    class HangingPipeline(FakePipeline):
        def __init__(self, text: str, sinks: Sequence[str]) -> None:
            super().__init__(text, sinks)
            answers.wait()

        def close(self) -> None:
            closed.set()

    monkeypatch.setattr(module, "OPEN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "Pipeline", HangingPipeline)
    with pytest.raises(HangError, match="rtsp://host/path does not open"):
        give([0], [0])
    answers.set()
    assert closed.wait(60)  # the source that came too late
