"""What smoothing, regions and each sink cost a frame, 1280x720, in medians."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
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
from edge.sinks.mavlink.camera import MavlinkSink
from edge.sinks.sink import Sink
from edge.sinks.web.sink import HttpSink
from tests.bench.rows import Row
from tests.support.maps import blob

FRAMES, CALLS = 12, 120
MOTION = np.array([[1, 0, 0.7], [0, 1, 0.2], [0, 0, 1.0]])
"""Of the camera, in a map's pixels."""


def _median_ms(call: Callable[[int], object]) -> float:
    times = []
    for index in range(CALLS + FRAMES):
        before = time.perf_counter()
        call(index)
        times.append((time.perf_counter() - before) * 1e3)
    return statistics.median(times[FRAMES:])


def _results(height: int, width: int) -> list[Result]:
    """A flight back and forth, with maps of three peaks that move a little."""
    world = World(3, 1280, 720, 30)
    images = [world.frame(index).image for index in range(FRAMES)]
    images += images[-2:0:-1]
    results = []
    for index in range(CALLS + FRAMES):
        at = index % len(images)
        saliency = blob(0.3 + 0.002 * at, 0.4) + blob(0.7, 0.6, 0.7) + blob(0.1, 0.8, 0.5)
        sized = np.asarray(cv2.resize(saliency, (width, height)), np.float32)
        results.append(Result(Frame(index, index / 30, images[at]), sized, 1.0))
    return results


def looking_rows() -> list[Row]:
    """Smoothing, regions, ids, the camera's motion, and all of it."""
    rows: list[Row] = []
    for height, width, bound in ((64, 64, 5.0), (192, 256, 8.0)):
        results = _results(height, width)
        smooth, track, observe = TemporalFilter(), RegionTracker(), MapAnalyzer()
        sight, found = MapAnalyzer(), find_regions(results[0].saliency)
        parts: dict[str, Callable[[int], object]] = {
            "smoothing": lambda i, s=smooth, r=results: s(r[i].saliency, i / 30, MOTION),  # type: ignore[misc]
            "regions": lambda i, r=results: find_regions(r[i].saliency),  # type: ignore[misc]
            "ids": lambda i, t=track, f=found: t(f, i / 30),  # type: ignore[misc]
            "camera's motion": lambda i, o=sight, r=results: o._moved(r[i].frame.image),  # type: ignore[misc]
        }
        told = {name: f"{_median_ms(call):.3f} ms" for name, call in parts.items()}
        print(f"{height}x{width}:", told)
        whole = _median_ms(lambda i, o=observe, r=results: o(r[i]))  # type: ignore[misc]
        rows.append(
            Row(f"smoothing, regions, ids: a {height}x{width} map", whole, "ms", bound, at_least=False)
        )
    return rows


def writing_rows(folder: Path) -> list[Row]:
    """A frame's write in each sink, regions found already."""
    observe = MapAnalyzer()
    results = [observe(result) for result in _results(64, 64)]
    status = Status(RunInfo("skd-64", "int8", "none", "bench"))
    source: Any = SimpleNamespace(width=1280, height=720, fps=30.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station:
        station.bind(("127.0.0.1", 0))
        link = f"udpout:127.0.0.1:{station.getsockname()[1]}"
        mavlink = MavlinkSink(link, status, lambda result: result, gimbal=CameraGeometry(70))
        mavlink._interval_s = 0  # else most frames would not be told at all
        page = HttpSink(":0", None, status, camera=CameraGeometry(70))
        sinks: list[tuple[str, Sink, float]] = [
            ("overlay video", OverlaySink(folder / "o.mp4", source), 60),
            ("16-bit maps", MapsSink(folder / "maps"), 5),
            ("JSON lines with angles", JsonlSink(folder / "o.jsonl", camera=CameraGeometry(70)), 1),
            ("MAVLink with gimbal", mavlink, 0.5),
            ("live page, nobody there", page, 0.1),
        ]
        rows: list[Row] = []
        for name, sink, bound in sinks:
            cost = _median_ms(lambda i, s=sink: s.write(results[i]))  # type: ignore[misc]
            rows.append(Row(f"a frame to {name}", cost, "ms", bound, at_least=False))

        def watched(index: int) -> None:
            page.write(results[index])
            page._view.picture(index, 0)

        rows.append(
            Row("a picture for all who watch the live page", _median_ms(watched), "ms", 40, at_least=False)
        )
        for _, sink, _ in sinks:
            sink.discard()
    return rows


def sink_rows(folder: Path) -> list[Row]:
    """Return all rows."""
    return [*looking_rows(), *writing_rows(folder)]
