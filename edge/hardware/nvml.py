"""What NVIDIA's driver says of a desk GPU: temperature, clocks, throttling, energy.

Names, units and bits are those of nvml.h ("NVML API Reference Guide"). The library comes with the driver;
there is none on Jetson boards, which have files instead (`edge.hardware.sensors`). Not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
from typing import Any

_TEMPERATURE_GPU = 0
_CLOCKS = {"gpu": 0, "gpu memory": 2}
"""NVML_CLOCK_GRAPHICS and NVML_CLOCK_MEM."""
_REASONS = {
    "gpu power cap": 0x4,
    "gpu hardware slowdown": 0x8,
    "gpu too hot (driver)": 0x20,
    "gpu too hot (hardware)": 0x40,
    "gpu power brake": 0x80,
}
"""nvmlClocksEventReason*: those that take speed away that was asked for."""


class Nvml:
    """The first GPU. `library`: a stand-in for libnvidia-ml.so.1."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._device = ctypes.c_void_p()

    @classmethod
    def open(cls, library: Any = None) -> Nvml | None:
        """Return it; None where there is no driver or no GPU."""
        try:
            found = cls(library or ctypes.CDLL("libnvidia-ml.so.1"))
        except OSError:
            return None
        if found._library.nvmlInit_v2():
            return None
        if found._library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(found._device)):
            return None
        return found

    def sense(self) -> dict[str, dict[str, float]]:
        """Return temperatures ("c"), clocks ("mhz") and what throttles ("throttle"), by name."""
        degrees = self._ask("nvmlDeviceGetTemperature", ctypes.c_uint(), _TEMPERATURE_GPU)
        clocks = {
            name: self._ask("nvmlDeviceGetClockInfo", ctypes.c_uint(), which)
            for name, which in _CLOCKS.items()
        }
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
        return {
            "c": {} if degrees is None else {"gpu": degrees},
            "mhz": {name: clock for name, clock in clocks.items() if clock is not None},
            "throttle": {
                name: float(bool(int(reasons) & bit)) for name, bit in _REASONS.items() if reasons is not None
            },
        }

    def joules(self) -> float | None:
        """Return the energy taken since the driver was loaded; None where the GPU does not count it."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return None if millijoules is None else millijoules / 1e3

    def _ask(self, function: str, answer: Any, *arguments: int) -> float | None:
        if getattr(self._library, function)(self._device, *arguments, ctypes.byref(answer)):
            return None
        return float(answer.value)
