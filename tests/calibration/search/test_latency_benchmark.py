"""Latency against noise that the tests set, and of a graph against itself on busy cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from calibration.inputs.graph_inputs import InputFeeder
from calibration.inputs.onnx_import import ImageInput
from calibration.search.latency_benchmark import (
    ROUNDS,
    InferenceCall,
    MeasuredLatency,
    confirm_gain,
    time_alternating,
)
from calibration.search.mixed_precision import MIN_GAIN
from tests.calibration.quantization.test_qdq_placement import residual


class Machine:
    """A clock that runs move on, slowed by bursts of load, and by who runs first after whom."""

    def __init__(self, seed: int, load: float, switch: float = 0.0, luck: float = 0.0) -> None:
        """`load`: deviation of the log of a run's time. `switch`: what a run takes longer right after one of
        the other graph. `luck`: deviation of the log of a session's time, as long as it is open.
        """
        self.now, self._last = 0.0, -1
        self._load, self._switch, self._luck = load, switch, luck
        self._random = np.random.default_rng(seed)

    def __call__(self) -> float:
        return self.now

    def open(self, which: int, seconds: float) -> InferenceCall:
        lucky = seconds * float(np.exp(self._random.normal(0, self._luck)))

        def run() -> None:
            slowed = 1 + (self._switch if which != self._last else 0.0)
            self.now += lucky * slowed * float(np.exp(self._random.normal(0, self._load)))
            self._last = which

        return run

    def pair(self, gain: float) -> Callable[[], tuple[InferenceCall, InferenceCall]]:
        return lambda: (self.open(0, 0.002 * (1 - gain)), self.open(1, 0.002))


def test_who_comes_first_is_no_faster() -> None:
    machine = Machine(0, load=0.0, switch=0.5)
    candidate_ms, float_ms = time_alternating(*machine.pair(0.0)(), machine, machine)
    assert candidate_ms == pytest.approx(float_ms)
    candidate_ms, float_ms = time_alternating(*machine.pair(0.3)(), machine, machine)
    assert candidate_ms == pytest.approx(0.7 * float_ms)


def test_load_that_comes_and_goes_slows_both() -> None:
    machine = Machine(1, load=0.8)
    candidate_ms, float_ms = time_alternating(*machine.pair(0.2)(), machine)
    assert 1 - candidate_ms / float_ms == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize(("load", "luck"), [(0.05, 0.0), (0.8, 0.0), (0.3, 0.06), (1.5, 0.1)])
def test_a_graph_is_never_surely_faster_than_itself(load: float, luck: float) -> None:
    for seed in range(25):
        machine = Machine(seed, load, luck=luck)
        assert confirm_gain(machine.pair(0.0), machine).gain < MIN_GAIN


def test_a_faster_graph_is_surely_so_and_by_no_more_than_it_is() -> None:
    for seed in range(10):
        machine = Machine(seed, load=0.3, luck=0.02)
        found = confirm_gain(machine.pair(0.25), machine)
        assert MIN_GAIN < found.gain < 0.25 + 0.02
        assert found.gain <= 1 - found.candidate_ms / found.float_ms


def test_each_round_has_sessions_of_its_own() -> None:
    machine, opened = Machine(0, 0.1), list[None]()

    def pair() -> tuple[InferenceCall, InferenceCall]:
        opened.append(None)
        return machine.pair(0.1)()

    confirm_gain(pair, machine)
    assert len(opened) == ROUNDS


@pytest.fixture
def busy() -> Iterator[None]:
    """Every core with work besides ours."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_spin, daemon=True) for _ in range(multiprocessing.cpu_count())]
    for worker in workers:
        worker.start()
    yield
    for worker in workers:
        worker.kill()
        worker.join()


def _spin() -> None:
    while True:
        sum(range(1000))


@pytest.mark.usefixtures("busy")
def test_a_real_graph_on_busy_cores_is_not_faster_than_itself() -> None:
    model = residual()
    feeder = InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
    window = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    assert MeasuredLatency(model, feeder, window).confirm(model).gain < MIN_GAIN
