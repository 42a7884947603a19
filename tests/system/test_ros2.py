"""The tests of ROS 2, run by a Python that has it: `make ros2-env` makes one of the wheels of PyPI."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.ros2 import PYTHON_VARIABLE, ROOT, find_ros_python, ros_environment

WARNINGS = ("-W", "ignore::DeprecationWarning")
"""The libraries of ROS use deprecated modules."""
FILES = ("tests/edge/sources/ros/test_topic.py", "tests/edge/sinks/ros2/test_sink.py")


@pytest.mark.parametrize("file", FILES)
def test_source_and_sink_work_with_a_real_ros2(file: str) -> None:
    python = find_ros_python()
    if python is None:
        pytest.skip(f"no Python with ROS 2: make ros2-env, or set {PYTHON_VARIABLE}")
    result = subprocess.run(
        [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *WARNINGS, file],
        cwd=ROOT,
        env=ros_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " skipped" not in result.stdout, result.stdout[-2000:]
