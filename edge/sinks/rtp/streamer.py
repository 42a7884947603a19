"""Program that encodes pictures with GStreamer and sends them over RTP: `python streamer.py SETTINGS`.

It runs as a process of its own, under a Python that has the bindings of GObject, and imports nothing of this
project: an encoder that crashes or waits does not affect inference. Pictures (I420) come on the standard
input. The standard output reports what happens, one JSON object per line:

- `{"encoder": NAME}`: ready, pictures may come.
- `{"watched": true}`: a receiver watches; `false`: none does any more.
- `{"bit_rate": N}`: the encoder aims at another rate, because the link loses packets or is good again.
- `{"error": TEXT}`: it ends.
"""

import json
import os
import re
import sys
import threading
from typing import Any, BinaryIO

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

FEEDBACK_INTERVAL_S = 1
HIGH_LOSS, LOW_LOSS = 0.05, 0.01
SLOWER, FASTER = 0.7, 1.1
"""Above the high loss the bit rate falls by this factor per second, below the low one it rises."""
MIN_SHARE = 0.1
"""The bit rate never falls below this share of the full one."""


_EVENTS = os.fdopen(os.dup(1), "w")
"""Standard output of the start; `main` takes descriptor 1 away from the drivers, which print to it, too."""


def tell(**values: object) -> None:
    """Print one line for the process that started this one."""
    print(json.dumps(values), file=_EVENTS, flush=True)


def next_bit_rate(bit_rate: float, full_rate: float, loss: float) -> float:
    """Return the bit rate for the next second, given the share of packets that was lost in the last one."""
    if loss > HIGH_LOSS:
        return max(MIN_SHARE * full_rate, bit_rate * SLOWER)
    return min(full_rate, bit_rate * FASTER) if loss < LOW_LOSS else bit_rate


class Streamer:
    """Takes pictures from a file and gives them to the GStreamer pipeline that somebody watches.

    Args:
        settings: `width`, `height`, `fps`, `kind` ("udp" or "rtsp"), `host`, `port`, `path`, `bit_rate`, and
            `encoders`: objects with `element`, `launch`, and how it takes its bit rate: `property`, `unit`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._loop = GLib.MainLoop()
        self._pipeline: Any = None
        self._server: Any = None
        self._source: Any = None
        self._encoder: Any = None
        self._session: Any = None
        self._bit_rate = self._full_rate = float(settings["bit_rate"])
        self._chosen: dict[str, Any] = {}
        self.is_failed = False

    def run(self, pictures: BinaryIO) -> None:
        """Stream until the pictures end or something fails."""
        found = [each for each in self._settings["encoders"] if Gst.ElementFactory.find(each["element"])]
        if not found:
            names = ", ".join(each["element"] for each in self._settings["encoders"])
            self._fail(f"GStreamer has no H.264 encoder; expected one of {names}")
            return
        self._chosen = found[0]
        try:
            start = self._start_udp if self._settings["kind"] == "udp" else self._start_rtsp
            start()
        except (GLib.Error, ValueError) as error:
            self._fail(str(getattr(error, "message", error)))
            return
        tell(encoder=self._chosen["element"])
        threading.Thread(target=self._read, args=(pictures,), daemon=True).start()
        self._loop.run()

    def _description(self) -> str:
        """Return the pipeline up to the RTP packets."""
        width, height, fps = (self._settings[name] for name in ("width", "height", "fps"))
        launch = self._chosen["launch"].format(bit_rate=self._in_unit(self._full_rate))
        return (
            "appsrc name=frames is-live=true do-timestamp=true format=time max-buffers=1 "
            "leaky-type=downstream "
            f"caps=video/x-raw,format=I420,width={width},height={height},"
            f"framerate={round(fps * 1000)}/1000 ! {launch} ! "
            "h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 aggregate-mode=zero-latency mtu=1200"
        )

    def _start_udp(self) -> None:
        address = f"host={self._settings['host']} port={self._settings['port']}"
        pipeline = Gst.parse_launch(f"{self._description()} ! udpsink {address} sync=false async=false")
        bus = pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", lambda _, message: self._fail(message.parse_error()[0].message))
        self._connect(pipeline)
        if pipeline.set_state(Gst.State.PLAYING) == Gst.StateChangeReturn.FAILURE:
            raise ValueError(f"{self._chosen['element']} does not start")
        tell(watched=True)

    def _start_rtsp(self) -> None:
        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import GstRtspServer

        server = GstRtspServer.RTSPServer()
        server.set_address(self._settings["host"] or "0.0.0.0")  # noqa: S104 (as the user asks)
        server.set_service(str(self._settings["port"]))
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {self._description()} )")
        factory.set_shared(True)
        factory.set_latency(0)
        factory.connect("media-configure", lambda _, media: self._watch(media))
        server.get_mount_points().add_factory(self._settings["path"], factory)
        if server.attach(None) == 0:
            raise ValueError(
                f"port {self._settings['port']} is in use or not allowed; choose another port, and as "
                "HOST an address of this machine"
            )
        self._server = server
        GLib.timeout_add_seconds(FEEDBACK_INTERVAL_S, self._adapt)

    def _watch(self, media: Any) -> None:
        """Use the pipeline of an RTSP server, which it makes for the first receiver."""
        self._connect(media.get_element())
        media.connect("prepared", lambda _: setattr(self, "_session", media.get_stream(0).get_rtpsession()))
        media.connect("unprepared", lambda _: self._forget())
        tell(watched=True)

    def _connect(self, pipeline: Any) -> None:
        self._pipeline = pipeline  # nobody else keeps it alive
        self._encoder = pipeline.get_by_name("encoder")
        self._source = pipeline.get_by_name("frames")

    def _forget(self) -> None:
        self._pipeline = self._source = self._session = self._encoder = None
        tell(watched=False)

    def _read(self, pictures: BinaryIO) -> None:
        size = self._settings["width"] * self._settings["height"] * 3 // 2
        while len(data := pictures.read(size)) == size:
            source = self._source
            if source is not None:
                source.emit("push-buffer", Gst.Buffer.new_wrapped(data))
        self._loop.quit()

    def _adapt(self) -> bool:
        """Adapt the bit rate to the loss that the receivers report; called each second."""
        session, encoder = self._session, self._encoder
        losses = reported_losses(session.get_property("stats").to_string()) if session is not None else []
        if losses and encoder is not None and self._chosen["property"]:
            before = self._bit_rate
            self._bit_rate = next_bit_rate(before, self._full_rate, max(losses))
            if self._bit_rate != before:
                encoder.set_property(self._chosen["property"], self._in_unit(self._bit_rate))
                tell(bit_rate=round(self._bit_rate))
        return True

    def _in_unit(self, bit_rate: float) -> int:
        return int(bit_rate / self._chosen["unit"])

    def _fail(self, text: str) -> None:
        self.is_failed = True
        tell(error=" ".join(text.split()))
        self._loop.quit()


def reported_losses(statistics: str) -> list[float]:
    """Return the share of lost packets that each receiver has reported last.

    Args:
        statistics: The property `stats` of an RTP session as text. Its parts cannot be read one by one: the
            bindings free them too early.
    """
    text = statistics.replace("\\", "")
    return [
        int(lost) / 256
        for lost in re.findall(r"have-rb=\(boolean\)true.*?rb-fractionlost=\(uint\)(\d+)", text)
    ]


def main() -> None:
    """Stream the pictures of the standard input."""
    os.dup2(2, 1)
    Gst.init(None)
    streamer = Streamer(json.loads(sys.argv[1]))
    streamer.run(sys.stdin.buffer)
    os._exit(streamer.is_failed)  # the thread that waits for pictures cannot be ended


if __name__ == "__main__":
    main()
