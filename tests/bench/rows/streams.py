"""Streams that other programs take part in: bags, ROS 2 topics, and the video of a ground station."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import cv2

from edge.sources.factory import open_source
from tests.bench.measurement.row import (
    AnyBenchmark,
    Benchmark,
    Contestant,
    Reading,
    Readings,
    Row,
    print_note,
    read_out,
    timed,
)
from tests.support.bags import Storage, compressed, flight, write_bag
from tests.support.ros2 import ROOT, find_ros_python, ros_environment
from tests.support.rtp_receiver import NO_GSTREAMER, has_gstreamer

BAG_FRAMES = 20
STORAGES: Mapping[str, Storage] = {"ROS 1": "ros1", "ROS 2, sqlite3": "sqlite3", "ROS 2, MCAP": "mcap"}
SECONDS = 20.0
"""Duration of the measurements of ROS 2 and RTP."""
BEFORE_OTHERS = ("chrt", "-f", "20")
"""Runs a program before all others, so that the load of the machine does not count."""


def benchmarks() -> Sequence[AnyBenchmark]:
    """Return the rate of bags, and the latencies of ROS 2 and RTP on loopback."""
    rows = [
        Row(f"1280x720 JPEG, {name}: rate of a bag over decoding its images", "decode", storage, bound=0.9)
        for name, storage in STORAGES.items()
    ]
    return (
        Benchmark("bags", 30, rows, _open_bags),
        Readings("ROS 2", 45, read_ros2),
        Readings("RTP", 60, read_rtp),
    )


@contextmanager
def _open_bags(folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open readers of bags, and the decoding of the same images alone; both in processor time.

    The opening of a bag is not timed: it takes as long for an hour of flight as for these few images.
    """
    pictures = [compressed(image) for image in flight(BAG_FRAMES, 1280, 720)]

    def decode() -> None:
        for picture in pictures:
            cv2.imdecode(picture.data, cv2.IMREAD_COLOR)

    def read(bag: Path) -> float:
        source = open_source(f"bag:{bag}")
        start_s = process_time()
        assert sum(1 for _ in source) == BAG_FRAMES
        seconds = process_time() - start_s
        source.close()
        return seconds / BAG_FRAMES

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as `aerogaze run` does
    contestants = {"decode": timed(decode, work=BAG_FRAMES, clock=process_time)}
    for storage in STORAGES.values():
        name = f"{storage}.bag" if storage == "ros1" else storage
        bag = write_bag(folder / name, storage, {"/camera": pictures})
        contestants[storage] = read_out(partial(read, bag))
    try:
        yield contestants
    finally:
        cv2.setNumThreads(threads)


def read_ros2(_folder: Path) -> Iterator[Reading]:
    """Yield what Aerogaze adds to the transport of an image topic, and its drops."""
    python = find_ros_python()
    if python is None:
        print_note("not measured: no Python with ROS 2 (make ros2-env)")
        return
    result = _measure([str(python), "-m", "tests.support.ros_latency", f"{SECONDS:g}"], ros_environment())
    label = "1280x720 topic at 30 Hz to map topic, beyond an echo node"
    yield Reading(f"{label}: p50", result["beyond_echo_ms"], "ms", 6, at_least=False)
    drops = result["map_drops"] - result["echo_drops"]
    yield Reading(f"{label}: dropped of {result['sent']} images", drops, "", spread=0)


def read_rtp(_folder: Path) -> Iterator[Reading]:
    """Yield the latency of the video stream beyond its encoder and decoder."""
    if not has_gstreamer():
        print_note(f"not measured: {NO_GSTREAMER}")
        return
    result = _measure([sys.executable, "-m", "tests.support.rtp_latency", f"{SECONDS:g}"], {**os.environ})
    label = "RTP, 1280x720 at 30 frames/s, from a clock in the picture to the receiver, beyond the codec"
    yield Reading(f"{label}: p50", result["beyond_codec_ms"], "ms", 60, at_least=False)


def _measure(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what a program prints as JSON; as root it runs before all other programs."""
    done = subprocess.run(
        [*(BEFORE_OTHERS if os.getuid() == 0 else ()), *command],
        stdout=subprocess.PIPE, env=environment, cwd=ROOT, check=True, text=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document
