"""Energy meters, in joules.

[ina3221] Linux, Documentation/hwmon/ina3221.rst: hwmon*/in<n>_label, in<n>_input (mV), curr<n>_input (mA).
          VDD_IN supplies the whole module on Orin Nano and NX. AGX Orin has no such rail, so its rails are
          added (Jetson Linux Developer Guide, "Jetson Orin ... Power Monitors"). The monitor reports power,
          which is integrated here.
[rapl]    Linux, Documentation/power/powercap/powercap.rst: intel-rapl:<n>/energy_uj, a counter that wraps
          at max_energy_range_uj; AMD processors use the same names. Since 2020 only root may read it.
[nvml]    `edge.hardware.nvml`: energy since the driver was loaded.
Nothing here has been verified on a real board yet.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from edge.hardware.nvml import Nvml

MODULE_RAIL = "VDD_IN"
"""Rail that supplies the whole module. Where it is absent, all rails are added."""
SAMPLE_S = 0.05
"""Interval between power samples, in seconds."""


class EnergyMeter(Protocol):
    """Meter of the energy between `start()` and `stop()`."""

    description: str
    """What is measured, for reports."""

    def start(self) -> None:
        """Start measuring."""

    def stop(self) -> float:
        """Return the joules since `start()`.

        Raises:
            OSError: The meter does not answer.
        """


class Ina3221Meter:
    """Power monitor of a Jetson, sampled every 50 ms by a thread and integrated.

    Args:
        rails: Files with the voltage in mV and the current in mA, by rail.
    """

    def __init__(self, rails: dict[str, tuple[Path, Path]]) -> None:
        self._rails = rails
        self.description = f"INA3221, {' + '.join(rails)}, sampled every {SAMPLE_S * 1e3:.0f} ms"
        self._stopped = threading.Event()
        self._thread = threading.Thread()
        self._samples: list[tuple[float, float]] = []

    def start(self) -> None:
        """Start sampling."""
        self._stopped = threading.Event()
        self._samples = [self._sample()]
        self._thread = threading.Thread(target=self._sample_until_stopped, name="power", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the joules since `start()`, by the trapezoidal rule."""
        self._stopped.set()
        self._thread.join()
        self._samples.append(self._sample())
        pairs = zip(self._samples, self._samples[1:], strict=False)
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairs)

    def _sample_until_stopped(self) -> None:
        # An error ends the thread silently: stop() samples once more and raises it.
        with suppress(OSError, ValueError):
            while not self._stopped.wait(SAMPLE_S):
                self._samples.append(self._sample())

    def _sample(self) -> tuple[float, float]:
        """Return the time in seconds and the power in watts."""
        watts = sum(
            float(millivolts.read_text()) * float(milliamperes.read_text()) * 1e-6
            for millivolts, milliamperes in self._rails.values()
        )
        return time.monotonic(), watts


class RaplMeter:
    """Energy counters of an x86 processor, added over its packages."""

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._before: list[int] = []
        names = [(package / "name").read_text().strip() for package in packages]
        self.description = f"RAPL, {' + '.join(names)}: the processor alone"

    def start(self) -> None:
        """Start measuring."""
        self._before = self._read()

    def stop(self) -> float:
        """Return the joules since `start()`; a counter that wrapped once is corrected by its range."""
        microjoules = 0
        for package, before, after in zip(self._packages, self._before, self._read(), strict=True):
            wrapped = int((package / "max_energy_range_uj").read_text()) if after < before else 0
            microjoules += after - before + wrapped
        return microjoules / 1e6

    def _read(self) -> list[int]:
        return [int((package / "energy_uj").read_text()) for package in self._packages]


class NvmlMeter:
    """Energy counter of a desktop GPU."""

    description = "NVML: the GPU alone"

    def __init__(self, nvml: Nvml) -> None:
        self._nvml, self._before = nvml, 0.0

    def start(self) -> None:
        """Start measuring."""
        self._before = self._read()

    def stop(self) -> float:
        """Return the joules since `start()`."""
        return self._read() - self._before

    def _read(self) -> float:
        energy_j = self._nvml.total_energy_j()
        if energy_j is None:
            raise OSError("NVML does not report the energy of this GPU")
        return energy_j


def find_energy_meter(root: Path = Path("/"), nvml: Nvml | None = None) -> EnergyMeter | str:
    """Return the energy meter of a machine, or the reason why there is none.

    On a Jetson this is the board's monitor. With a desktop GPU it is the GPU's counter, since inference runs
    there. Otherwise it is the processor's counter.

    Args:
        root: Root of the machine's file system.
        nvml: Driver of the GPU.
    """
    try:
        rails = _find_rails(root / "sys/class/hwmon")
    except OSError as error:
        return f"INA3221 cannot be read ({error.filename}: {error.strerror}): run as root"
    if rails:
        return Ina3221Meter(rails)
    if nvml is not None and nvml.total_energy_j() is not None:
        return NvmlMeter(nvml)
    packages = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*"))
    packages = [package for package in packages if re.fullmatch(r"intel-rapl:\d+", package.name)]
    if not packages:
        return "no power monitor: neither INA3221 nor RAPL in /sys, nor a counter of NVML"
    try:
        meter = RaplMeter(packages)
        meter.start()
    except PermissionError:
        return "only root may read RAPL: run as root, or chmod a+r /sys/class/powercap/*/energy_uj"
    except (OSError, ValueError) as error:
        return f"RAPL cannot be read ({error})"
    return meter


def _find_rails(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return the rails that together supply the whole board, with their files of voltage and current."""
    rails: dict[str, tuple[Path, Path]] = {}
    for monitor in sorted(folder.glob("hwmon*")):
        try:
            if (monitor / "name").read_text().strip() != "ina3221":
                continue
        except OSError:
            continue
        labels = {path: path.read_text().strip() for path in sorted(monitor.glob("in[123]_label"))}
        for path, label in labels.items():
            number = path.name[2]
            voltage, current = monitor / f"in{number}_input", monitor / f"curr{number}_input"
            if label != "NC" and voltage.exists() and current.exists():
                rails[label] = voltage, current
    return {MODULE_RAIL: rails[MODULE_RAIL]} if MODULE_RAIL in rails else rails
