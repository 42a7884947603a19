from __future__ import annotations

import pytest

from edge.core.frames import Tensor
from edge.profiler.measurement.energy import CALLS_PER_CHECK, measure_energy, measure_idle_power
from edge.profiler.measurement.sampler import NullRunner
from tests.support.clocks import ManualClock

CALL_S = 1 / 128
"""Time of a call; a power of two, so that sums of it are exact."""


class ConstantMeter:
    """Meter of a machine that takes constant power."""

    description = "constant"

    def __init__(self, clock: ManualClock, power_w: float) -> None:
        self.clock, self.power_w, self.start_s = clock, power_w, 0.0

    def start(self) -> None:
        self.start_s = self.clock()

    def stop(self) -> float:
        return self.power_w * (self.clock() - self.start_s)


class SlowRunner(NullRunner):
    """Runner whose calls take time on a manual clock."""

    def __init__(self, clock: ManualClock, call_s: float) -> None:
        self.clock, self.call_s, self.calls = clock, call_s, 0

    def infer(self, feed: object) -> dict[str, Tensor]:
        self.clock.advance(self.call_s)
        self.calls += 1
        return {}


def test_idle_power_is_the_power_while_the_process_sleeps() -> None:
    clock = ManualClock()
    assert measure_idle_power(ConstantMeter(clock, 5.0), 3.0, clock, clock.sleep) == pytest.approx(5.0)


def test_energy_per_frame_is_above_the_idle_power() -> None:
    clock = ManualClock()
    runner = SlowRunner(clock, CALL_S)
    energy = measure_energy(ConstantMeter(clock, 7.0), 5.0, runner, [{}], 4, 1.0, clock)
    assert runner.calls == 13 * CALLS_PER_CHECK  # 128 calls take 1 s
    assert energy.power_w == pytest.approx(7.0)
    assert energy.idle_w == 5.0
    assert energy.joules_per_frame == pytest.approx((7.0 - 5.0) * CALL_S / 4)


def test_candidate_that_takes_no_more_than_the_idle_machine_costs_nothing() -> None:
    clock = ManualClock()
    runner = SlowRunner(clock, CALL_S)
    energy = measure_energy(ConstantMeter(clock, 7.0), 7.0, runner, [{}], 1, 0.3, clock)
    assert energy.joules_per_frame == pytest.approx(0, abs=1e-9)
