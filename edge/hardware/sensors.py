"""What a board feels while it works: temperatures, clocks, throttling. The one place that reads them.

Where the files are, and who says so (none of the trees in the tests was recorded on a board):
[thermal]  Linux, Documentation/driver-api/thermal/sysfs-api.rst: thermal_zone*/{type,temp}, millidegrees;
           cooling_device*/{type,cur_state}, 0 is no cooling.
[cpufreq]  Linux, Documentation/admin-guide/pm/cpufreq.rst: scaling_cur_freq in kHz, scaling_governor.
[devfreq]  Linux, Documentation/ABI/testing/sysfs-class-devfreq: cur_freq in Hz, governor. On Orin the GPU is
           17000000.gpu or 17000000.ga10b, by its address and JetPack.
[x86]      Linux, Documentation/ABI/testing/sysfs-devices-system-cpu: thermal_throttle/*_throttle_count.
[l4t]      Jetson Linux Developer Guide, "Thermal Management" and "Electrical Management": cooling devices
           *-throttle-alert, and hwmon's oc*_event_cnt, the times that too much current cut the clocks.
[nvml]     `edge.hardware.nvml`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.hardware.nvml import Nvml

_CUTS = re.compile(r"throttle-alert|^processor$|cpufreq|devfreq", re.IGNORECASE)
"""Cooling devices that take speed away; fans do not."""
_GPU = re.compile(r"gpu|ga10b|gv11b|gb10b")


@dataclass(frozen=True)
class Reading:
    """What was felt at `t_s` (monotonic): degrees Celsius by zone, MHz by clock.

    `throttle`: states, above 0 while speed is taken away; `throttle_counts`: how often it was since boot.
    """

    t_s: float
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    throttle: Mapping[str, float] = field(default_factory=dict)
    throttle_counts: Mapping[str, float] = field(default_factory=dict)


def throttled(readings: Sequence[Reading]) -> list[str]:
    """Return what took speed away during the readings, by name; none if nothing did."""
    states = {name for reading in readings for name, state in reading.throttle.items() if state > 0}
    if readings:
        first, last = readings[0].throttle_counts, readings[-1].throttle_counts
        states |= {name for name, count in last.items() if count > first.get(name, count)}
    return sorted(states)


class Sensors:
    """The sensors of the machine whose file system is at `root`; files are found once, and read by `read`.

    `silent`: what cannot be read here, and why. `governors`: by clock.
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
        self.silent = self._check()

    def read(self) -> Reading:
        """Return what is felt now. What fails to answer is left out."""
        gpu = self._nvml.sense() if self._nvml else {}
        return Reading(
            time.monotonic(),
            _values((name, path, 1e-3) for name, path in self._temperatures.items()) | gpu.get("c", {}),
            _values((name, path, scale) for name, (path, scale) in self._clocks.items()) | gpu.get("mhz", {}),
            _values((name, path, 1) for name, path in self._throttle.items()) | gpu.get("throttle", {}),
            {name: sum(filter(None, map(_number, paths))) for name, paths in self._counts.items()},
        )

    def _find_thermal(self, folder: Path) -> None:
        for zone in _sorted(folder.glob("thermal_zone*")):
            if _number(zone / "temp") is not None:  # a zone whose sensor is off answers with an error
                self._temperatures[_unused(_text(zone / "type") or zone.name, self._temperatures)] = (
                    zone / "temp"
                )
        for device in _sorted(folder.glob("cooling_device*")):
            kind = _text(device / "type") or ""
            if _CUTS.search(kind):
                self._throttle[_unused(kind, self._throttle)] = device / "cur_state"

    def _find_clocks(self, sys: Path) -> None:
        policies = _sorted(sys.glob("devices/system/cpu/cpufreq/policy*"))
        for place in policies or _sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq")):
            name = f"cpu {place.name[6:]}" if policies else f"cpu {place.parent.name[3:]}"
            self._clock(name, place / "scaling_cur_freq", 1e-3, place / "scaling_governor")
        for place in _sorted(sys.glob("class/devfreq/*")):
            if _GPU.search(place.name):
                self._clock(f"gpu {place.name}", place / "cur_freq", 1e-6, place / "governor")

    def _clock(self, name: str, path: Path, scale: float, governor: Path) -> None:
        if _number(path) is not None:
            self._clocks[name] = path, scale
        if said := _text(governor):
            self.governors[name] = said

    def _find_counts(self, sys: Path) -> None:
        for kind in ("core", "package"):
            paths = _sorted(sys.glob(f"devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}_throttle_count"))
            if paths:
                self._counts[f"cpu {kind} too hot"] = paths
        for path in _sorted(sys.glob("class/hwmon/hwmon*/oc*_event_cnt")):
            self._counts[f"too much current ({path.name.removesuffix('_event_cnt')})"] = [path]

    def _check(self) -> dict[str, str]:
        found: dict[str, tuple[bool, str]] = {
            "temperatures": (bool(self._temperatures), "no readable zone in /sys/class/thermal"),
            "clocks": (bool(self._clocks), "no readable clock in cpufreq or devfreq of /sys"),
            "throttling": (
                bool(self._throttle or self._counts),
                "neither throttle counts nor cooling devices in /sys",
            ),
        }
        beside = "; the GPU's are read" if self._nvml else ""
        return {
            name: f"{why}: a container, a virtual machine, or no permission{beside}"
            for name, (has, why) in found.items()
            if not has
        }


def _values(files: Iterator[tuple[str, Path, float]]) -> dict[str, float]:
    read = ((name, _number(path), scale) for name, path, scale in files)
    return {name: value * scale for name, value, scale in read if value is not None}


def _sorted(paths: Iterator[Path]) -> list[Path]:
    """In the order of their numbers: zone 2 before zone 10."""
    return sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", str(path))


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """Two zones may be called alike."""
    return next(one for one in (name, *(f"{name} {n}" for n in range(2, 999))) if one not in taken)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_bytes())
    except (OSError, ValueError):
        return None
