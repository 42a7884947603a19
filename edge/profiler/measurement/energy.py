"""Energy of a frame: a contender kept busy for a while, less what the machine takes when idle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from edge.hardware.energy_meters import Meter
from edge.inference.interface.runner import Runner
from edge.profiler.measurement.candidate import InputFeed


@dataclass(frozen=True)
class Energy:
    """`power_w` while it runs without a pause; `joules_per_frame` with the idle power subtracted."""

    power_w: float
    idle_w: float
    joules_per_frame: float


def idle_w(meter: Meter, seconds: float) -> float:
    """Return the power while this process sleeps. Others may not: close them first.

    Raises:
        OSError: the meter is silent.
    """
    meter.start()
    before = time.monotonic()
    time.sleep(seconds)
    joules = meter.stop()
    return joules / (time.monotonic() - before)


def energy(
    meter: Meter, idle: float, runner: Runner, feeds: Sequence[InputFeed], batch: int, seconds: float
) -> Energy:
    """Keep a runner busy for `seconds`, and return what a frame costs above `idle` watts.

    Raises:
        OSError: the meter is silent.
    """
    calls, count = 0, len(feeds)
    meter.start()
    before = time.monotonic()
    while time.monotonic() - before < seconds:
        for _ in range(10):
            runner.infer(feeds[calls % count])
            calls += 1
    joules = meter.stop()
    passed = time.monotonic() - before
    return Energy(joules / passed, idle, (joules - idle * passed) / (calls * batch))
