"""Cost per frame of smoothing, regions and each sink: medians at 1280x720."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
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
from tests.bench.measurement.row import Benchmark, Contestant, Row, timed
from tests.support.maps import blob

MOTION = np.array([[1, 0, 0.7], [0, 1, 0.2], [0, 0, 1.0]])
"""Motion of the camera, in pixels of a map."""
RESULTS = 132
"""Results that are analyzed and written over and over."""
ANALYSES = ((64, 64, 5.0), (192, 256, 8.0))
"""Sizes of maps, and the milliseconds that their analysis may take."""
SINKS_MS = {
    "overlay video": 60.0,
    "16-bit maps": 5.0,
    "JSON lines with angles": 1.0,
    "MAVLink with gimbal": 0.5,
    "live page without viewers": 0.1,
}
"""Milliseconds that writing a frame may take."""
PICTURE = "picture"
PARTS = "smoothing", "regions", "tracking", "camera motion"


def benchmarks() -> Sequence[Benchmark]:
    """Return the analysis of maps, and the sinks without it."""

    def row(label: str, of: str, bound: float | None) -> Row:
        return Row(label, of, unit="ms", scale=1e3, bound=bound, at_least=False)

    analyses = []
    for height, width, bound in ANALYSES:
        size = f"{height}x{width}"
        rows = [row(f"smoothing, regions and tracking of a {size} map", "analysis", bound)]
        rows += [row(f"{part} of a {size} map", part, None) for part in PARTS]
        analyses.append(Benchmark(f"analysis {size}", 10, rows, partial(_open_analysis, height, width)))
    rows = [row(f"a frame to {name}", name, bound) for name, bound in SINKS_MS.items()]
    rows.append(row("a picture for all viewers of the live page", PICTURE, 40))
    return *analyses, Benchmark("writing", 20, rows, _open_sinks)


def _make_results(height: int, width: int) -> list[Result]:
    """Return results of a flight back and forth, with maps of three peaks that move a little."""
    world = World(3, 1280, 720, 30)
    images = [world.frame(index).image for index in range(12)]
    images += images[-2:0:-1]
    results = []
    for index in range(RESULTS):
        phase = index % len(images)
        saliency = blob(0.3 + 0.002 * phase, 0.4) + blob(0.7, 0.6, 0.7) + blob(0.1, 0.8, 0.5)
        resized = np.asarray(cv2.resize(saliency, (width, height)), np.float32)
        results.append(Result(Frame(index, index / 30, images[phase]), resized, 1.0))
    return results


def _each(call: Callable[[int], object], clock: Callable[[], float] = time.process_time) -> Contestant:
    """Return a contestant that is called with the index of the next result."""
    indices = count()
    return timed(lambda: call(next(indices) % RESULTS), clock=clock)


@contextmanager
def _open_analysis(height: int, width: int, _folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open the whole analysis of a map, and its parts."""
    results, times = _make_results(height, width), count()
    smooth, track, analyze, motion_analyzer = TemporalFilter(), RegionTracker(), MapAnalyzer(), MapAnalyzer()
    regions = find_regions(results[0].saliency)
    yield {
        "analysis": _each(lambda i: analyze(results[i])),
        "smoothing": _each(lambda i: smooth(results[i].saliency, next(times) / 30, MOTION)),
        "regions": _each(lambda i: find_regions(results[i].saliency)),
        "tracking": _each(lambda i: track(regions, next(times) / 30)),
        "camera motion": _each(lambda i: motion_analyzer._camera_motion(results[i].frame.image)),
    }


@contextmanager
def _open_sinks(folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open the sinks; results are analyzed before."""
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
        sinks: list[Sink] = [
            OverlaySink(folder / "o.mp4", source),
            MapsSink(folder / "maps"),
            JsonlSink(folder / "o.jsonl", camera=CameraGeometry(70)),
            mavlink,
            page,
        ]

        def write(sink: Sink, index: int) -> None:
            sink.write(results[index])

        def encode_picture(index: int) -> None:
            page.write(results[index])
            page._view.picture(index, 0)

        contestants = {
            name: _each(partial(write, sink), time.perf_counter)
            for name, sink in zip(SINKS_MS, sinks, strict=True)
        }
        yield {**contestants, PICTURE: _each(encode_picture, time.perf_counter)}
        for sink in sinks:
            sink.discard()
