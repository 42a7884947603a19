"""RTP receiver of GStreamer on loopback: `python3 rtp_receiver.py PORT PICTURES`.

It runs as a process of its own under Debian's Python, as a ground station would. It prints "listening",
then for each picture one line with its width, height and mean brightness.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

port, count = sys.argv[1:]
Gst.init(None)
pipeline = Gst.parse_launch(
    f"udpsrc address=127.0.0.1 port={port} "
    "caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96 "
    "! rtph264depay ! h264parse ! openh264dec ! videoconvert ! video/x-raw,format=GRAY8 "
    "! appsink name=pictures sync=false"
)
pictures = pipeline.get_by_name("pictures")
pipeline.set_state(Gst.State.PLAYING)
pipeline.get_state(Gst.SECOND)
print("listening", flush=True)
for _ in range(int(count)):
    sample = pictures.emit("try-pull-sample", 20 * Gst.SECOND)
    if sample is None:
        sys.exit("no picture")
    size, data = sample.get_caps().get_structure(0), sample.get_buffer()
    values = data.extract_dup(0, data.get_size())
    width, height = size.get_int("width")[1], size.get_int("height")[1]
    print(width, height, sum(values[::101]) / len(values[::101]), flush=True)
pipeline.set_state(Gst.State.NULL)
