"""RTP receiver of GStreamer on loopback: `python3 rtp_receiver.py PORT PICTURES`.

It runs as a process of its own under Debian's Python, as a ground station would. It prints "listening",
then for each picture one line with its width, height and mean brightness.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEBIAN = "/usr/bin/python3"
"""Debian's Python, which has the bindings of GStreamer."""
NEEDS = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')\n"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
    "assert all(map(Gst.ElementFactory.find, ('openh264enc', 'openh264dec', 'rtph264pay')))"
)
NO_GSTREAMER = "no GStreamer with H.264: Debian's python3-gi, gir1.2-gst-rtsp-server-1.0, plugins-bad"
TIMEOUT_S = 20
DECODE = (
    "h264parse ! openh264dec ! videoconvert ! video/x-raw,format=GRAY8 ! appsink name=pictures sync=false"
)
"""End of a pipeline that decodes H.264 to grey pictures."""


def has_gstreamer() -> bool:
    """Return whether Debian's GStreamer, its Python bindings and an encoder are there."""
    if not Path(DEBIAN).exists():
        return False
    return not subprocess.run([DEBIAN, "-c", NEEDS], capture_output=True).returncode


def load_gstreamer() -> Any:
    """Return the initialized bindings of GStreamer, which only Debian's Python has."""
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst

    Gst.init(None)
    return Gst


def next_picture(pictures: Any, second: int) -> Any:
    """Return the next sample of an appsink; exit after `TIMEOUT_S` without one.

    Args:
        pictures: The appsink.
        second: One second in GStreamer's unit of time.
    """
    return pictures.emit("try-pull-sample", TIMEOUT_S * second) or sys.exit("no picture")


def receive(port: int, count: int) -> Iterator[Any]:
    """Print "listening" as soon as packets may come, and yield a sample per picture."""
    gst = load_gstreamer()
    pipeline = gst.parse_launch(
        f"udpsrc address=127.0.0.1 port={port} "
        "caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96 "
        f"! rtph264depay ! {DECODE}"
    )
    pictures = pipeline.get_by_name("pictures")
    pipeline.set_state(gst.State.PLAYING)
    pipeline.get_state(gst.SECOND)
    print("listening", flush=True)
    for _ in range(count):
        yield next_picture(pictures, gst.SECOND)
    pipeline.set_state(gst.State.NULL)


if __name__ == "__main__":
    for sample in receive(int(sys.argv[1]), int(sys.argv[2])):
        size, data = sample.get_caps().get_structure(0), sample.get_buffer()
        values = data.extract_dup(0, data.get_size())
        width, height = size.get_int("width")[1], size.get_int("height")[1]
        print(width, height, sum(values[::101]) / len(values[::101]), flush=True)
