"""Energy per frame: power of a busy candidate, less the power of the idle machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.hardware.energy_meters import EnergyMeter
from edge.inference.interface.runner import Runner
from edge.profiler.measurement.candidate import InputFeed

CALLS_PER_CHECK = 10
"""Calls between two looks at the clock."""


@dataclass(frozen=True)
class Energy:
    """Power and energy of a candidate.

    Attributes:
        power_w: Mean power while it runs without a pause.
        idle_w: Mean power of the idle machine.
        joules_per_frame: Energy per frame above the idle power.
    """

    power_w: float
    idle_w: float
    joules_per_frame: float


def measure_idle_power(
    meter: EnergyMeter,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> float:
    """Return the mean power in watts while this process sleeps; other processes count, too.

    Args:
        meter: Meter that counts the joules.
        seconds: Time to sleep.
        now: Clock in seconds; another one in tests.
        sleep: Sleeps on that clock.

    Raises:
        OSError: The meter has stopped answering.
    """
    meter.start()
    start_s = now()
    sleep(seconds)
    joules = meter.stop()
    return joules / (now() - start_s)


def measure_energy(
    meter: EnergyMeter,
    idle_w: float,
    runner: Runner,
    feeds: Sequence[InputFeed],
    batch: int,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> Energy:
    """Keep a runner busy for a while and return its power and its energy per frame.

    Args:
        meter: Meter that counts the joules.
        idle_w: Power of the idle machine, in watts.
        runner: Runner to call.
        feeds: Inputs, used in turn.
        batch: Frames per call.
        seconds: Time to keep the runner busy.
        now: Clock in seconds; another one in tests.

    Raises:
        OSError: The meter has stopped answering.
    """
    calls, count = 0, len(feeds)
    meter.start()
    start_s = now()
    while now() - start_s < seconds:
        for _ in range(CALLS_PER_CHECK):
            runner.infer(feeds[calls % count])
            calls += 1
    joules = meter.stop()
    elapsed_s = now() - start_s
    return Energy(joules / elapsed_s, idle_w, (joules - idle_w * elapsed_s) / (calls * batch))
