"""Conditions that can explain a difference: board, clocks, temperatures, throttling, versions, load."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge.hardware.board import read_board_facts
from edge.hardware.gpu import detect_gpu
from edge.hardware.host import detect_machine
from edge.hardware.sensors import SensorReading, Sensors, throttle_causes

SAMPLE_PERIOD_S = 0.1
"""Least time between two readings of the sensors, which are read between turns."""
PACKAGES = ("aerogaze", "numpy", "onnxruntime", "opencv-python-headless", "tensorrt", "tensorrt_rtx", "torch")


class SensorRecorder:
    """Records the sensors during a measurement.

    Attributes:
        readings: Readings so far; the first is from the recorder's creation.
        load_average: Load average (one minute) at the recorder's creation.
    """

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self.readings = [sensors.read()]
        self.load_average = os.getloadavg()[0]

    def sample(self, force: bool = False) -> None:
        """Read the sensors if `SAMPLE_PERIOD_S` has passed since the last reading, or if forced."""
        if force or time.monotonic() - self.readings[-1].t_s >= SAMPLE_PERIOD_S:
            self.readings.append(self._sensors.read())

    def to_document(self) -> dict[str, Any]:
        """Return the record for the JSON document."""
        first, last = self.readings[0], self.readings[-1]
        previous = [first, *self.readings]
        return {
            "temperatures_c": {
                "before": dict(first.temperatures_c),
                "after": dict(last.temperatures_c),
                "highest": _highest_temperatures(self.readings),
            },
            "clocks_mhz": {"before": dict(first.clocks_mhz), "after": dict(last.clocks_mhz)},
            "governors": self._sensors.governors,
            "throttled": throttle_causes(self.readings),
            "not_readable": self._sensors.unreadable,
            "load_average_before": self.load_average,
            "timeline": [
                _timeline_point(earlier, reading, first.t_s)
                for earlier, reading in zip(previous, self.readings, strict=False)
            ],
        }


def describe_machine(root: Path = Path("/")) -> dict[str, Any]:
    """Return the description of the machine for the JSON document; `root` is another folder in tests."""
    machine, facts, gpu = detect_machine(), read_board_facts(root), detect_gpu()
    return {
        "cpu": machine.cpu,
        "architecture": machine.architecture,
        "cores": machine.cores,
        "system": machine.system,
        "board": facts.model,
        "jetpack": facts.jetpack_or_l4t,
        "power_mode": facts.power_mode_name,
        "gpu": gpu.name if gpu else None,
    }


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that take part, for the JSON document."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203 - a few
            continue
    return versions


def machine_name(machine: Mapping[str, Any]) -> str:
    """Return the name of a described machine: its board or GPU, if any, and its processor."""
    device = machine.get("board") or machine.get("gpu")
    return f"{device}, {machine['cpu']}" if device else str(machine["cpu"])


def _highest_temperatures(readings: Sequence[SensorReading]) -> dict[str, float]:
    highest: dict[str, float] = {}
    for reading in readings:
        for name, degrees in reading.temperatures_c.items():
            highest[name] = max(degrees, highest.get(name, degrees))
    return highest


def _timeline_point(earlier: SensorReading, reading: SensorReading, start_s: float) -> dict[str, Any]:
    return {
        "t_s": round(reading.t_s - start_s, 3),
        "temperatures_c": dict(reading.temperatures_c),
        "clocks_mhz": dict(reading.clocks_mhz),
        # Without the earlier states, so that a point names only what throttles now or was counted since.
        "throttled": throttle_causes([replace(earlier, throttle={}), reading]),
    }
