"""Speed on a GPU: CUDA graphs, the pipeline's share, and the papers' protocol; nothing without a GPU.

The measurements are those of `aerogaze doctor --accept`. They need nothing that a board lacks: no torch, no
onnx. Without these, the papers' protocol is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from edge.acceptance import engines, papers
from edge.acceptance.workspace import RELEASE, Outcome, Workspace
from edge.core.errors import InputError
from tests.bench.measurement.row import Reading, Readings, print_note

SPREAD = 0.05
"""Assumed relative spread: each value is a median of many calls already."""


def benchmarks() -> Sequence[Readings]:
    """Return the measurements; each takes seconds where there is no GPU or no engine for it."""
    return (
        Readings("CUDA graphs", 60, partial(_read, cuda_graph_rows)),
        Readings("pipeline", 60, partial(_read, pipeline_rows)),
        Readings("papers", 90, partial(_read, paper_rows)),
    )


def _read(rows: Callable[[Workspace], Iterator[Reading]], folder: Path) -> Iterator[Reading]:
    """Yield the rows; without a GPU or an engine for it, print the reason."""
    try:
        yield from rows(Workspace(folder))
    except InputError as error:
        print_note(f"GPU: not measured, {error}")


def cuda_graph_rows(workspace: Workspace) -> Iterator[Reading]:
    """Yield the speed-up of a replayed CUDA graph over plain launches: SKD-32, batch 1, fp16."""
    engines.build(workspace, "skd-32", "fp16")
    outcome = _print(engines.measure_graph_gain(workspace))
    label = "SKD-32, fp16, batch 1: rate of the CUDA graph over plain launches"
    yield Reading(label, outcome.values["gain"], "x", engines.GRAPH_GOAL, spread=SPREAD)


def pipeline_rows(workspace: Workspace) -> Iterator[Reading]:
    """Yield the rate of a run of the shipped student over its engine, with as many frames in flight."""
    engines.build(workspace, RELEASE, "fp16")
    outcome = _print(engines.measure_pipeline(workspace))
    label = "skd-64, fp16: rate of a run over the engine's"
    yield Reading(label, outcome.values["ratio"], "x", engines.PIPELINE_GOAL, spread=SPREAD)


def paper_rows(workspace: Workspace) -> Iterator[Reading]:
    """Yield the rate of SKD-32 by the papers' protocol, on TensorRT and in PyTorch, where they are there."""
    for measure in (papers.run_on_tensorrt, papers.run_on_torch):
        try:
            outcome = _print(measure(workspace))
        except InputError as error:
            print_note(f"GPU: {measure.__name__} not measured, {error}")
            continue
        for name, value in outcome.values.items():
            if isinstance(value, dict):
                ratio = value["fps"] / papers.PAPER_GPU_FPS
                yield Reading(f"SKD-32, {name}: fps over the paper's", ratio, "x", papers.GOAL, spread=SPREAD)


def _print(outcome: Outcome) -> Outcome:
    print_note(outcome.text)
    return outcome
