"""Conditions of the machine during a measurement: load, stolen time, the drift of its speed, and its cores
together."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edge.hardware.host import detect_machine
from edge.profiler.measurement.machine_load import BUSY_SHARE, OtherLoad

MAX_STOLEN_SHARE = 0.05
"""Share of the cores' time that the host may give to other virtual machines."""
MAX_SPEED_SPREAD = 0.3
"""Relative difference between the fastest and the slowest probe that disturbs a measurement. It was
chosen after one run on a machine that did nothing else. There the threads of the benchmark, which share a
physical core with the probe, caused up to 0.27, and 0.37 to 0.62 in three benchmarks."""
LEAST_CORES_SHARE = 0.7
"""Least speed of all cores together, relative to as many times the speed of one. A host may run two virtual
cores on one physical core, or beside those of others, and count none of it as stolen. Two cores gave 0.85 to
0.90 in eight probes on a machine without other load."""
PROBE_PERIOD_S = 1.0
PROBE_ITERATIONS, PROBE_TRIES = 20_000, 5
"""A probe is the fastest of some loops of about a millisecond: its time changes with the clock, or with
another thread on the same physical core. A virtual machine seldom shows its clock in /proc/cpuinfo."""
CORES_PROBE = bytes(1 << 20)
"""Data whose hash is computed on all cores at the same time: Python computes it without its global lock."""
SETTLE_S = 0.02
"""Time after which most threads of libraries, which wait for work in a busy loop, sleep."""


@dataclass(frozen=True)
class Conditions:
    """Conditions during a measurement; None where they are not readable.

    Attributes:
        cores: Cores of the machine.
        load_average: Load average of a minute at the end.
        others_cores: Mean number of cores that other processes kept busy.
        stolen_share: Share of the cores' time that the host gave to other virtual machines.
        speed_spread: Relative difference between the fastest and the slowest probe.
        cores_speed: Speed of all cores together, relative to that of one, in the best of all probes.
    """

    cores: int = 1
    load_average: float | None = None
    others_cores: float | None = None
    stolen_share: float | None = None
    speed_spread: float | None = None
    cores_speed: float | None = None

    @property
    def load(self) -> str:
        """Return what took processor time from us, else an empty string."""
        if (self.others_cores or 0) > BUSY_SHARE * self.cores:
            return f"other processes used {self.others_cores:.1f} of {self.cores} cores"
        if (self.stolen_share or 0) > MAX_STOLEN_SHARE:
            return f"the host took {self.stolen_share:.0%} of the cores' time"
        if self.cores_speed is not None and self.cores_speed < LEAST_CORES_SHARE * self.cores:
            return f"all {self.cores} cores together were {self.cores_speed:.1f} times as fast as one"
        return ""

    @property
    def disturbance(self) -> str:
        """Return what makes values worse than the code is, else an empty string."""
        if self.load:
            return self.load
        if (self.speed_spread or 0) > MAX_SPEED_SPREAD:
            return f"the speed of the processor varied by {self.speed_spread:.0%}"
        return ""

    def describe(self) -> str:
        """Return the conditions as a sentence."""
        parts = []
        if self.others_cores is not None:
            parts.append(f"other processes used {self.others_cores:.1f} of {self.cores} cores")
        if self.load_average is not None:
            parts.append(f"load {self.load_average:.1f}")
        if self.stolen_share is not None:
            parts.append(f"stolen {self.stolen_share:.1%}")
        if self.speed_spread is not None:
            parts.append(f"speed varied by {self.speed_spread:.0%}")
        if self.cores_speed is not None and self.cores > 1:
            parts.append(f"all cores {self.cores_speed:.1f} times as fast as one")
        state = "busy machine" if self.disturbance else "quiet machine"
        return f"{state}: {', '.join(parts)}" if parts else "conditions are not readable here"


class ConditionsWatch:
    """Watches the conditions from its creation on.

    Args:
        own_s: Returns the processor seconds of our own processes that this process has not waited for yet.
        root: Root of the file system with `proc/stat`; another folder in tests.
        clock: Clock in seconds.
        probe: Returns the time of a probe in seconds.
        cores_probe: Returns the speed of all cores together, relative to that of one.
    """

    def __init__(
        self,
        own_s: Callable[[], float] = lambda: 0.0,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        probe: Callable[[], float] | None = None,
        cores_probe: Callable[[], float] | None = None,
    ) -> None:
        self._own_s, self._root, self._clock, self._probe = own_s, root, clock, probe or _probe_speed
        self._cores_probe = cores_probe or _probe_cores
        self._start_s, self._own_at_start_s = clock(), own_s()
        self._stolen_at_start_s, self._others = self._read_stolen_s(), OtherLoad(root)
        self._probes_s, self._cores_speeds = [self._probe()], [self._cores_probe()]
        self._next_probe_s = clock() + PROBE_PERIOD_S

    def sample(self) -> None:
        """Probe the speed, if the last probe is `PROBE_PERIOD_S` ago."""
        if self._clock() >= self._next_probe_s:
            self._probes_s.append(self._probe())
            self._cores_speeds.append(self._cores_probe())
            self._next_probe_s = self._clock() + PROBE_PERIOD_S

    def conditions(self) -> Conditions:
        """Return the conditions until now."""
        cores, seconds = detect_machine().cores, max(self._clock() - self._start_s, 1e-3)
        others, stolen_s = self._others.cores(), self._read_stolen_s()
        self._probes_s.append(self._probe())
        self._cores_speeds.append(self._cores_probe())
        stolen: float | None = None
        if stolen_s is not None and self._stolen_at_start_s is not None:
            stolen = (stolen_s - self._stolen_at_start_s) / seconds
        if others is not None:
            others = max(0.0, others - (stolen or 0) - (self._own_s() - self._own_at_start_s) / seconds)
        return Conditions(
            cores=cores,
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            others_cores=others,
            stolen_share=None if stolen is None else stolen / cores,
            speed_spread=max(self._probes_s) / min(self._probes_s) - 1,
            cores_speed=max(self._cores_speeds),  # two threads may start on the same core
        )

    def _read_stolen_s(self) -> float | None:
        try:
            ticks = (self._root / "proc/stat").read_text().split()[8]
            return int(ticks) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):  # not Linux, or a kernel that hides it
            return None


def _probe_speed() -> float:
    return min(_time_loop() for _ in range(PROBE_TRIES))


def _time_loop() -> float:
    start_s = time.perf_counter()
    for _ in range(PROBE_ITERATIONS):
        pass
    return time.perf_counter() - start_s


def _probe_cores() -> float:
    """Return the speed of all cores together, relative to that of one."""
    time.sleep(SETTLE_S)
    cores = detect_machine().cores
    with ThreadPoolExecutor(cores) as pool:

        def time_hashes(count: int) -> float:
            start_s = time.perf_counter()
            list(pool.map(hashlib.sha256, [CORES_PROBE] * count))
            return time.perf_counter() - start_s

        tries = range(PROBE_TRIES)
        one_s, all_s = min(time_hashes(1) for _ in tries), min(time_hashes(cores) for _ in tries)
    return cores * one_s / all_s
