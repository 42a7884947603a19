"""Glass-to-glass latency of the RTP sink, with a clock in the picture, beside the delay of its encoder alone.

`python -m tests.support.rtp_latency [SECONDS]`. The receiver and the encoder alone run under Debian's Python,
which has the bindings of GObject, as processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.rtp_receiver import DEBIAN, DECODE, load_gstreamer, next_picture, receive

WIDTH, HEIGHT, FPS = 1280, 720, 30
BITS, BLOCK = 32, 40
"""The clock: milliseconds since 1970, modulo 2^32, as a row of black and white blocks."""


@dataclass(frozen=True)
class RtpLatency:
    """What was measured.

    Attributes:
        pictures: Number of pictures that were received.
        glass_p50_ms: Median time from the clock in the picture to the decoded picture.
        codec_p50_ms: Median time of the same encoder and decoder in one process, without a network.
        encoder: Name of the encoder.
    """

    pictures: int
    glass_p50_ms: float
    codec_p50_ms: float
    encoder: str

    @property
    def beyond_codec_ms(self) -> float:
        """Median time beyond the delay of the encoder and the decoder."""
        return self.glass_p50_ms - self.codec_p50_ms


def measure_rtp_latency(port: int, seconds: float) -> RtpLatency:
    """Stream pictures with a clock to a receiver on loopback, then measure the encoder alone."""
    from edge.core.run_status import RunInfo, Status
    from edge.sinks.rtp.encoders import ENCODERS
    from edge.sinks.rtp.sink import RtpSink, parse_stream

    count = round(seconds * FPS)
    with _start("receive", str(port), str(count)) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        source: Any = _Source()
        stream = parse_stream(f"udp://127.0.0.1:{port}", source)
        sink = RtpSink(stream, Status(RunInfo("", "", "", "")))
        try:
            _show(sink, receiver, 3 * seconds + 20)
        finally:
            sink.commit()
        glass_ms = [float(line) for line in receiver.stdout.read().split()]
    launch = next(each.launch for each in ENCODERS if each.element == sink.encoder)
    own = launch.format(bit_rate=round(stream.bit_rate / _unit(sink.encoder)))
    with _start("encode", own, str(count)) as process:
        codec_ms = [float(line) for line in process.communicate()[0].split()]
    return RtpLatency(len(glass_ms), median(glass_ms), median(codec_ms), sink.encoder)


class _Source:
    width, height, fps = WIDTH, HEIGHT, float(FPS)


def _unit(element: str) -> int:
    from edge.sinks.rtp.encoders import ENCODERS

    return next(each.unit for each in ENCODERS if each.element == element)


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [DEBIAN, "-m", "tests.support.rtp_latency", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def _show(sink: Any, receiver: subprocess.Popen[str], seconds: float) -> None:
    """Show pictures at `FPS` until the receiver has enough."""
    import numpy as np

    from edge.core.frames import Frame
    from edge.postprocessing.result import Result

    saliency, background = np.zeros((64, 64), np.float32), np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    background[100:] += np.random.default_rng(0).integers(0, 40, (HEIGHT - 100, WIDTH, 3), np.uint8)
    end_s = next_s = time.monotonic()
    end_s += seconds
    while receiver.poll() is None and time.monotonic() < end_s:
        next_s = max(next_s + 1 / FPS, time.monotonic())
        time.sleep(max(0.0, next_s - time.monotonic()))
        picture = np.roll(background, round(next_s * 60), axis=1)
        now_ms = time.time_ns() // 1_000_000
        for bit in range(BITS):
            picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235 if now_ms >> bit & 1 else 16
        sink.write(Result(Frame(0, next_s, picture), saliency, 1.0))


def _read_clock(sample: Any) -> int:
    """Return the clock in a grey picture."""
    buffer = sample.get_buffer()
    stride = buffer.get_size() // HEIGHT
    row = buffer.extract_dup(stride * (BLOCK // 2), WIDTH)
    return sum((row[bit * BLOCK + BLOCK // 2] > 128) << bit for bit in range(BITS))


def _age_ms(clock: int) -> int:
    return (time.time_ns() // 1_000_000 - clock) % (1 << BITS)


def _receive(port: str, count: str) -> None:
    for sample in receive(int(port), int(count)):
        print(_age_ms(_read_clock(sample)), flush=True)


def _encode(launch: str, count: str) -> None:
    """Print how long each picture takes through the encoder and the decoder."""
    import random

    gst = load_gstreamer()
    pipeline = gst.parse_launch(
        "appsrc name=frames is-live=true do-timestamp=true format=time "
        f"caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={FPS}/1 ! {launch} ! {DECODE}"
    )
    frames, pictures = pipeline.get_by_name("frames"), pipeline.get_by_name("pictures")
    pipeline.set_state(gst.State.PLAYING)
    noise = bytes(random.Random(0).randrange(90, 130) for _ in range(WIDTH * HEIGHT))  # noqa: S311 (a picture)
    for index in range(int(count)):
        shift = 2 * index % WIDTH
        picture = noise[shift:] + noise[:shift] + bytes([128]) * (WIDTH * HEIGHT // 2)
        started_s = time.monotonic()
        frames.emit("push-buffer", gst.Buffer.new_wrapped(picture))
        next_picture(pictures, gst.SECOND)
        print((time.monotonic() - started_s) * 1e3, flush=True)
        time.sleep(max(0.0, 1 / FPS - (time.monotonic() - started_s)))
    pipeline.set_state(gst.State.NULL)


if __name__ == "__main__":
    if sys.argv[1:2] in (["receive"], ["encode"]):
        {"receive": _receive, "encode": _encode}[sys.argv[1]](*sys.argv[2:])
    else:
        from tests.support.ports import free_udp_port

        result = measure_rtp_latency(free_udp_port(), float(sys.argv[1]) if sys.argv[1:] else 10.0)
        print(json.dumps({**asdict(result), "beyond_codec_ms": result.beyond_codec_ms}))
