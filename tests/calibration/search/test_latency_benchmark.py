"""Tests of the latency benchmark: against simulated noise, and a graph against itself on busy cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from calibration.inputs.graph_inputs import InputFeeder
from calibration.inputs.onnx_import import ImageInput
from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import CPU, quantizable_layers
from calibration.ranges.activation_ranges import collect_ranges
from calibration.search.latency_benchmark import (
    ROUNDS,
    InferenceCall,
    MeasuredLatency,
    confirm_gain,
    layer_gains,
    time_alternating,
)
from calibration.search.mixed_precision import MIN_GAIN
from edge.inference.interface.layer_times import LayerTime
from tests.support.onnx_graphs import random_feeds, residual_network


class SimulatedMachine:
    """A clock that the simulated runs advance.

    Args:
        seed: Seed of the noise.
        load: Standard deviation of the logarithm of a run's time.
        switch: Fraction by which a run is slower right after a run of the other graph.
        luck: Standard deviation of the logarithm of a session's speed, constant while it is open.
    """

    def __init__(self, seed: int, load: float, switch: float = 0.0, luck: float = 0.0) -> None:
        self.now, self._last = 0.0, -1
        self._load, self._switch, self._luck = load, switch, luck
        self._random = np.random.default_rng(seed)

    def __call__(self) -> float:
        return self.now

    def open(self, graph: int, seconds: float) -> InferenceCall:
        session_seconds = seconds * float(np.exp(self._random.normal(0, self._luck)))

        def run() -> None:
            slowdown = 1 + (self._switch if graph != self._last else 0.0)
            self.now += session_seconds * slowdown * float(np.exp(self._random.normal(0, self._load)))
            self._last = graph

        return run

    def pair(self, gain: float) -> Callable[[], tuple[InferenceCall, InferenceCall]]:
        return lambda: (self.open(0, 0.002 * (1 - gain)), self.open(1, 0.002))


def test_ratio_does_not_depend_on_the_order_of_runs() -> None:
    machine = SimulatedMachine(0, load=0.0, switch=0.5)
    candidate_ms, float_ms = time_alternating(*machine.pair(0.0)(), machine, machine)
    assert candidate_ms == pytest.approx(float_ms)
    candidate_ms, float_ms = time_alternating(*machine.pair(0.3)(), machine, machine)
    assert candidate_ms == pytest.approx(0.7 * float_ms)


def test_ratio_does_not_depend_on_varying_load() -> None:
    machine = SimulatedMachine(1, load=0.8)
    candidate_ms, float_ms = time_alternating(*machine.pair(0.2)(), machine)
    assert 1 - candidate_ms / float_ms == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize(("load", "luck"), [(0.05, 0.0), (0.8, 0.0), (0.3, 0.06), (1.5, 0.1)])
def test_gain_of_a_graph_over_itself_is_never_confirmed(load: float, luck: float) -> None:
    for seed in range(25):
        machine = SimulatedMachine(seed, load, luck=luck)
        assert confirm_gain(machine.pair(0.0), machine).gain < MIN_GAIN


def test_confirmed_gain_of_a_faster_graph_is_not_exaggerated() -> None:
    for seed in range(10):
        machine = SimulatedMachine(seed, load=0.3, luck=0.02)
        latency = confirm_gain(machine.pair(0.25), machine)
        assert MIN_GAIN < latency.gain < 0.25 + 0.02
        assert latency.gain <= 1 - latency.candidate_ms / latency.float_ms


def test_each_round_opens_new_sessions() -> None:
    machine, opened = SimulatedMachine(0, 0.1), list[None]()

    def pair() -> tuple[InferenceCall, InferenceCall]:
        opened.append(None)
        return machine.pair(0.1)()

    confirm_gain(pair, machine)
    assert len(opened) == ROUNDS


def test_first_lost_round_ends_a_confirmation() -> None:
    machine, opened = SimulatedMachine(0, 0.0), list[None]()

    def pair() -> tuple[InferenceCall, InferenceCall]:
        opened.append(None)
        return machine.pair(0.1 if len(opened) < 3 else -0.1)()

    assert confirm_gain(pair, machine).gain == pytest.approx(-0.1)
    assert len(opened) == 3


def layer(node: str, op: str, ms: float) -> LayerTime:
    return LayerTime(node, (node,), op, "compute", "fp32", ms)


def test_gains_of_layers_leave_out_conversions_and_bound_what_a_mix_can_save() -> None:
    in_float = [layer("a", "Conv", 6), layer("b", "Conv", 2), layer("b_reorder", "ReorderInput", 2)]
    in_int8 = [layer("a", "QLinearConv", 2), layer("b", "QLinearConv", 5), layer("q", "QuantizeLinear", 9)]
    gains = layer_gains(in_float, in_int8)
    assert gains == pytest.approx({"a": 0.4, "b": -0.3, "b_reorder": 0.2})


def test_layers_of_a_real_graph_are_timed_under_their_names() -> None:
    model = residual_network()
    feeder = InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
    window = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    int8 = quantize(model, collect_ranges(model, random_feeds(), "minmax"), CPU)
    gains = MeasuredLatency(model, feeder, window).layer_gains(int8)
    assert {*quantizable_layers(model, CPU)} <= {*gains}
    assert sum(gains.values()) < 1


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """Every core is busy with other work."""
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


@pytest.mark.usefixtures("busy_cores")
def test_gain_of_a_real_graph_over_itself_is_not_confirmed_on_busy_cores() -> None:
    model = residual_network()
    feeder = InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
    window = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    assert MeasuredLatency(model, feeder, window).confirm(model).gain < MIN_GAIN
