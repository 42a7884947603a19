"""Cost per frame of smoothing, regions and each sink: medians at 1280x720."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from edge.core.frames import Frame
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.regions import find_regions
from edge.postprocessing.result import Result
from edge.postprocessing.temporal_filter import TemporalFilter
from edge.postprocessing.tracking import RegionTracker
from edge.simulation.world import World
from edge.sinks.files.jsonl import JsonlSink
from edge.sinks.files.map_images import MapsSink
from edge.sinks.files.overlay_video import OverlaySink
from edge.sinks.mavlink.camera import MavlinkSettings, MavlinkSink
from edge.sinks.sink import Sink
from edge.sinks.web.sink import HttpSink
from tests.bench.rows import BenchRow, print_note
from tests.support.maps import blob

WARM_UP_FRAMES, CALLS = 12, 120
MOTION = np.array([[1, 0, 0.7], [0, 1, 0.2], [0, 0, 1.0]])
"""Motion of the camera, in pixels of a map."""


def _median_ms(call: Callable[[int], object]) -> float:
    times_ms = []
    for index in range(CALLS + WARM_UP_FRAMES):
        start_s = time.perf_counter()
        call(index)
        times_ms.append((time.perf_counter() - start_s) * 1e3)
    return statistics.median(times_ms[WARM_UP_FRAMES:])


def _make_results(height: int, width: int) -> list[Result]:
    """Return results of a flight back and forth, with maps of three peaks that move a little."""
    world = World(3, 1280, 720, 30)
    images = [world.frame(index).image for index in range(12)]
    images += images[-2:0:-1]
    results = []
    for index in range(CALLS + WARM_UP_FRAMES):
        phase = index % len(images)
        saliency = blob(0.3 + 0.002 * phase, 0.4) + blob(0.7, 0.6, 0.7) + blob(0.1, 0.8, 0.5)
        resized = np.asarray(cv2.resize(saliency, (width, height)), np.float32)
        results.append(Result(Frame(index, index / 30, images[phase]), resized, 1.0))
    return results


def analysis_rows() -> Iterator[BenchRow]:
    """Yield the time of the whole analysis of a map; print the time of its parts."""
    for height, width, bound in ((64, 64, 5.0), (192, 256, 8.0)):
        results = _make_results(height, width)
        smooth, track, analyze = TemporalFilter(), RegionTracker(), MapAnalyzer()
        motion_analyzer, regions = MapAnalyzer(), find_regions(results[0].saliency)
        parts: dict[str, Callable[[int], object]] = {
            "smoothing": lambda i, s=smooth, r=results: s(r[i].saliency, i / 30, MOTION),  # type: ignore[misc]
            "regions": lambda i, r=results: find_regions(r[i].saliency),  # type: ignore[misc]
            "tracking": lambda i, t=track, f=regions: t(f, i / 30),  # type: ignore[misc]
            "camera motion": lambda i, a=motion_analyzer, r=results: a._camera_motion(r[i].frame.image),  # type: ignore[misc]
        }
        times = ", ".join(f"{name} {_median_ms(call):.3f} ms" for name, call in parts.items())
        print_note(f"{height}x{width}: {times}")
        total_ms = _median_ms(lambda i, a=analyze, r=results: a(r[i]))  # type: ignore[misc]
        label = f"smoothing, regions and tracking of a {height}x{width} map"
        yield BenchRow(label, total_ms, "ms", bound, at_least=False)


def write_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the time to write a result to each sink, without the analysis."""
    analyze = MapAnalyzer()
    results = [analyze(result) for result in _make_results(64, 64)]
    status = Status(RunInfo("skd-64", "int8", "none", "bench"))
    source: Any = SimpleNamespace(width=1280, height=720, fps=30.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station:
        station.bind(("127.0.0.1", 0))
        link = f"udpout:127.0.0.1:{station.getsockname()[1]}"
        mavlink = MavlinkSink(
            [link], status, lambda result: result, MavlinkSettings(camera=CameraGeometry(70), gimbal=True)
        )
        for interval in mavlink._messages.periodic.values():
            interval.seconds = 0  # by default most frames send no message
        page = HttpSink(":0", None, status, camera=CameraGeometry(70))
        sinks: list[tuple[str, Sink, float]] = [
            ("overlay video", OverlaySink(folder / "o.mp4", source), 60),
            ("16-bit maps", MapsSink(folder / "maps"), 5),
            ("JSON lines with angles", JsonlSink(folder / "o.jsonl", camera=CameraGeometry(70)), 1),
            ("MAVLink with gimbal", mavlink, 0.5),
            ("live page without viewers", page, 0.1),
        ]
        for name, sink, bound in sinks:
            cost_ms = _median_ms(lambda i, s=sink: s.write(results[i]))  # type: ignore[misc]
            yield BenchRow(f"a frame to {name}", cost_ms, "ms", bound, at_least=False)

        def encode_picture(index: int) -> None:
            page.write(results[index])
            page._view.picture(index, 0)

        label = "a picture for all viewers of the live page"
        yield BenchRow(label, _median_ms(encode_picture), "ms", 40, at_least=False)
        for _, sink, _ in sinks:
            sink.discard()


def sink_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield all rows."""
    yield from analysis_rows()
    yield from write_rows(folder)
