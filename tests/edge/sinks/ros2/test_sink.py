"""Tests of the sink of ROS 2 on a real one; `tests/system/test_ros2.py` runs them where rclpy is."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge.core.frames import Frame
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result
from edge.sinks.ros2.sink import Ros2Sink
from edge.sources.ros.node import ARGUMENTS_VARIABLE
from tests.support.maps import blob
from tests.support.ros2 import STAMP_NS, Peer, image_message, open_peer
from tests.support.waiting import wait_until

pytest.importorskip(
    "rclpy", reason="this Python has no rclpy: make ros2-env; tests/system/test_ros2.py then runs this file"
)
IMAGE = np.zeros((180, 320, 3), np.uint8)
REGION = Region(0.75, 0.5, 0.7, 0.4, 0.8, 0.6, 0.9, id=3, share=0.4)
RESULT = Result(Frame(0, 0.0, IMAGE, stamp_ns=STAMP_NS, frame_id="camera"), blob(0.75, 0.5), 10.0, (REGION,))


@pytest.fixture
def peer() -> Iterator[Peer]:
    with open_peer() as peer:
        yield peer


@pytest.fixture
def open_sink() -> Iterator[Callable[..., Ros2Sink]]:
    sinks: list[Ros2Sink] = []

    def open_(namespace: str = "saliency", **settings: Any) -> Ros2Sink:
        status = Status(RunInfo("skd-64", "int8", "engine", "source"))
        status.set_state("running")
        source: Any = SimpleNamespace(width=320, height=180)
        sinks.append(Ros2Sink(namespace, source, status, **settings))
        return sinks[-1]

    yield open_
    for sink in sinks:
        sink.discard()


def write_until(sink: Ros2Sink, messages: list[Any]) -> Any:
    """Write results until a message arrives, and return it."""

    def arrived() -> bool:
        sink.write(RESULT)
        return bool(messages)

    assert wait_until(arrived)
    return messages[0]


def is_stamped(message: Any) -> bool:
    header = message.header
    return (header.stamp.sec * 10**9 + header.stamp.nanosec, header.frame_id) == (STAMP_NS, "camera")


def test_map_has_stamp_and_frame_id_of_its_image(peer: Peer, open_sink: Callable[..., Ros2Sink]) -> None:
    from sensor_msgs.msg import Image

    message = write_until(open_sink(), peer.listen(Image, "/saliency/map"))
    assert is_stamped(message)
    assert (message.encoding, message.width, message.height, message.step) == ("32FC1", 256, 144, 1024)
    values = np.frombuffer(message.data, "<f4").reshape(144, 256)
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert (column / 256, row / 144) == pytest.approx((0.75, 0.5), abs=0.02)


def test_overlay_is_made_when_somebody_subscribes(peer: Peer, open_sink: Callable[..., Ros2Sink]) -> None:
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage

    sink = open_sink()
    made: list[int] = []
    make = sink._overlay_message
    sink._overlay_message = lambda result, header: made.append(1) or make(result, header)  # type: ignore[method-assign, func-returns-value]
    sink.write(RESULT)
    assert not made
    topic = "/saliency/overlay/compressed"
    message = write_until(sink, peer.listen(CompressedImage, topic, qos_profile_sensor_data))
    assert made
    assert is_stamped(message)
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (180, 320, 3)


def test_regions_and_bearing_are_published(peer: Peer, open_sink: Callable[..., Ros2Sink]) -> None:
    from geometry_msgs.msg import Vector3Stamped
    from std_msgs.msg import String

    sink = open_sink("/drone/eye", camera=CameraGeometry(90))
    row = json.loads(write_until(sink, peer.listen(String, "/drone/eye/regions")).data)
    assert (row["stamp"]["nanosec"], row["frame_id"]) == (STAMP_NS % 10**9, "camera")
    assert row["regions"][0]["id"] == 3
    bearing = write_until(sink, peer.listen(Vector3Stamped, "/drone/eye/bearing"))
    assert is_stamped(bearing)
    # A quarter of the width to the right of the centre, at 90 degrees: half of the focal length.
    angle = math.degrees(math.atan2(bearing.vector.x, bearing.vector.z))
    assert angle == pytest.approx(math.degrees(math.atan(0.5)))
    assert bearing.vector.y == pytest.approx(0)


def test_diagnostics_come_each_second_also_without_results(
    peer: Peer, open_sink: Callable[..., Ros2Sink]
) -> None:
    diagnostics = pytest.importorskip(
        "diagnostic_msgs.msg", reason="this Python has no diagnostic_msgs: make ros2-env"
    )
    sink = open_sink()
    messages = peer.listen(diagnostics.DiagnosticArray, "/diagnostics")
    assert wait_until(lambda: messages)
    (status,) = messages[0].status
    values = {value.key: value.value for value in status.values}
    assert (status.name, status.level, values["state"]) == ("aerogaze: saliency", b"\0", "running")
    assert {"dropped", "fps", "latency p50 ms"} <= set(values)
    sink._status.report_fault("source", "the camera is gone")
    assert wait_until(lambda: messages[-1].status[0].message == "the camera is gone")
    assert messages[-1].status[0].level == b"\1"


def test_subscriber_whose_quality_of_service_does_not_match_is_named(
    peer: Peer, open_sink: Callable[..., Ros2Sink]
) -> None:
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image

    sink = open_sink()
    peer.listen(Image, "/saliency/map", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))

    def is_named() -> bool:
        sink.write(RESULT)
        return "ros2-qos" in sink._status.snapshot().open_faults

    assert wait_until(is_named)
    text = sink._status.snapshot().open_faults["ros2-qos"]
    assert text == "a subscriber of /saliency/map asks for durability, which is not offered"


def test_clock_of_a_simulation_stamps_results_and_is_a_parameter(
    peer: Peer, open_sink: Callable[..., Ros2Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    from builtin_interfaces.msg import Time
    from rcl_interfaces.srv import ListParameters
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import Image

    monkeypatch.setenv(ARGUMENTS_VARIABLE, "-p use_sim_time:=true")
    peer.publish("/clock", lambda index: Clock(clock=Time(sec=1000 + index)))
    maps = peer.listen(Image, "/saliency/map")
    sink, unstamped = open_sink(), replace(RESULT, frame=replace(RESULT.frame, stamp_ns=None))

    def is_stamped_by_the_simulation() -> bool:
        sink.write(unstamped)
        return any(1000 <= message.header.stamp.sec < 100_000 for message in list(maps))

    assert wait_until(is_stamped_by_the_simulation)
    client = peer.node.create_client(ListParameters, "/aerogaze/list_parameters")
    assert client.wait_for_service(20)
    answer = client.call_async(ListParameters.Request())
    assert wait_until(answer.done)
    assert "use_sim_time" in answer.result().result.names


def test_cameras_of_a_run_have_topics_and_diagnostics_of_their_own(peer: Peer) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    maps = {name: peer.listen(Image, f"/saliency/{name}/map") for name in ("day", "thermal")}
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    source: Any = SimpleNamespace(width=320, height=180)
    sinks = [
        Ros2Sink(f"saliency/{name}", source, Status(RunInfo("", "", "", name), camera=name)) for name in maps
    ]
    try:
        for sink, messages in zip(sinks, maps.values(), strict=True):
            write_until(sink, messages)
        expected = {"aerogaze: saliency day", "aerogaze: saliency thermal"}
        assert wait_until(lambda: {each.status[0].name for each in list(diagnostics)} == expected)
    finally:
        for sink in sinks:
            sink.discard()


def test_command_goes_from_topic_to_topics(peer: Peer, tmp_path: Path) -> None:
    from sensor_msgs.msg import Image

    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3)).astype(np.uint8)
    peer.publish("/day", lambda i: image_message(np.roll(noise, i, 1), stamp_ns=STAMP_NS + i * 33_000_000))
    maps = peer.listen(Image, "/drone/saliency/map")
    arguments = ["run", "ros2:image", "--release", "skd-32", "--max-frames", "40", "--json", "--ros2"]
    ros = ["--ros-args", "-r", "image:=/day", "-r", "__ns:=/drone", "-p", "use_sim_time:=false"]
    environment = {**os.environ}
    environment.pop(ARGUMENTS_VARIABLE, None)
    result = subprocess.run(
        [sys.executable, "-m", "edge", *arguments, *ros],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["source"] == "ros2:/day"
    assert summary["frames"] + summary["dropped"] >= 40
    assert maps
    assert all(
        (m.header.stamp.sec * 10**9 + m.header.stamp.nanosec - STAMP_NS) % 33_000_000 == 0 for m in maps
    )
