"""Temperature, clocks, throttling and energy of a desktop GPU, from NVIDIA's management library.

Names, units and bits are those of nvml.h ("NVML API Reference Guide"). The library is part of the driver.
Jetson boards have it from JetPack 6 on, where most queries are not supported or answer zero; they have files
instead (`edge.hardware.sensors`). A zero is therefore left out. Not verified on a GPU yet.
"""

from __future__ import annotations

import ctypes
from typing import Any

_TEMPERATURE_GPU = 0
_CLOCKS = {"gpu": 0, "gpu memory": 2}
"""NVML_CLOCK_GRAPHICS and NVML_CLOCK_MEM."""
_THROTTLE_REASONS = {
    "gpu power cap": 0x4,
    "gpu hardware slowdown": 0x8,
    "gpu too hot (driver)": 0x20,
    "gpu too hot (hardware)": 0x40,
    "gpu power brake": 0x80,
}
"""nvmlClocksEventReason*: the reasons that reduce the requested speed."""


class Nvml:
    """NVML handle of the first GPU.

    Args:
        library: libnvidia-ml.so.1, or a test double of it.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._device = ctypes.c_void_p()

    @classmethod
    def open(cls, library: Any = None) -> Nvml | None:
        """Return a handle of the first GPU, or None without a driver or a GPU."""
        try:
            nvml = cls(library or ctypes.CDLL("libnvidia-ml.so.1"))
        except OSError:
            return None
        if nvml._library.nvmlInit_v2():
            return None
        if nvml._library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(nvml._device)):
            return None
        return nvml

    def read_sensors(self) -> dict[str, dict[str, float]]:
        """Return temperatures ("c"), clocks ("mhz") and throttle states ("throttle"), each by name."""
        degrees = self._query("nvmlDeviceGetTemperature", ctypes.c_uint(), _TEMPERATURE_GPU)
        clocks = {
            name: self._query("nvmlDeviceGetClockInfo", ctypes.c_uint(), clock)
            for name, clock in _CLOCKS.items()
        }
        reasons = self._query("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
        return {
            "c": {"gpu": degrees} if degrees else {},
            "mhz": {name: mhz for name, mhz in clocks.items() if mhz},
            "throttle": {
                name: float(bool(int(reasons) & bit))
                for name, bit in _THROTTLE_REASONS.items()
                if reasons is not None
            },
        }

    def total_energy_j(self) -> float | None:
        """Return the joules used since the driver was loaded, or None if the GPU does not count them."""
        millijoules = self._query("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return millijoules / 1e3 if millijoules else None

    def _query(self, function: str, result: Any, *arguments: int) -> float | None:
        """Call a function that stores its result through a pointer; return None if it fails or is missing."""
        call = getattr(self._library, function, None)
        if call is None or call(self._device, *arguments, ctypes.byref(result)):
            return None
        return float(result.value)
