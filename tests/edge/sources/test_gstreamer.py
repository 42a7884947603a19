from __future__ import annotations

import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source
from edge.sources.gstreamer import NEWEST_FRAME_SINK, csi_pipeline
from edge.sources.opencv_capture import has_backend


def test_csi_pipeline_scales_in_hardware_and_keeps_the_newest_frame() -> None:
    assert csi_pipeline(1, 1280, 720, 60, 2) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=60/1 ! "
        "nvvidconv interpolation-method=5-Tap ! video/x-raw,width=640,height=360,format=BGRx ! "
        f"videoconvert ! video/x-raw,format=BGR ! {NEWEST_FRAME_SINK}"
    )


def test_opencv_without_gstreamer_is_named_with_the_remedy() -> None:
    if has_backend("GStreamer"):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(InputError, match=r"needs an OpenCV with GStreamer.*python3-opencv"):
        open_source("gst:videotestsrc")
