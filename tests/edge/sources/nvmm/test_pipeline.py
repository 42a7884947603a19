"""The calls of GStreamer, on the real library, with elements that every machine has."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from edge.core.errors import InputError
from edge.sources.nvmm import pipeline as module
from edge.sources.nvmm.pipeline import NO_STAMP, Pipeline

WAIT_S = 60.0
TWO_ENDS = (
    "videotestsrc num-buffers=3 pattern=white ! video/x-raw,format=BGRx,width=32,height=16,framerate=15/1 ! "
    "tee name=split split. ! queue ! appsink sync=false name=frames "
    "split. ! queue ! videoscale ! video/x-raw,width=8,height=4 ! appsink sync=false name=pictures"
)


@pytest.fixture
def two_ends() -> Iterator[Pipeline]:
    try:
        pipeline = Pipeline(TWO_ENDS, ("frames", "pictures"))
    except InputError as error:
        pytest.skip(f"needs GStreamer (apt-get install gstreamer1.0-plugins-base): {error}")
    yield pipeline
    pipeline.close()


def test_both_ends_give_the_same_frames_with_size_rate_and_time(two_ends: Pipeline) -> None:
    stamps = []
    for _ in range(3):
        frame, picture = (two_ends.pull(sink, WAIT_S) for sink in ("frames", "pictures"))
        assert frame is not None
        assert picture is not None
        assert (frame.width, frame.height, frame.fps) == (32, 16, 15.0)
        assert (picture.width, picture.height) == (8, 4)
        assert frame.stamp_ns == picture.stamp_ns != NO_STAMP
        stamps.append(frame.stamp_ns)
        with picture.mapped() as (address, size_bytes):
            pixels = ctypes.string_at(address, size_bytes)
        assert len(pixels) == 8 * 4 * 4
        assert set(pixels[0::4]) == {255}
    assert stamps == [0, 66_666_666, 133_333_333]
    assert two_ends.pull("frames", WAIT_S) is None
    assert two_ends.is_at_end("frames")
    assert two_ends.find_error() == ""


def test_missing_element_is_named(two_ends: Pipeline) -> None:
    with pytest.raises(InputError, match='GStreamer: no element "nvv4l2decoder"'):
        Pipeline("fakesrc ! nvv4l2decoder ! appsink name=frames", ("frames",))


def test_address_in_an_error_is_left_out(two_ends: Pipeline) -> None:
    with pytest.raises(InputError) as error:
        Pipeline("nowhere://me:secret@host/path ! appsink name=frames", ("frames",))
    assert "(address)" in str(error.value)
    assert "secret" not in str(error.value)


def test_missing_sink_is_named(two_ends: Pipeline) -> None:
    with pytest.raises(InputError, match="the pipeline has no appsink pictures"):
        Pipeline("videotestsrc ! appsink name=frames", ("frames", "pictures"))


def test_error_of_an_element_is_told_and_ends_the_stream(two_ends: Pipeline) -> None:
    pipeline = Pipeline("videotestsrc ! identity error-after=2 ! appsink name=frames", ("frames",))
    frames = 0
    while pipeline.pull("frames", WAIT_S) is not None:
        frames += 1
    assert frames <= 2
    assert "Failed after iterations as requested" in pipeline.find_error()
    pipeline.close()
    pipeline.close()


@pytest.fixture
def load_again() -> Iterator[None]:
    module._load.cache_clear()
    yield
    module._load.cache_clear()


@pytest.mark.usefixtures("load_again")
def test_machine_without_gstreamer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def cdll(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", cdll)
    with pytest.raises(InputError, match=r"GStreamer cannot be loaded \(libgstreamer-1.0.so.0: cannot open"):
        Pipeline("videotestsrc ! fakesink", ())


@pytest.mark.usefixtures("load_again")
def test_gstreamer_that_lacks_a_function_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    other_library = ctypes.CDLL(None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: other_library)
    monkeypatch.setattr(module, "_FUNCTIONS", {"gst_of_the_future": (None, 1)})
    with pytest.raises(InputError, match=r"GStreamer cannot be loaded \(.*gst_of_the_future"):
        Pipeline("videotestsrc ! fakesink", ())
