from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.core.frames import DeviceRequest, Source
from edge.core.locks import device_lock
from edge.sources.factory import exclusive_devices, is_camera, open_source
from edge.sources.realtime_playback import PacedSource
from edge.sources.synthetic import SyntheticSource
from tests.conftest import Outcome


def test_persistent_name_of_a_camera_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "/dev/v4l/by-path/pci-0000:00:14.0-usb-0:1:1.0-video-index0"
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: "/dev/video987" if path == name else real(path))
    assert is_camera(name)
    assert exclusive_devices(f"{name}:640x480@30") == exclusive_devices("/dev/video987") == ["/dev/video987"]
    with pytest.raises(InputError, match="no camera /dev/video987; cameras here"):
        open_source(f"{name}:640x480")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"no camera /dev/v4l/by-path/.*; cameras with such names here: "):
        open_source(f"{name}:640x480")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/dev/video987", "no camera /dev/video987; cameras here"),
        ("v4l2:987:640", "expected a mode as WIDTHxHEIGHT"),
        ("v4l2:x", "expected /dev/videoN"),
        ("csi:0:big", "expected a mode as WIDTHxHEIGHT"),
        ("csi:x", "expected csi:N"),
        ("a" * 5000, "no source 'a"),
        ("a\0b", "has a zero byte"),
        ("synthetic:" + "9" * 5000, "is no synthetic source"),
        ("v4l2:" + "9" * 5000, "expected /dev/videoN"),
        ("v4l2:0:٣x٣", "expected a mode"),
        ("/dev/null", "/dev/null is no regular file; expected"),
        ("csi:²", "expected csi:N"),
        ("rtsp://me:secret@127.0.0.1:1/x", r"^rtsp://127.0.0.1:1/x gives no video"),
        ("rtsp://me:secret@[::1/x", r"^rtsp://\*\*\* is no address"),
    ],
)
def test_invalid_camera_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(name)


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
def test_camera_has_one_device_name_however_it_is_opened(name: str, expected: list[str]) -> None:
    assert exclusive_devices(name) == expected
    assert is_camera(name) == ("synthetic" not in name and "mp4" not in name)


def test_link_to_a_camera_has_the_name_of_the_camera() -> None:
    try:
        temporary = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="usb-0:2:1.0-")
    except OSError:
        pytest.skip("no place for links under /dev")
    with temporary as folder:
        link = f"{folder}/usb-0:1:1.0-video-index0"
        os.symlink("/dev/video3", link)
        assert exclusive_devices(f"gst:v4l2src device={link} ! fakesink") == ["/dev/video3"]


def test_second_run_on_a_camera_is_refused(command: Callable[..., Outcome]) -> None:
    code = (
        "import sys, time; from edge.core.locks import device_lock\n"
        "with device_lock('/dev/video3'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        outcome = command("run", "v4l2:3")
        other.kill()  # a killed process frees the camera, too
    assert outcome.code == 2
    assert "/dev/video3 is read by another aerogaze run" in outcome.err
    with device_lock("/dev/video3"):
        pass


def test_live_file_is_paced_at_the_given_rate() -> None:
    source = open_source("synthetic:3:64x64:6", live=True, fps=40)
    assert isinstance(source, PacedSource)
    assert source.fps == 40
    source.close()


def test_rate_that_is_given_replaces_the_rate_of_a_file() -> None:
    frames = list(open_source("synthetic:3:64x64:6", fps=40))
    assert [frame.capture_s for frame in frames] == pytest.approx([index / 40 for index in range(6)])


@pytest.mark.parametrize(
    ("name", "live", "every_frame"),
    [
        ("hw:VIDEO", None, True),
        ("hw:rtsp://host/path", None, False),
        ("csi:0", True, False),
        ("VIDEO", None, None),
        ("synthetic:7:64x48:2", None, None),
        ("csi:0", False, None),
    ],
)
def test_frames_are_asked_to_stay_on_the_gpu_where_a_source_can(
    name: str, live: bool | None, every_frame: bool | None, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def open_nvmm(name: str, request: object, every_frame: bool, open_on_cpu: object) -> Source:
        asked.append((name, every_frame))
        return SyntheticSource.parse("synthetic:7:64x48:2")

    monkeypatch.setattr("edge.sources.nvmm.source.open_nvmm", open_nvmm)
    name = name.replace("VIDEO", str(video))
    request = DeviceRequest(object(), None)  # type: ignore[arg-type]
    with suppress(InputError):  # of a camera whose every frame is asked for
        open_source(name, live=live, device=request).close()
    assert asked == ([] if every_frame is None else [(name.removeprefix("hw:"), every_frame)])
