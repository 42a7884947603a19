from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.sources import gstreamer
from edge.sources.factory import is_camera, open_source, source_path
from edge.sources.gstreamer import (
    EVERY_FRAME_SINK,
    HARDWARE_DECODERS,
    NEWEST_FRAME_SINK,
    NoDecoderError,
    csi_pipeline,
    decoding_pipeline,
    find_hardware_decoder,
    quote_property,
)
from edge.sources.opencv_capture import has_backend
from edge.sources.public_name import public_name


def test_csi_pipeline_scales_in_hardware_and_keeps_the_newest_frame() -> None:
    assert csi_pipeline(1, 1280, 720, 60, 2) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=60/1 ! "
        "nvvidconv interpolation-method=5-Tap ! video/x-raw,width=640,height=360,format=BGRx ! "
        f"videoconvert ! video/x-raw,format=BGR ! {NEWEST_FRAME_SINK}"
    )


def test_opencv_without_gstreamer_is_named_with_the_remedy() -> None:
    if has_backend("GStreamer"):
        pytest.skip("needs an OpenCV without GStreamer, such as that of PyPI")
    with pytest.raises(InputError, match=r"needs an OpenCV with GStreamer.*python3-opencv"):
        open_source("gst:videotestsrc")


JETSON = ("parsebin", "nvv4l2decoder", "nvvidconv")
CARD = ("decodebin", "nvh264dec", "cudaupload", "cudaconvertscale", "cudadownload")


@pytest.mark.parametrize(
    ("elements", "name"),
    [
        ({*JETSON, "decodebin"}, "the decoder of a Jetson"),
        ({*CARD, "parsebin"}, "NVDEC of a desktop GPU"),
        ({*JETSON, *CARD}, "the decoder of a Jetson"),
    ],
)
def test_decoder_is_chosen_by_the_elements_that_gstreamer_has(elements: Collection[str], name: str) -> None:
    assert find_hardware_decoder(elements.__contains__).name == name


@pytest.mark.parametrize("elements", [(), ("parsebin", "decodebin"), CARD[:-1], JETSON[:-1]])
def test_without_all_elements_there_is_no_decoder(elements: Collection[str]) -> None:
    with pytest.raises(NoDecoderError, match="no nvv4l2decoder or nvh264dec"):
        find_hardware_decoder(elements.__contains__)


def test_decoding_pipelines_scale_on_the_gpu_and_end_in_bgr() -> None:
    jetson, card = HARDWARE_DECODERS
    assert decoding_pipeline(jetson, "filesrc location=a", (640, 360), EVERY_FRAME_SINK) == (
        "filesrc location=a ! parsebin ! nvv4l2decoder enable-max-performance=true ! "
        "nvvidconv interpolation-method=5-Tap ! video/x-raw,width=640,height=360,format=BGRx ! "
        f"videoconvert ! video/x-raw,format=BGR ! {EVERY_FRAME_SINK}"
    )
    assert decoding_pipeline(card, "rtspsrc location=b", None, NEWEST_FRAME_SINK) == (
        "rtspsrc location=b ! decodebin ! cudaupload ! cudaconvertscale ! "
        "video/x-raw(memory:CUDAMemory),format=BGRx ! cudadownload ! "
        f"videoconvert ! video/x-raw,format=BGR ! {NEWEST_FRAME_SINK}"
    )


def test_text_that_would_end_a_property_is_quoted() -> None:
    assert quote_property('a "b" ! fakesink \\') == '"a \\"b\\" ! fakesink \\\\"'


class FakeCapture:
    """A capture of GStreamer that gives frames of 64 x 36."""

    def __init__(self) -> None:
        self.left = 3

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, np.zeros((36, 64, 3), np.uint8)

    def get(self, property_: int) -> float:
        return 10.0

    def release(self) -> None:
        pass


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let this machine have a Jetson's decoder; return the pipelines that are opened."""
    opened: list[str] = []

    def open_capture(pipeline: str, backend: int) -> FakeCapture:
        assert backend == cv2.CAP_GSTREAMER
        opened.append(pipeline)
        return FakeCapture()

    monkeypatch.setattr(gstreamer, "has_backend", lambda name: True)
    monkeypatch.setattr(gstreamer, "_has_element", JETSON.__contains__)
    monkeypatch.setattr(gstreamer, "open_capture", open_capture)
    return opened


def test_stream_is_decoded_by_hardware_and_keeps_its_newest_frame(
    pipelines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_CREDENTIALS", "me:secret")
    source = open_source("HW:rtsp://host/path")
    assert source.name == "rtsp://host/path"
    assert pipelines[0].startswith(
        'rtspsrc location="rtsp://me:secret@host/path" latency=0 ! application/x-rtp,media=video ! '
    )
    assert pipelines[0].endswith(NEWEST_FRAME_SINK)


def test_file_is_decoded_by_hardware_and_every_frame_counts(
    pipelines: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "flight.mp4"
    path.write_bytes(b"video")
    monkeypatch.setattr(gstreamer, "_check_file", lambda path: (1280, 720))
    source = open_source(f"hw:{path}", min_size=(256, 144))
    assert [frame.index for frame in source] == [0, 1, 2]
    assert pipelines[0].startswith(f'filesrc location="{path}" ! parsebin ! ')
    assert "width=320,height=180" in pipelines[0]
    assert pipelines[0].endswith(EVERY_FRAME_SINK)


def test_codec_that_the_hardware_does_not_know_is_decoded_by_the_cpu(
    pipelines: list[str], video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "aerogaze"):
        source = open_source(f"hw:{video}")
    assert len(list(source)) == 12
    assert pipelines == []
    assert f"{video} is decoded by the CPU: the decoder does not know its codec mjpg" in caplog.text


def test_machine_without_a_decoder_says_why_the_cpu_decodes(
    video: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gstreamer, "has_backend", lambda name: True)
    monkeypatch.setattr(gstreamer, "_has_element", lambda name: False)
    with caplog.at_level(logging.WARNING, "aerogaze"):
        assert len(list(open_source(f"hw:{video}"))) == 12
    assert "is decoded by the CPU: GStreamer has no nvv4l2decoder or nvh264dec" in caplog.text


@pytest.mark.parametrize("name", ["hw:csi:0", "hw:/dev/video0", "hw:synthetic:7", "hw:.", "hw:missing.mp4"])
def test_hardware_decoding_of_what_is_no_video_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="hw: is for video files and rtsp:// addresses: leave hw: out"):
        open_source(name)


def test_name_with_hardware_in_front_is_read_like_the_name_itself() -> None:
    assert is_camera("hw:rtsp://host/path")
    assert not is_camera("hw:flight.mp4")
    assert source_path("hw:flight.mp4") == Path("flight.mp4")
    assert public_name("hw:rtsp://me:secret@host/path") == "hw:rtsp://host/path"
