"""The items of an acceptance, in the order of what a reader wants to know first, and their time budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.acceptance import engines, papers, surroundings
from edge.acceptance.workspace import RELEASE, Outcome, Workspace

TOTAL_S, QUICK_TOTAL_S = 1800.0, 600.0
"""Time limits of a whole and of a quick acceptance in seconds."""


@dataclass(frozen=True)
class Item:
    """One measurement, which runs in a process of its own.

    Attributes:
        name: Name in the table.
        measure: Function that measures it and returns the result.
        budget_s: Time limit in seconds. That of a build is an assumption: no board has built an engine yet.
        quick_s: Time limit of a quick acceptance in seconds; None leaves the item out.
    """

    name: str
    measure: Callable[[Workspace], Outcome]
    budget_s: float
    quick_s: float | None


def _build(name: str, precision: str, quick_s: float | None) -> Item:
    return Item(
        f"Build {name} {precision}",
        lambda workspace: engines.build(workspace, name, precision),
        450,
        quick_s,
    )


def _engine(precision: str, quick_s: float | None) -> Item:
    return Item(
        f"Engine {RELEASE} {precision}",
        lambda workspace: engines.measure_engine(workspace, precision),
        120,
        quick_s,
    )


ITEMS = (
    Item("Machine", surroundings.describe, 60, 60),
    Item("ONNX Runtime", surroundings.run_on_onnxruntime, 90, 60),
    Item("CUDA backends", surroundings.check_backends, 60, 30),
    _build(RELEASE, "fp16", 300),
    _engine("fp16", 60),
    Item("Cold start", engines.measure_cold_start, 180, 90),
    Item("Rate of a run over its engine", engines.measure_pipeline, 120, 60),
    Item("Power", engines.measure_power, 120, 40),
    Item("Growth of memory", engines.measure_memory, 240, 45),
    Item("GPU tests", surroundings.run_tests, 420, 150),
    _build("skd-32", "fp16", None),
    Item("CUDA graph over plain launches, skd-32", engines.measure_graph_gain, 60, None),
    Item("Papers' protocol, PyTorch", papers.run_on_torch, 300, None),
    Item("Papers' protocol, TensorRT", papers.run_on_tensorrt, 480, None),
    _build(RELEASE, "int8", None),
    _engine("int8", None),
    _build(RELEASE, "fp32", None),
    _engine("fp32", None),
)


def find_item(name: str) -> Item:
    """Return the item of a name."""
    return next(item for item in ITEMS if item.name == name)
