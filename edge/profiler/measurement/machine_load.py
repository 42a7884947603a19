"""Processor time that other processes use during a measurement."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edge.profiler.measurement.document import Row

BUSY_SHARE = 0.1
"""A machine is busy if other processes use more than this share of its cores."""
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class OtherLoad:
    """Measures how many cores other processes keep busy, from its creation on.

    Args:
        root: Root of the file system with `proc/stat`; another folder in tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._stat_path = root / "proc/stat"
        self._started_s, self._others_s = time.monotonic(), self._read_others_s()

    def cores(self) -> float | None:
        """Return the mean number of cores that other processes have kept busy; None if it is not readable."""
        others_s, seconds = self._read_others_s(), time.monotonic() - self._started_s
        if others_s is None or self._others_s is None or seconds <= 0:
            return None
        return max(0.0, (others_s - self._others_s) / seconds)

    def _read_others_s(self) -> float | None:
        """Return the processor seconds of all processes and of other virtual machines, without our own."""
        try:
            with self._stat_path.open() as file:
                ticks = [int(word) for word in file.readline().split()[1:9]]
            user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
        except (OSError, ValueError):  # not Linux, or a kernel that hides it
            return None
        own = os.times()
        all_s = (user + nice + system + irq + softirq + steal) / _CLOCK_TICKS
        return all_s - own.user - own.system - own.children_user - own.children_system


def describe_busy_machine(document: Row) -> str:
    """Return what other processes used if a profile was measured on a busy machine, else an empty string.

    Profiles of earlier versions have only the load average before the measurement.
    """
    conditions, cores = document["conditions"], document["machine"]["cores"]
    others = conditions.get("others_cores")
    if others is not None:
        is_busy, used = others > BUSY_SHARE * cores, f"other processes used {others:.1f} of {cores} cores"
    else:
        load = conditions["load_average_before"]
        is_busy, used = load > cores / 2, f"load {load:.1f} on {cores} cores"
    return used if is_busy else ""
