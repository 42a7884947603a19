"""RTP sink: the picture with heat and regions as H.264 video, for the screen of a ground station."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import cv2

from edge.core.errors import InputError
from edge.core.frames import Image, Source
from edge.core.run_status import Status
from edge.postprocessing.annotations import draw_annotations, draw_line
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.files.overlay_video import blend_heat_map, overlay_size
from edge.sinks.rtp.encoders import ENCODERS, Encoder
from edge.sinks.video_stream import VideoStream

if TYPE_CHECKING:
    from edge.postprocessing.geolocation import Geolocator

MIN_SIDE = 16
"""Smallest width and height of the video."""
MAX_FPS = 30.0
BITS_PER_PIXEL, MIN_BIT_RATE = 0.1, 500_000
"""Bits per second for each pixel per second (2.8 Mbit/s at 1280x720 and 30 per second), and at least."""
START_TIMEOUT_S, END_TIMEOUT_S = 20.0, 2.0
MIN_BACKOFF_S, MAX_BACKOFF_S = 1.0, 10.0
STEADY_S = 5.0
"""An encoder that fails earlier is left out the next time, if there is another one."""
MISSING = (
    "--rtp needs GStreamer with the Python bindings of GObject, which no Python here has: apt-get install "
    "python3-gi gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad"
)
NO_ENCODER = "the encoder ended without a message; expected one that works: test it with gst-launch-1.0"
_SYSTEM_PYTHON = "/usr/bin/python3"
_PROBE = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst"


def parse_stream(address: str, source: Source) -> VideoStream:
    """Return the stream of an address: `udp://HOST:PORT` or `rtsp://[HOST]:PORT/PATH`.

    Args:
        address: The address.
        source: Source of the frames, for their size and frame rate.

    Raises:
        InputError: The address has another form.
    """
    kind: Literal["udp", "rtsp"] | None = None
    host, port, path = "", 0, ""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        host, port, path = parts.hostname or "", parts.port or 0, parts.path
        if parts.scheme == "udp" and host and path in ("", "/"):
            kind, path = "udp", ""
        elif parts.scheme == "rtsp" and re.fullmatch(r"/[\w./-]+", path):
            kind = "rtsp"
        if parts.query or parts.fragment or parts.username or not re.fullmatch(r"[\w.:-]*", host):
            kind = None
    if kind is None or not port:
        raise InputError(
            f"invalid --rtp {address!r}: expected udp://HOST:PORT, such as udp://192.168.1.10:5600, or "
            "rtsp://[HOST]:PORT/PATH, such as rtsp://:8554/saliency"
        )
    width, height = (max(MIN_SIDE, side) for side in overlay_size(source.width, source.height, step=2))
    fps = min(MAX_FPS, source.fps or MAX_FPS)
    bit_rate = max(MIN_BIT_RATE, round(BITS_PER_PIXEL * width * height * fps))
    return VideoStream(kind, host, port, path, width, height, fps, bit_rate)


class RtpSink:
    """Streams the newest picture; results never wait for it.

    A thread draws and hands the pictures to a process that encodes them. If that process fails, the sink
    starts it again after a while and goes on.

    Args:
        stream: The stream; its state is kept up to date.
        status: Status of the run.
        transform: Applied to each result that is shown, to find regions.
        encoders: Encoders to try, best first.
        locator: Knows the attitude of the camera, for the horizon; None draws none.

    Raises:
        InputError: The host is unknown, GStreamer or an encoder is missing, or the port is in use.
    """

    def __init__(
        self,
        stream: VideoStream,
        status: Status,
        transform: ResultTransform = identity,
        encoders: Sequence[Encoder] = ENCODERS,
        locator: Geolocator | None = None,
    ) -> None:
        self._stream, self._status, self._transform = stream, status, transform
        self._encoders, self._locator = list(encoders), locator
        self._changed = threading.Condition()
        self._newest: Result | None = None
        self._closing = False
        _check_host(stream)
        self._python = _find_python()
        self._process = self._start()
        self._thread = threading.Thread(target=self._send_all, name="aerogaze-rtp", daemon=True)
        self._thread.start()

    @property
    def encoder(self) -> str:
        """Name of the encoder that is used."""
        return self._encoder

    def write(self, result: Result) -> None:
        """Show a result, unless a newer one comes first."""
        with self._changed:
            self._newest = result
            self._changed.notify()

    def finish(self) -> None:
        """Do nothing: no output is pending."""

    def commit(self) -> None:
        """End the stream."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        _end(self._process)
        self._thread.join(START_TIMEOUT_S)
        self._listener.join(END_TIMEOUT_S)
        self._stream.is_running = False

    def discard(self) -> None:
        """Do the same as `commit`: sent pictures cannot be taken back."""
        self.commit()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the encoding process and wait until it is ready.

        Raises:
            InputError: It cannot stream.
        """
        stream = self._stream
        names = ("width", "height", "fps", "kind", "host", "port", "path", "bit_rate")
        settings: dict[str, object] = {name: getattr(stream, name) for name in names}
        settings["encoders"] = [encoder.as_settings() for encoder in self._encoders]
        program = str(Path(__file__).with_name("streamer.py"))
        process = subprocess.Popen(
            [self._python, program, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, process.kill)
        timer.start()
        try:
            first = self._next_event(process)
            while "encoder" not in first:
                if "error" in first or not first:
                    _end(process)
                    process.stdout.close()
                    raise InputError(f"--rtp cannot stream: {first.get('error', NO_ENCODER)}")
                first = self._next_event(process)
        finally:
            timer.cancel()
        self._encoder, self._started_s = str(first["encoder"]), time.monotonic()
        self._listener = threading.Thread(
            target=self._listen, args=(process,), name="aerogaze-rtp-events", daemon=True
        )
        self._listener.start()
        return process

    def _next_event(self, process: subprocess.Popen[bytes]) -> dict[str, object]:
        """Return what the process says next, and keep the stream up to date; empty when it has ended."""
        assert process.stdout is not None
        event: object = None
        while not isinstance(event, dict):  # drivers of encoders print lines of their own
            line = process.stdout.readline()
            if not line:
                return {}
            with contextlib.suppress(ValueError):
                event = json.loads(line)
        if "watched" in event:
            self._stream.is_running = bool(event["watched"])
        if "bit_rate" in event:
            self._stream.bit_rate = int(str(event["bit_rate"]))
        return event

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        while event := self._next_event(process):
            if "error" in event:
                self._status.report_fault("rtp", f"{self._encoder}: {event['error']}")
        assert process.stdout is not None
        process.stdout.close()

    def _send_all(self) -> None:
        next_s, backoff_s = 0.0, MIN_BACKOFF_S
        while (result := self._take(next_s)) is not None:
            next_s = time.monotonic() + 1 / self._stream.fps
            if self._process.poll() is None:
                with contextlib.suppress(OSError, ValueError):  # ValueError: `commit` has closed the pipe
                    self._send(result)
                    if time.monotonic() - self._started_s > STEADY_S:
                        backoff_s = MIN_BACKOFF_S
                        self._status.report_recovery("rtp")
                    continue
            self._stream.is_running = False
            if not self._wait(backoff_s):
                return
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            _end(self._process)
            self._restart()

    def _take(self, not_before_s: float) -> Result | None:
        """Wait for a time and for a result, and return the newest one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, max(0.0, not_before_s - time.monotonic()))
            self._changed.wait_for(lambda: self._closing or self._newest is not None)
            result, self._newest = self._newest, None
            return None if self._closing else result

    def _send(self, result: Result) -> None:
        """Draw a result and hand it to the process, if anybody watches.

        Raises:
            OSError: The process has ended.
        """
        if not self._stream.is_running:
            return
        picture = self._draw(self._transform(result))
        assert self._process.stdin is not None
        self._process.stdin.write(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420).data)
        self._process.stdin.flush()

    def _draw(self, result: Result) -> Image:
        frame, stream = result.frame, self._stream
        picture = blend_heat_map(frame.image, result.saliency, stream.width, stream.height)
        aspect = frame.height / frame.width
        horizon = self._locator.horizon(frame.capture_s, aspect) if self._locator else None
        if horizon is not None:
            draw_line(picture, *horizon)
        draw_annotations(picture, result, stream.followed_id)
        return picture

    def _wait(self, seconds: float) -> bool:
        """Wait; return False if the sink ends."""
        with self._changed:
            if not self._closing:
                self._status.report_fault("rtp", f"{self._encoder} has ended: it is started again")
            return not self._changed.wait_for(lambda: self._closing, seconds)

    def _restart(self) -> None:
        if len(self._encoders) > 1 and time.monotonic() - self._started_s < STEADY_S + MAX_BACKOFF_S:
            self._encoders = [
                each for each in self._encoders if each.element != self._encoder
            ] or self._encoders
        try:
            process = self._start()
        except (InputError, OSError) as error:
            self._status.report_fault("rtp", str(error))
            return
        with self._changed:
            self._process = process
            is_late = self._closing
        if is_late:
            _end(process)


def _check_host(stream: VideoStream) -> None:
    """Check that the receiver's name is known: GStreamer would send nothing, and say nothing.

    Raises:
        InputError: It is not.
    """
    if stream.kind != "udp":
        return
    try:
        socket.getaddrinfo(stream.host, stream.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise InputError(
            f"cannot resolve the host {stream.host} of --rtp ({error.strerror}): choose another host"
        ) from None


def _find_python() -> str:
    """Return a Python that has GStreamer's bindings: this one, or that of the system.

    Raises:
        InputError: Neither has them.
    """
    for python in (sys.executable, _SYSTEM_PYTHON):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", _PROBE], capture_output=True, check=False).returncode == 0:
                return python
    raise InputError(MISSING)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the encoding process, which may hang in a driver."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
