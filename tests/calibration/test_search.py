"""The search's choice against brute force over every assignment."""

from __future__ import annotations

from functools import cache
from itertools import combinations, pairwise

import numpy as np
import onnx
import pytest

from calibration.cost import Modelled, work
from calibration.feeding import Feeding
from calibration.judge import Budget, Judge, Quality
from calibration.placement import TENSORRT, quantisable
from calibration.qdq import quantise
from calibration.ranges import collect_ranges
from calibration.search import GAIN, Assignment, Tried, choose
from calibration.sensitivity import measure
from calibration.user_graph import ImageInput
from edge.errors import InputError
from tests.calibration.test_placement import feeds, residual

LAYERS = quantisable(residual(), TENSORRT)
FEEDING = Feeding(ImageInput(16, 16, 3, "nchw"), ("x",), "y")


@cache
def judge_and_model() -> tuple[Judge, onnx.ModelProto]:
    model = residual()
    windows = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16, 3), np.uint8)
    return Judge(model, FEEDING, windows), model


@cache
def graph(layers: Assignment) -> onnx.ModelProto:
    _, model = judge_and_model()
    return quantise(model, collect_ranges(model, feeds(), "minmax"), TENSORRT, layers)


@cache
def judged(layers: Assignment) -> Quality:
    return judge_and_model()[0](graph(layers), plain=True)


COST = {"a": 5.0, "b": 1.0, "shortcut": 0.2, "c": 8.0, "d": 6.0, "depthwise": 0.3}


def timed(layers: Assignment) -> tuple[float, float]:
    """int8 halves a layer, and each change of precision from layer to layer costs .4; thin ones lose."""
    edges = sum((a in layers) != (b in layers) for a, b in pairwise(LAYERS))
    return sum(cost * (0.5 if name in layers else 1) for name, cost in COST.items()) + 0.4 * edges, sum(
        COST.values()
    )


def everything() -> list[Assignment]:
    return [frozenset(c) for size in range(1, 7) for c in combinations(LAYERS, size)]


def losses() -> list[float]:
    return sorted(1 - judged(layers).cc for layers in everything())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("exhaustive", [0, 6])
def test_the_choice_is_that_of_brute_force(share: float, exhaustive: int) -> None:
    """`share`: of all 63 assignments, those that keep the budget."""
    budget = Budget(cc=losses()[int(share * 62)] * 1.0001)
    fitting = [layers for layers in everything() if budget.spent(judged(layers)) <= 1]
    best = max(1 - timed(layers)[0] / timed(layers)[1] for layers in fitting)
    choice = choose(LAYERS, judged, timed, budget, COST, exhaustive=exhaustive)
    if best < GAIN:
        assert choice.best is None
        assert "faster than float" in choice.reason
    else:
        assert choice.best is not None
        assert choice.best.gain == pytest.approx(best)
        assert choice.best.layers in fitting
    assert len(choice.tried) == len({tried.layers for tried in choice.tried})


def test_nothing_that_breaks_the_budget_ships_and_none_that_is_slower() -> None:
    choice = choose(LAYERS, judged, timed, Budget(cc=losses()[0] / 2), COST)
    assert choice.best is None
    assert "no int8 graph keeps the budget of 1 - CC at most" in choice.reason
    choice = choose(LAYERS, judged, lambda layers: (0.99, 1.0), Budget(cc=0.9), COST)
    assert choice.best is None
    assert "no int8 graph within the budget is 2% faster than float (the best: +1.0%)" in choice.reason
    assert choose([], judged, timed, Budget(cc=0.5), {}).reason == "no layer can be quantised"


def test_all_layers_will_do_where_no_search_was_asked_for() -> None:
    choice = choose(LAYERS, judged, timed, Budget(cc=0.9), COST, thorough=False)
    assert [tried.layers for tried in choice.tried] == [frozenset(LAYERS)]
    assert choice.best is not None


def test_a_quality_spends_the_tighter_part_of_a_budget() -> None:
    quality = Quality(30, 0.996, 0.002)
    assert Budget.parse("cc=0.008").spent(quality) == pytest.approx(0.5)
    assert Budget.parse("cc=0.008, kld=0.001").spent(quality) == pytest.approx(2)
    assert not Tried(frozenset(), quality, 0.5, 0.99, 1.0).fits
    assert Tried(frozenset(), quality, 0.5, 1.5, 1.0, least=float("-inf")).fits
    assert not Tried(frozenset(), quality, 1.5, 0.5, 1.0, least=float("-inf")).fits
    for text in ("", "cc", "cc=0", "cc=2", "psnr=1", "cc=.1,cc=.2", "cc=nan"):
        with pytest.raises(InputError, match="is not understood"):
            Budget.parse(text)


def test_sensitivity_is_what_one_layer_does() -> None:
    judge, model = judge_and_model()
    ranges = collect_ranges(model, feeds(), "minmax")
    told = list[int]()
    found = measure(model, ranges, TENSORRT, judge, told.append)
    assert [layer.layer for layer in found.layers] == LAYERS
    assert sum(told) == 2 * len(LAYERS) + 1
    assert found.whole.sqnr_db < min(layer.alone.sqnr_db for layer in found.layers)
    wide = {**ranges, "c1": (0.0, 400 * ranges["c1"][1])}  # d's input in a handful of levels
    spoilt = {layer.layer: layer for layer in measure(model, wide, TENSORRT, judge).layers}
    assert min(spoilt, key=lambda name: spoilt[name].alone.cc) == "d"
    assert max(spoilt, key=lambda name: spoilt[name].all_but.cc) == "d"


def test_the_modelled_latency_counts_work_bytes_and_changes_of_precision() -> None:
    model = residual()
    counted = work(model)
    assert counted["a"] == pytest.approx(16 * 16 * 9 * 256 / 1e6)
    assert counted["depthwise"] == pytest.approx(32 * 9 * 256 / 1e6)
    timer = Modelled(model)
    some, base = timer(graph(frozenset({"c"})))
    assert some > base  # Q and DQ around one small layer cost more than it saves
    assert timer(graph(frozenset(LAYERS)))[0] < some
    assert "roofline" in str(timer.stated()["model"])


def test_maps_that_are_no_numbers_break_every_budget() -> None:
    for budget in (Budget(cc=0.005), Budget(kld=0.005), Budget(0.005, 0.005)):
        assert budget.spent(Quality(float("nan"), float("nan"), float("nan"))) > 1
