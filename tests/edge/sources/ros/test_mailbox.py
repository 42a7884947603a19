"""Tests of the source of ROS 2 that need no ROS 2."""

from __future__ import annotations

import builtins
import os
import struct
import threading
from collections.abc import Callable
from typing import Any

import click
import pytest

from edge.cli.run.ros_arguments import RosCommand, ros_args_option
from edge.core.errors import InputError
from edge.sources.factory import exclusive_devices, is_camera, open_source
from edge.sources.public_name import has_password, public_name
from edge.sources.ros.node import ARGUMENTS_VARIABLE
from edge.sources.ros.topic import Mailbox, header_stamp_ns
from tests.conftest import Outcome


def serialized(seconds: int, nanoseconds: int, little: bool = True) -> bytes:
    return (
        bytes([0, int(little), 0, 0])
        + struct.pack("<iI" if little else ">iI", seconds, nanoseconds)
        + b"rest"
    )


def test_newest_message_replaces_the_one_that_nobody_took() -> None:
    mailbox = Mailbox()
    for second in range(3):
        mailbox.put(serialized(second, 0))
    arrival = mailbox.take()
    assert arrival is not None
    assert (arrival.number, header_stamp_ns(arrival.data)) == (2, 2_000_000_000)
    assert mailbox.take(timeout_s=0) is None
    assert list(mailbox.stamps_ns) == [0, 1_000_000_000, 2_000_000_000]


def test_closing_wakes_who_waits() -> None:
    mailbox, taken = Mailbox(), []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.close()
    thread.join()
    assert taken == [None]


def test_stamp_is_read_from_both_byte_orders() -> None:
    assert (
        header_stamp_ns(serialized(1, 5)) == header_stamp_ns(serialized(1, 5, little=False)) == 1_000_000_005
    )
    assert header_stamp_ns(b"short") == 0


def test_topic_is_a_camera_without_device_and_without_secret() -> None:
    assert is_camera("ros2:/camera/image_raw")
    assert is_camera("ROS2:image")
    assert exclusive_devices("ros2:/camera/image_raw") == []
    assert public_name("ros2:/passive_camera/image_raw") == "ros2:/passive_camera/image_raw"
    assert not has_password("ros2:/passive_camera/token/image_raw")


@pytest.fixture
def no_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide ROS 2, also where it is installed."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **settings: Any) -> Any:
        if name.partition(".")[0] == "rclpy":
            raise ImportError("No module named 'rclpy'")
        return real(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("no_ros")
def test_missing_ros_environment_is_named(command: Callable[..., Outcome]) -> None:
    with pytest.raises(InputError, match=r"^ROS 2 is not here \(No module named 'rclpy'\): source /opt/ros/"):
        open_source("ros2:/camera/image_raw")
    outcome = command("run", "synthetic:7:160x90:2", "--release", "skd-32", "--ros2")
    assert (outcome.code, "ROS 2 is not here" in outcome.err) == (2, True)


@pytest.mark.parametrize("name", ["ros2:", "ros2:/", "ros2:/9x", "ros2:/a b", "ros2:/a//b"])
def test_name_that_is_no_topic_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"no topic .*; expected ros2:TOPIC, such as ros2:/camera/image_raw"):
        open_source(name)


def test_topics_give_only_their_current_images() -> None:
    with pytest.raises(InputError, match="ros2:/x gives only its current frames"):
        open_source("ros2:/x", live=False)


def test_source_that_is_taken_for_a_namespace_is_named(command: Callable[..., Outcome]) -> None:
    outcome = command("run", "synthetic:7:160x90:2", "--release", "skd-32", "--ros2", "ros2:/x")
    assert outcome.code == 2
    assert "--ros2 'ros2:/x' is no namespace" in outcome.err


def test_arguments_after_ros_args_go_to_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    @click.command(cls=RosCommand)
    @click.argument("source")
    @click.option("--fps", type=float)
    @ros_args_option
    def run(source: str, fps: float | None) -> None:
        seen.extend((source, fps, os.environ[ARGUMENTS_VARIABLE]))

    monkeypatch.delenv(ARGUMENTS_VARIABLE, raising=False)
    run(["x", "--ros-args", "-r", "image:=/a b", "--", "--fps", "5"], standalone_mode=False)
    assert seen == ["x", 5.0, "-r 'image:=/a b'"]
    assert ARGUMENTS_VARIABLE not in os.environ
    seen.clear()
    run(["--ros-args", "-r", "a:=/b", "--", "x", "--ros-args", "-p", "c:=1"], standalone_mode=False)
    run(["x", "--ros-args=-r a:=/b"], standalone_mode=False)
    run(["x", "--ros-args"], standalone_mode=False, default_map={"ros_args": "-p c:=1"})
    assert seen == ["x", None, "-r a:=/b -p c:=1", "x", None, "-r a:=/b", "x", None, "-p c:=1"]
