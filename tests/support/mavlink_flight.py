"""A MAVLink sink in flight: its camera, its clock and what it reports, for a ground station on loopback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from edge.core.frames import Frame
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.geolocation import Geolocator
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, identity
from edge.sinks.mavlink.camera import MavlinkSettings, MavlinkSink
from edge.sinks.video_stream import VideoStream
from tests.support.clocks import ManualClock
from tests.support.ground_station import VEHICLE, GroundStation

IMAGE = np.zeros((90, 160, 3), np.uint8)


class Flight(NamedTuple):
    """An open sink, its status and its clock."""

    sink: MavlinkSink
    status: Status
    clock: ManualClock


def region(x: float = 0.75, y: float = 0.5, number: int = 1, coasting: bool = False) -> Region:
    return Region(x, y, x - 0.05, y - 0.1, x + 0.05, y + 0.1, 0.4, number, 1.0, coasting)


def result(*regions: Region, index: int = 0) -> Result:
    return Result(Frame(index, index / 30, IMAGE), np.zeros((8, 8), np.float32), 2.0, regions)


@contextmanager
def flying(
    ground: GroundStation,
    gimbal: CameraGeometry | None = None,
    on_gimbal: bool = False,
    key: bytes | None = None,
    stream: VideoStream | None = None,
    links: Sequence[str] = (),
    locator: Geolocator | None = None,
) -> Iterator[Flight]:
    status, clock = Status(RunInfo("skd-64", "int8", "none", "camera")), ManualClock()
    settings = MavlinkSettings(
        VEHICLE, gimbal, gimbal is not None, on_gimbal, key, (160, 90), stream, locator
    )
    sink = MavlinkSink(links or [f"udpout:127.0.0.1:{ground.port}"], status, identity, settings, clock)
    try:
        ground.wait("HEARTBEAT")
        yield Flight(sink, status, clock)
    finally:
        sink.discard()
