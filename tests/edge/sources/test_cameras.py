"""Cameras, as far as they can be tried without one: what is asked of them, and of their frames."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.locks import only_user
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.metrics.saliency import cc
from edge.preprocessing.transform import Alignment, Preprocessing
from edge.sources.factory import exclusive_devices, is_camera, open_source
from edge.sources.gstreamer import NEWEST, csi_pipeline
from edge.sources.image_folder import choose_scale
from edge.sources.opencv_capture import CaptureSource, FrameGapDetector, has_backend
from edge.sources.rtsp import OPTIONS_VARIABLE, hide_passwords
from edge.sources.v4l2 import choose
from tests.conftest import Outcome

IMAGE = np.zeros((4, 6, 3), np.uint8)


class Sensor:
    """A driver's capture: it sets the nearest of its modes, stamps frames, and fails where told.

    `rates`: frames a second, as they are and as JPEGs.
    """

    def __init__(
        self,
        modes: list[tuple[int, int]],
        reads: list[object] | None = None,
        late_s: float = 0.02,
        rates: tuple[float, float] = (30.0, 30.0),
    ) -> None:
        self.modes, self.late_s, self.rates, self.packed = modes, late_s, rates, False
        self.reads = iter(reads or [])
        self.asked = [*modes[-1]]
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, object]:
        read = next(self.reads, None)
        if isinstance(read, Exception):
            raise read
        return read is not None, read

    def set(self, property: int, value: float) -> bool:  # noqa: A002
        if property in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
            self.asked[property == cv2.CAP_PROP_FRAME_HEIGHT] = int(value)
        if property == cv2.CAP_PROP_FOURCC:
            self.packed = int(value) == cv2.VideoWriter.fourcc(*"MJPG")
        return True

    def get(self, property: int) -> float:  # noqa: A002
        near = min(self.modes, key=lambda m: abs(m[0] - self.asked[0]) + abs(m[1] - self.asked[1]))
        return {
            cv2.CAP_PROP_FRAME_WIDTH: near[0],
            cv2.CAP_PROP_FRAME_HEIGHT: near[1],
            cv2.CAP_PROP_FPS: self.rates[self.packed],
            cv2.CAP_PROP_POS_MSEC: (time.monotonic() - self.late_s) * 1e3,
        }.get(property, 0.0)

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [((256, 256), (640, 360)), ((256, 144), (320, 180)), ((1024, 576), (1280, 720)), (None, (1280, 720))],
)
def test_a_camera_takes_its_smallest_mode_that_is_enough(
    wanted: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    sensor = Sensor([(320, 180), (640, 480), (640, 360), (1280, 720)])
    choose(sensor, "v4l2:0", None, wanted)
    assert (sensor.get(cv2.CAP_PROP_FRAME_WIDTH), sensor.get(cv2.CAP_PROP_FRAME_HEIGHT)) == expected


def test_a_mode_that_is_asked_for_is_had_or_refused() -> None:
    choose(Sensor([(640, 480), (1280, 720)]), "v4l2:0:640x480", (640, 480, 30), (256, 256))
    sensor = Sensor([(640, 480), (1280, 720)])
    with pytest.raises(InputError, match="no mode 1920x1080; it offers 1280x720"):
        choose(sensor, "v4l2:0:1920x1080", (1920, 1080, None), None)
    assert sensor.released


@pytest.mark.parametrize(("fps", "packed"), [(10, False), (30, True)])
def test_a_rate_that_only_jpegs_have_is_had(fps: int, packed: bool) -> None:
    sensor = Sensor([(640, 480), (1280, 720)], rates=(9.99, 30.0))
    choose(sensor, "v4l2:0", (1280, 720, fps), None)
    assert sensor.packed == packed


def test_a_rate_that_no_camera_has_is_refused() -> None:
    sensor = Sensor([(1280, 720)], rates=(10.0, 30.0))
    with pytest.raises(InputError, match="no mode 1280x720@60; it offers 1280x720@30 for it"):
        choose(sensor, "v4l2:0:1280x720@60", (1280, 720, 60), None)
    assert sensor.released


def test_a_size_that_only_jpegs_have_is_had() -> None:
    class Wide(Sensor):
        def set(self, property: int, value: float) -> bool:  # noqa: A002
            held = super().set(property, value)
            self.modes = [(640, 480), (1920, 1080)] if self.packed else [(640, 480)]
            return held

    sensor = Wide([(640, 480)])
    choose(sensor, "v4l2:0:1920x1080", (1920, 1080, None), None)
    assert sensor.packed


def test_a_driver_that_tells_no_rate_is_believed() -> None:
    sensor = Sensor([(1280, 720)], rates=(-1.0, -1.0))
    choose(sensor, "v4l2:0:1280x720@30", (1280, 720, 30), None)
    with pytest.raises(InputError, match="it offers 1280x720 for it"):
        choose(sensor, "v4l2:0:640x480@30", (640, 480, 30), None)


def test_a_camera_has_a_name_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "/dev/v4l/by-path/pci-0000:00:14.0-usb-0:1:1.0-video-index0"
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: "/dev/video987" if path == name else real(path))
    assert is_camera(name)
    assert exclusive_devices(f"{name}:640x480@30") == exclusive_devices("/dev/video987") == ["/dev/video987"]
    with pytest.raises(InputError, match="no camera /dev/video987; cameras here"):
        open_source(f"{name}:640x480")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"no camera /dev/v4l/by-path/.*; cameras by such names here: "):
        open_source(f"{name}:640x480")


def test_damaged_frames_leave_a_gap_in_the_ids_and_the_drivers_stamp_is_kept() -> None:
    damaged = [None, cv2.error("imdecode"), np.empty((0, 0, 3), np.uint8)]
    sensor = Sensor([(6, 4)], [IMAGE, IMAGE, *damaged, IMAGE])
    source = CaptureSource("camera", sensor, "no camera")
    assert (source.width, source.height, source.fps) == (6, 4, 30)
    frames = iter(source)
    got = [next(frames), next(frames)]
    assert got[0].index == 0
    assert got[1].index > 1
    assert all(0.02 <= time.monotonic() - frame.capture_s < 0.5 for frame in got)
    began = time.monotonic()
    with pytest.raises(InputError, match="gives no more frames"):
        next(frames)
    assert 0.9 < time.monotonic() - began < 2


def test_frames_lost_while_reads_fail_at_once_are_counted_by_the_time() -> None:
    class Down(Sensor):
        """A stream that is down for half a second."""

        calls, down_s = 0, 0.0

        def read(self) -> tuple[bool, object]:
            self.calls += 1
            if self.calls == 3:
                self.down_s = time.monotonic()
            if time.monotonic() - self.down_s < 0.5:
                return False, None
            return True, IMAGE

    frames = iter(CaptureSource("camera", Down([(6, 4)]), "no camera"))
    began = time.monotonic()
    first, second, third = (next(frames).index for _ in range(3))
    lasted = time.monotonic() - began
    assert first == 0
    assert 15 <= second - first - 1 <= round(lasted * 30)  # a try each 10 ms is no frame
    assert third == second + 1


def test_frames_that_a_decoder_left_out_are_missed_by_their_stamps() -> None:
    rhythm = FrameGapDetector()
    stamps = [i / 30 for i in range(60) if i not in (20, 33, 34)]
    told = {round(at * 30): missing for at in stamps if (missing := rhythm.missing(at))}
    assert told == {21: 1, 35: 2}


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ([0.0] * 40, 0),  # a capture that knows no time
        ([1 / 30] * 20 + [1 / 15] * 40 + [1 / 30] * 20, 2),  # slower in the dark, and back
        ([1 / 30] * 20 + [1 / 7.5] * 40 + [1 / 30] * 20, 6),
        ([0.01, 0.01, 0.08] * 100, 0),  # in bursts
        ([1 / 30] * 20 + [500.0] + [1 / 30] * 20, 0),  # a new stream
    ],
)
def test_stamps_in_no_steady_rhythm_miss_next_to_nothing(steps: list[float], most: int) -> None:
    rhythm = FrameGapDetector()
    assert sum(rhythm.missing(at) for at in itertools.accumulate(steps)) <= most


@pytest.mark.parametrize("late_s", [-1e6, -0.5, 5.0, 1e6])
def test_a_stamp_of_another_clock_is_not_believed(late_s: float) -> None:
    source = CaptureSource("camera", Sensor([(6, 4)], [IMAGE, IMAGE], late_s), "no camera")
    assert abs(time.monotonic() - next(iter(source)).capture_s) < 0.5


def test_a_camera_without_a_first_frame_is_let_go() -> None:
    sensor = Sensor([(6, 4)])
    with pytest.raises(InputError, match="no camera at all"):
        CaptureSource("camera", sensor, "no camera at all")
    assert sensor.released


def test_the_csi_preset_scales_in_hardware_and_keeps_the_newest() -> None:
    assert csi_pipeline(1, 1280, 720, 60, 2) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=60/1 ! "
        "nvvidconv interpolation-method=5-Tap ! video/x-raw,width=640,height=360,format=BGRx ! "
        f"videoconvert ! video/x-raw,format=BGR ! {NEWEST}"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/dev/video987", "no camera /dev/video987; cameras here"),
        ("v4l2:987:640", "expected a mode as WIDTHxHEIGHT"),
        ("v4l2:x", "expected /dev/videoN"),
        ("csi:0:big", "expected a mode as WIDTHxHEIGHT"),
        ("csi:x", "expected csi:N"),
        ("rtsp://me:secret@127.0.0.1:1/x", r"^rtsp://me:\*\*\*@127.0.0.1:1/x gives no video"),
        ("rtsp://me:secret@[::1/x", r"^rtsp://me:\*\*\*@\[::1/x is no address"),
    ],
)
def test_what_is_no_camera_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(name)


def test_an_opencv_without_gstreamer_says_what_to_do() -> None:
    if has_backend("GStreamer"):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(InputError, match=r"needs an OpenCV with GStreamer.*python3-opencv"):
        open_source("gst:videotestsrc")


def test_a_real_camera_gives_frames() -> None:
    cameras = sorted(Path("/dev").glob("video*"))
    if not cameras:
        pytest.skip("no camera on this machine")
    source = open_source(str(cameras[0]))
    frames = iter(source)
    assert [next(frames).index for _ in range(5)] == [0, 1, 2, 3, 4]
    source.close()


def test_options_of_streams_are_not_left_to_files() -> None:
    with pytest.raises(InputError, match="gives no video"):
        open_source("rtsp://127.0.0.1:1/x")
    assert OPTIONS_VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://a:b@host/x", "rtsp://a:***@host/x"),
        ("rtsp://host:554/x", "rtsp://host:554/x"),
        ("rtsp://[::1]:554/x", "rtsp://[::1]:554/x"),
        ("rtsp://a:p#ss@host:554/x", "rtsp://a:***@host:554/x"),
        ("rtsp://a:p/s?s@host/x", "rtsp://a:***@host/x"),
        ("rtsp://a:p@ss@host/x", "rtsp://a:***@host/x"),
        ("rtsp://h/user=a&password=b&channel=1", "rtsp://h/user=a&password=***&channel=1"),
        ("rtsp://h/user=a_password=b_channel=1.sdp", "rtsp://h/user=a_password=***"),
        ("rtsp://h/x?usr=a&pwd=b", "rtsp://h/x?usr=a&pwd=***"),
        (
            "gst:rtspsrc location=rtsp://a:b@h/x user-pw=c ! fakesink",
            "gst:rtspsrc location=rtsp://a:***@h/x user-pw=*** ! fakesink",
        ),
        ("rtsp://a:b@[::1/x", "rtsp://a:***@[::1/x"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert hide_passwords(url) == shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v4l2:3:640x480", ["/dev/video3"]),
        ("/dev/video3", ["/dev/video3"]),
        ("/dev/video3:1280x720@30", ["/dev/video3"]),
        ("gst:v4l2src device='/dev/video3'!fakesink", ["/dev/video3"]),
        ("gst:v4l2src device=/dev/no-by-path/usb-0:2:1.0-index0 ! x", ["/dev/no-by-path/usb-0:2:1.0-index0"]),
        ("gst:v4l2src device=/dev/video3 ! videoconvert", ["/dev/video3"]),
        ("csi:0", ["csi:0"]),
        ("gst:nvarguscamerasrc sensor-id=0 ! fakesink", ["csi:0"]),
        ("gst:v4l2src ! videoconvert", ["/dev/video0"]),
        ("gst:v4l2src num-buffers=9 ! x device=/dev/null", ["/dev/video0", "/dev/null"]),
        ("gst:nvarguscamerasrc ! fakesink", ["csi:0"]),
        ("rtsp://host/dev/video3", []),
        ("synthetic:7", []),
        ("clip.mp4", []),
    ],
)
def test_one_camera_has_one_name(name: str, expected: list[str]) -> None:
    assert exclusive_devices(name) == expected
    assert is_camera(name) == ("synthetic" not in name and "mp4" not in name)


def test_a_link_to_a_camera_is_that_camera() -> None:
    try:
        folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="usb-0:2:1.0-")
    except OSError:
        pytest.skip("no place for links under /dev")
    with folder as place:
        os.symlink("/dev/video3", f"{place}/usb-0:1:1.0-video-index0")
        assert exclusive_devices(f"gst:v4l2src device={place}/usb-0:1:1.0-video-index0 ! fakesink") == [
            "/dev/video3"
        ]


def test_two_runs_on_one_camera_are_refused(command: Callable[..., Outcome]) -> None:
    code = (
        "import sys, time; from edge.core.locks import only_user\n"
        "with only_user('/dev/video3'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        outcome = command("run", "v4l2:3")
        other.kill()  # however it ends, the camera is free
    assert outcome.code == 2
    assert "/dev/video3 is read by another aerogaze run" in outcome.err
    with only_user("/dev/video3"):
        pass


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        ((1280, 720), (256, 256), 2),
        ((3840, 2160), (256, 256), 8),
        ((1282, 722), (256, 256), 2),
        ((1281, 720), (256, 256), 1),
        ((1280, 720), (1024, 576), 1),
        ((1280, 720), None, 1),
    ],
)
def test_frames_are_shrunk_as_preprocessing_would_halve_them(
    size: tuple[int, int], wanted: tuple[int, int] | None, expected: int
) -> None:
    assert choose_scale(*size, wanted) == expected
    if wanted == (256, 256):
        prepare = Preprocessing(64, 64)
        assert prepare.enough == wanted
        assert expected <= 2 ** prepare.halvings(*size)
    assert Preprocessing(64, 64, alignment=Alignment(0.3)).enough == (1024, 576)


def test_jpegs_decoded_smaller_give_nearly_the_same_maps_at_the_same_places(
    flight: np.ndarray, tmp_path: Path
) -> None:
    large = [cv2.resize(frame, (1280, 720), interpolation=cv2.INTER_CUBIC) for frame in flight[:6]]
    for index, frame in enumerate(large):
        cv2.imwrite(str(tmp_path / f"{index}.{'png' if index == 5 else 'jpg'}"), frame)
    model = SaliencyModel(None, "fp32", 1)
    whole, small = (
        list(open_source(str(tmp_path), wanted)) for wanted in (None, model.release.preprocessing.enough)
    )
    assert [frame.scale for frame in small] == [2, 2, 2, 2, 2, 1]  # PNG cannot
    assert {(frame.width, frame.height) for frame in (*whole, *small)} == {(1280, 720)}
    prepare = model.release.preprocessing
    apart = [
        np.sqrt(np.mean((prepare.resize(a.image).astype(float) - prepare.resize(b.image)) ** 2))
        for a, b in zip(whole, small, strict=True)
    ]
    assert max(apart) < 1.0  # grey levels, rms
    maps = [compute_clip_maps(model, [frame.image for frame in frames]) for frames in (whole, small)]  # type: ignore[arg-type]
    model.close()
    assert min(cc(a, b) for a, b in zip(*maps, strict=True)) > 0.99


def test_a_file_in_real_time_gives_each_frame_when_it_is_due() -> None:
    source = open_source("synthetic:3:64x64:6", live=True)
    began = time.monotonic()
    frames = list(source)
    assert 0.45 < time.monotonic() - began < 3
    stamps = np.diff([frame.capture_s for frame in frames])
    assert (stamps > 0.09).all()
    for frame, other in zip(frames, open_source("synthetic:3:64x64:6"), strict=True):
        np.testing.assert_array_equal(frame.image, other.image)
    source.close()


def test_a_file_in_real_time_comes_at_the_rate_asked_for(tmp_path: Path) -> None:
    for index in range(13):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((64, 64, 3), np.uint8))
    source = open_source(str(tmp_path), live=True, fps=40)
    stamps = [frame.capture_s for frame in source]
    assert source.fps == 40
    assert 0.29 < stamps[-1] - stamps[0] < 0.9  # at a folder's own 10 frames a second it would be 1.2 s


def test_real_time_gives_the_maps_of_the_file(command: Callable[..., Outcome], tmp_path: Path) -> None:
    for flag, place in (("--realtime", "live"), ("--every-frame", "file")):
        words = ("synthetic:3:320x180:6", flag, "--maps", str(tmp_path / place))
        assert command("run", *words).code == 0
    for path in sorted((tmp_path / "file").iterdir()):
        assert path.read_bytes() == (tmp_path / "live" / path.name).read_bytes()
