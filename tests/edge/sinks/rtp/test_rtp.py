"""RTP sink, received by GStreamer and by FFmpeg on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.annotations import FOLLOWED_COLOUR
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.geolocation import Attitude, Geolocator, PoseHistory
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result
from edge.sinks.rtp import sink as rtp
from edge.sinks.rtp.encoders import ENCODERS, Encoder
from edge.sinks.rtp.sink import RtpSink, parse_stream
from edge.sinks.video_stream import NO_REGION
from tests.conftest import Outcome
from tests.support.ports import free_tcp_port, free_udp_port
from tests.support.rtp_receiver import DEBIAN, NO_GSTREAMER, has_gstreamer
from tests.support.waiting import wait_until

SUPPORT = Path(__file__).parents[3] / "support"
SOURCE: Any = SimpleNamespace(width=320, height=180, fps=15.0)
MAP = np.zeros((8, 8), np.float32)
pytestmark = pytest.mark.xdist_group("gstreamer")


@pytest.fixture(scope="module")
def gstreamer() -> None:
    """Skip without Debian's GStreamer, its Python bindings and an encoder."""
    if not has_gstreamer():
        pytest.skip(NO_GSTREAMER)


def make_status() -> Status:
    return Status(RunInfo("skd-64", "int8", "none", "camera"), recovery_s=0.1)


@contextmanager
def streaming(address: str, status: Status, encoders: tuple[Encoder, ...] = ENCODERS) -> Iterator[RtpSink]:
    """Stream grey pictures, brightness 100, until the end."""
    sink = RtpSink(parse_stream(address, SOURCE), status, encoders=encoders)
    stop = threading.Event()

    def show() -> None:
        picture, index = np.full((180, 320, 3), 100, np.uint8), 0
        while not stop.wait(1 / 15):
            sink.write(Result(Frame(index, index / 15, picture), MAP, 1.0))
            index += 1

    source = threading.Thread(target=show)
    source.start()
    try:
        yield sink
    finally:
        stop.set()
        source.join()
        sink.commit()


@contextmanager
def receiver(port: int, pictures: int) -> Iterator[subprocess.Popen[str]]:
    words = [DEBIAN, str(SUPPORT / "rtp_receiver.py"), str(port), str(pictures)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_pictures_arrive_over_udp(gstreamer: None) -> None:
    port, status = free_udp_port(), make_status()
    with receiver(port, 5) as ground, streaming(f"udp://127.0.0.1:{port}", status) as sink:
        output, error = ground.communicate(timeout=60)
        assert ground.returncode == 0, error
        assert sink.encoder == "openh264enc" or sink.encoder in [each.element for each in ENCODERS]
    width, height, brightness = output.splitlines()[-1].split()
    assert (int(width), int(height)) == (320, 180)
    assert float(brightness) == pytest.approx(100, abs=15)
    assert status.snapshot().faults == {}


def test_pictures_are_served_over_rtsp_to_ffmpeg_and_only_while_it_watches(gstreamer: None) -> None:
    port, status = free_tcp_port(), make_status()
    with streaming(f"rtsp://127.0.0.1:{port}/saliency", status) as sink:
        assert not sink._stream.is_running, "nobody watches"
        client = cv2.VideoCapture(f"rtsp://127.0.0.1:{port}/saliency", cv2.CAP_FFMPEG)
        is_read, picture = client.read()
        assert is_read
        assert sink._stream.is_running
        assert picture.shape == (180, 320, 3)
        assert float(picture.mean()) == pytest.approx(100, abs=15)
        client.release()
        assert wait_until(lambda: not sink._stream.is_running)


def test_receiver_that_stalls_does_not_hold_up_another_one(gstreamer: None) -> None:
    port, status = free_tcp_port(), make_status()
    url = f"rtsp://127.0.0.1:{port}/saliency"
    with (
        streaming(url, status) as sink,
        socket.create_connection(("127.0.0.1", port)) as stalled,
        stalled.makefile("rb") as answers,
    ):
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def ask(method: str, target: str, *headers: str) -> dict[str, str]:
            """Send a request and return the headers of the answer."""
            stalled.sendall(
                "\r\n".join([f"{method} {target} RTSP/1.0", "CSeq: 1", *headers, "", ""]).encode()
            )
            lines = [line.decode().strip() for line in iter(answers.readline, b"\r\n")]
            assert lines[0].endswith("200 OK")
            found = {name: value for name, _, value in (line.partition(": ") for line in lines[1:])}
            answers.read(int(found.get("Content-Length", 0)))
            return found

        ask("DESCRIBE", url, "Accept: application/sdp")
        transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
        session = ask("SETUP", f"{url}/stream=0", transport)["Session"].partition(";")[0]
        ask("PLAY", url, f"Session: {session}")  # and never reads again
        client = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
        assert all(client.read()[0] for _ in range(20))
        assert sink._process.poll() is None
        client.release()
    assert status.snapshot().faults == {}


def test_encoder_that_is_killed_is_started_again(gstreamer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtp, "MIN_BACKOFF_S", 0.1)
    port, status = free_udp_port(), make_status()
    with streaming(f"udp://127.0.0.1:{port}", status, ENCODERS[-1:]) as sink:
        first = sink._process
        os.kill(first.pid, signal.SIGKILL)
        assert wait_until(lambda: sink._process is not first and sink._stream.is_running)
        with receiver(port, 2) as ground:
            assert ground.wait(60) == 0
    assert status.snapshot().faults == {"rtp": 1}


def test_encoder_that_fails_half_way_gives_way_to_the_next_one(
    gstreamer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtp, "MIN_BACKOFF_S", 0.1)
    failing = Encoder("identity", "identity name=encoder error-after=3 ! openh264enc")
    status = make_status()
    with streaming(f"udp://127.0.0.1:{free_udp_port()}", status, (failing, ENCODERS[-1])) as sink:
        assert sink.encoder == "identity"
        assert wait_until(lambda: sink.encoder == "openh264enc" and sink._stream.is_running)
    assert status.snapshot().faults == {"rtp": 1}


def test_port_in_use_and_missing_encoders_are_one_clear_line(gstreamer: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use or not allowed; choose another port"):
            RtpSink(parse_stream(f"rtsp://127.0.0.1:{port}/a", SOURCE), make_status())
    nothing = (Encoder("no-such-encoder", "no-such-encoder"),)
    with pytest.raises(InputError, match=r"has no H\.264 encoder; expected one of no-such-encoder"):
        RtpSink(parse_stream("udp://127.0.0.1:9", SOURCE), make_status(), encoders=nothing)


def test_python_without_bindings_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtp, "_PROBE", "import no_such_module")
    with pytest.raises(InputError, match="apt-get install python3-gi"):
        RtpSink(parse_stream("udp://127.0.0.1:9", SOURCE), make_status())


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An encoding process that says what it has to, like a driver and in JSON, and then takes no picture."""
    program = tmp_path / "stuck"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\n'
        'echo "Opening in BLOCKING MODE"; echo 4; echo \'{"watched": true}\'; echo \'{"encoder": "stuck"}\'\n'
        "exec sleep 600\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))


def test_pipe_that_is_closed_while_a_picture_is_drawn_is_no_error(
    stuck: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = make_status()
    sink = RtpSink(parse_stream("udp://127.0.0.1:9", SOURCE), status)

    def draw(*_: object) -> Any:
        rtp._end(sink._process)
        return np.zeros((180, 320, 3), np.uint8)

    monkeypatch.setattr(rtp, "blend_heat_map", draw)
    sink.write(Result(Frame(0, 0, np.zeros((180, 320, 3), np.uint8)), MAP, 1.0))
    assert wait_until(lambda: status.snapshot().faults == {"rtp": 1})
    sink.commit()
    assert not sink._thread.is_alive()


def test_slow_stream_ends_without_waiting_for_its_next_picture(stuck: None) -> None:
    source: Any = SimpleNamespace(width=320, height=180, fps=0.01)
    sink = RtpSink(parse_stream("udp://127.0.0.1:9", source), make_status())
    for index in range(2):
        sink.write(Result(Frame(index, index * 100, np.zeros((180, 320, 3), np.uint8)), MAP, 1.0))
        assert index or wait_until(lambda: sink._newest is None)
    sink.commit()
    assert not sink._thread.is_alive()


def test_process_that_takes_nothing_holds_up_neither_results_nor_the_end(stuck: None) -> None:
    sink = RtpSink(parse_stream("udp://127.0.0.1:9", SOURCE), make_status())
    picture = np.zeros((180, 320, 3), np.uint8)
    start_s = time.monotonic()
    for index in range(200):
        sink.write(Result(Frame(index, index / 30, picture), MAP, 1.0))
    sink.commit()
    assert time.monotonic() - start_s < 15, "the stuck process was not waited for"
    assert not sink._thread.is_alive()


def test_bit_rate_falls_with_loss_and_rises_again(gstreamer: None) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import streamer as s\n"
        "print(s.next_bit_rate(1e6, 1e6, 0.2), s.next_bit_rate(1e5, 1e6, 0.2), "
        "s.next_bit_rate(5e5, 1e6, 0.0), s.next_bit_rate(1e6, 1e6, 0.0), s.next_bit_rate(5e5, 1e6, 0.02))\n"
        r"print(s.reported_losses('a, have-rb\=\(boolean\)false\,\ rb-fractionlost\=\(uint\)9;"
        r" b, have-rb\=\(boolean\)true\,\ rb-ssrc\=\(uint\)1\,\ rb-fractionlost\=\(uint\)64\;'))"
    )
    folder = str(Path(rtp.__file__).parent)
    output = subprocess.run(
        [DEBIAN, "-c", program, folder], capture_output=True, text=True, check=True
    ).stdout
    rates, losses = output.splitlines()
    assert [float(rate) for rate in rates.split()] == pytest.approx([7e5, 1e5, 5.5e5, 1e6, 5e5])
    assert losses == "[0.25]"


@pytest.mark.parametrize(
    "address",
    [
        "udp://:5600",
        "udp://10.0.0.1",
        "udp://10.0.0.1:99999",
        "udp://10.0.0.1:5600/path",
        "rtsp://:8554",
        "rtsp://:8554/",
        "rtsp://user:secret@:8554/a",
        "rtsp://:8554/a b",
        "rtsp://:8554/a?b",
        "udp://a!b:5600",
        "http://:8080/a",
        "5600",
    ],
)
def test_invalid_address_is_one_clear_line(address: str) -> None:
    with pytest.raises(InputError, match="expected udp://HOST:PORT") as error:
        parse_stream(address, SOURCE)
    assert "\n" not in str(error.value)


def test_unknown_receiver_is_one_clear_line() -> None:
    stream = parse_stream("udp://no-such-host.invalid:5600", SOURCE)
    with pytest.raises(InputError, match=r"cannot resolve the host no-such-host.invalid of --rtp \("):
        RtpSink(stream, make_status())


def test_stream_has_even_sides_and_at_most_thirty_pictures_per_second() -> None:
    source: Any = SimpleNamespace(width=4001, height=3001, fps=120.0)
    stream = parse_stream("rtsp://:8554/saliency", source)
    assert (stream.width, stream.height, stream.fps) == (1280, 960, 30)
    assert (stream.kind, stream.host, stream.port, stream.path) == ("rtsp", "", 8554, "/saliency")
    assert stream.uri("10.0.0.7") == "rtsp://10.0.0.7:8554/saliency"
    assert stream.uri(None) == ""
    assert parse_stream("rtsp://[::1]:8554/a", source).uri(None) == "rtsp://[::1]:8554/a"


def test_command_streams_while_it_runs(gstreamer: None, command: Callable[..., Outcome], video: Path) -> None:
    port = free_udp_port()
    with receiver(port, 2) as ground:
        outcome = command("run", video, "--realtime", "--rtp", f"udp://127.0.0.1:{port}")
        assert outcome.code == 0, outcome.err
        assert ground.wait(60) == 0


def test_picture_shows_the_followed_region_and_the_horizon(gstreamer: None) -> None:
    regions = tuple(
        Region(x, 0.5, x - 0.1, 0.4, x + 0.1, 0.6, 0.4, number) for number, x in ((1, 0.25), (2, 0.75))
    )
    picture = np.full((180, 320, 3), 100, np.uint8)
    poses = PoseHistory()
    with streaming(f"udp://127.0.0.1:{free_udp_port()}", make_status()) as sink:
        sink._locator = Geolocator(CameraGeometry(90), poses)
        result = Result(Frame(0, 0.0, picture), MAP, 1.0, regions)
        level = sink._draw(result)[90]
        assert (level == 100).all(), "no attitude, no horizon"
        poses.add_attitude(Attitude(0.0, np.eye(3), np.zeros(3)))
        assert (sink._draw(result)[90, :, 0] > 150).sum() > 300
        for followed_id, lit in ((None, [True, False]), (2, [False, True]), (NO_REGION, [False, False])):
            sink._stream.followed_id = followed_id
            drawn = sink._draw(result)
            blue = (drawn == FOLLOWED_COLOUR).all(axis=2)
            assert [bool(half.any()) for half in (blue[:, :160], blue[:, 160:])] == lit
