"""What would explain a difference: board, clocks, temperatures, throttling, versions, load."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge.hardware.board import read_facts
from edge.hardware.gpu import this_gpu
from edge.hardware.host import this_machine
from edge.hardware.sensors import Reading, Sensors, throttled

EVERY_S = 0.1
"""Sensors are read between turns, no more often than this."""
PACKAGES = ("aerogaze", "numpy", "onnxruntime", "opencv-python-headless", "tensorrt", "tensorrt_rtx", "torch")


class SensorRecorder:
    """Looks at the sensors while something is measured."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self.readings = [sensors.read()]
        self.load_average = os.getloadavg()[0]

    def look(self, always: bool = False) -> None:
        """Read the sensors, if the last time was long enough ago."""
        if always or time.monotonic() - self.readings[-1].t_s >= EVERY_S:
            self.readings.append(self._sensors.read())

    def document(self) -> dict[str, Any]:
        """Return what was felt, for the JSON: before, after, highest, throttling, and the timeline."""
        first, last = self.readings[0], self.readings[-1]
        before = [first, *self.readings]
        return {
            "temperatures_c": {
                "before": dict(first.temperatures_c),
                "after": dict(last.temperatures_c),
                "highest": _highest(self.readings),
            },
            "clocks_mhz": {"before": dict(first.clocks_mhz), "after": dict(last.clocks_mhz)},
            "governors": self._sensors.governors,
            "throttled": throttled(self.readings),
            "not_readable": self._sensors.silent,
            "load_average_before": self.load_average,
            "timeline": [
                _point(earlier, reading, first.t_s)
                for earlier, reading in zip(before, self.readings, strict=False)
            ],
        }


def machine_document(root: Path = Path("/")) -> dict[str, Any]:
    """Return what the machine is, for the JSON."""
    machine, facts, gpu = this_machine(), read_facts(root), this_gpu()
    return {
        "cpu": machine.cpu,
        "architecture": machine.architecture,
        "cores": machine.cores,
        "system": machine.system,
        "board": facts.model,
        "jetpack": facts.software,
        "power_mode": facts.power_mode_name,
        "gpu": gpu.name if gpu else None,
    }


def versions_document() -> dict[str, str]:
    """Return the versions of Python and of what measures and is measured, for the JSON."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203 - a few
            continue
    return found


def machine_name(machine: Mapping[str, Any]) -> str:
    """Return what a machine is called: its board, else its GPU, and its processor."""
    named = machine.get("board") or machine.get("gpu")
    return f"{named}, {machine['cpu']}" if named else str(machine["cpu"])


def _highest(readings: Sequence[Reading]) -> dict[str, float]:
    highest: dict[str, float] = {}
    for reading in readings:
        for name, degrees in reading.temperatures_c.items():
            highest[name] = max(degrees, highest.get(name, degrees))
    return highest


def _point(earlier: Reading, reading: Reading, start_s: float) -> dict[str, Any]:
    return {
        "t_s": round(reading.t_s - start_s, 3),
        "temperatures_c": dict(reading.temperatures_c),
        "clocks_mhz": dict(reading.clocks_mhz),
        "throttled": throttled([replace(earlier, throttle={}), reading]),
    }
