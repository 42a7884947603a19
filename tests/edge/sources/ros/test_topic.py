"""Tests of the source of ROS 2 on a real one; `tests/system/test_ros2.py` runs them where rclpy is."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from itertools import islice, pairwise
from typing import Any

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame
from edge.sources.factory import open_source
from edge.sources.ros import topic as topic_module
from edge.sources.ros.node import ARGUMENTS_VARIABLE
from tests.support.ros2 import STAMP_NS, image_message, open_peer, stamped
from tests.support.waiting import wait_until

pytest.importorskip(
    "rclpy", reason="this Python has no rclpy: make ros2-env; tests/system/test_ros2.py then runs this file"
)
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
DEEP = (IMAGE[..., 0].astype(np.uint16) * 10) + 7000


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    seconds = 1.0 if "never" in request.node.name or "named" in request.node.name else 30.0
    monkeypatch.setattr(topic_module, "OPEN_TIMEOUT_S", seconds)


def read(name: str, count: int = 2) -> list[Frame]:
    with closing(open_source(name)) as source:
        return list(islice(source, count))


def test_images_come_with_stamp_and_frame_id() -> None:
    with open_peer() as peer:
        peer.publish("/day/image_raw", lambda i: image_message(IMAGE, stamp_ns=STAMP_NS + i * 50_000_000))
        with closing(open_source("ros2:/day/image_raw")) as source:
            assert (source.name, source.width, source.height) == ("ros2:/day/image_raw", 64, 48)
            assert source.fps == pytest.approx(20)
            frames = list(islice(source, 5))
    assert frames[0].index == 0
    steps = np.diff([frame.index for frame in frames])
    assert (steps >= 1).all()
    assert [(f.stamp_ns or 0) - (frames[0].stamp_ns or 0) for f in frames] == [
        f.index * 50_000_000 for f in frames
    ]
    assert {frame.frame_id for frame in frames} == {"camera"}
    np.testing.assert_array_equal(frames[0].image, IMAGE)
    assert all(a.capture_s <= b.capture_s for a, b in pairwise(frames))


@pytest.mark.parametrize(
    ("data", "encoding"),
    [(IMAGE[..., ::-1], "rgb8"), (IMAGE[..., 0], "mono8"), (IMAGE[..., 0], "bayer_rggb8"), (DEEP, "mono16")],
)
def test_encodings_are_read(data: Any, encoding: str) -> None:
    with open_peer() as peer:
        peer.publish("/camera", lambda index: image_message(data, encoding))
        image = read("ros2:/camera", 1)[0].image
    assert image.shape == (48, 64, 3)
    if encoding == "mono16":
        assert (image.min(), image.max()) == (0, 255)


def test_compressed_images_are_read() -> None:
    from sensor_msgs.msg import CompressedImage

    data = cv2.imencode(".jpg", IMAGE)[1].tobytes()
    with open_peer() as peer:
        peer.publish("/c/compressed", lambda index: stamped(CompressedImage(format="jpeg", data=data)))
        assert read("ros2:/c/compressed", 1)[0].image.shape == (48, 64, 3)


def test_topic_is_remapped_as_for_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARGUMENTS_VARIABLE, "-r image:=/day/image_raw -r __ns:=/drone -r __node:=eye")
    with open_peer() as peer:
        peer.publish("/day/image_raw", lambda index: image_message(IMAGE))
        with closing(open_source("ros2:image")) as source:
            assert source.name == "ros2:/day/image_raw"
            assert wait_until(lambda: ("eye", "/drone") in peer.node.get_node_names_and_namespaces())


def test_topic_that_never_comes_is_named_with_those_that_are_there() -> None:
    with open_peer() as peer:
        peer.publish("/other", lambda index: image_message(IMAGE))
        with pytest.raises(
            InputError, match=r"nobody publishes /nope \(domain \d+, rmw_fastrtps_cpp\)"
        ) as error:
            open_source("ros2:/nope")
    assert "topics with images here: /other: check ROS_DOMAIN_ID" in str(error.value)


def test_message_that_never_comes_is_named() -> None:
    with open_peer() as peer:
        peer.publish("/quiet", lambda index: image_message(IMAGE), period_s=1000)
        peer._stop.set()
        with pytest.raises(InputError, match=r"/quiet has a publisher, but no message came in 1 s"):
            open_source("ros2:/quiet")


def test_quality_of_service_that_does_not_match_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    override = "-p qos_overrides./day.subscription.reliability:=reliable"
    monkeypatch.setenv(ARGUMENTS_VARIABLE, override)
    with open_peer() as peer:
        peer.publish("/day", lambda index: image_message(IMAGE))
        with pytest.raises(
            InputError, match=r"quality of service of /day does not match: .* the reliability "
        ):
            open_source("ros2:/day")


def test_other_type_and_unknown_encoding_are_named() -> None:
    from std_msgs.msg import String

    with open_peer() as peer:
        peer.publish("/text", lambda index: String(data="x"))
        peer.publish("/odd", lambda index: image_message(IMAGE, "cmyk8"))
        with pytest.raises(
            InputError, match="/text has messages of std_msgs/msg/String; expected sensor_msgs/"
        ):
            open_source("ros2:/text")
        with pytest.raises(
            InputError, match="/odd cannot be read: unknown encoding 'cmyk8'; expected one of"
        ):
            open_source("ros2:/odd")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RMW_IMPLEMENTATION": "rmw_none_cpp"}, "RMW_IMPLEMENTATION=rmw_none_cpp cannot be loaded ("),
        ({ARGUMENTS_VARIABLE: "-r x"}, "aerogaze: ROS 2 does not start ("),
    ],
)
def test_ros_that_does_not_start_is_named_in_one_line(variables: dict[str, str], message: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "edge", "run", "ros2:/x"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
