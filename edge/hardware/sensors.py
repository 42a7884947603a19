"""Temperatures, clocks and throttling of the machine.

Files and their sources (no tree in the tests was recorded on a board):
[thermal]  Linux, Documentation/driver-api/thermal/sysfs-api.rst: thermal_zone*/{type,temp}, millidegrees;
           cooling_device*/{type,cur_state}, 0 is no cooling.
[cpufreq]  Linux, Documentation/admin-guide/pm/cpufreq.rst: scaling_cur_freq in kHz, scaling_governor.
[devfreq]  Linux, Documentation/ABI/testing/sysfs-class-devfreq: cur_freq in Hz, governor. On Orin the GPU is
           17000000.gpu or 17000000.ga10b, by its address and JetPack.
[x86]      Linux, Documentation/ABI/testing/sysfs-devices-system-cpu: thermal_throttle/*_throttle_count.
[l4t]      Jetson Linux Developer Guide, "Thermal Management" and "Electrical Management": cooling devices
           *-throttle-alert, and oc*_event_cnt of hwmon, which counts reductions of the clocks due to too much
           current.
[nvml]     `edge.hardware.nvml`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.hardware.nvml import Nvml

_THROTTLING_DEVICES = re.compile(r"throttle-alert|^processor$|cpufreq|devfreq", re.IGNORECASE)
"""Cooling devices that reduce speed. Fans do not."""
_GPU = re.compile(r"gpu|ga10b|gv11b|gb10b")


@dataclass(frozen=True)
class SensorReading:
    """Values of the sensors at one moment.

    Attributes:
        t_s: Monotonic time in seconds.
        temperatures_c: Degrees Celsius by zone.
        clocks_mhz: MHz by clock.
        throttle: Throttle states by name, above 0 while the speed is reduced.
        throttle_counts: Number of reductions since boot, by name.
    """

    t_s: float
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    throttle: Mapping[str, float] = field(default_factory=dict)
    throttle_counts: Mapping[str, float] = field(default_factory=dict)


def throttle_causes(readings: Sequence[SensorReading]) -> list[str]:
    """Return the names of everything that reduced the speed during the readings."""
    causes = {name for reading in readings for name, state in reading.throttle.items() if state > 0}
    if readings:
        first, last = readings[0].throttle_counts, readings[-1].throttle_counts
        causes |= {name for name, count in last.items() if count > first.get(name, count)}
    return sorted(causes)


class Sensors:
    """Sensors of a machine. Their files are searched once, and read by `read()`.

    Args:
        root: Root of the machine's file system.
        nvml: Driver of a desktop GPU.

    Attributes:
        governors: Frequency governor by clock.
        unreadable: Reason why a group of sensors cannot be read, by group.
    """

    def __init__(self, root: Path = Path("/"), nvml: Nvml | None = None) -> None:
        self._nvml = nvml
        self._temperatures: dict[str, Path] = {}
        self._clocks: dict[str, tuple[Path, float]] = {}
        self._throttle: dict[str, Path] = {}
        self._counts: dict[str, list[Path]] = {}
        self.governors: dict[str, str] = {}
        self._find_thermal(root / "sys/class/thermal")
        self._find_clocks(root / "sys")
        self._find_counts(root / "sys")
        self.unreadable = self._find_unreadable()

    def read(self) -> SensorReading:
        """Return the current values. Sensors that do not answer are left out."""
        gpu = self._nvml.read_sensors() if self._nvml else {}
        return SensorReading(
            t_s=time.monotonic(),
            temperatures_c=_read_values((name, path, 1e-3) for name, path in self._temperatures.items())
            | gpu.get("c", {}),
            clocks_mhz=_read_values((name, path, scale) for name, (path, scale) in self._clocks.items())
            | gpu.get("mhz", {}),
            throttle=_read_values((name, path, 1) for name, path in self._throttle.items())
            | gpu.get("throttle", {}),
            throttle_counts={
                name: sum(filter(None, map(_read_number, paths))) for name, paths in self._counts.items()
            },
        )

    def _find_thermal(self, folder: Path) -> None:
        for zone in _sorted_by_number(folder.glob("thermal_zone*")):
            if _read_number(zone / "temp") is not None:  # a zone whose sensor is off answers with an error
                name = _unique_name(_read_text(zone / "type") or zone.name, self._temperatures)
                self._temperatures[name] = zone / "temp"
        for device in _sorted_by_number(folder.glob("cooling_device*")):
            kind = _read_text(device / "type") or ""
            if _THROTTLING_DEVICES.search(kind):
                self._throttle[_unique_name(kind, self._throttle)] = device / "cur_state"

    def _find_clocks(self, sys: Path) -> None:
        policies = _sorted_by_number(sys.glob("devices/system/cpu/cpufreq/policy*"))
        for folder in policies or _sorted_by_number(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq")):
            name = f"cpu {folder.name[6:]}" if policies else f"cpu {folder.parent.name[3:]}"
            self._add_clock(name, folder / "scaling_cur_freq", 1e-3, folder / "scaling_governor")
        for folder in _sorted_by_number(sys.glob("class/devfreq/*")):
            if _GPU.search(folder.name):
                self._add_clock(f"gpu {folder.name}", folder / "cur_freq", 1e-6, folder / "governor")

    def _add_clock(self, name: str, path: Path, scale: float, governor_path: Path) -> None:
        if _read_number(path) is not None:
            self._clocks[name] = path, scale
        if governor := _read_text(governor_path):
            self.governors[name] = governor

    def _find_counts(self, sys: Path) -> None:
        for kind in ("core", "package"):
            paths = _sorted_by_number(
                sys.glob(f"devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
            )
            if paths:
                self._counts[f"cpu {kind} too hot"] = paths
        for path in _sorted_by_number(sys.glob("class/hwmon/hwmon*/oc*_event_cnt")):
            self._counts[f"too much current ({path.name.removesuffix('_event_cnt')})"] = [path]

    def _find_unreadable(self) -> dict[str, str]:
        groups: dict[str, tuple[bool, str]] = {
            "temperatures": (bool(self._temperatures), "no readable zone in /sys/class/thermal"),
            "clocks": (bool(self._clocks), "no readable clock in cpufreq or devfreq of /sys"),
            "throttling": (
                bool(self._throttle or self._counts),
                "neither throttle counts nor cooling devices in /sys",
            ),
        }
        gpu = self._nvml.read_sensors() if self._nvml else {}
        of_gpu = {"temperatures": gpu.get("c"), "clocks": gpu.get("mhz"), "throttling": gpu.get("throttle")}
        return {
            name: f"{reason}: a container, a virtual machine, or no permission"
            + ("; the GPU's are read" if of_gpu[name] else "")
            for name, (is_readable, reason) in groups.items()
            if not is_readable
        }


def _read_values(files: Iterator[tuple[str, Path, float]]) -> dict[str, float]:
    values = ((name, _read_number(path), scale) for name, path, scale in files)
    return {name: value * scale for name, value, scale in values if value is not None}


def _sorted_by_number(paths: Iterator[Path]) -> list[Path]:
    """Sort paths by the numbers in them: zone 2 comes before zone 10."""
    return sorted(
        paths, key=lambda path: [int(part) if part.isdigit() else part for part in _split_numbers(path)]
    )


def _split_numbers(path: Path) -> list[str]:
    return re.split(r"(\d+)", str(path))


def _unique_name(name: str, taken: Mapping[str, object]) -> str:
    """Return the name, with a number if it is taken: two zones can have the same type."""
    names = (name, *(f"{name} {number}" for number in range(2, 999)))
    return next(candidate for candidate in names if candidate not in taken)


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def _read_number(path: Path) -> float | None:
    try:
        return float(path.read_bytes())
    except (OSError, ValueError):
        return None
