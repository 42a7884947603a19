"""Energy meters: joules, from whatever counts them on this machine.

[ina3221] Linux, Documentation/hwmon/ina3221.rst: hwmon*/in<n>_label, in<n>_input (mV), curr<n>_input (mA).
          The rail of the whole module is VDD_IN on Orin Nano and NX; AGX Orin has none, its rails are added
          (Jetson Linux Developer Guide, "Jetson Orin ... Power Monitors"). It tells power: we integrate it.
[rapl]    Linux, Documentation/power/powercap/powercap.rst: intel-rapl:<n>/energy_uj, which starts again at
          max_energy_range_uj; AMD processors use the same names. Since 2020 root alone may read it.
[nvml]    `edge.hardware.nvml`: energy since the driver was loaded.
None of this was seen on a real board yet.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from edge.hardware.nvml import Nvml

WHOLE = "VDD_IN"
"""The rail that carries all of a board, where there is one; else all rails are added."""
SAMPLE_S = 0.05


class Meter(Protocol):
    """Counts energy between `start` and `stop`."""

    description: str
    """What it counts the energy of, for reports."""

    def start(self) -> None:
        """Begin to count."""

    def stop(self) -> float:
        """Return the joules since `start`.

        Raises:
            OSError: the meter has fallen silent.
        """


class Ina3221:
    """A Jetson's power monitor: power sampled every 50 ms by a thread, integrated."""

    def __init__(self, rails: dict[str, tuple[Path, Path]]) -> None:
        self._rails = rails
        self.description = f"INA3221, {' + '.join(rails)}, sampled every {SAMPLE_S * 1e3:.0f} ms"
        self._over = threading.Event()
        self._thread = threading.Thread()
        self._samples: list[tuple[float, float]] = []

    def start(self) -> None:
        """Begin to sample."""
        self._over = threading.Event()
        self._samples = [self._sample()]
        self._thread = threading.Thread(target=self._go_on, name="power", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the joules since `start`, by the trapezoidal rule."""
        self._over.set()
        self._thread.join()
        self._samples.append(self._sample())
        pairs = zip(self._samples, self._samples[1:], strict=False)
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairs)

    def _go_on(self) -> None:
        with suppress(OSError, ValueError):  # stop asks once more, and tells
            while not self._over.wait(SAMPLE_S):
                self._samples.append(self._sample())

    def _sample(self) -> tuple[float, float]:
        watts = sum(
            float(volts.read_text()) * float(amperes.read_text()) * 1e-6
            for volts, amperes in self._rails.values()
        )
        return time.monotonic(), watts


class Rapl:
    """An x86 processor's own counters, all packages."""

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._before: list[int] = []
        names = [(package / "name").read_text().strip() for package in packages]
        self.description = f"RAPL, {' + '.join(names)}: the processor alone"

    def start(self) -> None:
        """Begin to count."""
        self._before = self._read()

    def stop(self) -> float:
        """Return the joules since `start`; a counter that started again meanwhile is told by its range."""
        micro = 0
        for package, before, after in zip(self._packages, self._before, self._read(), strict=True):
            again = int((package / "max_energy_range_uj").read_text()) if after < before else 0
            micro += after - before + again
        return micro / 1e6

    def _read(self) -> list[int]:
        return [int((package / "energy_uj").read_text()) for package in self._packages]


class GpuEnergy:
    """A desk GPU's own counter."""

    description = "NVML: the GPU alone"

    def __init__(self, nvml: Nvml) -> None:
        self._nvml, self._before = nvml, 0.0

    def start(self) -> None:
        """Begin to count."""
        self._before = self._read()

    def stop(self) -> float:
        """Return the joules since `start`."""
        return self._read() - self._before

    def _read(self) -> float:
        joules = self._nvml.joules()
        if joules is None:
            raise OSError("NVML does not tell this GPU's energy")
        return joules


def find_meter(root: Path = Path("/"), nvml: Nvml | None = None) -> Meter | str:
    """Return the meter of the machine at `root`, or why there is none.

    On a Jetson that of the board; with a desk GPU the GPU's, for that is what infers; else the processor's.
    """
    try:
        rails = _rails(root / "sys/class/hwmon")
    except OSError as error:
        return f"INA3221 cannot be read ({error.filename}: {error.strerror}): run as root"
    if rails:
        return Ina3221(rails)
    if nvml is not None and nvml.joules() is not None:
        return GpuEnergy(nvml)
    packages = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*"))
    packages = [package for package in packages if re.fullmatch(r"intel-rapl:\d+", package.name)]
    if not packages:
        return "no power monitor: neither INA3221 nor RAPL in /sys, nor NVML's counter"
    try:
        meter = Rapl(packages)
        meter.start()
    except PermissionError:
        return "RAPL may be read by root alone: run as root, or chmod a+r /sys/class/powercap/*/energy_uj"
    except (OSError, ValueError) as error:
        return f"RAPL cannot be read ({error})"
    return meter


def _rails(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return the rails that carry all of a board, each with its files of volts and amperes."""
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
            volts, amperes = monitor / f"in{number}_input", monitor / f"curr{number}_input"
            if label != "NC" and volts.exists() and amperes.exists():
                rails[label] = volts, amperes
    return {WHOLE: rails[WHOLE]} if WHOLE in rails else rails
